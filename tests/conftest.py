"""Ctrl-C reaches the tests however pytest was started."""

import signal

# A shell that starts pytest in the background has it ignore interrupts; tests of them would hang.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

"""A live laboratory: sliders, a curve that draws while the model trains, a table of runs.

Training runs in a worker thread and the buttons set an event, because the callbacks of a notebook
wait for one another: one that trains could not hear Stop. All that is shown changes through widget
traits, as `print` inside a thread is lost.
"""

import ctypes
import threading
import time
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, ClassVar

import ipywidgets as widgets
import pandas as pd
from IPython import get_ipython
from traitlets import TraitError

from nmf_helpers.checks import nearest
from nmf_helpers.lab import controls as parts
from nmf_helpers.lab.controls import box, button, spoken
from nmf_helpers.lab.curves import LossCurves
from nmf_helpers.lab.runs import Run, label, named, table

N_GHOSTS = 4  # earlier runs kept in the picture; the table keeps all of them


class TrainingLab(parts.Lab):
    """Sliders, Train and Stop, a live curve and a table of runs over any training loop.

    ``make(lr=, weight_decay=, n_epochs=, seed=, **controls)`` returns a model and its records: one
    dict an epoch with "epoch", `metric`, `train_metric`, and what you like. The four numbers, or
    (low, start, high), are where their controls start; None leaves a control out, and its argument.
    `controls` has further arguments of `make` as `nmf_helpers.lab.controls.control` takes them, and
    `plot` metric, train_metric, lower_is_better, baseline, ylabel, digits, as in `LossCurves`.
    `runs` holds each `Run` in the order of training, `controls` the widgets by name.
    """

    _living: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(
        self, make: Callable[..., tuple], *, lr: float | tuple | None = 0.01,
        weight_decay: float | tuple | None = 1e-5, n_epochs: int | tuple = 30, seed: int = 0,
        controls: Mapping[str, Any] | None = None, **plot: Any,
    ) -> None:  # fmt: skip
        self._make, self._plot, self.metric = make, plot, plot.get("metric") or ""
        self.runs: list[Run] = []
        # The first optimizer imports this, for about a second: better before Train is pressed.
        self._warm_up = threading.Thread(target=import_module, args=["torch._dynamo"], daemon=True)
        self._warm_up.start()
        self._thread = threading.Thread()
        self._error: BaseException | None = None
        self._halt, self._lock = threading.Event(), threading.RLock()
        self._inside = False  # in the notebook's own code, where Stop may interrupt
        usual = {"lr": lr, "weight_decay": weight_decay, "n_epochs": n_epochs, "seed": seed}
        self.controls = parts.controls(usual | dict(controls or {}))
        names, first = [name for name in self.controls if name != "n_epochs"], self.settings
        self.sweep_choice = widgets.Dropdown(options=names, description="to sweep")
        self.train_button = button("Train", "train as set", self.start, "play")
        self.stop_button = button("Stop", "stop, keeping model and history", self.stop, "stop")
        tip = "put the controls back, keeping the runs"
        self.reset_button = button("Reset", tip, lambda: self._set(first))
        self.clear_button = button("Clear", "forget all runs", self.clear)
        tip, sweep = "train for several values", lambda: self.sweep(self.sweep_choice.value)
        self.sweep_button = button("Sweep", tip, sweep, "forward")
        self.train_button.button_style = "primary"
        self.status, self.progress, self.table = (widgets.HTML() for _ in range(3))
        self.picture = parts.Picture().add_class("nmf-picture")
        row = self.train_button, self.stop_button, self.reset_button, self.clear_button
        sweeping = self.sweep_choice, self.sweep_button
        left = box("controls", box("buttons", *row), *self.controls.values(), *sweeping)
        right = box("view", self.status, self.progress, self.picture)
        super().__init__("training", box("desk", left, right), self.table)
        self._show()
        self._say("Ready. Move a slider, then press Train.")
        self._settle_in()

    def __repr__(self) -> str:  # fixed, so that a notebook that is run again prints the same
        return f"TrainingLab({', '.join(self.controls)})"

    @property
    def settings(self) -> dict[str, Any]:
        """What the controls say now: the arguments that `make` will get."""
        return {name: widget.value for name, widget in self.controls.items()}

    @property
    def training(self) -> bool:
        """Whether a run is under way."""
        return self._thread.is_alive()

    def start(self, **settings: Any) -> "TrainingLab":
        """Set the named controls, to exactly that or not at all, and train in the background."""
        if not self.training:
            self._set(settings)
        return self._launch([self.settings])

    def sweep(self, name: str) -> "TrainingLab":
        """Train once for each of up to four values of one control, the others as they are."""
        control = self.controls[nearest("control", name, self.controls)]
        return self._launch([self.settings | {name: value} for value in parts.spread(control)])

    def stop(self) -> "TrainingLab":
        """End training, keeping model and history; an epoch that takes long is interrupted."""
        self._halt.set()
        if self.training and threading.current_thread() is not self._thread:
            self._thread.join(0.1)
            with self._lock:
                if self._inside:  # do what Ctrl-C does in a terminal, once
                    target = ctypes.c_ulong(self._thread.ident or 0)
                    raised = ctypes.py_object(KeyboardInterrupt)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(target, raised)
                    self._inside = False
        return self

    def wait(self, timeout: float | None = None) -> "TrainingLab":
        """Block until training ends, `timeout` seconds at most, and raise what the loop raised."""
        if self.training:
            self._thread.join(timeout)
        if self.training:
            raise TimeoutError(f"still training after {timeout} s; lab.stop() ends it")
        if self._error:
            raise self._error
        return self

    def clear(self) -> None:
        """Forget the runs that have ended."""
        with self._lock:
            self.runs = [run for run in self.runs if run.state == "training"]
            self._show()
            if not self.training:
                self._say("Cleared. Move a slider, then press Train.")

    @property
    def ranking(self) -> list[Run]:
        """Runs that have a score, best first."""
        scored = (run for run in self.runs if run.best)
        return sorted(scored, key=lambda run: run.score, reverse=not self._chart.lower)

    @property
    def best(self) -> Run:
        """The run with the best score so far."""
        if not self.ranking:
            raise ValueError("no run to choose from yet: press Train, or lab.start().wait()")
        return self.ranking[0]

    @property
    def history(self) -> pd.DataFrame:
        """The records of the latest run, one row an epoch."""
        records = self.runs[-1].history if self.runs else {"epoch": []}
        return pd.DataFrame(records).set_index("epoch")

    def figure(self) -> LossCurves:
        """Return the lab's picture as a figure: the latest run, earlier ones as ghosts."""
        run = self.runs[-1] if self.runs else Run(0, self.settings)
        earlier = [r for r in self.runs[:-1] if r.best][-N_GHOSTS:]
        plot = self._plot | {
            "metric": self.metric,
            "ghosts": {named(r, self.runs): r.history for r in earlier},
            "title": f"run {run.number}: " * bool(self.runs) + label(run.settings, self.runs),
        }
        return LossCurves(run.history, n_epochs=run.settings["n_epochs"], **plot)

    def _launch(self, plans: list[dict]) -> "TrainingLab":
        with self._lock:  # two presses may arrive on two threads
            if self.training:  # said until the next epoch is drawn
                self.progress.value = spoken("Already training. Press Stop first.")
                return self
            self._error = None
            self._halt.clear()
            self._thread = threading.Thread(target=self._work, args=[plans], daemon=True)
            self._thread.start()
        return self

    def _work(self, plans: list[dict]) -> None:
        """Train once for each plan, and say what comes of it, whatever it is."""
        try:
            for nth, settings in enumerate(plans, 1):
                number = max((run.number for run in self.runs), default=0) + 1
                run = Run(number, settings, self._plot, self.metric)
                which = f"Run {nth} of {len(plans)}: training" if len(plans) > 1 else "Training"
                self._say(f"{which} with {label(settings, self.runs)}.")
                self._say(self._train(run), alert=run.state == "diverged")
                if self._halt.is_set():
                    return
            if len(plans) > 1 and self.ranking:
                self._say(f"Done. Best of all: {self.best}, {named(self.best, self.runs)}.")
        except BaseException as error:  # an exit, too, of the notebook's code or the lab's
            self._error = error
            self._say(f"Training failed. {type(error).__name__}: {error}", alert=True)

    def _train(self, run: Run) -> str:
        """Take the records of the notebook's own loop, draw them, and say how it ended."""
        began, next_frame, records = time.perf_counter(), 0.0, self._records(run)
        with self._lock:
            self.runs.append(run)
            self._show()
        try:
            self._warm_up.join()
            while not self._halt.is_set() and (record := next(records, None)):
                run.take(dict(record))
                run.seconds = (now := time.perf_counter()) - began
                if now >= next_frame:
                    cost = time.thread_time()
                    with self._lock:
                        if self.metric != run.metric:  # it was not known before the first record
                            self.metric, self._chart = run.metric, self.figure()
                        self.progress.value = run.progress()
                        # The alt text waits: a screen reader would read out each one.
                        self.picture.value = self._chart.show(run.history).png(anew=False)
                    # Draw for at most a fifth of the time, and some 20 frames a second at most.
                    pause = max(0.04, 4 * (time.thread_time() - cost))
                    next_frame = time.perf_counter() + pause
            run.state = "stopped" if self._halt.is_set() else "finished"
        except KeyboardInterrupt:
            self._halt.set()
            run.state = "stopped"
        except FloatingPointError as error:
            run.state = "diverged"
            return f"Training diverged: {error}."
        finally:
            records.close()
            with self._lock:
                run.state = "failed" if run.state == "training" else run.state
                self.runs = [r for r in self.runs if r.history]
                self._show()
        return run.summary()

    def _records(self, run: Run) -> Generator[Mapping]:
        """Yield what the notebook's own loop does; only while it is at work may Stop interrupt."""
        self._inside = True
        try:
            run.model, records = self._make(**run.settings)
            for record in records:
                with self._lock:
                    self._inside = False
                yield record
                self._inside = True
        finally:
            with self._lock:
                self._inside = False
            with suppress(Exception):
                records.close()  # lets the loop end its workers

    def _set(self, settings: Mapping[str, Any]) -> None:
        """Set all of these controls to exactly these values, or none."""
        before = self.settings
        try:
            for name, value in settings.items():
                control = self.controls[nearest("control", name, self.controls)]
                nearest("choice", str(value), map(str, getattr(control, "options", [value])))
                control.value = value
                if control.value != value:
                    raise ValueError(f"the control takes {control.value!r} instead")
        except (ValueError, TraitError) as error:
            self._set(before)
            raise ValueError(f"{name} can't be {value!r}: {error}") from error

    def _show(self) -> None:
        """Draw all anew."""
        self._chart = self.figure()
        self.progress.value = self.runs[-1].progress() if self.runs else ""
        self.picture.value, self.picture.tooltip = self._chart.png(), self._chart.alt
        self.table.value = table(self.ranking, self.runs)

    def _say(self, message: str, alert: bool = False) -> None:
        self.status.value = spoken(message, alert)

    def _settle_in(self) -> None:
        """Leave no training behind when a cell is run again, and obey *Interrupt Kernel*."""
        shell: Any = get_ipython()
        parent: Any = getattr(shell, "get_parent", dict)()
        self._cell = parent.get("metadata", {}).get("cellId")
        for lab in list(self._living):
            if self._cell and lab._cell == self._cell:
                lab.stop()
        self._living.add(self)
        if hasattr(getattr(shell, "kernel", None), "saved_sigint_handler"):
            # What ipykernel sets once this cell is done; while one runs, that is interrupted.
            shell.kernel.saved_sigint_handler = lambda *_: [lab.stop() for lab in [*self._living]]

"""A live laboratory: sliders, a curve that draws while the model trains, a table of runs.

`TrainingLab` knows a function that yields one record an epoch, and a plot; it knows no model and
no data. Training runs in a worker thread and the buttons set an event, because the callbacks of a
notebook wait for one another: one that trains could not hear Stop. All that is shown changes
through widget traits, as `print` inside a thread is lost.
"""

import ctypes
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from numbers import Real
from typing import Any, ClassVar

import ipywidgets as widgets
import pandas as pd
from IPython import get_ipython

from nmf_helpers.checks import nearest
from nmf_helpers.lab.controls import (
    Lab, LogSlider, Picture, box, button, control, literal, put, spoken, spread,
)  # fmt: skip
from nmf_helpers.lab.curves import LossCurves, pick_metric
from nmf_helpers.lab.runs import Run, answer, named, ranked, short, table, words

N_GHOSTS = 4  # earlier runs kept in the picture; the table keeps all of them
NOTE = 3.0  # seconds that a passing remark stays

Make = Callable[..., tuple[Any, Iterator[Mapping[str, Any]]]]


class TrainingLab(Lab):
    """Sliders, Train and Stop, a live curve and a table of runs over any training loop.

    Parameters
    ----------
    make : callable
        ``make(lr=, weight_decay=, n_epochs=, seed=, **controls) -> (model, records)``, where
        `records` yields one dict an epoch: "epoch", `metric`, `train_metric`, and what you like.
    lr, weight_decay : float or (low, start, high), or None
        Start of the logarithmic slider. None leaves the control out, and the argument.
    n_epochs : int or (low, start, high)
    seed : int
    controls : dict of name to widget, bool, list of choices or (low, start, high)
        Further arguments of `make`; see `nmf_helpers.lab.controls.control`.
    metric, train_metric, lower_is_better, baseline, ylabel, ylim, digits
        As in `nmf_helpers.lab.plots.loss_curves`.

    Attributes
    ----------
    runs : list of Run
        In the order they were trained.
    controls : dict of name to widget
    """

    _living: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(
        self,
        make: Make,
        *,
        lr: float | tuple | None = 0.01,
        weight_decay: float | tuple | None = 1e-5,
        n_epochs: int | tuple = 30,
        seed: int = 0,
        controls: Mapping[str, Any] | None = None,
        metric: str | None = None,
        digits: int = 3,
        **plot: Any,
    ) -> None:
        self._make, self.metric, self.digits = make, metric, digits
        self._plot: dict[str, Any] = {"train_metric": "train_loss"} | plot | {"digits": digits}
        self.runs: list[Run] = []
        self._thread: threading.Thread | None = None
        self._halt, self._lock = threading.Event(), threading.RLock()
        self._error: Exception | None = None
        self._inside = False  # in the notebook's own code, where Stop may interrupt
        self._doing, self._doing_again = "", 0.0  # the status, and when a remark gives way to it
        self._warm_up = threading.Thread(target=_pay_for_the_first_optimizer, daemon=True)
        self._warm_up.start()
        self.controls = _training_controls(lr, weight_decay, n_epochs, seed) | {
            name: control(name, spec) for name, spec in (controls or {}).items()
        }
        self._initial = self.settings
        self._build()
        _obey_interrupts()
        self._stop_earlier_lab_of_this_cell()

    def __repr__(self) -> str:  # fixed, so that a notebook that is run again prints the same
        return f"TrainingLab({', '.join(self.controls)})"

    # -- what a reader does -----------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, Any]:
        """What the controls say now: the arguments that `make` will get."""
        return {name: widget.value for name, widget in self.controls.items()}

    @property
    def training(self) -> bool:
        """Whether a run is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, **settings: Any) -> "TrainingLab":
        """Set the named controls and train once, in the background; nothing while it trains.

        Raises
        ------
        ValueError
            If a control can't be set to exactly that; no control has changed then.
        """
        if not self.training:
            self._set(settings)
        return self._launch([self.settings])

    def sweep(self, name: str, values: list | None = None) -> "TrainingLab":
        """Train once for each value of one control, the others as they are."""
        values = list(spread(self._control(name)) if values is None else values)
        if not values:
            raise ValueError(f"no values of {name} to sweep")
        return self._launch([self.settings | {name: value} for value in values])

    def stop(self) -> "TrainingLab":
        """End training, keeping model and history; an epoch that takes long is interrupted."""
        self._halt.set()
        thread = self._thread
        if thread is not None and thread.is_alive() and threading.current_thread() is not thread:
            thread.join(0.1)
            with self._lock:
                if self._inside and thread.is_alive():  # what Ctrl-C does in a terminal
                    target = ctypes.c_ulong(thread.ident or 0), ctypes.py_object(KeyboardInterrupt)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(*target)
                    self._inside = False  # once is enough
        return self

    def wait(self, timeout: float | None = None) -> "TrainingLab":
        """Block until training ends.

        Raises
        ------
        TimeoutError
            If it still trains after `timeout` seconds.
        Exception
            Whatever the notebook's own training code raised.
        """
        if self._thread is not None:
            try:
                self._thread.join(timeout)
            except KeyboardInterrupt:
                self.stop()
                raise
            if self.training:
                raise TimeoutError(f"still training after {timeout} s; lab.stop() ends it")
        if self._error is not None:
            raise self._error
        return self

    def reset(self) -> None:
        """Put every control back to where it began; runs stay."""
        self._set(self._initial)

    def clear(self) -> None:
        """Forget the runs that have ended."""
        with self._lock:
            self.runs = [run for run in self.runs if run.state == "training"]
            self._show(self.runs[-1] if self.runs else None)
            if not self.training:
                self.progress.value = ""
                self._say("Cleared. Move a slider, then press Train.")
            self.table.value = table(self.runs, self.digits)

    def close(self) -> None:
        """Stop training and remove the lab from the page."""
        self.stop()
        super().close()

    # -- what came of it --------------------------------------------------------------------------

    @property
    def ranking(self) -> list[Run]:
        """Runs that have a score, best first."""
        return ranked(self.runs)

    @property
    def best(self) -> Run:
        """The run with the best score so far."""
        if not self.ranking:
            raise ValueError("no run to choose from yet: press Train, or lab.start().wait()")
        return self.ranking[0]

    @property
    def history(self) -> pd.DataFrame:
        """The records of the latest run, one row an epoch."""
        records = self.runs[-1].history if self.runs else []
        return pd.DataFrame(records).set_index("epoch") if records else pd.DataFrame()

    def figure(self) -> LossCurves:
        """Return the lab's picture as a figure: the latest run, earlier ones as ghosts."""
        return self._curves(self.runs[-1] if self.runs else None)

    # -- the worker thread ------------------------------------------------------------------------

    def _launch(self, plans: list[dict]) -> "TrainingLab":
        with self._lock:  # two presses may arrive on two threads
            if self.training:
                self._doing_again = time.perf_counter() + NOTE
                self.status.value = spoken("Already training. Press Stop first.")
                return self
            self._error, self._halt = None, threading.Event()
            self._thread = threading.Thread(
                target=self._work, args=(plans, self._halt), daemon=True
            )
            self._thread.start()
        return self

    def _work(self, plans: list[dict], halt: threading.Event) -> None:
        self.train_button.button_style, self.stop_button.button_style = "", "danger"
        try:
            self._train_all(plans, halt)
        except Exception as error:  # the lab's own, which nobody would see either
            self._error = error
            self._say(_failed(error), alert=True)
        finally:
            self.train_button.button_style, self.stop_button.button_style = "primary", ""

    def _train_all(self, plans: list[dict], halt: threading.Event) -> None:
        guess, previous = self.guess.value, self.runs[-1] if self.runs else None
        for nth, settings in enumerate(plans, 1):
            number = max((run.number for run in self.runs), default=0) + 1
            run = Run(number, settings, self.metric, self._plot.get("lower_is_better"))
            which = f"Run {nth} of {len(plans)}: training" if len(plans) > 1 else "Training"
            self._say(f"{which} with {self._title(settings)}.")
            message = self._train(run, halt)
            self.table.value = table(self.runs, self.digits)
            self._say(message, alert=run.state in ("diverged", "failed"))
            if halt.is_set() or run.state == "failed":
                return
        if len(plans) > 1 and self.ranking:
            best = self.best
            which = f"{best.score:.{self.digits}f}, {named(best, self.runs)}"
            self._say(f"Done. Best of all: {which}.")
        elif guess != "no guess":
            self._say(message + answer(guess, run, previous, self.digits))
            self.guess.value = "no guess"

    def _train(self, run: Run, halt: threading.Event) -> str:
        """Train until the records end, Stop is pressed or something breaks; say which."""
        message = ""
        with self._lock:
            self.runs.append(run)
            self._show(run)
        self._progress(run)
        try:
            self._follow(run, halt)
        except KeyboardInterrupt:
            halt.set()
        except FloatingPointError as error:
            run.state, message = "diverged", f"Training diverged: {error}."
        except Exception as error:
            self._error, run.state, message = error, "failed", _failed(error)
        with self._lock:
            self._inside = False
            if run.state == "training":
                run.state = "stopped" if halt.is_set() else "finished"
                message = run.summary(self.digits)
            if not run.history:
                self.runs = [other for other in self.runs if other is not run]
            self._progress(run)
            self._draw(self._chart.show(run.history))
        return message

    def _follow(self, run: Run, halt: threading.Event) -> None:
        """Take the records of the notebook's own loop, and draw them while they come."""
        began, next_frame, records = time.perf_counter(), 0.0, None
        try:
            self._warm_up.join()
            run.model, records = self._notebook_code(self._make, **run.settings)
            records = iter(records)
            while not halt.is_set() and (record := self._notebook_code(next, records, None)):
                self._take(run, dict(record))
                now = time.perf_counter()
                run.seconds = now - began
                if now >= next_frame:
                    cost = time.thread_time()
                    with self._lock:
                        self._progress(run)
                        self._draw(self._chart.show(run.history), describe=not next_frame)
                    # Draw for at most a fifth of the time, and some 20 frames a second at most.
                    pause = max(0.04, 4 * (time.thread_time() - cost))
                    next_frame = time.perf_counter() + pause
        finally:
            if hasattr(records, "close"):
                with suppress(Exception):
                    records.close()  # lets the loop end its workers

    def _take(self, run: Run, record: dict[str, Any]) -> None:
        """Keep a record; raise if there is nothing to follow in it, or it tells of divergence."""
        if not run.history:
            train_metric = self._plot["train_metric"]
            self.metric = run.metric = pick_metric(record, self.metric, train_metric)
            with self._lock:
                run.history.append(record)
                self._show(run)
        else:
            run.history.append(record)
        for name, value in record.items():
            if isinstance(value, Real) and not math.isfinite(value):
                lr = run.settings.get("lr")
                advice = f"a smaller lr, say {short(lr / 10)}" if lr else "smaller steps"
                what = f"{name} is {value} at epoch {record['epoch']}"
                raise FloatingPointError(f"{what}. Try {advice}")

    def _notebook_code(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        self._inside = True
        try:
            return function(*args, **kwargs)
        finally:
            with self._lock:
                self._inside = False

    # -- widgets ----------------------------------------------------------------------------------

    def _build(self) -> None:
        tip = "stop, keeping model and history"
        self.train_button = button("Train", "play", "train as set", self.start, "primary")
        self.stop_button = button("Stop", "stop", tip, self.stop)
        self.reset_button = button("Reset", "undo", "put the controls back", self.reset)
        self.clear_button = button("Clear", "trash", "forget all runs", self.clear)
        tip = "train for several values of one control"
        sweep = lambda: self.sweep(self.sweep_choice.value)  # noqa: E731
        self.sweep_button = button("Sweep", "forward", tip, sweep)
        names = [name for name in self.controls if name != "n_epochs"]
        self.sweep_choice = widgets.Dropdown(options=names, description="to sweep")
        self.guess = widgets.Dropdown(
            options=["no guess", "better", "the same", "worse"], description="my guess",
            tooltip="How will the next run come out, against the last one?",
        )  # fmt: skip
        self.status, self.progress, self.table = (widgets.HTML() for _ in range(3))
        self.picture = Picture()
        buttons = box(
            "buttons", self.train_button, self.stop_button, self.reset_button, self.clear_button
        )
        controls = box(
            "controls", buttons, *self.controls.values(), self.guess, self.sweep_choice,
            self.sweep_button,
        )  # fmt: skip
        view = widgets.VBox([self.status, self.progress, self.picture]).add_class("nmf-view")
        super().__init__("training", [box("desk", controls, view), self.table])
        self._show(None)
        self._say("Ready. Move a slider, then press Train.")

    def _control(self, name: str) -> widgets.Widget:
        return self.controls[nearest("control", name, self.controls)]

    def _set(self, settings: Mapping[str, Any]) -> None:
        """Set all of these controls, or none."""
        before = self.settings
        try:
            for name, value in settings.items():
                put(name, self._control(name), value)
        except Exception:
            for name, value in before.items():
                self.controls[name].value = value
            raise

    def _title(self, settings: Mapping[str, Any]) -> str:
        """Return what sets these settings apart, or all that matter where nothing does."""
        key = {k: v for k, v in settings.items() if k not in ("seed", "n_epochs")} or settings
        return words(settings, self.runs) or " · ".join(f"{k} {short(v)}" for k, v in key.items())

    def _curves(self, run: Run | None) -> LossCurves:
        earlier = [r for r in self.runs if r is not run and r.best][-N_GHOSTS:]
        settings = run.settings if run else self.settings
        chart = LossCurves(
            **self._plot,
            metric=self.metric,
            n_epochs=settings["n_epochs"],
            ghosts=[(named(r, self.runs), r.history) for r in earlier],
            title=(f"run {run.number}: " if run else "") + self._title(settings),
        )
        return chart.show(run.history) if run else chart

    def _show(self, run: Run | None) -> None:
        """Draw a new picture, for this run."""
        self._chart = self._curves(run)
        self._draw(self._chart)

    def _draw(self, chart: LossCurves, describe: bool = True) -> None:
        self.picture.value = chart.frame()
        if describe:  # not for every frame: a screen reader should not hear each one
            self.picture.tooltip = chart.alt

    def _say(self, message: str, alert: bool = False) -> None:
        self._doing, self._doing_again = message, 0.0
        self.status.value = spoken(message, alert)

    def _progress(self, run: Run) -> None:
        if self._doing_again and time.perf_counter() > self._doing_again:
            self._say(self._doing)
        done, planned = len(run.history), run.settings["n_epochs"]
        value = f'value="{done}"' if done else ""
        bar = f'<progress {value} max="{planned}" aria-label="epochs done"></progress>'
        best = f" · best {run.score:.{self.digits}f} at {run.best['epoch']:.0f}" if run.best else ""
        far = f"epoch {done} of {planned}{best}" if done else "starting…"
        self.progress.value = f"{bar} {literal(far)}" if run.state == "training" or done else ""

    def _stop_earlier_lab_of_this_cell(self) -> None:
        """A cell that is run again leaves no training behind."""
        parent = getattr(get_ipython(), "get_parent", dict)()
        self._cell = parent.get("metadata", {}).get("cellId")
        self._execution = parent.get("header", {}).get("msg_id")
        for lab in list(self._living):
            if self._cell and lab._cell == self._cell and lab._execution != self._execution:
                lab.stop()
        self._living.add(self)


def _training_controls(lr: Any, weight_decay: Any, n_epochs: Any, seed: int) -> dict[str, Any]:
    if isinstance(lr, float | int):
        lr = (lr / 100, float(lr), lr * 100)
    if isinstance(weight_decay, float | int):
        weight_decay = LogSlider(1e-7, float(weight_decay), 1.0, zero=True)
    if isinstance(n_epochs, int):
        n_epochs = (1, n_epochs, 5 * n_epochs)
    number = widgets.BoundedIntText(seed, min=0, max=2**31 - 1)
    specs = {"lr": lr, "weight_decay": weight_decay, "n_epochs": n_epochs, "seed": number}
    return {name: control(name, spec) for name, spec in specs.items() if spec is not None}


def _failed(error: Exception) -> str:
    return f"Training failed. {type(error).__name__}: {error}"


def _obey_interrupts() -> None:
    """Have *Interrupt Kernel* stop all labs, while no cell runs that it would interrupt."""
    kernel = getattr(get_ipython(), "kernel", None)
    if hasattr(kernel, "saved_sigint_handler"):  # what ipykernel sets once this cell is done
        kernel.saved_sigint_handler = lambda *_: [lab.stop() for lab in list(TrainingLab._living)]


def _pay_for_the_first_optimizer() -> None:
    """The first torch optimizer of a process imports a compiler, about a second: do it early."""
    with suppress(ImportError):
        import torch

        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)

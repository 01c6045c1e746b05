"""A live laboratory: sliders, a curve that draws while the model trains, a table of runs.

`TrainingLab` knows a function that yields one record an epoch, and a plot; it knows no model and
no data. Training runs in a worker thread and the buttons set an event, because the callbacks of a
notebook wait for one another: one that trains could not hear Stop. All that is shown changes
through widget traits, as `print` inside a thread is lost.
"""

import ctypes
import difflib
import html
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar

import ipywidgets as widgets
import pandas as pd
from IPython import get_ipython

from nmf_helpers.controls import STYLE, LogSlider, Picture, button, control, spoken, spread, wrapped
from nmf_helpers.plots import LossCurves, best_record, lower_is_better

N_GHOSTS = 4  # earlier runs kept in the picture; the table keeps all of them
SAME = 0.005  # scores that differ by less than half a per cent come out "the same"

Make = Callable[..., tuple[Any, Iterator[Mapping[str, float]]]]


@dataclass(eq=False)
class Run:
    """One training run: what was set, what was recorded, and the model as training left it."""

    settings: dict[str, Any]
    metric: str
    history: list[dict[str, float]] = field(default_factory=list, repr=False)
    model: Any = field(default=None, repr=False)
    state: str = "training"  # then "finished", "stopped", "diverged" or "failed"
    seconds: float = 0.0

    @property
    def best(self) -> Mapping[str, float] | None:
        """The record of the best epoch, or None before the first."""
        return best_record(self.history, self.metric)

    @property
    def score(self) -> float:
        """The metric at the best epoch; NaN before the first."""
        return self.best[self.metric] if self.best else math.nan


class TrainingLab(widgets.VBox):
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
        Further arguments of `make`; see `nmf_helpers.controls.control`.
    metric, train_metric, baseline, ylabel, ylim, digits
        As in `nmf_helpers.plots.loss_curves`.

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
        metric: str = "valid_loss",
        train_metric: str | None = "train_loss",
        baseline=None,
        ylabel: str = "loss",
        ylim: tuple[float, float] | None = None,
        digits: int = 3,
    ):
        self._make, self.metric, self.digits = make, metric, digits
        self._plot = {"metric": metric, "train_metric": train_metric, "baseline": baseline}
        self._plot |= {"ylabel": ylabel, "ylim": ylim, "digits": digits}
        self.runs: list[Run] = []
        self._thread, self._halt, self._lock = None, threading.Event(), threading.RLock()
        self._error: Exception | None = None
        self._inside = False  # in the notebook's own code, where Stop may interrupt
        self._warm_up = threading.Thread(target=_pay_for_the_first_optimizer, daemon=True)
        self._warm_up.start()
        self.controls = _training_controls(lr, weight_decay, n_epochs, seed) | {
            name: control(name, spec) for name, spec in (controls or {}).items()
        }
        self._initial = self.settings
        self._build()
        self.add_class("nmf-training-lab")
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

    def start(self, **settings) -> "TrainingLab":
        """Set the named controls and train once, in the background; nothing while it trains."""
        for name, value in settings.items():
            self._control(name).value = value
        return self._launch([self.settings])

    def sweep(self, name: str, values: list | None = None) -> "TrainingLab":
        """Train once for each value of one control, the others as they are."""
        values = spread(self._control(name)) if values is None else values
        return self._launch([self.settings | {name: value} for value in values])

    def stop(self) -> "TrainingLab":
        """End training, keeping model and history; an epoch that takes long is interrupted."""
        self._halt.set()
        if self.training and threading.current_thread() is not self._thread:
            self._thread.join(0.1)
            with self._lock:
                if self._inside and self.training:  # what Ctrl-C does in a terminal
                    target = ctypes.c_ulong(self._thread.ident), ctypes.py_object(KeyboardInterrupt)
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
        for name, value in self._initial.items():
            self.controls[name].value = value

    def clear(self) -> None:
        """Forget the runs that have ended."""
        with self._lock:
            self.runs = [run for run in self.runs if run.state == "training"]
            if not self.training:
                self._draw(self.figure())
                self.progress.value = ""
                self._say("Cleared. Move a slider, then press Train.")
            self._tabulate()

    def close(self) -> None:
        self.stop()
        super().close()

    # -- what came of it --------------------------------------------------------------------------

    @property
    def ranking(self) -> list[Run]:
        """Runs that have a score, best first."""
        sign = 1 if lower_is_better(self.metric) else -1
        return sorted((r for r in self.runs if r.best), key=lambda run: sign * run.score)

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
        """The lab's picture as an ordinary figure: the latest run, earlier ones as ghosts."""
        return self._curves(self.runs[-1] if self.runs else None)

    # -- the worker thread ------------------------------------------------------------------------

    def _launch(self, plans: list[dict]) -> "TrainingLab":
        with self._lock:  # two presses may arrive on two threads
            if self.training:
                self._say("Already training. Press Stop first.")
                return self
            self._error, self._halt = None, threading.Event()
            self._thread = threading.Thread(
                target=self._work, args=(plans, self._halt), daemon=True
            )
            self._thread.start()
        return self

    def _work(self, plans: list[dict], halt: threading.Event) -> None:
        self.train_button.button_style, self.stop_button.button_style = "", "danger"
        guess, previous = self.guess.value, self.runs[-1] if self.runs else None
        try:
            for number, settings in enumerate(plans, 1):
                which = f"Run {number} of {len(plans)}: training" if len(plans) > 1 else "Training"
                self._say(f"{which} with {self._label(settings)}.")
                run = Run(settings, self.metric)
                message = self._train(run, halt)
                self._tabulate()
                self._say(message, alert=run.state in ("diverged", "failed"))
                if halt.is_set() or run.state == "failed":
                    return
            if len(plans) > 1 and self.ranking:
                best = self.best
                self._say(
                    f"Done. Best of all: {self._number(best.score)}, {self._label(best.settings)}."
                )
            elif guess != "no guess":
                self._say(message + self._answer(guess, run, previous))
                self.guess.value = "no guess"
        finally:
            self.train_button.button_style, self.stop_button.button_style = "primary", ""

    def _train(self, run: Run, halt: threading.Event) -> str:
        """Train until the records end, Stop is pressed or something breaks; say which."""
        began, next_frame, records, message = time.perf_counter(), 0.0, None, ""
        chart = self._curves(run)
        self._draw(chart)
        self._progress(run)
        self.runs.append(run)
        try:
            self._warm_up.join()
            run.model, records = self._notebook_code(self._make, **run.settings)
            records = iter(records)
            while not halt.is_set() and (record := self._notebook_code(next, records, None)):
                run.history.append(dict(record))
                run.seconds = time.perf_counter() - began
                for name, value in record.items():
                    if isinstance(value, Real) and not math.isfinite(value):
                        lr = run.settings.get("lr")
                        advice = f"a smaller lr, say {_short(lr / 10)}" if lr else "smaller steps"
                        what = f"{name} is {value} at epoch {record['epoch']}"
                        raise ArithmeticError(f"{what}. Try {advice}")
                if time.perf_counter() >= next_frame:
                    cost = time.thread_time()
                    self._progress(run)
                    self._draw(chart.show(run.history), describe=not next_frame)
                    # Draw for at most a fifth of the time, and some 20 frames a second at most.
                    pause = max(0.04, 4 * (time.thread_time() - cost))
                    next_frame = time.perf_counter() + pause
        except KeyboardInterrupt:
            halt.set()
        except ArithmeticError as error:
            run.state, message = "diverged", f"Training diverged: {error}."
        except Exception as error:
            self._error, run.state = error, "failed"
            message = f"Training failed. {type(error).__name__}: {error}"
        self._inside = False
        if hasattr(records, "close"):
            with suppress(Exception):
                records.close()  # lets the loop end its workers
        with self._lock:
            if run.state == "training":
                run.state = "stopped" if halt.is_set() else "finished"
                message = self._summary(run)
            if not run.history:
                self.runs = [other for other in self.runs if other is not run]
        self._progress(run)
        self._draw(chart.show(run.history))
        return message

    def _notebook_code(self, function, *args, **kwargs):
        self._inside = True
        try:
            return function(*args, **kwargs)
        finally:
            with self._lock:
                self._inside = False

    # -- words ------------------------------------------------------------------------------------

    def _label(self, settings: Mapping[str, Any]) -> str:
        """Settings in words, without those that all runs have in common."""
        varying = [k for k in settings if any(r.settings[k] != settings[k] for r in self.runs)]
        keys = varying or [k for k in settings if k not in ("seed", "n_epochs")] or settings
        return " · ".join(f"{k} {_short(settings[k])}" for k in keys)

    def _summary(self, run: Run) -> str:
        if not run.best:
            return f"{run.state.capitalize()} before the first epoch was done."
        n = len(run.history)
        return (
            f"{run.state.capitalize()} after {n} epoch{'s' * (n > 1)} in {run.seconds:.1f} s: "
            f"best {self._number(run.score)} at epoch {run.best['epoch']:.0f}."
        )

    def _answer(self, guess: str, run: Run, previous: Run | None) -> str:
        """Whether the reader's prediction came true."""
        if not run.best or previous is None or not previous.best:
            return " There was no earlier run to compare with; now there is."
        change = (run.score - previous.score) / (abs(previous.score) or 1)
        better = (change < 0) == lower_is_better(self.metric)
        came = "the same" if abs(change) < SAME else "better" if better else "worse"
        verdict = "You were right" if came == guess else f"You said {guess}"
        numbers = f"{self._number(run.score)} after {self._number(previous.score)}"
        return f" {verdict}: it came out {came}, {numbers}."

    def _number(self, value: float) -> str:
        return f"{value:.{self.digits}f}"

    # -- widgets ----------------------------------------------------------------------------------

    def _build(self) -> None:
        tip = "stop, keeping model and history"
        self.train_button = button("Train", "play", "train as set", self.start, "primary")
        self.stop_button = button("Stop", "stop", tip, self.stop)
        self.reset_button = button("Reset", "undo", "put the controls back", self.reset)
        self.clear_button = button("Clear", "trash", "forget all runs", self.clear)
        names = [name for name in self.controls if name != "n_epochs"]
        self.sweep_choice = widgets.Dropdown(options=names, description="control to sweep")
        self.sweep_choice.add_class("nmf-quiet-label")
        self.sweep_choice.layout.width = "9em"
        tip = "train for several values of the control chosen beside"
        sweep = lambda: self.sweep(self.sweep_choice.value)  # noqa: E731
        self.sweep_button = button("Sweep", "forward", tip, sweep)
        self.guess = widgets.ToggleButtons(
            options=["no guess", "better", "the same", "worse"],
            description="My prediction, against the last run:",
            style={"description_width": "initial", "button_width": "7em"},
        )
        self.status, self.progress, self.table = (widgets.HTML() for _ in range(3))
        self.picture = Picture()
        buttons = [self.train_button, self.stop_button, self.reset_button, self.clear_button]
        super().__init__([
            widgets.HTML(STYLE), wrapped(*self.controls.values()), self.guess,
            wrapped(*buttons, self.sweep_button, self.sweep_choice),
            self.status, self.progress, self.picture, self.table,
        ])  # fmt: skip
        self._draw(self.figure())
        self._say("Ready. Move a slider, then press Train.")

    def _control(self, name: str) -> widgets.Widget:
        if name not in self.controls:
            near = difflib.get_close_matches(name, self.controls, 1, 0.0)[0]
            raise ValueError(f"this lab has no control {name!r}; did you mean {near!r}?")
        return self.controls[name]

    def _curves(self, run: Run | None) -> LossCurves:
        earlier = [r for r in self.runs if r is not run and r.best][-N_GHOSTS:]
        settings = run.settings if run else self.settings
        chart = LossCurves(
            **self._plot,
            n_epochs=settings["n_epochs"],
            ghosts=[(self._label(r.settings), r.history) for r in earlier],
            title=self._label(settings),
        )
        return chart.show(run.history) if run else chart

    def _draw(self, chart: LossCurves, describe: bool = True) -> None:
        self.picture.value = chart.frame()
        if describe:  # not for every frame: a screen reader should not hear each one
            self.picture.tooltip = chart.alt

    def _say(self, message: str, alert: bool = False) -> None:
        self.status.value = spoken(message, alert)

    def _progress(self, run: Run) -> None:
        done, planned = len(run.history), run.settings["n_epochs"]
        best = f" · best {self._number(run.score)} at {run.best['epoch']:.0f}" if run.best else ""
        bar = f'<progress value="{done}" max="{planned}" aria-label="epochs done"></progress>'
        self.progress.value = f"{bar} epoch {done} of {planned}{best}"

    def _tabulate(self) -> None:
        head = "".join(f"<th>{h}</th>" for h in ("settings", "best", "epoch", "seconds", ""))
        rows = [
            (self._label(run.settings), self._number(run.score), f"{run.best['epoch']:.0f}",
             f"{run.seconds:.1f}", run.state)
            for run in self.ranking
        ]  # fmt: skip
        cells = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        caption = "<caption>Runs, best first</caption>"
        table = f'<table class="nmf-text">{caption}<tr>{head}</tr>{body}</table>'
        self.table.value = table if rows else ""

    def _stop_earlier_lab_of_this_cell(self) -> None:
        """A cell that is run again leaves no training behind."""
        parent = getattr(get_ipython(), "get_parent", dict)()
        self._cell = parent.get("metadata", {}).get("cellId")
        self._execution = parent.get("header", {}).get("msg_id")
        for lab in list(self._living):
            if self._cell and lab._cell == self._cell and lab._execution != self._execution:
                lab.stop()
        self._living.add(self)


def _training_controls(lr, weight_decay, n_epochs, seed) -> dict[str, widgets.Widget]:
    if isinstance(lr, float | int):
        lr = (lr / 100, float(lr), lr * 100)
    if isinstance(weight_decay, float | int):
        weight_decay = LogSlider(1e-7, float(weight_decay), 1.0, "weight_decay")  # 0 is welcome
    if isinstance(n_epochs, int):
        n_epochs = (1, n_epochs, 5 * n_epochs)
    seed = widgets.BoundedIntText(seed, min=0, max=2**31 - 1)
    specs = {"lr": lr, "weight_decay": weight_decay, "n_epochs": n_epochs, "seed": seed}
    return {name: control(name, spec) for name, spec in specs.items() if spec is not None}


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _pay_for_the_first_optimizer() -> None:
    """The first torch optimizer of a process imports a compiler, about a second: do it early."""
    with suppress(ImportError):
        import torch

        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)

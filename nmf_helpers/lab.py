"""A live laboratory: sliders, a curve that draws while the model trains, a table of runs.

`TrainingLab` knows a function that yields one record an epoch, and a plot; it knows no model and
no data. Training runs in a worker thread and the buttons set an event, because a notebook's
callbacks wait for one another: a plain callback that trains can't hear Stop.
Every widget is updated through its traits, as `print` inside a thread is lost.
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
from typing import Any, ClassVar

import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets
from IPython import get_ipython

from nmf_helpers.plots import LossCurves, best_record, lower_is_better

N_GHOSTS = 4  # earlier runs kept in the picture; the table keeps all of them
SAME = 0.005  # scores closer than half a per cent count as "the same" in a prediction

# JupyterLab marks a dark theme on the body; the picture then swaps light for dark, keeping hues.
THEME = """<style>
[data-jp-theme-light="false"] .nmf-picture {filter: invert(0.9) hue-rotate(180deg)}
.nmf-runs td, .nmf-runs th {padding: 2px 12px 2px 0; text-align: left}
</style>"""

Make = Callable[..., tuple[Any, Iterator[Mapping[str, float]]]]


@dataclass
class Run:
    """One training run: what was set, what was recorded, and the model as training left it."""

    settings: dict[str, Any]
    metric: str
    history: list[dict[str, float]] = field(default_factory=list)
    model: Any = None
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


class Picture(widgets.Image):
    """An image whose tooltip is its alt text; the front end asks for a description as well."""

    description = traitlets.Unicode("").tag(sync=True)


class LogSlider(widgets.HBox):
    """A logarithmic slider beside a box for the exact value (0 included)."""

    value = traitlets.Float()

    def __init__(self, low: float, value: float, high: float, description: str):
        ends = {"min": math.log10(low), "max": math.log10(high), "step": 0.1}
        self.low, self.high = low, high
        self.slider = widgets.FloatLogSlider(
            value=self._on_scale(value), **ends, readout=False, description=description
        )
        self.box = widgets.BoundedFloatText(
            value=value, min=0, max=1e9, tooltip=f"exact value of {description}"
        )
        self.box.layout.width = "6.5em"
        super().__init__([self.slider, self.box])
        self.value = value
        self.slider.observe(self._slid, "value")
        self.box.observe(lambda change: setattr(self, "value", change.new), "value")

    def _on_scale(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def _slid(self, change) -> None:
        if not math.isclose(change.new, self._on_scale(self.value)):
            self.value = float(f"{change.new:.2g}")

    @traitlets.observe("value")
    def _valued(self, change) -> None:
        self.box.value = change.new
        self.slider.value = self._on_scale(change.new)


def control(name: str, spec: Any) -> widgets.Widget:
    """A widget for `spec`: a widget itself, a bool, a list of choices, or (low, start, high)."""
    if isinstance(spec, widgets.Widget):
        spec.description = spec.description or name
        return spec
    if isinstance(spec, bool):
        return widgets.Checkbox(value=spec, description=name, indent=True)
    if isinstance(spec, list):
        return widgets.Dropdown(options=spec, value=spec[0], description=name)
    if isinstance(spec, tuple) and len(spec) == 3:
        low, start, high = spec
        if not low <= start <= high:
            raise ValueError(f"{name}: expected low <= start <= high, got {spec}")
        if all(isinstance(x, int) for x in spec):
            return widgets.IntSlider(start, low, high, description=name)
        if low > 0 and high / low >= 100:
            return LogSlider(low, start, high, name)
        return widgets.FloatSlider(
            start, min=low, max=high, step=(high - low) / 100, description=name
        )
    raise TypeError(
        f"{name}: expected a widget, True or False, a list, or (low, start, high); got {spec!r}"
    )


def spread(widget: widgets.Widget) -> list:
    """Three or four telling values of a control, for a sweep."""
    if isinstance(widget, widgets.Checkbox):
        return [False, True]
    if isinstance(widget, widgets.Dropdown):
        return [value for _, value in widget._options_full[:4]]
    if isinstance(widget, LogSlider):
        middle = widget.value or math.sqrt(widget.low * widget.high)
        first = middle / 10 if widget.value else 0.0
        return [float(f"{v:.2g}") for v in (first, middle / 3, middle, middle * 3)]
    if isinstance(widget, widgets.BoundedIntText):
        return [widget.value + i for i in range(4)]
    if isinstance(widget, widgets.IntSlider):
        values = np.geomspace(max(widget.min, 1), widget.max, 4)
        return sorted({round(float(v)) for v in values})
    return [round(float(v), 6) for v in np.linspace(widget.min, widget.max, 4)]


class TrainingLab(widgets.VBox):
    """Sliders, Train and Stop, a live curve and a table of runs over any training loop.

    Parameters
    ----------
    make : callable
        ``make(lr=, weight_decay=, n_epochs=, seed=, **controls) -> (model, records)``, where
        `records` yields one dict an epoch ("epoch", `metric`, `train_metric`, ...).
    lr, weight_decay : float or (low, start, high) or None
        Start of the logarithmic slider; None leaves the control (and the argument) out.
    n_epochs : int or (low, start, high)
    seed : int
    controls : dict of name to widget, bool, list of choices or (low, start, high)
        Further arguments of `make`; see `control`.
    metric, train_metric, baseline, ylabel, ylim, digits
        As in `nmf_helpers.plots.loss_curves`.

    Attributes
    ----------
    runs : list of Run
        In the order they were trained.
    """

    _living: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(
        self,
        make: Make,
        *,
        lr=0.01,
        weight_decay=1e-5,
        n_epochs=30,
        seed=0,
        controls: Mapping[str, Any] | None = None,
        metric: str = "valid_loss",
        train_metric: str | None = "train_loss",
        baseline=None,
        ylabel: str = "loss",
        ylim: tuple[float, float] | None = None,
        digits: int = 3,
    ):
        self._make, self.metric = make, metric
        self._plot = {
            "metric": metric, "train_metric": train_metric, "baseline": baseline,
            "ylabel": ylabel, "ylim": ylim, "digits": digits,
        }  # fmt: skip
        self.runs: list[Run] = []
        self._error: BaseException | None = None
        self._thread, self._halt, self._lock = None, threading.Event(), threading.RLock()
        self._inside = False  # in the notebook's code, where Stop may interrupt
        self._warm_up = threading.Thread(target=_pay_for_the_first_optimizer, daemon=True)
        self._warm_up.start()
        self.controls = self._build_controls(lr, weight_decay, n_epochs, seed, controls or {})
        self._initial = self.settings
        self._build()
        self._stop_earlier_lab_of_this_cell()

    def __repr__(self) -> str:  # fixed, so that a re-run notebook prints the same
        return f"TrainingLab({', '.join(self.controls)})"

    # -- running ----------------------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, Any]:
        """What the controls say now: the arguments that `make` will get."""
        return {name: widget.value for name, widget in self.controls.items()}

    @property
    def training(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, **settings) -> "TrainingLab":
        """Set the named controls and train once, in the background; no-op while training."""
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
                if self._inside and self.training:  # what the keyboard's Ctrl-C would do to it
                    target = ctypes.c_ulong(self._thread.ident), ctypes.py_object(KeyboardInterrupt)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(*target)
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
        self.runs = [run for run in self.runs if run.state == "training"]
        if not self.training:
            self._draw(self._curves(None))
            self._say("Cleared.")
        self._tabulate()

    def close(self) -> None:
        self.stop()
        super().close()

    # -- results ----------------------------------------------------------------------------------

    @property
    def best(self) -> Run:
        """The run with the best score so far."""
        if not self.ranking:
            raise ValueError("no run to choose from yet: press Train, or lab.start().wait()")
        return self.ranking[0]

    @property
    def ranking(self) -> list[Run]:
        """Runs that have a score, best first."""
        sign = 1 if lower_is_better(self.metric) else -1
        return sorted((r for r in self.runs if r.best), key=lambda run: sign * run.score)

    @property
    def history(self) -> pd.DataFrame:
        """The records of the latest run, one row an epoch."""
        records = self.runs[-1].history if self.runs else []
        return pd.DataFrame(records).set_index("epoch") if records else pd.DataFrame()

    def figure(self) -> LossCurves:
        """The lab's picture as an ordinary figure."""
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
            self._warm_up.join()
            for number, settings in enumerate(plans, 1):
                run = Run(settings, self.metric)
                which = f"Run {number} of {len(plans)}: " if len(plans) > 1 else ""
                self._say(f"{which}Training with {self._label(settings)}.")
                self._train(run, halt)
                if halt.is_set() or run.state == "failed":
                    break
            if len(plans) == 1:
                self._answer(guess, run, previous)
        finally:
            self.train_button.button_style, self.stop_button.button_style = "primary", ""

    def _train(self, run: Run, halt: threading.Event) -> None:
        began, next_frame, records = time.perf_counter(), 0.0, None
        chart = self._curves(run)
        self._draw(chart)
        self.runs.append(run)
        message = ""
        try:
            run.model, records = self._notebook_code(self._make, **run.settings)
            while record := self._notebook_code(next, records, None):
                run.history.append(dict(record))
                run.seconds = time.perf_counter() - began
                bad = [
                    k for k, v in record.items() if isinstance(v, float) and not math.isfinite(v)
                ]
                if bad:
                    run.state, message = "diverged", self._diverged(run, bad[0])
                    break
                if halt.is_set():
                    break
                if (now := time.perf_counter()) >= next_frame:
                    self._progress(run)
                    self._draw(chart.show(run.history), describe=not next_frame)
                    # Draw at most a fifth of the time, and at most some 16 frames a second.
                    next_frame = (end := time.perf_counter()) + max(0.05, 4 * (end - now))
        except KeyboardInterrupt:
            halt.set()
        except ArithmeticError as error:
            run.state, message = "diverged", f"Training diverged: {error}."
        except Exception as error:
            self._error, run.state = error, "failed"
            message = f"Training failed. {type(error).__name__}: {error}"
        finally:
            self._inside = False
            if hasattr(records, "close"):
                with suppress(Exception):
                    records.close()
        if run.state == "training":
            run.state = "stopped" if halt.is_set() else "finished"
            message = self._summary(run)
        if not run.history:
            self.runs.remove(run)
        self._progress(run)
        self._draw(chart.show(run.history))
        self._tabulate()
        self._say(message, alert=run.state in ("diverged", "failed"))

    def _notebook_code(self, function, *args, **kwargs):
        self._inside = True
        try:
            return function(*args, **kwargs)
        finally:
            with self._lock:
                self._inside = False

    # -- words ------------------------------------------------------------------------------------

    def _label(self, settings: Mapping[str, Any]) -> str:
        """Settings in words, leaving out what all runs have in common."""
        runs = [run.settings for run in self.runs] + [settings]
        varying = [k for k in settings if any(r[k] != settings[k] for r in runs)]
        keys = varying or [k for k in settings if k not in ("seed", "n_epochs")] or list(settings)
        return " · ".join(f"{k} {_short(settings[k])}" for k in keys)

    def _summary(self, run: Run) -> str:
        if not run.best:
            return f"{run.state.capitalize()} before the first epoch was done."
        return (
            f"{run.state.capitalize()} after {len(run.history)} epochs in {run.seconds:.1f} s: "
            f"best {self._number(run.score)} at epoch {run.best['epoch']:.0f}."
        )

    def _diverged(self, run: Run, column: str) -> str:
        lr = run.settings.get("lr")
        advice = f"a smaller lr, say {_short(lr / 10)}" if lr else "smaller steps"
        epoch = run.history[-1].get("epoch", len(run.history))
        return f"Training diverged: {column} is not a finite number at epoch {epoch}. Try {advice}."

    def _answer(self, guess: str, run: Run, previous: Run | None) -> None:
        """Say whether the reader's prediction came true."""
        if guess == "no guess" or not run.best or previous is None or not previous.best:
            return
        change = (run.score - previous.score) / (abs(previous.score) or 1)
        better = (change < 0) == lower_is_better(self.metric)
        came = "the same" if abs(change) < SAME else "better" if better else "worse"
        verdict = "You were right" if came == guess else f"You said {guess}"
        numbers = f"{self._number(run.score)} after {self._number(previous.score)}"
        self._say(f"{self._summary(run)} {verdict}: it came out {came}, {numbers}.")
        self.guess.value = "no guess"

    def _number(self, value: float) -> str:
        return f"{value:.{self._plot['digits']}f}"

    # -- widgets ----------------------------------------------------------------------------------

    def _build_controls(self, lr, weight_decay, n_epochs, seed, extra) -> dict[str, widgets.Widget]:
        specs = {
            "lr": lr if isinstance(lr, tuple | None) else (lr / 100, lr, lr * 100),
            "weight_decay": weight_decay
            if isinstance(weight_decay, tuple | None)
            else (1e-7, weight_decay, 1.0),
            "n_epochs": n_epochs if isinstance(n_epochs, tuple) else (1, n_epochs, 5 * n_epochs),
            "seed": widgets.BoundedIntText(seed, min=0, max=2**31 - 1, description="seed"),
            **extra,
        }
        built = {name: control(name, spec) for name, spec in specs.items() if spec is not None}
        for widget in built.values():
            inner = widget.slider if isinstance(widget, LogSlider) else widget
            inner.style.description_width = "7em"
            inner.layout.width = "20em" if isinstance(widget, LogSlider) else "26.5em"
        return built

    def _build(self) -> None:
        def button(text, icon, tip, action, style=""):
            made = widgets.Button(description=text, icon=icon, tooltip=tip, button_style=style)
            made.layout.width = "auto"
            made.on_click(lambda _: action())
            return made

        self.train_button = button(
            "Train", "play", "train with these settings", self.start, "primary"
        )
        self.stop_button = button("Stop", "stop", "stop, keeping model and history", self.stop)
        self.reset_button = button("Reset", "undo", "put the controls back", self.reset)
        self.clear_button = button("Clear", "trash", "forget all runs", self.clear)
        names = [name for name in self.controls if name != "n_epochs"]
        self.sweep_choice = widgets.Dropdown(options=names, tooltip="control to sweep")
        self.sweep_choice.layout.width = "9em"
        self.sweep_button = button(
            "Sweep", "forward", "train for several values of one control",
            lambda: self.sweep(self.sweep_choice.value),
        )  # fmt: skip
        self.guess = widgets.ToggleButtons(
            options=["no guess", "better", "the same", "worse"],
            description="Against the last run, the next will be:",
            style={"description_width": "initial", "button_width": "6em"},
        )
        self.status, self.progress, self.table = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.picture = Picture(format="png", layout=widgets.Layout(width="900px", max_width="100%"))
        self.picture.add_class("nmf-picture")
        self._draw(self._curves(None))
        self._say("Ready. Move a slider, then press Train.")
        wrap = widgets.Layout(flex_flow="row wrap", grid_gap="2px 12px")
        super().__init__([
            widgets.HTML(THEME),
            widgets.Box(list(self.controls.values()), layout=wrap),
            self.guess,
            widgets.Box(
                [
                    self.train_button, self.stop_button, self.reset_button, self.clear_button,
                    self.sweep_button, self.sweep_choice,
                ],
                layout=wrap,
            ),
            self.status, self.progress, self.picture, self.table,
        ])  # fmt: skip

    def _control(self, name: str) -> widgets.Widget:
        if name not in self.controls:
            near = difflib.get_close_matches(name, self.controls, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.controls)}"
            raise ValueError(f"this lab has no control {name!r}; {hint}")
        return self.controls[name]

    def _curves(self, run: Run | None) -> LossCurves:
        """The picture of `run`, with the runs before it as ghosts."""
        earlier = [r for r in self.runs if r is not run and r.best][-N_GHOSTS:]
        settings = run.settings if run else self.settings
        chart = LossCurves(
            **self._plot,
            n_epochs=settings.get("n_epochs"),
            ghosts=[(self._label(r.settings), r.history) for r in earlier],
            title=self._label(settings),
        )
        return chart.show(run.history) if run else chart

    def _draw(self, chart: LossCurves, describe: bool = True) -> None:
        self.picture.value = chart.frame()
        if describe:  # not at every frame: a screen reader should not hear each one
            self.picture.tooltip = chart.alt

    def _say(self, message: str, alert: bool = False) -> None:
        role = "alert" if alert else "status"
        self.status.value = f'<div role="{role}"><b>{html.escape(message)}</b></div>'

    def _progress(self, run: Run) -> None:
        done, planned = len(run.history), run.settings.get("n_epochs", len(run.history))
        best = f" · best {self._number(run.score)} at {run.best['epoch']:.0f}" if run.best else ""
        self.progress.value = (
            f'<progress value="{done}" max="{planned}" aria-label="epochs done"></progress> '
            f"epoch {done} of {planned}{best}"
        )

    def _tabulate(self) -> None:
        rows = "".join(
            f"<tr><td>{rank}</td><td>{html.escape(self._label(run.settings))}</td>"
            f"<td>{self._number(run.score)}</td><td>{run.best['epoch']:.0f}</td>"
            f"<td>{run.seconds:.1f}</td><td>{run.state}</td></tr>"
            for rank, run in enumerate(self.ranking, 1)
        )
        names = ("", "settings", f"best {self.metric}", "epoch", "seconds", "")
        head = "".join(f'<th scope="col">{name}</th>' for name in names)
        table = f"<caption>Runs, best first</caption><tr>{head}</tr>{rows}"
        self.table.value = f'<table class="nmf-runs">{table}</table>' if rows else ""

    def _stop_earlier_lab_of_this_cell(self) -> None:
        """A cell that is run again leaves no training behind."""
        parent = getattr(get_ipython(), "get_parent", dict)() or {}
        self._cell = (
            parent.get("metadata", {}).get("cellId"),
            parent.get("header", {}).get("msg_id"),
        )
        for lab in list(TrainingLab._living):
            if (
                lab._cell[0] is not None
                and lab._cell[0] == self._cell[0]
                and lab._cell != self._cell
            ):
                lab.stop()
        TrainingLab._living.add(self)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _pay_for_the_first_optimizer() -> None:
    """The first torch optimizer of a process imports a compiler, about a second; do it early."""
    with suppress(ImportError):
        import torch

        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)

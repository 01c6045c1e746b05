"""One run of a training lab, and what there is to say about several."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from nmf_helpers.lab.controls import PLAIN
from nmf_helpers.lab.curves import best_record, count, is_lower_better, pick_metric


@dataclass(eq=False)
class Run:
    """One training run: what was set, what was recorded, and the model as training left it."""

    number: int
    settings: dict[str, Any]
    plot: Mapping[str, Any] = field(default_factory=dict, repr=False)  # what the lab was told of it
    metric: str = ""
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)
    model: Any = field(default=None, repr=False)
    state: str = "training"  # then "finished", "stopped", "diverged" or "failed"
    seconds: float = 0.0

    @property
    def best(self) -> Any:
        """The record of the best epoch, or None before the first."""
        lower = is_lower_better(self.metric, self.plot.get("lower_is_better"))
        return best_record(self.history, self.metric, lower)

    @property
    def score(self) -> float:
        """The metric at the best epoch; NaN before the first."""
        return self.best[self.metric] if self.best else math.nan

    def take(self, record: dict[str, Any]) -> None:
        """Keep a record; raise if there is nothing to follow in it, or it tells of divergence."""
        train_metric = self.plot.get("train_metric", "train_loss")
        self.metric = pick_metric(record, self.metric, train_metric)
        self.history.append(record)
        lr = self.settings.get("lr")
        for name, value in record.items():
            if isinstance(value, Real) and not math.isfinite(value):
                advice = f"a smaller lr, say {short(lr / 10)}" if lr else "smaller steps"
                what = f"{name} is {value} at epoch {record['epoch']}"
                raise FloatingPointError(f"{what}. Try {advice}")

    def __str__(self) -> str:
        return f"{self.score:.{self.plot.get('digits', 3)}f} at epoch {self.best['epoch']:.0f}"

    def progress(self) -> str:
        """Return how far it is, as HTML."""
        done, planned = len(self.history), self.settings["n_epochs"]
        value = f'value="{done}"' if done else ""
        bar = f'<progress {value} max="{planned}" aria-label="epochs done"></progress>'
        if not done:
            return f"{bar} starting…" if self.state == "training" else ""
        return f"{bar} epoch {done} of {planned}" + (f" · best {self}" if self.best else "")

    def summary(self) -> str:
        """Return how it ended, in a sentence."""
        if not self.best:
            return f"{self.state.capitalize()} before the first epoch was done."
        after = f"after {count(len(self.history), 'epoch')} in {self.seconds:.1f} s"
        return f"{self.state.capitalize()} {after}: best {self}."


def label(settings: Mapping[str, Any], runs: Sequence[Run], *, briefly: bool = False) -> str:
    """Return what sets these settings apart; where nothing does, all that matter, or nothing."""
    apart = [k for k in settings if any(short(r.settings[k]) != short(settings[k]) for r in runs)]
    full = [] if briefly else [k for k in settings if k not in ("seed", "n_epochs")]
    return " · ".join(f"{k} {short(settings[k])}" for k in apart or full)


def named(run: Run, runs: Sequence[Run]) -> str:
    """Return "run 2: lr 0.1", its number and what sets it apart."""
    return f"run {run.number}: {label(run.settings, runs, briefly=True)}".removesuffix(": ")


def table(ranking: Sequence[Run], runs: Sequence[Run]) -> str:
    """Return runs as an HTML table, or nothing."""
    page = "".join(f"<th>{head}</th>" for head in ("run", "best", "seconds", "ended"))
    for run in ranking:
        row = (named(run, runs).removeprefix("run "), str(run), f"{run.seconds:.1f}", run.state)
        page += "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
    head = f'<table class="nmf-text {PLAIN}"><caption>Runs, best first</caption>'
    return f"{head}<tr>{page}</table>" if ranking else ""


def short(value: Any) -> str:
    """Return a setting as one reads it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)

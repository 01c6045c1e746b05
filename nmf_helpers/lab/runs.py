"""One run of a training lab, and what there is to say about runs."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nmf_helpers.lab.curves import Record, best_record, lower_is_better

SAME = 0.005  # scores that differ by less than half a per cent come out "the same"


@dataclass(eq=False)
class Run:
    """One training run: what was set, what was recorded, and the model as training left it."""

    number: int
    settings: dict[str, Any]
    metric: str | None = None
    lower: bool | None = None  # whether a small metric is good, where its name does not say
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)
    model: Any = field(default=None, repr=False)
    state: str = "training"  # then "finished", "stopped", "diverged" or "failed"
    seconds: float = 0.0

    @property
    def best(self) -> Record | None:
        """The record of the best epoch, or None before the first."""
        return best_record(self.history, self.metric, self.lower)

    @property
    def score(self) -> float:
        """The metric at the best epoch; NaN before the first."""
        return self.best[self.metric] if self.best and self.metric else math.nan

    def summary(self, digits: int) -> str:
        """Return how it ended, in a sentence."""
        if not self.best:
            return f"{self.state.capitalize()} before the first epoch was done."
        n = len(self.history)
        return (
            f"{self.state.capitalize()} after {n} epoch{'s' * (n > 1)} in {self.seconds:.1f} s: "
            f"best {self.score:.{digits}f} at epoch {self.best['epoch']:.0f}."
        )


def words(settings: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """Return settings in words, without those that all `runs` have in common."""
    keys = [k for k in settings if any(r.settings[k] != settings[k] for r in runs)]
    return " · ".join(f"{k} {short(settings[k])}" for k in keys)


def named(run: Run, runs: Sequence[Run]) -> str:
    """Return "run 2: lr 0.1": its number, and what sets it apart."""
    apart = words(run.settings, runs)
    return f"run {run.number}" + (f": {apart}" if apart else "")


def ranked(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that have a score, best first."""
    scored = [run for run in runs if run.best]
    return sorted(scored, key=lambda r: r.score if lower_is_better(r.metric, r.lower) else -r.score)


def answer(guess: str, run: Run, previous: Run | None, digits: int) -> str:
    """Return whether the reader's prediction came true."""
    if not run.best or previous is None or not previous.best:
        return " There was no earlier run to compare with; now there is."
    change = (run.score - previous.score) / (abs(previous.score) or 1)
    better = (change < 0) == lower_is_better(run.metric, run.lower)
    came = "the same" if abs(change) < SAME else "better" if better else "worse"
    verdict = "You were right" if came == guess else f"You said {guess}"
    numbers = f"{run.score:.{digits}f} after {previous.score:.{digits}f}"
    return f" {verdict}: it came out {came}, {numbers}."


def table(runs: Sequence[Run], digits: int) -> str:
    """Return all runs as an HTML table, best first, or nothing."""
    rows = [
        (str(run.number), words(run.settings, runs) or "as before", f"{run.score:.{digits}f}",
         f"{run.best['epoch']:.0f}", f"{run.seconds:.1f}", run.state)
        for run in ranked(runs) if run.best
    ]  # fmt: skip
    head = "".join(f"<th>{h}</th>" for h in ("run", "settings", "best", "epoch", "seconds", ""))
    cells = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    caption = "<caption>Runs, best first</caption>"
    page = f'<table class="nmf-text tex2jax_ignore">{caption}<tr>{head}</tr>{body}</table>'
    return page if rows else ""


def short(value: Any) -> str:
    """Return a setting as one reads it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)

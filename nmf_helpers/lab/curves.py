"""Learning curves that can take new records without being drawn anew."""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from nmf_helpers.lab.chart import BLUE, GREEN, INK, VERMILION, Chart, count, shorten, style

BASELINES = ["-.", (0, (1, 2)), (0, (8, 2, 1, 2, 1, 2))]
GHOSTS = [
    (GREEN, (0, (6, 1))), ("#A3558B", (0, (1, 1))), ("#9A6700", (0, (4, 1, 1, 1))), ("#2B7BB0", "-"),
]  # fmt: skip
PARTS = {"test": "test", "train": "training"}  # how a metric's name begins; others: validation

History = pd.DataFrame | Iterable[Mapping[str, Any]]
Record = Mapping[str, Any]


def lower_is_better(metric: str | None, said: bool | None = None) -> bool:
    """Tell whether a small `metric` is a good one: as `said`, or by name (losses and errors)."""
    by_name = any(word in (metric or "loss").lower() for word in ("loss", "mse", "mae", "error"))
    return by_name if said is None else said


def best_record(
    records: Sequence[Record], metric: str | None, lower: bool | None = None
) -> Record | None:
    """Return the record with the best finite `metric`, the earliest of equals, or None."""
    sign = 1 if lower_is_better(metric, lower) else -1
    values = [(sign * v, i) for i, v in enumerate(column(records, metric)) if math.isfinite(v)]
    return records[min(values)[1]] if values else None


def pick_metric(record: Record, metric: str | None, train_metric: str | None) -> str:
    """Return the name of the number to follow: `metric`, or a loss that is not the training's.

    Raises
    ------
    ValueError
        If the record has no epoch or no such number; it names those that there are.
    """
    numbers = [name for name, value in record.items() if isinstance(value, Real)]
    if "epoch" not in numbers:
        raise ValueError(f"a record needs a number 'epoch'; this one has {sorted(record)}")
    others = [name for name in numbers if name not in ("epoch", "seconds", train_metric)]
    losses = [name for name in others if name.endswith("_loss")]
    known = [*losses, *others, *(name for name in numbers if name == train_metric)]
    if (metric is None and not known) or (metric is not None and metric not in record):
        wanted = "number to follow" if metric is None else f"metric {metric!r}"
        raise ValueError(f"no {wanted} in the records: they have {numbers}; say metric=…")
    return known[0] if metric is None else metric


def records_of(history: History) -> list[dict[str, Any]]:
    """Return a history, given as a table or as records, as a list of dicts."""
    if isinstance(history, pd.DataFrame):
        history = history.reset_index() if history.index.name == "epoch" else history
        return history.to_dict("records")
    return [dict(record) for record in history]


def column(records: Sequence[Record], name: str | None) -> list[float]:
    """Return one number of every record, NaN where there is none."""
    values = [record.get(name) for record in records]
    return [float(v) if isinstance(v, Real) else math.nan for v in values]


class LossCurves(Chart):
    """The figure behind `loss_curves`, able to take new records without redrawing everything.

    `show` gives it a history, `frame` a PNG in which only the lines have moved: axes, labels and
    ghosts are drawn once and kept as a bitmap. Parameters are those of `loss_curves`.
    """

    def __init__(
        self,
        *,
        metric: str | None = None,
        train_metric: str | None = "train_loss",
        lower_is_better: bool | None = None,
        baseline: tuple[str, float] | Mapping[str, float] | None = None,
        ghosts: Mapping[str, History] | Sequence[tuple[str, History]] = (),
        ylabel: str = "loss",
        title: str = "",
        n_epochs: int | None = None,
        ylim: tuple[float, float] | None = None,
        digits: int = 3,
    ) -> None:
        ghosts = [(label, records_of(h)) for label, h in dict(ghosts).items()]
        super().__init__(height=4.3, layout=None)
        self.metric, self.n_epochs, self.ylim, self.digits = metric, n_epochs, ylim, digits
        self.train_metric = None if metric == train_metric else train_metric
        self.baselines = dict([baseline] if isinstance(baseline, tuple) else baseline or {})
        self.ghosts = [(label, records) for label, records in ghosts if records]
        self.quantity, self._lower = ylabel.split(" (")[0], lower_is_better
        # The test part is looked at, not chosen by: no epoch of it is called the best.
        self.part = PARTS.get((metric or "").split("_")[0], "validation")
        self._settled: tuple[float, float] | None = None
        self._background: Any = None
        self.ax = ax = style(self.subplots(), xlabel="epoch", ylabel=ylabel)
        ax.set_title(shorten(title, 80), loc="left", fontsize=11, color=INK)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        self._add_lines()
        self.show(())

    @property
    def lower(self) -> bool:
        """Whether a small value is a good one."""
        return lower_is_better(self.metric, self._lower)

    def _add_lines(self) -> None:
        ax, number = self.ax, f"{{:.{self.digits}f}}".format
        moving: dict[str, Any] = {"animated": True, "zorder": 3}
        (self.train,) = ax.plot([], [], "--", color=VERMILION, lw=2, **moving)
        (self.valid,) = ax.plot([], [], "-", color=BLUE, lw=2.4, **moving)
        (self.best,) = ax.plot([], [], "D", color=BLUE, ms=8, mec="white", **moving)
        self.note = ax.annotate(
            "", (0, 0), (0, 12), textcoords="offset points", ha="center", color=BLUE, fontsize=11,
            annotation_clip=False, bbox={"fc": "white", "ec": "none", "pad": 0.8}, **moving,
        )  # fmt: skip
        if self.train_metric:
            self.train.set_label(f"training {self.quantity}")
        self.valid.set_label(f"{self.part} {self.quantity}")
        self.best.set_label("last epoch" if self.part == "test" else "best epoch")
        for (name, value), dashes in zip(self.baselines.items(), BASELINES * 9, strict=False):
            label = shorten(f"{name} {number(value)}", 38)
            ax.axhline(value, color=INK, ls=dashes, lw=1.3, label=label)
        for (label, run), (colour, dashes) in zip(self.ghosts, GHOSTS * 9, strict=False):
            data, label = (column(run, "epoch"), column(run, self.metric)), shorten(label, 38)
            ax.plot(*data, color=colour, ls=dashes, lw=1.4, label=label)
        rows = math.ceil(len(ax.get_legend_handles_labels()[0]) / 2)
        self.subplots_adjust(0.11, 0.15 + 0.052 * rows, 0.975, 0.92)
        ax.legend(
            loc="upper left", bbox_to_anchor=(-0.02, -0.45 / self.get_figheight() / 0.7),
            frameon=False, fontsize=10.5, labelcolor=INK, handlelength=2.6, ncols=2,
            columnspacing=1.5, labelspacing=0.25, borderaxespad=0,
        )  # fmt: skip

    def show(self, history: History) -> "LossCurves":
        """Draw `history` from now on; the axes move only if it would not fit."""
        records = records_of(history)
        epochs, valid = column(records, "epoch"), column(records, self.metric)
        train = column(records, self.train_metric)
        self.valid.set_data(epochs, valid)
        self.train.set_data(epochs, train)
        candidates = records[-1:] if self.part == "test" else records
        best = best_record(candidates, self.metric, self._lower)
        self.best.set_data(*(([best["epoch"]], [best[self.metric]]) if best else ([], [])))
        self.note.set_text(f"{best[self.metric]:.{self.digits}f}" if best else "")
        if best:
            self.note.xy = (best["epoch"], best[self.metric])
            self.note.set_position((0, -20 if self.lower else 12))
        self._fit(epochs, [*valid, *train])
        self.alt = self._describe(records, best)
        return self

    def frame(self) -> bytes:
        """Return a PNG of the present state, quickly."""
        if self._background is None:
            self.draw_as_written()
            self._background = self.canvas.copy_from_bbox(self.bbox)
        self.canvas.restore_region(self._background)
        for artist in (self.train, self.valid, self.best, self.note):
            self.ax.draw_artist(artist)
        return self.encode()

    def png(self) -> bytes:
        """Return the picture as the bytes of a PNG file."""
        self._background = None
        return self.frame()

    def _fit(self, epochs: list[float], values: list[float]) -> None:
        last = max([*epochs, *(max(column(run, "epoch")) for _, run in self.ghosts), 2])
        end = self.n_epochs if self.n_epochs and self.n_epochs >= last else last
        limits = (-0.01 * end, end * 1.02), self.ylim or self._settle(values)
        if limits != (self.ax.get_xlim(), self.ax.get_ylim()):
            self.ax.set(xlim=limits[0], ylim=limits[1])
            self._background = None

    def _settle(self, values: list[float]) -> tuple[float, float]:
        """Return limits that hold all values with room to spare, and stay while that is so.

        A first epoch far above everything else would flatten the rest: the top is at most two and
        a half times the largest baseline or best value, and the curve comes in from above.
        """
        anchors = list(self.baselines.values())
        for _, run in self.ghosts:
            anchors += [*column(run, self.metric), *column(run, self.train_metric)]
        everything = np.array([*values, *anchors], dtype=float)
        everything = everything[np.isfinite(everything)]
        if not len(everything):
            return 0.0, 1.0
        low, high = float(everything.min()), float(everything.max())
        if not values and not self.ghosts:  # a guess, until there is something to go by
            return 0.5 * low, 1.5 * high
        if self.lower and low > 0:
            high = min(high, 2.5 * max([low, *self.baselines.values()]))
        room = 0.1 * (high - low) or 0.1 * abs(high) or 0.1
        floor, ceiling = self._settled or (low, high)
        if self._settled is None or high - low < 0.3 * (ceiling - min(floor, low)):
            floor, ceiling = low - room, high + room
        # An edge that is passed gives way by a good step, so that it is passed seldom.
        floor = low - 2 * room if low < floor else floor
        ceiling = high + room if high > ceiling else ceiling
        self._settled = max(floor, 0.0) if low >= 0 else floor, ceiling
        return self._settled

    def _describe(self, records: list[dict[str, Any]], best: Record | None) -> str:
        number = f"{{:.{self.digits}f}}".format
        tail = "".join(f"; {name} {number(value)}" for name, value in self.baselines.items())
        if best is None:
            return f"No epoch of {self.quantity} to draw yet{tail}."
        finite = [r for r in records if best_record([r], self.metric)]
        (first, start), (last, end) = (
            (r["epoch"], r[self.metric]) for r in (finite[0], finite[-1])
        )
        moved = f"{'falls' if end < start else 'rises'} from {number(start)} to {number(end)}"
        moved = f"stays at {number(end)}" if number(start) == number(end) else moved
        text = f"{self.part.capitalize()} {self.quantity} {moved} over epochs {first:.0f} to {last:.0f}"
        # A test score isn't picked; and of two that print alike, which is lower is chance.
        if self.part != "test" and number(best[self.metric]) != number(end):
            extreme = "lowest" if self.lower else "highest"
            text += f", {extreme} {number(best[self.metric])} at epoch {best['epoch']:.0f}"
        (trained,) = column(finite[-1:], self.train_metric)
        if math.isfinite(trained):
            text += f"; training {self.quantity} ends at {number(trained)}"
        ghosts = f"; {count(len(self.ghosts), 'earlier run')} drawn thin" if self.ghosts else ""
        return f"{text}{tail}{ghosts}."


def loss_curves(
    history: History,
    *,
    metric: str | None = None,
    train_metric: str | None = "train_loss",
    **settings: Any,
) -> LossCurves:
    """Draw training and validation curves of one run, with baselines and earlier runs.

    Parameters
    ----------
    history : DataFrame or iterable of dict
        One record an epoch, with "epoch" and the columns named below; may be empty.
    metric : str, optional
        Column of validation values; by default the first whose name ends in "_loss" and is not
        `train_metric`, else the first other number.
    train_metric : str or None
    lower_is_better : bool, optional
        By default whether the metric's name holds "loss", "mse", "mae" or "error".
    baseline : (name, value) or dict, optional
        Horizontal lines that a model must pass, each with its label.
    ghosts : dict or list of (label, history), optional
        Earlier runs, drawn thin, the label in the legend.
    ylabel : str
        What is measured, with its unit: "RMSE (stars)".
    title : str
        Small text above the axes, such as the run's settings.
    n_epochs, ylim : int, (low, high), optional
        Fixed axes; without them the axes fit the data.
    digits : int
        Decimals in labels and alt text.

    Returns
    -------
    LossCurves
        A `Chart` that can also be shown more records.

    Raises
    ------
    ValueError
        If no record has the metric; the error names those that there are.
    """
    records = records_of(history)
    if records:
        have = {name: value for record in reversed(records) for name, value in record.items()}
        metric = pick_metric(have, metric, train_metric)
    chart = LossCurves(metric=metric, train_metric=train_metric, **settings)
    return chart.show(records)

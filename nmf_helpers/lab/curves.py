"""The figure that every picture of the course is, and learning curves that move.

Line style and marker repeat what colour says; colours, after Okabe and Ito, are at least 3:1 on
white. Nothing here touches pyplot: a worker thread may draw.
"""

import base64
import html
import io
import math
from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from numbers import Real
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from PIL import Image

INK, FAINT = "#222222", "#808080"
COLOURS = ("#0072B2", "#D55E00", "#007F5C", "#A3558B", "#9A6700", "#3F87B5")
BLUE, VERMILION = COLOURS[:2]
HALO = [withStroke(linewidth=3, foreground="white")]  # keeps words legible across lines
DASHES = ["-.", (0, (1, 2)), (0, (8, 2, 1, 2, 1, 2)), (0, (6, 1)), (0, (4, 1, 1, 1))]
# Ours, whatever a reader's matplotlibrc or style sheet says.
STYLE = str(files(__package__) / "course.mplstyle")
OURS: Any = matplotlib.rc_params_from_file(STYLE, False, False)
as_written = partial(matplotlib.style.context, ["default", OURS])
# A dark theme swaps light for dark and keeps the hues: JupyterLab and nbconvert, Sphinx, VS Code.
DARK = (
    '<style>[data-jp-theme-light="false"] .nmf-picture, html[data-theme="dark"] .nmf-picture, '
    ".vscode-dark .nmf-picture {filter: invert(0.93) hue-rotate(180deg)}</style>"
)

Record = Mapping[str, Any]


class Chart(Figure):
    """A matplotlib figure with `alt`, its text in words and numbers, which it is printed as."""

    canvas: FigureCanvasAgg

    @as_written()
    def __init__(self, width: float = 6.6, height: float = 4.0) -> None:
        super().__init__((width, height), dpi=120, facecolor="white", layout="constrained")
        FigureCanvasAgg(self)
        self.alt, self.moving, self._background = "", list[Any](), None

    @as_written()
    def subplots(self, *args: Any, **kwargs: Any) -> Any:
        """Add axes, as `Figure.subplots` does, in the style of the course."""
        return super().subplots(*args, **kwargs)

    def png(self, anew: bool = True) -> bytes:
        """Return the picture as the bytes of a PNG file; not `anew`, only `moving` is drawn."""
        if anew or self._background is None:
            for text in self.findobj(Text):  # a dollar sign is a dollar sign, with LaTeX or not
                text.set(usetex=False, parse_math=False, fontfamily="DejaVu Sans")
            with as_written():  # takes a millisecond itself
                self.canvas.draw()
            self._background = self.canvas.copy_from_bbox(self.bbox)  # type: ignore[assignment]
        self.canvas.restore_region(self._background)
        for artist in self.moving:
            self.draw_artist(artist)
        size, file = self.canvas.get_width_height(physical=True), io.BytesIO()
        image = Image.frombuffer("RGBA", size, self.canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
        image.convert("RGB").save(file, "png", compress_level=1)  # a third of the default's time
        return file.getvalue()

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        # JupyterLab leaves the alt text of an image/png out; the HTML has it. PDF needs the other.
        width, height = (int(100 * inches) for inches in self.get_size_inches())
        png = self.png()
        data = {"image/png": base64.b64encode(png).decode(), "text/plain": self.alt}
        data["text/html"] = DARK + still(png, self.alt, width)
        return data, {"image/png": {"alt": self.alt, "width": width, "height": height}}


def still(png: bytes, alt: str, width: int = 660) -> str:
    """Return an HTML image with alt text, `width` CSS pixels wide where there is room."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    size = f"width: {width}px; max-width: 100%; height: auto"
    return f'<img class="nmf-picture" alt="{html.escape(alt)}" style="{size}" src="{source}">'


def shorten(text: Any, width: int) -> str:
    """Return one line of at most `width` printable characters of any text."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def count(n: int, noun: str) -> str:
    """Return "1 film" or "2,000 films"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def column(records: Iterable[Record], name: str | None) -> np.ndarray:
    """Return the number called `name` of every record, NaN where there is no finite one."""
    values = [record.get(name or "") for record in records]
    found = np.array([v if isinstance(v, Real) else math.nan for v in values], float)
    return np.where(np.isfinite(found), found, math.nan)


def is_lower_better(metric: str, said: bool | None = None) -> bool:
    """Tell whether a small `metric` is a good one: as `said`, or by name (losses and errors)."""
    by_name = any(word in metric.lower() for word in ("loss", "mse", "mae", "error"))
    return by_name if said is None else said


def best_record(records: Sequence[Record], metric: str, lower: bool) -> Any:
    """Return the record with the best finite `metric`, the earliest of equals, or None."""
    values = column(records, metric) * (1 if lower else -1)
    return None if np.isnan(values).all() else records[int(np.nanargmin(values))]


def pick_metric(record: Record, metric: str | None, train_metric: str | None) -> str:
    """Return the number to follow: `metric`, or the first that is not the training's.

    A ValueError says that the record has no such number, or no epoch, and what it has.
    """
    numbers = [name for name, value in record.items() if isinstance(value, Real)]
    others = [name for name in numbers if name not in ("epoch", "seconds", train_metric)]
    picked = metric or next(iter(others), "metric")
    if missing := [name for name in ("epoch", picked) if name not in numbers]:
        raise ValueError(f"no {missing[0]!r} in a record, which has the numbers {numbers}")
    return picked


class LossCurves(Chart):
    """Training and validation curves of one run, with baselines and earlier runs.

    `history` has a record an epoch, with "epoch" and the numbers `metric` and `train_metric`, or
    what `pick_metric` chooses; `show` gives it another. A small `metric` is good as it is named, or
    as `lower_is_better` says. `baseline`, (name, value) or a dict, are lines that a model must
    pass; `ghosts` are histories of earlier runs by label. `ylabel` is what is measured with its
    unit: "RMSE (stars)". The axis has room for `n_epochs`; `digits` are the decimals of labels.
    """

    @as_written()
    def __init__(
        self, history: Iterable[Record] = (), *, metric: str | None = None,
        train_metric: str | None = "train_loss", lower_is_better: bool | None = None,
        baseline: tuple[str, float] | Mapping[str, float] | None = None,
        ghosts: Mapping[str, Iterable[Record]] | None = None, ylabel: str = "loss",
        title: str = "", n_epochs: int = 0, digits: int = 3,
    ) -> None:  # fmt: skip
        super().__init__(height=4.3)
        self.set_layout_engine(None)
        records: list[Any] = [*history]
        known = pick_metric(ChainMap(*records), metric, train_metric) if records else metric or ""
        self.metric, self.train_metric = known, None if train_metric == known else train_metric
        self.part = "test" if known.startswith("test") else "validation"
        self.lower = is_lower_better(known or "loss", lower_is_better)
        self.n_epochs, self._number = n_epochs, f"{{:.{digits}f}}".format
        self.baselines = dict([baseline] if isinstance(baseline, tuple) else baseline or {})
        self.ghosts = {label: runs for label, run in (ghosts or {}).items() if (runs := [*run])}
        self.quantity, self._settled = ylabel.split(" (")[0], (math.inf, -math.inf)
        self.ax = self.subplots()
        self.ax.set(xlabel="epoch", ylabel=ylabel, title=shorten(title, 80))
        self._draw_what_stays(self.ax)
        self.show(records)

    def _draw_what_stays(self, ax: Any) -> None:
        """Draw baselines, ghosts and legend, and make the lines that move."""
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))  # short numbers
        moving = dict[str, Any](animated=True, in_layout=False, zorder=3)
        label = f"training {self.quantity}" * bool(self.train_metric)
        (self.train,) = ax.plot([], [], "--", color=VERMILION, lw=2, label=label, **moving)
        label = f"{self.part} {self.quantity}"
        (self.validation,) = ax.plot([], [], "-", color=BLUE, lw=2.4, label=label, **moving)
        look = {"color": BLUE, "ms": 8, "mec": "white", "label": "best epoch"}
        (self.best,) = ax.plot([], [], "D", **look, **moving)
        self.note = ax.annotate(
            "", (0, 0), (0, 12), textcoords="offset points", ha="center", color=BLUE,
            annotation_clip=False, bbox={"fc": "white", "ec": "none", "pad": 0.8}, **moving,
        )  # fmt: skip
        for (name, value), dashes in zip(self.baselines.items(), DASHES * 9, strict=False):
            label = shorten(f"{name} {self._number(value)}", 38)
            ax.axhline(value, color=INK, ls=dashes, lw=1.3, label=label)
        looks = zip(COLOURS[2:] * 9, ["-", *DASHES[::-1]] * 9, strict=False)
        for (label, run), (colour, dashes) in zip(self.ghosts.items(), looks, strict=False):
            line = column(run, "epoch"), column(run, self.metric)
            ax.plot(*line, color=colour, ls=dashes, lw=1.4, label=shorten(label, 38))
        self.moving = [self.train, self.validation, self.best, self.note]
        # Not the layout of other charts: that takes as long again as drawing.
        rows = math.ceil(len(ax.get_legend_handles_labels()[0]) / 2)
        self.subplots_adjust(0.13, 0.15 + 0.052 * rows, 0.985, 0.94)
        self.legend(loc="lower center", ncols=2, columnspacing=1.5, labelspacing=0.25)

    def show(self, history: Iterable[Record]) -> "LossCurves":  # type: ignore[override]
        """Draw `history` from now on; the axes move only if it would not fit."""
        records = list(history)
        names = "epoch", self.metric, self.train_metric
        epochs, followed, train = (column(records, name) for name in names)
        self.validation.set_data(epochs, followed)
        self.train.set_data(epochs, train)
        best = best_record(records, self.metric, self.lower)
        x, y = (best["epoch"], best[self.metric]) if best else (math.nan, math.nan)
        self.best.set_data([x], [y])
        past = [epoch for run in self.ghosts.values() for epoch in column(run, "epoch")]
        end = max([2, self.n_epochs, *epochs, *past])
        low, high = self._limits([*followed, *train])
        below = self.lower and y > low + 0.1 * (high - low)  # else it would cover the axis
        side = "right" if x > 0.95 * end else "left" if x < 0.05 * end else "center"
        self.note.set(text=self._number(y) if best else "", ha=side)
        self.note.xy, self.note.xyann = (x, y), (0, -20 if below else 12)
        limits = {"xlim": (-0.01 * end, end * 1.02), "ylim": (low, high)}
        if limits != {"xlim": self.ax.get_xlim(), "ylim": self.ax.get_ylim()}:
            self.ax.set(**limits)
            self._background = None
        self.alt = self._describe(records, best)
        return self

    def _limits(self, values: list[float]) -> tuple[float, float]:
        """Return limits that hold all values with room to spare, and stay while that is so."""
        lines = list(self.baselines.values())
        names, ghosts = (self.metric, self.train_metric), self.ghosts.values()
        values += lines + [v for run in ghosts for name in names for v in column(run, name)]
        finite = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        if self.lower and low > 0:  # else a first epoch far above all others would flatten them
            high = min(high, 2.5 * max([low, *lines]))
        room = 0.1 * (high - low) or 0.1 * abs(high) or 0.1
        floor, ceiling = self._settled
        if low < floor or high > ceiling or high - low < 0.3 * (ceiling - floor):
            floor = max(low - 2.5 * room, 0.0 if low >= 0 else -math.inf)
            self._settled = floor, high + room
        return self._settled

    def _describe(self, records: list[Any], best: Record | None) -> str:
        number, quantity = self._number, self.quantity
        tail = "".join(f"; {name} {number(value)}" for name, value in self.baselines.items())
        if best is None:
            return f"No epoch of {quantity} to draw yet{tail}."
        finite = [r for r in records if not math.isnan(column([r], self.metric)[0])]
        start, end = finite[0][self.metric], finite[-1][self.metric]
        moved = f"{'falls' if end < start else 'rises'} from {number(start)} to"
        moved = "stays at" if number(start) == number(end) else moved
        text = f"{self.part.capitalize()} {quantity} {moved} {number(end)} over epochs "
        text += f"{finite[0]['epoch']:.0f} to {finite[-1]['epoch']:.0f}"
        if number(best[self.metric]) != number(end):  # else which is lower is chance
            extreme = "lowest" if self.lower else "highest"
            text += f", {extreme} {number(best[self.metric])} at epoch {best['epoch']:.0f}"
        if not math.isnan(trained := column(finite[-1:], self.train_metric)[0]):
            text += f"; training {quantity} ends at {number(trained)}"
        ghosts = f"; {count(len(self.ghosts), 'earlier run')} drawn thin" if self.ghosts else ""
        return f"{text}{tail}{ghosts}."

"""Figures for the notebooks, each with alt text made from its data.

Every function returns a `Chart`: a matplotlib figure that says in `chart.alt` what it shows.
In a notebook it appears as a PNG whose plain-text form *is* the alt text: the finding can be read
without the picture, and a test that compares text output compares the finding.
Line style and marker repeat what colour says; the colours are Okabe and Ito's, which colour-blind
readers tell apart. Nothing here touches pyplot, so a worker thread may draw.
"""

import base64
import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from PIL import Image

INK, FAINT = "#222222", "#8A8A8A"
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
)  # fmt: skip
BASELINES = ["-.", (0, (1, 2)), (0, (8, 2, 1, 2, 1, 2))]
GHOSTS = [(GREEN, (0, (6, 1))), (PURPLE, (0, (1, 1))), (ORANGE, (0, (4, 1, 1, 1))), (SKY, "-")]

HALO = [withStroke(linewidth=3, foreground="white")]  # keeps words legible across lines

History = pd.DataFrame | Iterable[Mapping[str, float]]


class Chart(Figure):
    """A matplotlib figure that carries its alt text.

    Attributes
    ----------
    alt : str
        What the picture shows, in words and numbers.
    """

    def __init__(self, width: float = 9.0, height: float = 4.0, layout: str | None = "constrained"):
        super().__init__(figsize=(width, height), dpi=120, facecolor="white", layout=layout)
        FigureCanvasAgg(self)
        self.alt = ""

    def png(self) -> bytes:
        """The picture as the bytes of a PNG file."""
        self.canvas.draw()
        return _encode(self.canvas)

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, include=None, exclude=None):
        width, height = (int(100 * inches) for inches in self.get_size_inches())
        data = {"image/png": base64.b64encode(self.png()).decode(), "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt, "width": width, "height": height}}


def _encode(canvas: FigureCanvasAgg) -> bytes:
    size = canvas.get_width_height(physical=True)
    image = Image.frombuffer("RGBA", size, canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
    file = io.BytesIO()
    image.convert("RGB").save(file, "png", compress_level=1)  # a third of the default's time
    return file.getvalue()


def style(ax, **settings):
    """Colours that stay legible whatever style sheet the reader has switched on."""
    ax.set(facecolor="white", axisbelow=True, **settings)
    ax.grid(color="#E2E2E2", linewidth=0.8)
    ax.tick_params(colors=INK, labelsize=11)
    for text in (ax.xaxis.label, ax.yaxis.label, ax.title):
        text.set(color=INK, fontsize=12)
    for side, spine in ax.spines.items():
        spine.set(color=FAINT, visible=side in ("left", "bottom"))
    return ax


def _frame(history: History) -> pd.DataFrame:
    frame = history if isinstance(history, pd.DataFrame) else pd.DataFrame(list(history))
    return frame.reset_index() if frame.index.name == "epoch" else frame


def _shorten(title: str, width: int) -> str:
    return textwrap.shorten(title, width, placeholder="…")


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def lower_is_better(metric: str) -> bool:
    """Whether a small value of `metric` is a good one: losses and errors, by their name."""
    return any(word in metric.lower() for word in ("loss", "mse", "mae", "error"))


def best_record(records: Sequence[Mapping[str, float]], metric: str) -> Mapping[str, float] | None:
    """The record with the best finite `metric`, the earliest of equals; None without one."""
    finite = [r for r in records if np.isfinite(r.get(metric, np.nan))]
    sign = 1 if lower_is_better(metric) else -1
    return min(finite, key=lambda r: sign * r[metric], default=None)


# -- learning curves ------------------------------------------------------------------------------


class LossCurves(Chart):
    """The figure behind `loss_curves`, able to take new records without redrawing everything.

    `show` gives it a history, `frame` a PNG in which only the lines have moved: the axes, labels
    and ghosts are drawn once and kept as a bitmap (about 10 ms a frame instead of 25).
    Parameters are those of `loss_curves`.
    """

    def __init__(
        self,
        *,
        metric="valid_loss",
        train_metric="train_loss",
        baseline=None,
        ghosts=(),
        ylabel="loss",
        title="",
        n_epochs=None,
        ylim=None,
        digits=3,
    ):
        super().__init__(layout=None)
        self.metric, self.train_metric = metric, train_metric
        self.n_epochs, self.ylim, self.digits = n_epochs, ylim, digits
        self.baselines = dict([baseline] if isinstance(baseline, tuple) else baseline or {})
        self.ghosts = [(label, _frame(h)) for label, h in dict(ghosts).items()]
        self.quantity = ylabel.split(" (")[0]
        self._settled, self._background = None, None
        self.ax = ax = style(self.add_axes((0.09, 0.15, 0.6, 0.75)), xlabel="epoch", ylabel=ylabel)
        ax.set_title(title, loc="left", fontsize=11, color=INK)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        # The test part is looked at, not chosen by: no epoch of it is called the best.
        self.part = "test" if metric.startswith("test") else "validation"
        moving = {"animated": True, "zorder": 3}
        (self.train,) = ax.plot([], [], "--", color=VERMILION, lw=2, **moving)
        (self.valid,) = ax.plot([], [], "-", color=BLUE, lw=2.4, **moving)
        (self.best,) = ax.plot([], [], "D", color=BLUE, ms=8, mec="white", **moving)
        self.note = ax.annotate(
            "", (0, 0), (0, 12), textcoords="offset points", ha="center", color=BLUE, fontsize=11,
            annotation_clip=False, **moving,
        )  # fmt: skip
        if train_metric:
            self.train.set_label(f"training {self.quantity}")
        self.valid.set_label(f"{self.part} {self.quantity}")
        self.best.set_label("last epoch" if self.part == "test" else "best epoch")
        for (name, value), dashes in zip(self.baselines.items(), BASELINES * 9, strict=False):
            label = f"{name} {value:.{digits}f}"
            ax.axhline(value, color=INK, ls=dashes, lw=1.3, label=label)
        for (label, frame), (colour, dashes) in zip(self.ghosts, GHOSTS * 9, strict=False):
            if metric in frame:
                label = "\n".join(textwrap.wrap(label, 24))
                ax.plot(frame["epoch"], frame[metric], color=colour, ls=dashes, lw=1.4, label=label)
        ax.legend(
            loc="upper left", bbox_to_anchor=(1.02, 1.02), frameon=False, fontsize=11,
            labelcolor=INK, handlelength=2.6,
        )  # fmt: skip
        self.show(())

    def show(self, history: History) -> "LossCurves":
        """Draw `history` from now on; the axes move only if it would not fit."""
        frame = _frame(history)
        records = frame.to_dict("records")
        epochs = frame["epoch"] if len(frame) else []
        valid = frame[self.metric] if self.metric in frame else np.full(len(frame), np.nan)
        train = frame[self.train_metric] if self.train_metric in frame else valid * np.nan
        self.valid.set_data(epochs, valid)
        self.train.set_data(epochs, train)
        best = best_record(records[-1:] if self.part == "test" else records, self.metric)
        spot = ([best["epoch"]], [best[self.metric]]) if best else ([], [])
        self.best.set_data(*spot)
        self.note.set_text(f"{best[self.metric]:.{self.digits}f}" if best else "")
        if best:
            self.note.xy = (best["epoch"], best[self.metric])
            self.note.set_position((0, -20 if lower_is_better(self.metric) else 12))
        self._fit(epochs, [*valid, *train])
        self.alt = self._describe(records, best)
        return self

    def frame(self) -> bytes:
        """A PNG of the present state, quickly."""
        canvas = self.canvas
        if self._background is None:
            canvas.draw()
            self._background = canvas.copy_from_bbox(self.bbox)
        canvas.restore_region(self._background)
        for artist in (self.train, self.valid, self.best, self.note):
            self.ax.draw_artist(artist)
        return _encode(canvas)

    def png(self) -> bytes:
        self._background = None
        return self.frame()

    def _fit(self, epochs, values) -> None:
        last = max([*epochs, *(frame["epoch"].max() for _, frame in self.ghosts), 2])
        x = (0, self.n_epochs if self.n_epochs and self.n_epochs >= last else last)
        y = self.ylim or self._settle(values)
        limits = ((x[0] - 0.01 * x[1], x[1] * 1.02), y)
        if limits != (self.ax.get_xlim(), self.ax.get_ylim()):
            self.ax.set(xlim=limits[0], ylim=limits[1])
            self._background = None

    def _settle(self, values) -> tuple[float, float]:
        """Limits that hold all values with room to spare, and stay while that is so.

        A first epoch far above everything else would flatten the rest: the top is at most two and
        a half times the largest baseline or best value, and the curve comes in from above.
        """
        anchors = list(self.baselines.values())
        for _, frame in self.ghosts:
            anchors += [v for c in (self.metric, self.train_metric) if c in frame for v in frame[c]]
        everything = np.array([*values, *anchors], dtype=float)
        everything = everything[np.isfinite(everything)]
        if not len(everything):
            return 0.0, 1.0
        if not len(values) and not self.ghosts:  # a guess, until there is something to go by
            return 0.5 * everything.min(), 1.5 * everything.max()
        low, high = everything.min(), everything.max()
        if lower_is_better(self.metric) and low > 0:
            high = min(high, 2.5 * max([low, *self.baselines.values()]))
        room = 0.1 * (high - low) or 0.1 * abs(high) or 0.1
        floor, ceiling = self._settled or (low, high)
        if self._settled is None or high - low < 0.3 * (ceiling - min(floor, low)):
            floor, ceiling = low - room, high + room
        # An edge that is passed gives way by a good step, so that it is passed seldom.
        if low < floor:
            floor = low - 2 * room
        if high > ceiling:
            ceiling = high + room
        floor = max(floor, 0.0) if low >= 0 else floor
        if len(values):
            self._settled = floor, ceiling
        return floor, ceiling

    def _describe(self, records, best) -> str:
        number = f"{{:.{self.digits}f}}".format
        baselines = "; ".join(f"{name} {number(v)}" for name, v in self.baselines.items())
        ghosts = f"; {_count(len(self.ghosts), 'earlier run')} drawn thin" if self.ghosts else ""
        if best is None:
            return (
                f"No epoch of {self.quantity} to draw yet"
                + f"; {baselines}" * bool(baselines)
                + "."
            )
        finite = [r for r in records if np.isfinite(r.get(self.metric, np.nan))]
        first, last = finite[0], finite[-1]
        extreme = "lowest" if lower_is_better(self.metric) else "highest"
        text = (
            f"{self.part.capitalize()} {self.quantity} "
            f"{_movement(first[self.metric], last[self.metric], number)}"
        )
        text += f" over epochs {first['epoch']:.0f} to {last['epoch']:.0f}"
        # A test score isn't picked; and of two that print alike, which is lower is chance.
        if self.part != "test" and number(best[self.metric]) != number(last[self.metric]):
            text += f", {extreme} {number(best[self.metric])} at epoch {best['epoch']:.0f}"
        if self.train_metric and np.isfinite(last.get(self.train_metric, np.nan)):
            text += f"; training {self.quantity} ends at {number(last[self.train_metric])}"
        return text + (f"; {baselines}" if baselines else "") + ghosts + "."


def _movement(first: float, last: float, number) -> str:
    if number(first) == number(last):
        return f"stays at {number(last)}"
    return f"{'falls' if last < first else 'rises'} from {number(first)} to {number(last)}"


def loss_curves(history: History, **settings) -> LossCurves:
    """Training and validation curves of one run, with baselines and earlier runs.

    Parameters
    ----------
    history : DataFrame or iterable of dict
        One record an epoch, with "epoch" and the columns named below; may be empty.
    metric, train_metric : str
        Columns of validation and training values ("valid_loss", "train_loss"). A metric whose name
        holds "loss", "mse", "mae" or "error" is better when lower. `train_metric` may be None.
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
    Chart
        Also callable for more: see `LossCurves`.
    """
    return LossCurves(**settings).show(history)


# -- the data -------------------------------------------------------------------------------------


def sparsity(matrix, *, n_users: int = 150, n_items: int = 300) -> Chart:
    """A corner of the interaction matrix, beside the long tail of its films.

    Parameters
    ----------
    matrix : sparse matrix, shape (users, items)
    n_users, n_items : int
        Size of the corner that is drawn, one dot for each rating.
    """
    matrix = matrix.tocsr()
    chart = Chart()
    left, right = chart.subplots(1, 2)
    users, items = matrix[:n_users, :n_items].nonzero()
    style(left, xlabel=f"film (the first {n_items:,})", ylabel=f"user (the first {n_users:,})")
    left.scatter(items, users, s=2, color=BLUE, marker="s", linewidths=0)
    left.grid(False)
    left.set(xlim=(0, n_items), ylim=(n_users, 0))
    counts = np.sort(np.diff(matrix.tocsc().indptr))[::-1]
    counts = counts[counts > 0]
    half = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) + 1
    style(right, xlabel="films, most rated first", ylabel="ratings of the film", yscale="log")
    right.plot(np.arange(1, len(counts) + 1), counts, color=BLUE, lw=2.4)
    right.axvline(half, color=VERMILION, ls="--", lw=1.6)
    right.text(
        half, counts[0], f" half of all ratings\n went to {_count(half, 'film')}",
        color=VERMILION, fontsize=11, va="top", path_effects=HALO,
    )  # fmt: skip
    density = matrix.nnz / np.prod(matrix.shape)
    chart.alt = (
        f"{matrix.shape[0]:,} users by {matrix.shape[1]:,} films, {density:.2%} filled; the most "
        f"rated film has {_count(counts[0], 'rating')}; half of all {_count(matrix.nnz, 'rating')} "
        f"went to {_count(half, 'film')}; {_count((counts == 1).sum(), 'film')} got a single one."
    )
    return chart


# -- what was learned -----------------------------------------------------------------------------


def learned_biases(
    biases: np.ndarray, titles: Sequence[str], *, n: int = 8, xlabel: str = "bias (stars)"
) -> Chart:
    """The films with the highest and lowest of `biases`, shape (n_items,), by name."""
    order = np.argsort(biases, kind="stable")
    shown = [*order[:n], *order[-n:]] if len(order) > 2 * n else [*order]
    chart = Chart(height=0.28 * len(shown) + 1.2)
    ax = style(chart.subplots(), xlabel=xlabel)
    for row, item in enumerate(shown):
        up = biases[item] > 0
        colour, marker = (BLUE, "o") if up else (VERMILION, "s")
        ax.plot([0, biases[item]], [row, row], color=colour, lw=1.6)
        ax.plot(biases[item], row, marker, color=colour, ms=8)
    ax.axvline(0, color=INK, lw=1)
    ax.set_yticks(range(len(shown)), [_shorten(titles[i], 45) for i in shown])
    low, high = order[0], order[-1]
    chart.alt = (
        f"Learned film biases run from {biases[low]:+.2f} ({titles[low]}) "
        f"to {biases[high]:+.2f} ({titles[high]})."
    )
    return chart


def project(vectors: np.ndarray) -> np.ndarray:
    """The two directions in which `vectors`, shape (n, k), vary most: shape (n, 2).

    Principal components. Each is turned so that the row farthest out is on the positive side, as
    the sign is otherwise a matter of chance.
    """
    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)  # rows of (k, k), strongest first
    points = centred @ axes[:2].T  # (n, 2)
    return points * np.sign(points[np.abs(points).argmax(0), [0, 1]])


def factor_map(
    points: np.ndarray,
    titles: Sequence[str],
    *,
    groups: Mapping[str, np.ndarray] | None = None,
    named: Iterable[int] = (),
    labels: tuple[str, str] = ("first principal component", "second principal component"),
    title: str = "",
) -> Chart:
    """Films on a map.

    Parameters
    ----------
    points : ndarray, shape (n_items, 2)
        Two learned dimensions, or `project` of more.
    groups : dict of name to indices, optional
        Films to colour and mark, such as genres; a film in two groups takes the first.
    named : indices
        Films to write a name beside, the most important first: a name that would cover another
        is left out.
    """
    chart = Chart(height=6.0)
    ax = style(chart.subplots(), xlabel=labels[0], ylabel=labels[1])
    ax.set_title(title, loc="left", fontsize=12, color=INK)
    ax.scatter(*points.T, s=9, color="#BBBBBB", linewidths=0)
    taken: set[int] = set()
    for (name, members), colour, marker in zip(
        (groups or {}).items(), COLOURS, "osD^vP", strict=False
    ):
        members = [int(i) for i in members if int(i) not in taken]
        taken.update(members)
        ax.scatter(*points[members].T, s=28, color=colour, marker=marker, label=name, lw=0)
    if groups:
        ax.legend(frameon=False, fontsize=11, labelcolor=INK)
    chart.canvas.draw()
    chart.set_layout_engine("none")  # from here on nothing moves, so that overlaps can be seen
    boxes, middle = [], sum(ax.get_xlim()) / 2
    for item in named:
        # Names run towards the middle, so that none is cut off.
        shift, align = ((-5, 3), "right") if points[item][0] > middle else ((5, 3), "left")
        text = ax.annotate(
            _shorten(titles[item], 34), points[item], shift, textcoords="offset points", ha=align,
            fontsize=10, color=INK, path_effects=HALO,
        )  # fmt: skip
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in boxes):
            text.remove()
        else:
            boxes.append(box)
            ax.plot(*points[item], ".", color=INK, ms=5)
    middles = {name: points[np.asarray(m, int)].mean(0) for name, m in (groups or {}).items()}
    where = "; ".join(f"{name} centred at ({x:+.2f}, {y:+.2f})" for name, (x, y) in middles.items())
    chart.alt = f"Map of {len(points):,} films" + (f": {where}." if where else ".")
    return chart


# -- how good it is -------------------------------------------------------------------------------


def score_chart(
    scores: Mapping[str, float | Sequence[float]],
    *,
    xlabel: str,
    baselines: Iterable[str] = (),
    digits: int = 3,
) -> Chart:
    """Scores side by side, best on top, with a dot for every seed.

    Parameters
    ----------
    scores : dict of name to score, or to one score per seed
    xlabel : str
        Metric and unit; errors and losses, by their name, are better when lower.
    baselines : names
        Those of `scores` that are not learned models; drawn hollow, the best as a line.
    """
    values = {name: np.atleast_1d(np.asarray(v, float)) for name, v in scores.items()}
    lower = lower_is_better(xlabel)
    order = sorted(values, key=lambda name: values[name].mean(), reverse=lower)
    baselines = [name for name in order if name in set(baselines)]
    chart = Chart(height=0.42 * len(order) + 1.2)
    ax = style(chart.subplots(), xlabel=xlabel + (" (lower is better)" if lower else ""))
    for row, name in enumerate(order):
        mean = values[name].mean()
        face = "white" if name in baselines else BLUE
        ax.plot(values[name], np.full(len(values[name]), row), "|", color=BLUE, ms=14, mew=1.4)
        ax.plot(mean, row, "o", color=BLUE, mfc=face, ms=9, mew=2)
        ax.annotate(
            f"{mean:.{digits}f}", (mean, row), (0, 7), textcoords="offset points", ha="center",
            fontsize=10, color=INK, path_effects=HALO,
        )  # fmt: skip
    ax.set_yticks(range(len(order)), order)
    ax.set_ylim(-0.6, len(order) - 0.2)
    if baselines:
        ax.axvline(values[baselines[-1]].mean(), color=INK, ls="-.", lw=1.3)
    described = (
        f"{name} {v.mean():.{digits}f}"
        + (f" [{v.min():.{digits}f} to {v.max():.{digits}f}]" if len(v) > 1 else "")
        for name, v in ((name, values[name]) for name in reversed(order))
    )
    chart.alt = f"{xlabel}, best first: {'; '.join(described)}."
    return chart


def by_popularity(table: pd.DataFrame, *, ylabel: str, digits: int = 3) -> Chart:
    """A metric for films of rising popularity: `table` has a row a class and a column a model."""
    chart = Chart()
    ax = style(chart.subplots(), xlabel=table.index.name or "ratings of the film", ylabel=ylabel)
    for name, colour, marker, dashes in zip(
        table, COLOURS, "osD^vP", ("-", "--", "-.", ":", (0, (6, 1)), (0, (1, 2))), strict=False
    ):
        ax.plot(
            range(len(table)),
            table[name],
            marker=marker,
            ls=dashes,
            lw=2.2,
            color=colour,
            label=name,
        )
    ax.set_xticks(range(len(table)), [str(i) for i in table.index])
    ax.legend(frameon=False, fontsize=11, labelcolor=INK)
    ends = "; ".join(
        f"{name} {table[name].iloc[0]:.{digits}f} to {table[name].iloc[-1]:.{digits}f}"
        for name in table
    )
    chart.alt = f"{ylabel}, from {table.index[0]} to {table.index[-1]} {ax.get_xlabel()}: {ends}."
    return chart

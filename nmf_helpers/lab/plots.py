"""Figures for the notebooks, each a `Chart` with alt text made from its data."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from nmf_helpers.checks import check_matrix
from nmf_helpers.lab import curves
from nmf_helpers.lab.chart import (
    BLUE, COLOURS, FAINT, HALO, INK, VERMILION, Chart, as_written, count, shorten, style,
)  # fmt: skip
from nmf_helpers.lab.curves import LossCurves, best_record, loss_curves, lower_is_better

__all__ = [
    "COLOURS", "INK", "Chart", "LossCurves", "best_record", "by_popularity", "factor_map",
    "learned_biases", "loss_curves", "lower_is_better", "project", "score_chart", "sparsity",
    "style",
]  # fmt: skip


def _titles(titles: Iterable[Any], n: int) -> list[str]:
    """Return the n titles by place, not by a table's labels, each on one line."""
    titles = [shorten(title, 45) for title in titles]
    if len(titles) != n:
        raise ValueError(f"{len(titles)} titles for {n} items: give one each, in the same order")
    return titles


def sparsity(matrix: Any, *, n_users: int = 150, n_items: int = 300) -> Chart:
    """Draw a corner of the interaction matrix, beside the long tail of its films.

    Parameters
    ----------
    matrix : sparse matrix, shape (n_users, n_items)
    n_users, n_items : int
        Size of the corner that is drawn, one dot for each rating.
    """
    matrix = check_matrix("matrix", matrix)
    chart = Chart(width=9.0)
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
    right.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    right.plot(np.arange(1, len(counts) + 1), counts, color=BLUE, lw=2.4)
    right.axvline(half, color=VERMILION, ls="--", lw=1.6)
    right.text(
        half, counts[0], f" half of all ratings\n went to {count(half, 'film')}",
        color=VERMILION, fontsize=11, va="top", path_effects=HALO,
    )  # fmt: skip
    density = matrix.nnz / np.prod(matrix.shape)
    chart.alt = (
        f"{matrix.shape[0]:,} users by {matrix.shape[1]:,} films, {density:.2%} filled; the most "
        f"rated film has {count(counts[0], 'rating')}; half of all {count(matrix.nnz, 'rating')} "
        f"went to {count(half, 'film')}; {count((counts == 1).sum(), 'film')} got a single one."
    )
    return chart


def learned_biases(
    biases: np.ndarray, titles: Iterable[Any], *, n: int = 8, xlabel: str = "bias (stars)"
) -> Chart:
    """Draw the films with the highest and lowest of `biases`, shape (n_items,), by name."""
    biases = np.asarray(biases, float).ravel()  # (n_items,)
    names = _titles(titles, len(biases))
    order = np.argsort(biases, kind="stable")
    shown = [*order[:n], *order[-n:]] if len(order) > 2 * n else [*order]
    chart = Chart(height=0.28 * len(shown) + 1.2)
    ax = style(chart.subplots(), xlabel=xlabel)
    for row, item in enumerate(shown):
        colour, marker = (BLUE, "o") if biases[item] > 0 else (VERMILION, "s")
        ax.plot([0, biases[item]], [row, row], color=colour, lw=1.6)
        ax.plot(biases[item], row, marker, color=colour, ms=8)
    ax.axvline(0, color=INK, lw=1)
    ax.set_yticks(range(len(shown)), [names[i] for i in shown])
    low, high = order[0], order[-1]
    chart.alt = (
        f"Learned film biases run from {biases[low]:+.2f} ({names[low]}) "
        f"to {biases[high]:+.2f} ({names[high]})."
    )
    return chart


def project(vectors: np.ndarray) -> np.ndarray:
    """Return the two directions in which `vectors`, shape (n, k), vary most: shape (n, 2).

    Principal components; the second is 0 where k = 1. Each is turned so that the row farthest out
    is on the positive side, as the sign is otherwise a matter of chance.
    """
    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)  # rows of (k, k), strongest first
    points = centred @ axes[:2].T  # (n, min(k, 2))
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))  # (n, 2)
    return points * np.sign(points[np.abs(points).argmax(0), [0, 1]])


def factor_map(
    points: np.ndarray,
    titles: Iterable[Any],
    *,
    groups: Mapping[str, np.ndarray] | None = None,
    named: Iterable[int] = (),
    labels: tuple[str, str] = ("first principal component", "second principal component"),
    title: str = "",
) -> Chart:
    """Draw films on a map.

    Parameters
    ----------
    points : ndarray, shape (n_items, 2)
        Two learned dimensions, or `project` of more.
    titles : n_items titles
    groups : dict of name to indices, optional
        Films to colour and mark, such as genres; a film in two groups takes the first.
    named : indices
        Films to write a name beside, the most important first: a name that would cover another
        is left out.
    """
    points, groups = np.asarray(points, float), groups or {}
    names = _titles(titles, len(points))
    chart = Chart(height=4.6)
    ax = style(chart.subplots(), xlabel=labels[0], ylabel=labels[1])
    ax.set_title(title, loc="left", fontsize=12, color=INK)
    ax.scatter(*points.T, s=9, color=FAINT, linewidths=0)
    taken: set[int] = set()
    for (group, members), colour, marker in zip(groups.items(), COLOURS, "osD^vP", strict=False):
        mine = [int(i) for i in members if int(i) not in taken]
        taken.update(mine)
        ax.scatter(*points[mine].T, s=28, color=colour, marker=marker, label=group, lw=0)
    if groups:
        ax.legend(frameon=False, fontsize=11, labelcolor=INK)
    chart.draw_as_written()
    chart.set_layout_engine("none")  # from here on nothing moves, so that overlaps can be seen
    with as_written():
        _name(ax, points, names, named)
    middles = {name: points[np.asarray(m, int)].mean(0) for name, m in groups.items()}
    where = "; ".join(f"{name} centred at ({x:+.2f}, {y:+.2f})" for name, (x, y) in middles.items())
    chart.alt = f"Map of {len(points):,} films" + (f": {where}." if where else ".")
    return chart


def _name(ax: Axes, points: np.ndarray, names: Sequence[str], named: Iterable[int]) -> None:
    """Write names beside points, those left out that would cover one before."""
    boxes: list[Any] = []
    middle = sum(ax.get_xlim()) / 2
    for item in named:
        # Names run towards the middle, so that none is cut off.
        shift, align = ((-5, 3), "right") if points[item][0] > middle else ((5, 3), "left")
        text = ax.annotate(
            shorten(names[item], 34), points[item], shift, textcoords="offset points", ha=align,
            fontsize=10, color=INK, path_effects=HALO,
        )  # fmt: skip
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in boxes):
            text.remove()
        else:
            boxes.append(box)
            ax.plot(*points[item], ".", color=INK, ms=5)


def score_chart(
    scores: Mapping[str, float | Sequence[float]],
    *,
    xlabel: str,
    baselines: Iterable[str] = (),
    digits: int = 3,
    lower_is_better: bool | None = None,
) -> Chart:
    """Draw scores side by side, best on top, with a dot for every seed.

    Parameters
    ----------
    scores : dict of name to score, or to one score per seed
    xlabel : str
        Metric and unit.
    baselines : names
        Those of `scores` that are not learned models; drawn hollow, the best as a line.
    lower_is_better : bool, optional
        By default whether `xlabel` names a loss or an error.
    """
    values = {shorten(n, 45): np.atleast_1d(np.asarray(v, float)) for n, v in scores.items()}
    lower = curves.lower_is_better(xlabel, lower_is_better)
    order = sorted(values, key=lambda name: values[name].mean(), reverse=lower)
    hollow = [name for name in order if name in set(baselines)]
    chart = Chart(height=0.42 * len(order) + 1.2)
    ax = style(chart.subplots(), xlabel=xlabel + (" (lower is better)" if lower else ""))
    for row, name in enumerate(order):
        mean = values[name].mean()
        face = "white" if name in hollow else BLUE
        ax.plot(values[name], np.full(len(values[name]), row), "|", color=BLUE, ms=14, mew=1.4)
        ax.plot(mean, row, "o", color=BLUE, mfc=face, ms=9, mew=2)
        ax.annotate(
            f"{mean:.{digits}f}", (mean, row), (0, 7), textcoords="offset points", ha="center",
            fontsize=10, color=INK, path_effects=HALO,
        )  # fmt: skip
    ax.set_yticks(range(len(order)), order)
    ax.set_ylim(-0.6, len(order) - 0.2)
    if hollow:
        ax.axvline(values[hollow[-1]].mean(), color=INK, ls="-.", lw=1.3)
    described = (
        f"{name} {v.mean():.{digits}f}"
        + (f" [{v.min():.{digits}f} to {v.max():.{digits}f}]" if len(v) > 1 else "")
        for name, v in ((name, values[name]) for name in reversed(order))
    )
    chart.alt = f"{xlabel}, best first: {'; '.join(described)}."
    return chart


def by_popularity(table: pd.DataFrame, *, ylabel: str, digits: int = 3) -> Chart:
    """Draw a metric for films of rising popularity: a row of `table` a class, a column a model."""
    chart = Chart()
    ax = style(chart.subplots(), xlabel=table.index.name or "ratings of the film", ylabel=ylabel)
    dashes = ("-", "--", "-.", ":", (0, (6, 1)), (0, (1, 2)))
    for name, colour, marker, ls in zip(table, COLOURS, "osD^vP", dashes, strict=False):
        ax.plot(
            range(len(table)), table[name], marker=marker, ls=ls, lw=2.2, color=colour, label=name
        )
    ax.set_xticks(range(len(table)), [str(i) for i in table.index])
    ax.legend(frameon=False, fontsize=11, labelcolor=INK)
    ends = "; ".join(
        f"{name} {table[name].iloc[0]:.{digits}f} to {table[name].iloc[-1]:.{digits}f}"
        for name in table
    )
    chart.alt = f"{ylabel}, from {table.index[0]} to {table.index[-1]} {ax.get_xlabel()}: {ends}."
    return chart

"""Figures for the notebooks, each a `Chart` with alt text made from its data."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import StrMethodFormatter

from nmf_helpers.checks import check_matrix
from nmf_helpers.lab import curves
from nmf_helpers.lab.curves import BLUE, COLOURS, HALO, INK, VERMILION, as_written, count, shorten
from nmf_helpers.lab.curves import Chart as Chart

loss_curves = curves.LossCurves


@as_written()
def sparsity(matrix: Any, *, n_users: int = 150, n_items: int = 300) -> Chart:
    """Draw a corner of a users x items matrix, a dot a rating, and the long tail of its films."""
    matrix, chart = check_matrix("matrix", matrix), Chart(width=9.0)
    left, right = chart.subplots(1, 2)
    users, items = matrix[:n_users, :n_items].nonzero()
    left.scatter(items, users, s=2, color=BLUE, marker="s", linewidths=0)
    left.set(xlabel=f"film (the first {n_items:,})", xlim=(0, n_items))
    left.set(ylabel=f"user (the first {n_users:,})", ylim=(n_users, 0))
    left.grid(False)
    counts = np.sort(np.diff(matrix.tocsc().indptr))[::-1]  # (items,)
    counts = counts[counts > 0]
    half = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) + 1
    right.set(xlabel="films, most rated first", ylabel="ratings of the film", yscale="log")
    right.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    right.plot(np.arange(1, len(counts) + 1), counts, color=BLUE, lw=2.4)
    right.axvline(half, color=VERMILION, ls="--", lw=1.6)
    said = f" half of all ratings\n went to {count(half, 'film')}"
    right.text(half, counts[0], said, color=VERMILION, va="top", path_effects=HALO)
    chart.alt = (
        f"{matrix.shape[0]:,} users by {matrix.shape[1]:,} films, "
        f"{matrix.nnz / np.prod(matrix.shape):.2%} filled; the most rated film has "
        f"{count(counts[0], 'rating')}; half of all {count(matrix.nnz, 'rating')} went to "
        f"{count(half, 'film')}; {count((counts == 1).sum(), 'film')} got a single one."
    )
    return chart


def learned_biases(biases: Iterable[float], titles: Iterable[Any], *, n: int = 8) -> Chart:
    """Draw the films with the highest and lowest of `biases`, one for each of `titles`."""
    pairs = sorted(zip(biases, titles, strict=True), key=lambda pair: pair[0])
    shown = pairs if len(pairs) <= 2 * n else pairs[:n] + pairs[-n:]
    scores = {str(title): bias for bias, title in shown}
    return score_chart(scores, xlabel="bias (stars)", digits=2)


@as_written()
def score_chart(
    scores: Mapping[str, float | Sequence[float]], *, xlabel: str, baselines: Iterable[str] = (),
    digits: int = 3,
) -> Chart:  # fmt: skip
    """Draw scores side by side, best on top: for each name one, or one per seed, each a dot.

    Those named in `baselines` are not learned models: drawn hollow, the best as a line. `xlabel`
    is the metric with its unit; a small loss or error is better.
    """
    values = {name: np.atleast_1d(np.asarray(v, float)) for name, v in scores.items()}
    lower = curves.is_lower_better(xlabel)
    order = sorted(values, key=lambda name: values[name].mean(), reverse=lower)  # best last
    hollow, chart, said = set(baselines), Chart(height=0.42 * len(order) + 1.2), []
    ax = chart.subplots()
    ax.set(xlabel=xlabel + " (lower is better)" * lower)
    for row, name in enumerate(order):
        seeds, mean = values[name], values[name].mean()
        said.append(f"{name} {mean:.{digits}f}")
        if len(seeds) > 1:
            said[-1] += f" [{seeds.min():.{digits}f} to {seeds.max():.{digits}f}]"
        ax.plot(seeds, np.full(len(seeds), row), "|", color=BLUE, ms=14, mew=1.4)
        ax.plot(mean, row, "o", color=BLUE, mfc="white" if name in hollow else BLUE, ms=9, mew=2)
        ax.annotate(
            f"{mean:.{digits}f}", (mean, row), (0, 7), textcoords="offset points", ha="center",
            size=10, path_effects=HALO,
        )  # fmt: skip
    ax.set_yticks(range(len(order)), [shorten(name, 45) for name in order])
    ax.set_ylim(-0.6, len(order) - 0.2)
    if beaten := [name for name in order if name in hollow]:
        ax.axvline(values[beaten[-1]].mean(), color=INK, ls="-.", lw=1.3)
    chart.alt = f"{xlabel}, best first: {'; '.join(reversed(said))}."
    return chart


@as_written()
def by_popularity(table: pd.DataFrame, *, ylabel: str, digits: int = 3) -> Chart:
    """Draw a metric for films of rising popularity: a row of `table` a class, a column a model."""
    chart, x, ends = Chart(), range(len(table)), []
    ax = chart.subplots()
    ax.set(xlabel=table.index.name or "ratings of the film", ylabel=ylabel)
    dashes = ("-", "--", "-.", ":", (0, (6, 1)), (0, (1, 2)))
    for name, colour, marker, ls in zip(table, COLOURS, "osD^vP", dashes, strict=False):
        y = table[name].to_numpy()
        ax.plot(x, y, marker=marker, ls=ls, lw=2.2, color=colour, label=name)
        ends.append(f"{name} {y[0]:.{digits}f} to {y[-1]:.{digits}f}")
    ax.set_xticks(x, [str(i) for i in table.index])
    ax.legend()
    span = f"from {table.index[0]} to {table.index[-1]} {ax.get_xlabel()}"
    chart.alt = f"{ylabel}, {span}: {'; '.join(ends)}."
    return chart

"""A map of films by what a model learned about them."""

from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from nmf_helpers.lab.controls import Lab, Picture, box, literal
from nmf_helpers.lab.curves import COLOURS, FAINT, HALO, INK, Chart, as_written, shorten
from nmf_helpers.lab.recommend_lab import Items

N_SHOWN, N_NAMED = 400, 60  # of the most rated films: on the map, and tried to be named there
USUAL = "Horror", "Children"  # genres that are marked at first, where there are such films


class FactorLab(Lab):
    """A map of the most rated films by what a model learned about them.

    `movies` and `popularity` are as in `Items`; `after` and, optionally, `before` training are the
    items' vectors, shape (n_items, n_factors).
    """

    def __init__(
        self, movies: pd.DataFrame, popularity: np.ndarray, after: np.ndarray,
        before: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.items, n = Items(movies, popularity), len(movies)
        given = {"before training": before, "after training": after}
        self._vectors = {w: np.asarray(v, float) for w, v in given.items() if v is not None}
        for when, v in self._vectors.items():
            if v.ndim != 2 or len(v) != n or n < 2 or not v.size or not np.isfinite(v).all():
                wanted = f"finite, (n_items, n_factors) with a row for each of {n} films, 2 or more"
                raise ValueError(f"the vectors {when}, of shape {v.shape}, are not {wanted}")
        k = min(v.shape[1] for v in self._vectors.values())
        names = ["main direction", "second direction", *(f"factor {i + 1}" for i in range(k))]
        axes = [(name, column) for column, name in enumerate(names)]
        every = ["none", *sorted({g for some in self.items.genres for g in some.split(", ") if g})]
        menu, marked = widgets.Dropdown, [g if g in every else "none" for g in USUAL]
        self.when = menu(options=[*self._vectors], value="after training", description="when")
        self.across = menu(options=axes, value=0, description="across")
        self.up = menu(options=axes, value=1, description="up")
        self.genres = [menu(options=every, value=g, description="marked") for g in marked]
        self.query = widgets.Text(description="name", placeholder="part of a title")
        self.ends, self.picture = widgets.HTML(), Picture().add_class("nmf-picture")
        controls = [self.when, self.across, self.up, *self.genres, self.query]
        for each in controls:
            each.observe(lambda _: self._refresh(), "value")
        left = box("controls", *controls, self.ends.add_class("nmf-wide"))
        super().__init__("factor", box("desk", left, box("view", self.picture)))
        self._refresh()

    def __repr__(self) -> str:
        return "FactorLab(a map of films)"

    def points(self, when: str | None = None) -> tuple[list[int], np.ndarray]:
        """Return the films on the map and where they are, shape (n, 2)."""
        items = self.items.by_popularity[:N_SHOWN]
        vectors = self._vectors[when or self.when.value][items]  # (n, n_factors)
        columns = np.hstack([project(vectors), vectors])  # (n, 2 + n_factors)
        return items, columns[:, [self.across.value, self.up.value]]

    @as_written()
    def figure(self, when: str | None = None) -> Chart:
        """Return the map, or that of "before training", as an ordinary figure."""
        items, points = self.points(when)
        chart, where, taken = Chart(height=4.6), [], set[int]()
        ax = chart.subplots()
        ax.set(xlabel=self.across.label, ylabel=self.up.label, title=when or self.when.value)
        ax.scatter(*points.T, s=9, color=FAINT, linewidths=0)
        genres = [self.items.genres[i].split(", ") for i in items]
        for menu, colour, marker in zip(self.genres, COLOURS, "os", strict=False):
            rows = [row for row, those in enumerate(genres) if menu.value in those]
            free = [r for r in rows if r not in taken]  # a film in both takes the first
            taken.update(rows)
            if rows:
                look = {"color": colour, "marker": marker, "label": menu.value, "lw": 0}
                ax.scatter(points[free, 0], points[free, 1], s=28, **look)
                x, y = points[rows].mean(0)
                where.append(f"{menu.value} centred at ({x:+.2f}, {y:+.2f})")
        if where:
            ax.legend()
        asked = self.items.search(self.query.value, 20) if self.query.value.strip() else []
        first = sorted(range(len(items)), key=lambda row: items[row] not in asked)
        chart.png()  # from here on nothing moves, so that names that would cover others are seen
        chart.set_layout_engine("none")
        boxes: list[Any] = []
        for row in first[:N_NAMED]:
            right = points[row, 0] > sum(ax.get_xlim()) / 2  # names run towards the middle
            look = {"ha": "right" if right else "left", "size": 10, "path_effects": HALO}
            place = points[row], (-5 if right else 5, 3), "data", "offset points"
            text = ax.annotate(shorten(self.items.names[items[row]], 34), *place, **look)
            taken_up = text.get_window_extent()
            if any(map(taken_up.overlaps, boxes)):
                text.remove()
            else:
                boxes.append(taken_up)
                ax.plot(*points[row], ".", color=INK, ms=5)
        chart.alt = f"Map of {len(points):,} films" + f": {'; '.join(where)}" * bool(where) + "."
        return chart

    def _refresh(self) -> None:
        chart, (items, points) = self.figure(), self.points()
        self.picture.value, self.picture.tooltip = chart.png(), chart.alt
        across, up, lines = *points.argsort(0).T, []  # (n,), (n,)
        ends = {"left": across, "right": across[::-1], "bottom": up, "top": up[::-1]}
        for end, rows in ends.items():
            named = "; ".join(literal(self.items.names[items[row]]) for row in rows[:4])
            lines.append(f"<b>{end}:</b> {named}")
        self.ends.value = f'<div class="nmf-text">{"<br>".join(lines)}</div>'


def project(vectors: np.ndarray) -> np.ndarray:
    """Return the two principal components of `vectors`, shape (n, k): shape (n, 2).

    The second is 0 where k = 1. As the sign is a matter of chance, each is turned so that the row
    farthest out is on the positive side.
    """
    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)  # rows of (k, k), strongest first
    points = np.zeros((len(vectors), 2))
    points[:, : len(axes)] = centred @ axes[:2].T
    return points * np.sign(points[np.abs(points).argmax(0), [0, 1]])

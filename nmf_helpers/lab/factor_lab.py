"""A map of films by what a model learned about them."""

from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from nmf_helpers.lab.chart import Chart
from nmf_helpers.lab.controls import Lab, Picture, box, literal, spoken
from nmf_helpers.lab.items import Items
from nmf_helpers.lab.plots import factor_map, project


class FactorLab(Lab):
    """A map of films by what a model learned about them.

    Parameters
    ----------
    movies, popularity
        As in `Items`.
    after, before : ndarray, shape (n_items, n_factors)
        Item vectors after training and, optionally, before it.
    n_items : int
        How many of the most rated films are on the map.
    genres : (str, str)
        Those marked at first.
    """

    def __init__(
        self,
        movies: pd.DataFrame,
        popularity: np.ndarray,
        after: np.ndarray,
        before: np.ndarray | None = None,
        *,
        n_items: int = 400,
        genres: tuple[str, str] = ("Horror", "Children"),
    ) -> None:
        self.items, n = Items(movies, popularity), len(movies)
        self._vectors = {"after training": after}
        if before is not None:
            self._vectors = {"before training": before} | self._vectors
        for when, vectors in self._vectors.items():
            self._vectors[when] = vectors = np.asarray(vectors, float)
            if vectors.ndim != 2 or len(vectors) != n or not vectors.size or n < 2:
                raise ValueError(
                    f"the vectors {when} have shape {vectors.shape}: (n_items, n_factors) with "
                    f"n_items = {n}, one row per film, was expected, and at least two films"
                )
            if not np.isfinite(vectors).all():
                raise ValueError(f"the vectors {when} hold NaN or infinity: did training diverge?")
        k = min(vectors.shape[1] for vectors in self._vectors.values())
        axes = [("main direction", -1), ("second direction", -2)]
        axes += [(f"factor {i + 1}", i) for i in range(k)]
        every = sorted({g for genres in self.items.genres for g in genres.split(", ") if g})
        self.when = widgets.Dropdown(
            options=list(self._vectors), value="after training", description="when"
        )
        self.across = widgets.Dropdown(options=axes, value=-1, description="across")
        self.up = widgets.Dropdown(options=axes, value=-2, description="up")
        self.genres = [
            widgets.Dropdown(
                options=["none", *every], value=genre if genre in every else "none",
                description=f"genre {i}",
            )
            for i, genre in enumerate(genres, 1)
        ]  # fmt: skip
        self.query = widgets.Text(description="name", placeholder="part of a title")
        self.n_items = widgets.IntSlider(
            min(n_items, n), 2, min(2000, n), description="films", continuous_update=False
        )
        self.ends, self.picture = widgets.HTML(), Picture()
        controls = [self.when, self.across, self.up, *self.genres, self.query, self.n_items]
        for control in controls:
            control.observe(lambda _: self._refresh(), "value")
        view = widgets.VBox([self.picture]).add_class("nmf-view")
        super().__init__("factor", [box("desk", box("controls", *controls), view), self.ends])
        self._refresh()

    def __repr__(self) -> str:
        return "FactorLab(a map of films)"

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the films on the map and where they are: shapes (n,) and (n, 2)."""
        items = self.items.by_popularity[: self.n_items.value]
        vectors = self._vectors[self.when.value][items]  # (n, n_factors)
        directions = project(vectors)  # (n, 2)
        chosen = (self.across.value, self.up.value)
        return items, np.stack(
            [directions[:, -1 - c] if c < 0 else vectors[:, c] for c in chosen], axis=1
        )

    def figure(self) -> Chart:
        """Return the map as an ordinary figure."""
        items, points = self.points()
        groups = {
            genre: np.flatnonzero([genre in self.items.genres[i].split(", ") for i in items])
            for genre in (menu.value for menu in self.genres if menu.value != "none")
        }
        asked = set(self.items.search(self.query.value, 20)) if self.query.value.strip() else set()
        return factor_map(
            points,
            [self.items.names[i] for i in items],
            groups={genre: rows for genre, rows in groups.items() if len(rows)},
            named=sorted(range(len(items)), key=lambda row: items[row] not in asked)[:60],
            labels=(self.across.label, self.up.label),
            title=self.when.value,
        )

    def extremes(self, n: int = 4) -> dict[str, list[str]]:
        """Return the films at both ends of both axes: what a direction means, if anything."""
        items, points = self.points()
        ends: dict[str, Any] = {}
        for axis, (low, high) in enumerate((("left", "right"), ("bottom", "top"))):
            order = np.argsort(points[:, axis], kind="stable")
            ends[low] = [self.items.names[items[i]] for i in order[:n]]
            ends[high] = [self.items.names[items[i]] for i in order[::-1][:n]]
        return ends

    def _refresh(self) -> None:
        try:
            chart = self.figure()
            self.picture.value, self.picture.tooltip = chart.png(), chart.alt
            ends = self.extremes().items()
        except Exception as error:  # shown, as the traceback of a callback is easily missed
            self.ends.value = spoken(f"{type(error).__name__}: {error}", alert=True)
            return
        lines = (f"<b>{end}:</b> {'; '.join(map(literal, films))}" for end, films in ends)
        self.ends.value = f'<div class="nmf-text">{"<br>".join(lines)}</div>'

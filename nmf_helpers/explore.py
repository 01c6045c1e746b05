"""Two labs that look at what a trained model knows: your own recommendations, and a map of films.

Neither knows a model. `RecommendLab` asks a function for scores given somebody's ratings, and
`FactorLab` looks at one vector for each film.
"""

import difflib
import html
import re
import unicodedata
from collections.abc import Callable, Mapping

import ipywidgets as widgets
import numpy as np
import pandas as pd

from nmf_helpers.controls import STYLE, Picture, button, spoken, wrapped
from nmf_helpers.plots import Chart, factor_map, project

STARS = {f"{n}★": float(n) for n in range(1, 6)}
THUMBS = {"👎": 1.0, "👍": 5.0}
N_FOUND = 7  # films offered by a search
N_RATED = 8  # own ratings shown, the latest first

Recommend = Callable[[np.ndarray, np.ndarray], np.ndarray]
Explain = Callable[[int, np.ndarray, np.ndarray], np.ndarray]


class FoldInWeights:
    """Scores for a new user from item-to-item weights, such as EASE's: no training at all.

    Parameters
    ----------
    weights : ndarray, shape (n_items, n_items)
        ``weights[i, j]``: what having film i says about film j.
    neutral : float
        A rating that says nothing; five stars count +1, ratings below `neutral` count against.
    """

    def __init__(self, weights: np.ndarray, neutral: float = 2.5):
        self.weights, self.neutral = weights, neutral

    def _signal(self, stars: np.ndarray) -> np.ndarray:
        return ((stars - self.neutral) / (5 - self.neutral)).astype(np.float32)  # (rated,)

    def __call__(self, items: np.ndarray, stars: np.ndarray) -> np.ndarray:
        return self._signal(stars) @ self.weights[items]  # (n_items,)

    def explain(self, item: int, items: np.ndarray, stars: np.ndarray) -> np.ndarray:
        """What each rated film adds to the score of `item`: shape (rated,)."""
        return self._signal(stars) * self.weights[items, item]


class FoldInFactors:
    """Scores for a new user from item factors: the user's vector by ridge regression.

    With the items' vectors V and biases b fixed, the new user's u minimises

        Σ (stars_i - mean - b_i - V_i · u)² + l2 ‖u‖²    over the films she rated,

    the step that alternating least squares takes for every user.

    Parameters
    ----------
    factors : ndarray, shape (n_items, n_factors)
    biases : ndarray, shape (n_items,), optional
    mean : float
    l2 : float
    """

    def __init__(
        self,
        factors: np.ndarray,
        biases: np.ndarray | None = None,
        mean: float = 0.0,
        l2: float = 1.0,
    ):
        self.factors, self.l2 = np.asarray(factors, float), l2
        self.base = mean + (0.0 if biases is None else np.asarray(biases, float).ravel())
        self.base = np.broadcast_to(self.base, len(self.factors))  # (n_items,)

    def _weights(self, items: np.ndarray, stars: np.ndarray) -> np.ndarray:
        v = self.factors[items]  # (rated, factors)
        inverse = np.linalg.inv(v.T @ v + self.l2 * np.eye(v.shape[1]))  # (factors, factors)
        return inverse @ (v * (stars - self.base[items])[:, None]).T  # (factors, rated)

    def __call__(self, items: np.ndarray, stars: np.ndarray) -> np.ndarray:
        return self.base + self.factors @ self._weights(items, stars).sum(1)  # (n_items,)

    def explain(self, item: int, items: np.ndarray, stars: np.ndarray) -> np.ndarray:
        """What each rated film adds to the score of `item`: shape (rated,)."""
        return self.factors[item] @ self._weights(items, stars)


class Films:
    """Titles to show and to search, in the order of the model's items.

    Parameters
    ----------
    movies : DataFrame
        One row per item, in the model's order, with title, year and genres ("Comedy|Drama").
    popularity : ndarray, shape (n_items,)
        Ratings per film: the order in which a search offers films.
    """

    def __init__(self, movies: pd.DataFrame, popularity: np.ndarray):
        missing = {"title", "year", "genres"} - set(movies)
        if missing:
            raise ValueError(f"movies lacks the columns {sorted(missing)}; it has {list(movies)}")
        if len(movies) != len(popularity):
            raise ValueError(
                f"movies has {len(movies)} rows and popularity {len(popularity)} numbers: "
                "both need one per item, in the model's order"
            )
        self.titles = [readable(title) for title in movies["title"].fillna("")]
        self.years = ["" if pd.isna(year) else f"{int(year)}" for year in movies["year"]]
        self.genres = [str(g).replace("|", ", ") for g in movies["genres"].fillna("")]
        self.names = [
            f"{t} ({y})" if y else t for t, y in zip(self.titles, self.years, strict=True)
        ]
        self.by_popularity = np.argsort(-np.asarray(popularity), kind="stable")
        self._plain = [plain(name) for name in self.names]

    def search(self, text: str, n: int = N_FOUND) -> list[int]:
        """The `n` most rated films whose name has every word of `text`, accents aside."""
        words = plain(text).split()
        found = (i for i in self.by_popularity if all(word in self._plain[i] for word in words))
        return [int(item) for item, _ in zip(found, range(n), strict=False)]

    def find(self, film: int | str) -> int:
        """An item from its number or title: the exact title first, then the most rated."""
        if not isinstance(film, str):
            return int(film)
        if found := self.search(film, len(self.names)):
            exact = (i for i in found if plain(film) in (plain(self.titles[i]), self._plain[i]))
            return next(exact, found[0])
        near = difflib.get_close_matches(film, self.names, 1, 0.0)
        raise ValueError(f"no film called {film!r}; did you mean {near[0]!r}?")


def readable(title: str) -> str:
    """ "Matrix, The" as "The Matrix"."""
    return re.sub(r"^(.*?), (The|An?|Les?|La|Das|Der|Die|El|Il|L')(?= \(|$)", r"\2 \1", title)


def plain(text: str) -> str:
    """Small letters without accents."""
    return "".join(
        c for c in unicodedata.normalize("NFKD", text.lower()) if c.isalnum() or c == " "
    )


class FilmRow(widgets.HBox):
    """One film and the buttons that rate it."""

    def __init__(self, scale: Mapping[str, float], rate: Callable[[int, float], None]):
        options = [("✕", 0.0), *scale.items()]
        self.item, self._rate = None, rate
        self.buttons = widgets.ToggleButtons(options=options, style={"button_width": "2.6em"})
        self.name = widgets.HTML(layout=widgets.Layout(margin="0 0 0 8px"))
        super().__init__([self.buttons, self.name])
        self.add_class("nmf-stars")
        self.show(None)
        self.buttons.observe(self._pressed, "value")

    def show(self, item: int | None, name: str = "", value: float = 0.0) -> None:
        self.item = None  # a change made here is no press
        self.buttons.value = value
        self.buttons.tooltips = [f"rate {name}: {label}" for label, _ in self.buttons.options]
        self.name.value = html.escape(name)
        self.layout.display = "none" if item is None else None
        self.item = item

    def _pressed(self, change) -> None:
        if self.item is not None:
            self._rate(self.item, change.new)


class RecommendLab(widgets.VBox):
    """Rate a few films and see at once what a model would recommend.

    Parameters
    ----------
    recommend : callable
        ``recommend(items, stars) -> scores``, shapes (rated,), (rated,), (n_items,): the fold-in
        of a user whom the model has never seen, such as `FoldInWeights` or `FoldInFactors`.
    movies, popularity
        As in `Films`.
    explain : callable, optional
        ``explain(item, items, stars) -> (rated,)``, what each rated film adds to the score of
        `item`; by default ``recommend.explain`` if there is one.
    k : int
        Length of the list.
    scale : dict
        Labels and values of the rating buttons: `STARS` or `THUMBS`.

    Attributes
    ----------
    ratings : dict of item to stars
        The latest last.
    """

    def __init__(
        self,
        recommend: Recommend,
        movies: pd.DataFrame,
        popularity: np.ndarray,
        *,
        explain: Explain | None = None,
        k: int = 10,
        scale: Mapping[str, float] = STARS,
    ):
        self._recommend = recommend
        self._explain = explain or getattr(recommend, "explain", None)
        self.films, self.k, self._scale = Films(movies, popularity), k, dict(scale)
        self.ratings: dict[int, float] = {}
        self.query = widgets.Text(
            description="Find a film:", placeholder="part of a title", continuous_update=True
        )
        self.found = [FilmRow(self._scale, self.rate) for _ in range(N_FOUND)]
        self.mine = [FilmRow(self._scale, self.rate) for _ in range(N_RATED)]
        self.forget = button("Start over", "trash", "forget all ratings", self.clear)
        self.status, self.lists = widgets.HTML(), widgets.HTML()
        self.query.observe(lambda _: self._show_found(), "value")
        search = widgets.VBox([self.query, *self.found])
        rated = widgets.VBox([widgets.HTML("<b>Your ratings</b>"), *self.mine, self.forget])
        super().__init__([widgets.HTML(STYLE), wrapped(search, rated), self.status, self.lists])
        self.add_class("nmf-recommend-lab")
        self._refresh()

    def __repr__(self) -> str:
        return "RecommendLab(rate films, see recommendations)"

    def rate(self, film: int | str, stars: float) -> "RecommendLab":
        """Rate a film, by item number or title; 0 takes the rating back."""
        item = self.films.find(film)
        if stars:
            self.ratings[item] = float(stars)
        else:
            self.ratings.pop(item, None)
        self._refresh()
        return self

    def clear(self) -> None:
        """Forget all ratings."""
        self.ratings = {}
        self.query.value = ""
        self._refresh()

    def recommendations(self) -> pd.DataFrame:
        """The list for these ratings: film, genres, and the rated film that speaks for it most."""
        if not self.ratings:
            return self.popular().assign(because="")
        items = np.fromiter(self.ratings, dtype=np.int64)  # (rated,)
        stars = np.fromiter(self.ratings.values(), dtype=float)  # (rated,)
        scores = np.array(self._recommend(items, stars), dtype=float)  # (n_items,)
        if scores.shape != (len(self.films.names),):
            raise ValueError(
                f"recommend returned shape {scores.shape}; one score for each of the "
                f"{len(self.films.names)} films was expected"
            )
        scores[items] = -np.inf  # seen already
        top = np.argsort(-scores, kind="stable")[: self.k]
        return self._table(top).assign(because=[self._because(i, items, stars) for i in top])

    def popular(self) -> pd.DataFrame:
        """The list that everybody gets: the most rated films, without those rated here."""
        order = self.films.by_popularity
        return self._table([i for i in order if i not in self.ratings][: self.k])

    def _table(self, items) -> pd.DataFrame:
        films = self.films
        rows = [(films.titles[i], films.years[i], films.genres[i]) for i in items]
        frame = pd.DataFrame(rows, columns=["title", "year", "genres"])
        frame.index = pd.RangeIndex(1, len(frame) + 1)
        return frame

    def _because(self, item: int, items: np.ndarray, stars: np.ndarray) -> str:
        liked = stars > (min(self._scale.values()) + max(self._scale.values())) / 2
        if self._explain is None or not liked.any():
            return ""
        parts = np.where(liked, self._explain(int(item), items, stars), -np.inf)  # (rated,)
        return self.films.titles[items[parts.argmax()]] if parts.max() > 0 else ""

    def _refresh(self) -> None:
        self._show_found()
        latest = list(reversed(self.ratings.items()))[:N_RATED]
        for row, (item, stars) in zip(self.mine, latest + [(None, 0.0)] * N_RATED, strict=False):
            row.show(item, "" if item is None else self.films.names[item], stars)
        try:
            mine = self.recommendations()
        except Exception as error:  # shown, as the traceback of a callback is easily missed
            self.status.value = spoken(f"{type(error).__name__}: {error}", alert=True)
            return
        n = len(self.ratings)
        hint = "Rate a film: so far both lists are the same."
        self.status.value = spoken(f"After {n} rating{'s' * (n > 1)}:" if n else hint)
        columns = _html_list("Recommended for you", mine) + _html_list(
            "What everybody gets: the most rated", self.popular()
        )
        self.lists.value = f'<div class="nmf-text nmf-columns">{columns}</div>'

    def _show_found(self) -> None:
        found = self.films.search(self.query.value)
        for row, item in zip(self.found, found + [None] * N_FOUND, strict=False):
            name = "" if item is None else self.films.names[item]
            row.show(item, name, self.ratings.get(item, 0.0))


def _html_list(heading: str, frame: pd.DataFrame) -> str:
    lines = []
    for film in frame.to_dict("records"):
        film = {name: html.escape(text) for name, text in film.items()}
        why = (
            f"<br><small>because you liked {film['because']}</small>" if film.get("because") else ""
        )
        small = f"<small>{film['year']} · {film['genres']}</small>"
        lines.append(f"<li>{film['title']} {small}{why}</li>")
    return f"<div><b>{heading}</b><ol>{''.join(lines)}</ol></div>"


class FactorLab(widgets.VBox):
    """A map of films by what a model learned about them.

    Parameters
    ----------
    movies, popularity
        As in `Films`.
    after, before : ndarray, shape (n_items, n_factors)
        Item vectors after training and, optionally, before it.
    n_films : int
        How many of the most rated films are on the map.
    """

    def __init__(
        self,
        movies: pd.DataFrame,
        popularity: np.ndarray,
        after: np.ndarray,
        before: np.ndarray | None = None,
        *,
        n_films: int = 400,
        genres: tuple[str, str] = ("Horror", "Children"),
    ):
        self.films = Films(movies, popularity)
        self._vectors = {"after training": np.asarray(after, float)}
        if before is not None:
            self._vectors = {"before training": np.asarray(before, float)} | self._vectors
        for when, vectors in self._vectors.items():
            if vectors.ndim != 2 or len(vectors) != len(movies):
                raise ValueError(
                    f"the vectors {when} have shape {vectors.shape}: (n_items, n_factors) with "
                    f"n_items = {len(movies)}, one row per film, was expected"
                )
        every = sorted({g for genres in self.films.genres for g in genres.split(", ") if g})
        axes = [("main direction", -1), ("second direction", -2)]
        axes += [(f"factor {i + 1}", i) for i in range(np.shape(after)[1])]
        style = {"description_width": "5em"}
        self.when = widgets.ToggleButtons(options=list(self._vectors), value="after training")
        self.across = widgets.Dropdown(options=axes, value=-1, description="across", style=style)
        self.up = widgets.Dropdown(options=axes, value=-2, description="up", style=style)
        self.genres = [
            widgets.Dropdown(
                options=["none", *every], value=genre if genre in every else "none",
                description=f"genre {i}", style=style,
            )
            for i, genre in enumerate(genres, 1)
        ]  # fmt: skip
        self.query = widgets.Text(description="name", placeholder="part of a title", style=style)
        self.n_films = widgets.IntSlider(
            min(n_films, len(movies)), 2, min(2000, len(movies)), description="films", style=style,
            continuous_update=False,
        )  # fmt: skip
        self.ends = widgets.HTML()
        self.picture = Picture()
        controls = [self.across, self.up, *self.genres, self.query, self.n_films]
        for control in (self.when, *controls):
            control.observe(lambda _: self._refresh(), "value")
        super().__init__(
            [widgets.HTML(STYLE), self.when, wrapped(*controls), self.picture, self.ends]
        )
        self.add_class("nmf-factor-lab")
        self._refresh()

    def __repr__(self) -> str:
        return "FactorLab(a map of films)"

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """The films on the map and where they are: shapes (n_films,) and (n_films, 2)."""
        items = self.films.by_popularity[: self.n_films.value]
        vectors = self._vectors[self.when.value][items]  # (n_films, factors)
        directions = project(vectors)  # (n_films, 2)
        chosen = (self.across.value, self.up.value)
        return items, np.stack(
            [directions[:, -1 - c] if c < 0 else vectors[:, c] for c in chosen], axis=1
        )

    def figure(self) -> Chart:
        """The map as an ordinary figure."""
        items, points = self.points()
        chosen = [g.value for g in self.genres if g.value != "none"]
        groups = {
            g: np.flatnonzero([g in self.films.genres[i].split(", ") for i in items])
            for g in chosen
        }
        asked = set(self.films.search(self.query.value, 20)) if self.query.value.strip() else set()
        named = sorted(range(len(items)), key=lambda row: items[row] not in asked)[:60]
        return factor_map(
            points,
            [self.films.names[i] for i in items],
            groups={g: rows for g, rows in groups.items() if len(rows)},
            named=named,
            labels=(self.across.label, self.up.label),
            title=self.when.value,
        )

    def extremes(self, n: int = 4) -> dict[str, list[str]]:
        """The films at both ends of both axes: what a direction means, if it means anything."""
        items, points = self.points()
        ends = {}
        for axis, (low, high) in enumerate((("left", "right"), ("bottom", "top"))):
            order = np.argsort(points[:, axis], kind="stable")
            ends[low] = [self.films.names[items[i]] for i in order[:n]]
            ends[high] = [self.films.names[items[i]] for i in order[::-1][:n]]
        return ends

    def _refresh(self) -> None:
        chart = self.figure()
        self.picture.value, self.picture.tooltip = chart.png(), chart.alt
        lines = (f"<b>{end}:</b> {html.escape('; '.join(f))}" for end, f in self.extremes().items())
        self.ends.value = f'<div class="nmf-text">{"<br>".join(lines)}</div>'

"""Rate a few films and see at once what a model recommends, and why."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import ipywidgets as widgets
import numpy as np
import pandas as pd

from nmf_helpers.checks import check_number
from nmf_helpers.lab.controls import Lab, box, button, literal, spoken
from nmf_helpers.lab.items import N_FOUND, Items

STARS = {f"{n}★": float(n) for n in range(1, 6)}
THUMBS = {"👎": 1.0, "👍": 5.0}
N_RATED = 8  # own ratings shown, the latest first

Recommend = Callable[[np.ndarray, np.ndarray], np.ndarray]
Explain = Callable[[int, np.ndarray, np.ndarray], np.ndarray]


class LikesModel(Protocol):
    """A model that takes in somebody new by what she likes, such as `ImplicitALS`."""

    def fold_in(self, items: np.ndarray) -> np.ndarray:
        """Return scores for who likes `items`: shape (n_items,)."""

    def explain(self, item: int, items: np.ndarray) -> np.ndarray:
        """Return what each of `items` adds to the score of `item`: shape (len(items),)."""


class FoldInWeights:
    """Scores for a new user from item-to-item weights, such as EASE's: no training at all.

    Parameters
    ----------
    weights : ndarray, shape (n_items, n_items)
        ``weights[i, j]``: what having item i says about item j.
    neutral : float
        A rating that says nothing; five stars count +1, ratings below `neutral` count against.
    """

    def __init__(self, weights: np.ndarray, neutral: float = 2.5) -> None:
        self.weights, self.neutral = np.asarray(weights), neutral

    def _signal(self, stars: np.ndarray) -> np.ndarray:
        return ((stars - self.neutral) / (5 - self.neutral)).astype(np.float32)  # (rated,)

    def __call__(self, items: np.ndarray, stars: np.ndarray) -> np.ndarray:
        return self._signal(stars) @ self.weights[items]  # (n_items,)

    def explain(self, item: int, items: np.ndarray, stars: np.ndarray) -> np.ndarray:
        """Return what each rated item adds to the score of `item`: shape (rated,)."""
        return self._signal(stars) * self.weights[items, item]


class FoldInLikes:
    """Scores for a new user from a model of likes: ratings above `middle` are liked."""

    def __init__(self, model: LikesModel, middle: float) -> None:
        self.model, self.middle = model, middle

    def __call__(self, items: np.ndarray, stars: np.ndarray) -> np.ndarray:
        return self.model.fold_in(items[stars > self.middle])  # (n_items,)

    def explain(self, item: int, items: np.ndarray, stars: np.ndarray) -> np.ndarray:
        """Return what each rated item adds to the score of `item`: shape (rated,)."""
        liked, parts = stars > self.middle, np.zeros(len(items))
        parts[liked] = self.model.explain(item, items[liked])
        return parts


class ItemRow(widgets.HBox):
    """One item and the buttons that rate it."""

    def __init__(self, scale: Mapping[str, float], rate: Callable[[int, float], Any]) -> None:
        self.item: int | None = None
        self._rate = rate
        self.buttons = widgets.ToggleButtons(
            options=[("✕", 0.0), *scale.items()], style={"button_width": "2.6em"}
        )
        self.name = widgets.HTML()
        super().__init__([self.buttons, self.name])
        self.add_class("nmf-stars")
        self.show(None)
        self.buttons.observe(self._pressed, "value")

    def show(self, item: int | None, name: str = "", value: float = 0.0) -> None:
        """Show another item, rated so."""
        self.item = None  # a change made here is no press
        self.buttons.value = value
        self.buttons.tooltips = [f"rate {name}: {label}" for label, _ in self.buttons.options]
        self.name.value = literal(name)
        self.layout.display = "none" if item is None else None
        self.item = item

    def _pressed(self, change: Any) -> None:
        if self.item is not None:
            self._rate(self.item, change.new)


class RecommendLab(Lab):
    """Rate a few films and see at once what a model would recommend.

    By keyboard: type part of a title, press Enter for the first that is found, then the number of
    a rating button.

    Parameters
    ----------
    recommend : callable or model
        ``recommend(items, stars) -> scores``, shapes (rated,), (rated,), (n_items,): the fold-in
        of a user whom the model has never seen, such as `FoldInWeights`. Or a model with
        ``fold_in(items)`` and ``explain(item, items)``, such as `ImplicitALS`: it is given what
        is rated above the middle of `scale`; what is rated below is only left out.
    movies, popularity
        As in `Items`.
    explain : callable, optional
        ``explain(item, items, stars) -> (rated,)``, what each rated item adds to the score of
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
        recommend: Recommend | LikesModel,
        movies: pd.DataFrame,
        popularity: np.ndarray,
        *,
        explain: Explain | None = None,
        k: int = 10,
        scale: Mapping[str, float] = STARS,
    ) -> None:
        check_number("k", k, at_least=1, whole=True)
        self.items, self.k, self._scale = Items(movies, popularity), k, dict(scale)
        self._middle = (min(scale.values()) + max(scale.values())) / 2
        if hasattr(recommend, "fold_in"):
            recommend = FoldInLikes(recommend, self._middle)
        self._recommend: Any = recommend
        self._explain = explain or getattr(recommend, "explain", None)
        self.ratings: dict[int, float] = {}
        self._chosen: int | None = None  # by Enter; the next digit rates it
        self._asked = ""
        self.query = widgets.Text(
            description="Find a film", placeholder="part of a title, then Enter"
        )
        self.found = [ItemRow(self._scale, self.rate) for _ in range(N_FOUND)]
        self.mine = [ItemRow(self._scale, self.rate) for _ in range(N_RATED)]
        self.forget = button("Start over", "trash", "forget all ratings", self.clear)
        self.hint, self.status, self.lists = (widgets.HTML() for _ in range(3))
        self.query.observe(lambda change: self._typed(change.new), "value")
        self.query.on_msg(lambda _, message, __: self._entered(message))
        search = widgets.VBox([self.query, self.hint, *self.found])
        rated = widgets.VBox([widgets.HTML("<b>Your ratings</b>"), *self.mine, self.forget])
        super().__init__("recommend", [box("columns", search, rated), self.status, self.lists])
        self._refresh()

    def __repr__(self) -> str:
        return "RecommendLab(rate films, see recommendations)"

    def still(self) -> tuple[str, str]:
        """Return the lists as they are now, as HTML and as text."""
        return self.lists.value, "The most rated films, beside those recommended to you."

    def rate(self, item: int | str, stars: float) -> "RecommendLab":
        """Rate an item, by number or title; 0 takes the rating back."""
        found, values = self.items.find(item), self._scale.values()
        if stars:
            check_number("stars", stars, at_least=min(values), at_most=max(values))
            self.ratings[found] = float(stars)
        else:
            self.ratings.pop(found, None)
        self._refresh()
        return self

    def clear(self) -> None:
        """Forget all ratings."""
        self.ratings, self.query.value = {}, ""
        self._refresh()

    def recommendations(self) -> pd.DataFrame:
        """Return the list for these ratings, with the rated film that speaks for each most.

        Raises
        ------
        ValueError
            If the model's scores have another shape, or some are NaN.
        """
        if not self.ratings:
            return self.popular().assign(because="")
        items = np.fromiter(self.ratings, dtype=np.int64)  # (rated,)
        stars = np.fromiter(self.ratings.values(), dtype=float)  # (rated,)
        scores = np.asarray(self._recommend(items, stars), dtype=float)  # (n_items,)
        if scores.shape != (n := len(self.items.names),):
            raise ValueError(
                f"recommend returned shape {scores.shape}; one score for each of the {n} films "
                "was expected"
            )
        if np.isnan(scores).any():
            raise ValueError(f"recommend returned NaN for {np.isnan(scores).sum()} of {n} films")
        ordered = np.argsort(-scores, kind="stable")
        top = [int(i) for i in ordered if i not in self.ratings and scores[i] > -np.inf][: self.k]
        return self._table(top).assign(because=[self._because(i, items, stars) for i in top])

    def popular(self) -> pd.DataFrame:
        """Return the list that everybody gets: the most rated, without those rated here."""
        order = self.items.by_popularity
        return self._table([i for i in order if i not in self.ratings][: self.k])

    def _table(self, chosen: list[int]) -> pd.DataFrame:
        items = self.items
        rows = [(items.titles[i], items.years[i], items.genres[i]) for i in chosen]
        frame = pd.DataFrame(rows, columns=["title", "year", "genres"])
        frame.index = pd.RangeIndex(1, len(frame) + 1)
        return frame

    def _because(self, item: int, items: np.ndarray, stars: np.ndarray) -> str:
        liked = stars > self._middle
        if self._explain is None or not liked.any():
            return ""
        parts = np.where(liked, self._explain(item, items, stars), -np.inf)  # (rated,)
        return self.items.titles[items[parts.argmax()]] if parts.max() > 0 else ""

    # -- typing -----------------------------------------------------------------------------------

    def _typed(self, text: str) -> None:
        key = text.removeprefix(self._asked).strip()
        if self._chosen is not None and key in map(str, range(1, len(self._scale) + 1)):
            chosen, self._chosen = self._chosen, None
            self.query.value = ""
            self.rate(chosen, list(self._scale.values())[int(key) - 1])
        else:
            self._chosen = None
            self._show_found()

    def _entered(self, message: Any) -> None:
        if message.get("event") == "submit" and self.query.value.strip():
            self._chosen, self._asked = self.found[0].item, self.query.value
            name = self.items.names[self._chosen] if self._chosen is not None else ""
            self.hint.value = spoken(f"{name}: press 1 to {len(self._scale)}")

    # -- what is shown ----------------------------------------------------------------------------

    def _refresh(self) -> None:
        self._show_found()
        latest = list(reversed(self.ratings.items()))[:N_RATED]
        self._fill(self.mine, [item for item, _ in latest])
        try:
            mine = self.recommendations()
        except Exception as error:  # shown, as the traceback of a callback is easily missed
            self.status.value = spoken(f"{type(error).__name__}: {error}", alert=True)
            self.lists.value = ""
            return
        n = len(self.ratings)
        hint = "Rate a film: so far both lists are the same."
        self.status.value = spoken(f"After {n} rating{'s' * (n > 1)}:" if n else hint)
        columns = _html_list("Recommended for you", mine) + _html_list(
            "What everybody gets: the most rated", self.popular()
        )
        self.lists.value = f'<div class="nmf-text nmf-columns">{columns}</div>'

    def _show_found(self) -> None:
        """Offer what is found; a misspelled title adds the nearest to what was there."""
        text, self.hint.value = self.query.value, ""
        found = self.items.search(text)
        if not found:
            near = self.items.nearest(text)
            shown = [row.item for row in self.found if row.item not in (None, near)]
            found = [near, *shown][:N_FOUND]
            said = f"No film called {text!r}; did you mean {self.items.names[near]}?"
            self.hint.value = spoken(said)
        self._fill(self.found, found)

    def _fill(self, rows: list[ItemRow], items: list[Any]) -> None:
        for row, item in zip(rows, items + [None] * len(rows), strict=False):
            name = "" if item is None else self.items.names[item]
            row.show(item, name, self.ratings.get(item, 0.0))


def _html_list(heading: str, frame: pd.DataFrame) -> str:
    lines = []
    for row in frame.to_dict("records"):
        item = {name: literal(text) for name, text in row.items()}
        why = (
            f"<br><small>because you liked {item['because']}</small>" if row.get("because") else ""
        )
        small = f"<small>{item['year']} · {item['genres']}</small>"
        lines.append(f"<li>{item['title']} {small}{why}</li>")
    return f"<div><b>{heading}</b><ol>{''.join(lines)}</ol></div>"

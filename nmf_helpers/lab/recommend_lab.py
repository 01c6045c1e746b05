"""Rate a few films and see at once what a model recommends, and why."""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from nmf_helpers.checks import check_number
from nmf_helpers.lab.controls import Lab, box, button, literal, spoken
from nmf_helpers.lab.curves import count
from nmf_helpers.lab.items import Items

STARS = {f"{n}★": float(n) for n in range(1, 6)}
THUMBS = {"👎": 1.0, "👍": 5.0}
N_ROWS = 8  # films offered by a search, and own ratings shown, the latest first


class FoldInWeights:
    """Scores for a new user from item-to-item weights, such as EASE's: no training at all.

    ``weights[i, j]``, shape (n_items, n_items), says what having item i says about item j. Five
    stars count +1, a rating of `neutral` nothing, and those below count against.
    """

    def __init__(self, weights: np.ndarray, neutral: float = 2.5) -> None:
        self.weights, self.neutral = np.asarray(weights), neutral

    def __call__(self, items: np.ndarray, stars: np.ndarray) -> np.ndarray:
        """Return scores, shape (n_items,)."""
        signal = (stars - self.neutral) / (5 - self.neutral)  # (rated,)
        return signal.astype(np.float32) @ self.weights[items]

    def explain(self, item: int, items: np.ndarray, stars: np.ndarray) -> np.ndarray:
        """Return what each rated item adds to the score of `item`: shape (rated,)."""
        return (stars - self.neutral) / (5 - self.neutral) * self.weights[items, item]


class ItemRow(widgets.HBox):
    """One item and the buttons that rate it."""

    def __init__(self, scale: Mapping[str, float], rate: Callable[[int, float], Any]) -> None:
        self._rate, options = rate, [("✕", 0.0), *scale.items()]
        self.buttons = widgets.ToggleButtons(options=options, style={"button_width": "2.6em"})
        super().__init__([self.buttons, widgets.HTML()])
        self.add_class("nmf-stars")
        self.show(None)
        self.buttons.observe(self._pressed, "value")

    def show(self, item: int | None, name: str = "", value: float = 0.0) -> None:
        """Show another item, rated so."""
        self.item: int | None = None  # a change made here is no press
        self.buttons.value, self.children[1].value = value, literal(name)
        self.buttons.tooltips = [f"rate {name}: {label}" for label, _ in self.buttons.options]
        self.layout.display = "none" if item is None else None
        self.item = item

    def _pressed(self, change: Any) -> None:
        if self.item is not None:
            self._rate(self.item, change.new)


class RecommendLab(Lab):
    """Rate a few films and see at once what a model would recommend.

    By keyboard: type part of a title, Enter for the first that is found, then a digit to rate it.

    `recommend` is the fold-in of a user whom the model has never seen: a function of items and
    stars, both of shape (rated,), that returns scores, shape (n_items,), such as `FoldInWeights`;
    with ``explain(item, items, stars)`` the list says why. Or it is a model of likes with
    ``fold_in(items)`` and ``explain(item, items)``, such as `ImplicitALS`, which is told what is
    rated above the middle of `scale`. `movies` and `popularity` are as in `Items`, `k` is the
    length of the list, and `scale` has labels and values of the buttons: `STARS` or `THUMBS`.

    `ratings` holds what was rated, by item, the latest last.
    """

    def __init__(
        self, recommend: Any, movies: pd.DataFrame, popularity: np.ndarray, *, k: int = 10,
        scale: Mapping[str, float] = STARS,
    ) -> None:  # fmt: skip
        check_number("k", k, at_least=1, whole=True)
        self._recommend, self.items, self.k = recommend, Items(movies, popularity), k
        self.ratings, self._values = dict[int, float](), [*scale.values()]
        self._middle = (min(self._values) + max(self._values)) / 2
        self._may_rate = False  # Enter was pressed since the box was last empty
        self.query = widgets.Text(description="Find a film", placeholder="part of a title")
        rows = [ItemRow(scale, self.rate) for _ in range(2 * N_ROWS)]
        self.found, self.mine = rows[:N_ROWS], rows[N_ROWS:]
        self.forget = button("Start over", "forget all ratings", self.clear)
        self.hint, self.status, self.lists = (widgets.HTML() for _ in range(3))
        self.query.observe(lambda change: self._typed(change.new), "value")
        self.query.on_msg(lambda _, message, __: self._entered(message))
        search = widgets.VBox([self.query, self.hint, *self.found])
        rated = widgets.VBox([widgets.HTML("<b>Your ratings</b>"), *self.mine, self.forget])
        super().__init__("recommend", box("columns", search, rated), self.status, self.lists)
        self._refresh()

    def __repr__(self) -> str:
        return "RecommendLab(rate films, see recommendations)"

    def still(self) -> tuple[str, str]:
        """Return the lists as they are now, as HTML and as text."""
        return self.lists.value, "The most rated films, beside those recommended to you."

    def rate(self, item: int | str, stars: float) -> "RecommendLab":
        """Rate an item, by number or title; 0 takes the rating back."""
        found = self.items.find(item)
        if stars:
            check_number("stars", stars, at_least=min(self._values), at_most=max(self._values))
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

        A ValueError tells of scores of another shape, or NaN.
        """
        if not self.ratings:
            return self.popular().assign(because="")
        items, stars = np.array([*self.ratings]), np.array([*self.ratings.values()])  # (rated,)
        fold_in = getattr(self._recommend, "fold_in", None)
        told = (items[stars > self._middle],) if fold_in else (items, stars)
        scores = np.asarray((fold_in or self._recommend)(*told), float)
        n = len(self.items.names)
        if scores.shape != (n,) or np.isnan(scores).any():
            bad = f"{np.isnan(scores).sum()} NaN in scores of shape {scores.shape}"
            raise ValueError(f"the model returned {bad}; a number for each of {n} films is needed")
        best = self._table(i for i in np.argsort(-scores, kind="stable") if scores[i] > -np.inf)
        return best.assign(because=[self._because(item, *told) for item in best.pop("item")])

    def popular(self) -> pd.DataFrame:
        """Return the list that everybody gets: the most rated, without those rated here."""
        return self._table(self.items.by_popularity).drop(columns="item")

    def _table(self, ordered: Iterable[int]) -> pd.DataFrame:
        """Return the first `k` that are not rated."""
        chosen = [*islice((int(i) for i in ordered if i not in self.ratings), self.k)]
        items = self.items
        rows = [(i, items.titles[i], items.years[i], items.genres[i]) for i in chosen]
        frame = pd.DataFrame(rows, columns=["item", "title", "year", "genres"])
        return frame.set_axis(range(1, len(rows) + 1))

    def _because(self, item: int, items: np.ndarray, *stars: np.ndarray) -> str:
        """Return the title that speaks most for `item`, of those that were liked."""
        explain = getattr(self._recommend, "explain", None)
        if explain is None or not len(items):
            return ""
        liked = [self.ratings[i] > self._middle for i in items.tolist()]
        parts = np.where(liked, explain(item, items, *stars), 0)
        return self.items.titles[items[parts.argmax()]] if parts.max() > 0 else ""

    def _typed(self, text: str) -> None:
        """Search; or rate what was found, if Enter was pressed and the digit behind leads nowhere.

        Decided by the text alone: the page sends Enter at once, and letters one message at a time,
        so what Enter was pressed on may come after it, or only with the digit behind it.
        """
        keys = "123456789"[: len(self._values)]
        if self._may_rate and text[-1:] in [*keys] and not self.items.search(text, 1):
            found, stars = self._search(text[:-1])[0], self._values[keys.index(text[-1])]
            self.query.value = ""
            self.rate(found, stars)
        else:
            self._may_rate &= text != ""
            self._show_found()

    def _entered(self, message: Any) -> None:
        if message.get("event") == "submit":
            self._may_rate = True
            self._show_found()

    def _refresh(self) -> None:
        self._show_found()
        self._fill(self.mine, [*reversed(self.ratings)])
        try:
            mine = self.recommendations()
        except Exception as error:  # shown, as the traceback of a callback is easily missed
            self.status.value = spoken(f"{type(error).__name__}: {error}", alert=True)
            self.lists.value = ""
            return
        after = f"After {count(len(self.ratings), 'rating')}:"
        hint = "Rate a film: so far both lists are the same."
        self.status.value = spoken(after if self.ratings else hint)
        lists = _html_list("Recommended for you", mine)
        lists += _html_list("What everybody gets: the most rated", self.popular())
        self.lists.value = f'<div class="nmf-text nmf-columns">{lists}</div>'

    def _search(self, text: str) -> list[Any]:
        """Return what is found; for a misspelled title the nearest, before what was there."""
        if found := self.items.search(text, N_ROWS):
            return found
        near = self.items.nearest(text)
        return [near, *(row.item for row in self.found if row.item not in (None, near))]

    def _show_found(self) -> None:
        text, found = self.query.value, self._search(self.query.value)
        name, hint = self.items.names[found[0]], ""
        if not self.items.search(text, 1):
            hint = f"No film called {text!r}; did you mean {name}?"
        if self._may_rate and text:
            hint = f"{name}: press 1 to {len(self._values)}"
        self.hint.value = spoken(hint)
        self._fill(self.found, found)

    def _fill(self, rows: list[ItemRow], items: list[Any]) -> None:
        for row, item in zip(rows, items + [None] * N_ROWS, strict=False):
            name = "" if item is None else self.items.names[item]
            row.show(item, name, self.ratings.get(item, 0.0))


def _html_list(head: str, frame: pd.DataFrame) -> str:
    lines = ""
    for row in frame.map(literal).to_dict("records"):
        lines += f"<li>{row['title']} <small>{row['year']} · {row['genres']}"
        if row.get("because", literal("")) != literal(""):
            lines += f"<br>because you liked {row['because']}"
        lines += "</small></li>"
    return f"<div><b>{head}</b><ol>{lines}</ol></div>"

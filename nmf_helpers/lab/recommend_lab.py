"""Rate a few films and see at once what a model recommends, and why."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from nmf_helpers.checks import check_number
from nmf_helpers.lab.controls import Lab, box, button, literal, spoken
from nmf_helpers.lab.curves import count
from nmf_helpers.lab.items import Items

MIDDLE = 3  # stars: a film with more is liked
N_ROWS = 8  # films offered by a search, and own ratings shown, the latest first


class FoldInWeights:
    """Scores for a new user from item-to-item weights, such as EASE's: no training at all.

    ``weights[i, j]``, shape (n_items, n_items), says what liking item i says about item j.
    """

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = np.asarray(weights)

    def fold_in(self, items: np.ndarray) -> np.ndarray:
        """Return scores, shape (n_items,), for somebody who likes `items`."""
        return self.weights[items].sum(axis=0)


class ItemRow(widgets.HBox):
    """One item and the buttons that rate it."""

    def __init__(self, rate: Callable[[int, float], Any]) -> None:
        self._rate, options = rate, [("✕", 0.0), *((f"{n}★", float(n)) for n in range(1, 6))]
        self.buttons = widgets.ToggleButtons(options=options, style={"button_width": "2.6em"})
        super().__init__([self.buttons, widgets.HTML()])
        self.add_class("nmf-stars")
        self.show(None)
        self.buttons.observe(self._pressed, "value")

    def show(self, item: int | None, name: str = "", stars: float = 0.0) -> None:
        """Show another item, rated so."""
        self.item: int | None = None  # a change made here is no press
        self.buttons.value, self.children[1].value = stars, literal(name)
        self.buttons.tooltips = [f"rate {name}: {label}" for label, _ in self.buttons.options]
        self.layout.display = "none" if item is None else None
        self.item = item

    def _pressed(self, change: Any) -> None:
        if self.item is not None:
            self._rate(self.item, change.new)


class RecommendLab(Lab):
    """Rate a few films and see at once what a model would recommend.

    By keyboard: type part of a title, Enter for the first that is found, then a digit to rate it.

    `recommend` scores all items for a user whom the model has never seen, from the items that she
    likes: it has ``fold_in(items)``, as `ImplicitALS` has, and may say why by ``explain(item,
    items)``. Or it is a function of rated items and their stars. Both return shape (n_items,).
    `movies` and `popularity` are as in `Items`, `k` is the length of the list.

    `ratings` holds the stars by item, the latest last.
    """

    def __init__(
        self, recommend: Any, movies: pd.DataFrame, popularity: np.ndarray, *, k: int = 10
    ) -> None:
        check_number("k", k, at_least=1, whole=True)
        self._recommend, self.items, self.k = recommend, Items(movies, popularity), k
        self.ratings = dict[int, float]()
        self._may_rate = False  # Enter was pressed since the box was last empty
        self.query = widgets.Text(description="Find a film", placeholder="part of a title")
        self.found, self.mine = ([ItemRow(self.rate) for _ in range(N_ROWS)] for _ in range(2))
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
            check_number("stars", stars, at_least=1, at_most=5)
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
        """Return the list for these ratings, with the liked film that speaks for each most.

        A ValueError tells of scores of another shape, or NaN.
        """
        if not self.ratings:
            return self.popular()
        items, stars = np.array([*self.ratings]), np.array([*self.ratings.values()])  # (rated,)
        fold_in, liked = getattr(self._recommend, "fold_in", None), items[stars > MIDDLE]
        scores = np.asarray(fold_in(liked) if fold_in else self._recommend(items, stars), float)
        n = len(self.items.names)
        if scores.shape != (n,) or np.isnan(scores).any():
            bad = f"{np.isnan(scores).sum()} NaN in scores of shape {scores.shape}"
            raise ValueError(f"the model returned {bad}; a number for each of {n} films is needed")
        best = (i for i in np.argsort(-scores, kind="stable").tolist() if scores[i] > -np.inf)
        return self._table(best, liked)

    def popular(self) -> pd.DataFrame:
        """Return the list that everybody gets: the most rated, without those rated here."""
        return self._table(self.items.by_popularity)

    def _table(self, ordered: Iterable[int], liked: Any = ()) -> pd.DataFrame:
        """Return the first `k` that are not rated, and why."""
        chosen, of = islice((i for i in ordered if i not in self.ratings), self.k), self.items
        explain, rows = getattr(self._recommend, "explain", None), []
        for item in chosen:
            parts = explain(item, liked) if explain and len(liked) else np.zeros(1)
            why = of.titles[liked[parts.argmax()]] if parts.max() > 0 else ""
            rows.append((of.titles[item], of.years[item], of.genres[item], why))
        names = ["title", "year", "genres", "because"]
        return pd.DataFrame(rows, range(1, len(rows) + 1), names)

    def _typed(self, text: str) -> None:
        """Search; or rate what was found, if Enter was pressed and the digit behind leads nowhere.

        Decided by the text alone: the page sends Enter at once, and letters one message at a time,
        so what Enter was pressed on may come after it, or only with the digit behind it.
        """
        if self._may_rate and text[-1:] in [*"12345"] and not self.items.search(text, 1):
            found = self._search(text[:-1])[0]
            self.query.value = ""
            self.rate(found, int(text[-1]))
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
            hint = f"{name}: press 1 to 5"
        self.hint.value = spoken(hint)
        self._fill(self.found, found)

    def _fill(self, rows: list[ItemRow], items: list[Any]) -> None:
        for row, item in zip(rows, items + [None] * N_ROWS, strict=False):
            name = "" if item is None else self.items.names[item]
            row.show(item, name, self.ratings.get(item, 0.0))


def _html_list(head: str, frame: pd.DataFrame) -> str:
    lines = ""
    for row in frame.to_dict("records"):
        shown = {name: literal(text) for name, text in row.items()}
        why = f"<br>because you liked {shown['because']}" if row["because"] else ""
        lines += "<li>{title} <small>{year} · {genres}".format(**shown) + f"{why}</small></li>"
    return f"<div><b>{head}</b><ol>{lines}</ol></div>"

"""Rate a few films and see at once what a model recommends, and why."""

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable
from itertools import islice
from numbers import Real
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from nmf_helpers.checks import check_ids, check_number
from nmf_helpers.lab.controls import Lab, box, button, literal, spoken
from nmf_helpers.lab.curves import count

MIDDLE = 3  # stars: a film with more is liked
N_ROWS = 8  # films offered by a search, and own ratings shown, the latest first
ARTICLE = re.compile(r"^(.*?), (The|An?|Les?|La|Das|Der|Die|El|Il|L')(?= \(|$)")
N_GUESSED = 2000  # of the most rated, among which a misspelled title is looked for


class Items:
    """Titles to show and to search, in the order of the model's items.

    `movies` has a row for each, with title, year and genres ("Comedy|Drama"); `popularity`, shape
    (n_items,), its ratings: the order in which a search offers them.
    """

    def __init__(self, movies: pd.DataFrame, popularity: np.ndarray) -> None:
        if missing := {"title", "year", "genres"} - set(movies):
            raise ValueError(f"movies lacks the columns {sorted(missing)}; it has {list(movies)}")
        if len(movies) != len(popularity):
            both = f"movies has {len(movies)} rows and popularity {len(popularity)} numbers"
            raise ValueError(f"{both}: give one per item in each, in the model's order")
        self.titles = [ARTICLE.sub(r"\2 \1", _text(title)) for title in movies["title"]]
        self.years = [_text(year) for year in movies["year"]]
        self.genres = [_text(genres).replace("|", ", ") for genres in movies["genres"]]
        named = zip(self.titles, self.years, strict=True)
        self.names = [f"{title} ({year})" if year else title for title, year in named]
        self.by_popularity = np.argsort(-np.asarray(popularity), kind="stable").tolist()
        self._plain = [plain(name) for name in self.names]

    def search(self, text: str, n: int | None = None) -> list[int]:
        """Return the `n` most rated items whose name has every word of `text`, accents aside."""
        words = plain(text).split()
        if text.strip() and not words:
            return []
        return [i for i in self.by_popularity if all(w in self._plain[i] for w in words)][:n]

    def nearest(self, text: str) -> int:
        """Return the item, among the most rated, whose title is most like `text`."""
        titles = {plain(self.titles[i]): i for i in reversed(self.by_popularity[:N_GUESSED])}
        return titles[difflib.get_close_matches(plain(text), titles, 1, 0.0)[0]]

    def find(self, item: int | str) -> int:
        """Return an item from its number or title: the exact one, or the most rated found."""
        if not isinstance(item, str):
            return int(check_ids("item", [item], len(self.names))[0])
        if plain(item).strip() and (found := self.search(item)):
            exact = (i for i in found if plain(item) in (plain(self.titles[i]), self._plain[i]))
            return next(exact, found[0])
        near = self.names[self.nearest(item)]
        raise ValueError(f"no film called {item!r}; did you mean {near!r}?")


def _text(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:g}" if isinstance(value, Real) else " ".join(str(value).split())


def plain(text: str) -> str:
    """Return small letters without accents or signs."""
    letters = unicodedata.normalize("NFKD", text.lower())
    return "".join(c for c in letters if c.isalnum() or c == " ")


class FoldInWeights:
    """Scores for a new user from item-to-item weights, such as EASE's, shape (n_items, n_items)."""

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = np.asarray(weights)

    def __call__(self, items: np.ndarray, stars: np.ndarray) -> np.ndarray:
        """Return scores, shape (n_items,): what is liked counts for, what is disliked against."""
        return (stars - MIDDLE) @ self.weights[items]


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

    `recommend` scores all items, shape (n_items,), for a user whom the model has never seen: it has
    ``fold_in(items)`` of those that she likes, as `ImplicitALS` has, and may say why by
    ``explain(item, items)``; or it is a function of rated items and their stars. `movies` and
    `popularity` are as in `Items`, `k` is the length of the list.

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
        """Return the list, and what speaks for each; a ValueError tells of scores that are none."""
        if not self.ratings:
            return self._table(self.items.by_popularity)
        items, stars = np.array([*self.ratings]), np.array([*self.ratings.values()])  # (rated,)
        fold_in, liked = getattr(self._recommend, "fold_in", None), items[stars > MIDDLE]
        scores = np.asarray(fold_in(liked) if fold_in else self._recommend(items, stars), float)
        order = np.array(self.items.by_popularity)  # among equals the better known come first
        if scores.shape != order.shape or np.isnan(scores).any():
            bad = f"{np.isnan(scores).sum()} NaN in scores of shape {scores.shape}"
            raise ValueError(f"the model returned {bad}; each of {len(order)} films needs a score")
        order = order[np.argsort(-scores[order], kind="stable")]
        return self._table((i for i in order.tolist() if scores[i] > -np.inf), liked)

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
        """Search; or rate what was found, if a digit behind Enter leads nowhere."""
        # Decided by the text alone: Enter is sent at once, and may overtake the letters before it.
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
        n, hint = len(self.ratings), "Rate a film: so far both lists are the same."
        self.status.value = spoken(f"After {count(n, 'rating')}:" if n else hint)
        lists = _html_list("Recommended for you", mine)
        everybody = self._table(self.items.by_popularity)
        lists += _html_list("What everybody gets: the most rated", everybody)
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

"""Titles to show and to search, whatever is written in them."""

import difflib
import re
import unicodedata
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from nmf_helpers.checks import check_ids

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
        pairs = zip(self.titles, self.years, strict=True)
        self.names = [f"{title} ({year})" if year else title for title, year in pairs]
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
        """Return an item from its number or title: the exact title first, then the most rated.

        An IndexError names a number that there is not, a ValueError the nearest title.
        """
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

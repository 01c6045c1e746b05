"""One way to refuse: a number, ids or a matrix that cannot be raise an error that says what can."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import psutil
import scipy.sparse as sp


def check_number(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    whole: bool = False,
) -> None:
    """Raise a ValueError that names the number unless it is finite and in range."""
    good = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    good = good and math.isfinite(value)
    good = good and (at_least is None or value >= at_least)
    good = good and (above is None or value > above)
    good = good and (below is None or value < below)
    good = good and (at_most is None or value <= at_most)
    if not good:
        limits = {"at least": at_least, "above": above, "below": below, "at most": at_most}
        named = [f"{word} {limit}" for word, limit in limits.items() if limit is not None]
        kind = "a whole number" if whole else "a number"
        wanted = ", ".join([kind, " and ".join(named)]) if named else kind
        raise ValueError(f"{name} must be {wanted}, not {value!r}")


def check_ids(name: str, ids: Any, n: int) -> np.ndarray:
    """Return row or column numbers as an int64 array of shape (len(ids),).

    Raises
    ------
    ValueError
        If they are not one-dimensional.
    TypeError
        If they are not whole numbers.
    IndexError
        If one of them is not in 0 … n - 1.
    """
    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, not of shape {ids.shape}")
    if ids.size and ids.dtype.kind not in "iu":
        raise TypeError(f"{name} must be whole numbers, not {ids.dtype}: encode them first")
    wrong = ids[(ids < 0) | (ids >= n)]
    if wrong.size:
        raise IndexError(
            f"{name} must lie between 0 and {n - 1}: {wrong[0]} does not. Raw ids have to be "
            "encoded first (see encode_ratings)"
        )
    return ids.astype(np.int64)


def check_pairs(users: Any, items: Any, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return user and item numbers of equal length, each checked as in `check_ids`."""
    users, items = check_ids("users", users, shape[0]), check_ids("items", items, shape[1])
    if len(users) != len(items):
        raise ValueError(f"{len(users)} users but {len(items)} items: give one item per user")
    return users, items


def check_matrix(
    what: str,
    matrix: Any,
    like: Any = None,
    kind: Literal["ratings", "interactions"] = "ratings",
    *,
    like_name: str = "the training matrix",
    may_be_empty: bool = False,
) -> sp.csr_array:
    """Return a users x items matrix as CSR with sorted rows; the one gate that all matrices pass.

    Parameters
    ----------
    what : str
        The name by which an error speaks of it.
    matrix : sparse matrix or 2-D array, shape (n_users, n_items)
        In an array a 0 means "nothing there"; in a sparse matrix a stored 0 is a rating of 0.
    like : array, sparse matrix or (n_users, n_items), optional
        What it must agree with in shape, called `like_name` in an error.
    kind : {"ratings", "interactions"}
        Among interactions a stored 0 is dropped, and a number below 0 refused.

    Raises
    ------
    TypeError
        For a table (DataFrame), or what is no matrix of numbers.
    ValueError
        For another shape, NaN or infinity, a dislike among likes, or a matrix without entries.
    """
    if hasattr(matrix, "columns"):
        raise TypeError(
            f"{what} is a table ({type(matrix).__name__}), not a users x items matrix: "
            "interaction_matrix(df) makes one of it"
        )
    if not sp.issparse(matrix):
        matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.dtype.kind not in "buif":
        raise TypeError(
            f"{what} must be a users x items matrix of numbers, not {matrix.dtype} of shape "
            f"{matrix.shape}: interaction_matrix(df) makes one from a table of ratings"
        )
    shape = None if like is None else tuple(getattr(like, "shape", like))
    if shape is not None and tuple(matrix.shape) != shape:
        raise ValueError(
            f"{what} has shape {tuple(matrix.shape)}, {like_name} {shape}: number users and items "
            "once for both (split one matrix, or encode_ratings(df, train) before "
            "interaction_matrix), so that a row means the same user in each"
        )
    csr = sp.csr_array(matrix)
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    bad = ~np.isfinite(csr.data)
    if kind == "interactions":
        bad |= csr.data < 0
    if bad.any():
        row, column = (axis[bad][0] for axis in csr.tocoo().coords)
        value = csr.data[bad][0]
        raise ValueError(
            f"{what} holds {value:g} at user {row}, item {column} ({bad.sum()} such entries): "
            + (
                "a dislike is no interaction. Keep the likes: matrix.multiply(matrix > 0)"
                if value < 0 and np.isfinite(value)
                else "remove those entries first"
            )
        )
    if kind == "interactions" and not csr.data.all():
        csr = csr.copy()
        csr.eliminate_zeros()
    if not (csr.nnz or may_be_empty):
        raise ValueError(f"{what} is empty: it has no entries to learn from or to measure with")
    return csr


def check_scores(scores: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Return scores, shape (len(users), …), as float32; raise a ValueError if any is NaN."""
    bad = np.isnan(scores)
    if bad.any():
        user = users[np.argwhere(bad)[0, 0]]
        raise ValueError(f"scores of user {user} contain NaN: did the training diverge?")
    return scores.astype(np.float32, copy=False)


def check_memory(what: str, n_bytes: float, way_out: str) -> None:
    """Raise a ValueError if so much memory is not free, before it is asked for.

    Asked for more than there is, the system may hand it out, and kill the process on writing.
    """
    if n_bytes > psutil.virtual_memory().available:
        raise ValueError(
            f"{what} needs {n_bytes / 2**30:.3g} GiB, more than there is free: {way_out}"
        )


def nearest(what: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is known; otherwise raise an error that suggests the nearest one."""
    known = sorted(known)
    if name in known:
        return name
    folded = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0)
    hint = f"did you mean {folded[close[0]]!r}? " if close else ""
    raise ValueError(f"unknown {what} {name!r}: {hint}Known: {known}")


class Scorer:
    """What scores any user with any item, and what it refuses.

    A subclass sets ``shape_`` once it can score, and writes ``_scores(users)``, and
    ``_pairs(users, items)`` where single scores are cheaper than whole rows.

    Raises
    ------
    RuntimeError, TypeError, IndexError, ValueError
        Before ``fit``; for ids that are not whole numbers; for ids out of range; for other ids
        that cannot be, too little memory, and scores that are NaN.
    """

    shape_: tuple[int, int]  # (n_users, n_items)

    def predict(self, users: Any, items: Any) -> np.ndarray:
        """Score pairs, user ``users[i]`` with item ``items[i]``: float32 of shape (n,)."""
        users, items = check_pairs(users, items, self._fitted_shape())
        return check_scores(self._pairs(users, items), users)

    def score_matrix(self, users: Any = None) -> np.ndarray:
        """Score every item for each of `users` (default: all): float32 (len(users), n_items)."""
        n_users, n_items = self._fitted_shape()
        users = np.arange(n_users) if users is None else check_ids("users", users, n_users)
        size, way_out = f"{len(users)} users x {n_items} items", "ask for some: score_matrix(users)"
        check_memory(f"a score matrix of {size}", 4 * len(users) * n_items, way_out)
        return check_scores(self._scores(users), users)

    def _fitted_shape(self) -> tuple[int, int]:
        if not hasattr(self, "shape_"):
            raise RuntimeError(f"this {type(self).__name__} is not fitted: call fit(train) first")
        return self.shape_

    def _scores(self, users: np.ndarray) -> np.ndarray:
        raise NotImplementedError  # (len(users),) -> (len(users), n_items)

    def _pairs(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        return pick_pairs(self._scores, users, items, self.shape_[1])


def pick_pairs(rows_of: Callable, users: np.ndarray, items: np.ndarray, n_items: int) -> np.ndarray:
    """Take the scores of pairs, shape (n,), from ``rows_of(users)``, some megabytes at a time."""
    result = np.empty(len(users), dtype=np.float32)
    distinct, row = np.unique(users, return_inverse=True)
    n_rows = max(1, 2**20 // n_items)
    for start in range(0, len(distinct), n_rows):
        here = (start <= row) & (row < start + n_rows)
        rows = rows_of(distinct[start : start + n_rows])  # (n_rows, n_items)
        result[here] = rows[row[here] - start, items[here]]
    return result

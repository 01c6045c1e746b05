"""What all parts of the package refuse in one voice, and how every scorer is asked."""

import difflib
import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from operator import ge, gt, le, lt
from typing import Annotated, Any, Literal

import numpy as np
import psutil
import scipy.sparse as sp

# What a setting may be is said where it is declared: `l2: Positive`.
AtLeastOne = Annotated[int, {"at_least": 1, "whole": True}]
Count = Annotated[int | None, {"at_least": 1, "whole": True}]  # None where it is the default
Natural = Annotated[int, {"at_least": 0, "whole": True}]
Positive = Annotated[float, {"above": 0}]
NotNegative = Annotated[float, {"at_least": 0}]
Chance = Annotated[float | None, {"at_least": 0, "at_most": 1}]
Fraction = Annotated[float, {"above": 0, "below": 1}]
Seed = Annotated[int, {"at_least": 0, "at_most": 2**32 - 1, "whole": True}]

_HOLDS = {"at_least": ge, "above": gt, "below": lt, "at_most": le}


def check_number(name: str, value: Any, *, whole: bool = False, **limits: float) -> None:
    """Raise a ValueError unless a number is finite and `above`, `at_least`, … its limits."""
    good = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    good = good and math.isfinite(value)
    if not (good and all(_HOLDS[word](value, limit) for word, limit in limits.items())):
        named = " and ".join(f"{word.replace('_', ' ')} {limit}" for word, limit in limits.items())
        wanted = "a whole number" if whole else "a number"
        raise ValueError(f"{name} must be {wanted}{named and ', ' + named}, not {value!r}")


def check_ids(name: str, ids: Any, n: int) -> np.ndarray:
    """Return row or column numbers as int64, shape (len(ids),); refuse any not in 0 … n - 1."""
    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, not of shape {ids.shape}")
    if ids.size and ids.dtype.kind not in "iu":
        raise TypeError(f"{name} must be whole numbers, not {ids.dtype}: encode them first")
    wrong = ids[(ids < 0) | (ids >= n)]
    if wrong.size:
        advice = "Raw ids have to be encoded first (see encode_ratings)"
        raise IndexError(f"{name} must lie between 0 and {n - 1}: {wrong[0]} does not. {advice}")
    return ids.astype(np.int64)


def check_matrix(
    what: str, matrix: Any, like: Any = None, kind: Literal["ratings", "interactions"] = "ratings",
    *, like_name: str = "the training matrix", may_be_empty: bool = False,
) -> sp.csr_array:  # fmt: skip
    """Return a users x items matrix as CSR with sorted rows; the one gate that all matrices pass.

    In an array a 0 means "nothing there", in a sparse matrix a stored 0 is a rating of 0; among
    interactions it is dropped. `like` is a matrix or a shape to agree with, called `like_name`.
    TypeError or ValueError, calling the matrix `what`: a table; no matrix of numbers; another
    shape; NaN or infinity; a number below 0 among interactions; no entries.
    """
    is_table = hasattr(matrix, "columns")
    matrix = matrix if is_table or sp.issparse(matrix) else np.asarray(matrix)
    if is_table or matrix.ndim != 2 or matrix.dtype.kind not in "buif":
        name, way_out = type(matrix).__name__, "interaction_matrix(df) makes one from a table"
        found = f"a table ({name})" if is_table else f"{matrix.dtype} of shape {matrix.shape}"
        raise TypeError(f"{what} is {found}, not a users x items matrix of numbers: {way_out}")
    shape = matrix.shape if like is None else tuple(getattr(like, "shape", like))
    if matrix.shape != shape:
        way_out = "number users and items once: split one matrix, or use encode_ratings(df, train)"
        raise ValueError(f"{what} has shape {matrix.shape}, {like_name} {shape}: {way_out}")
    csr = sp.csr_array(matrix)
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    _check_entries(what, csr, kind)
    if kind == "interactions" and not csr.data.all():
        csr = csr.copy()
        csr.eliminate_zeros()
    if not (csr.nnz or may_be_empty):
        raise ValueError(f"{what} is empty: it has no entries to learn from or to measure with")
    return csr


def _check_entries(what: str, csr: sp.csr_array, kind: str) -> None:
    bad = ~np.isfinite(csr.data) | ((csr.data < 0) & (kind == "interactions"))
    if bad.any():
        row, column, value = (part[bad][0] for part in (*csr.tocoo().coords, csr.data))
        dislike = "a dislike is no interaction. Keep the likes: matrix.multiply(matrix > 0)"
        way_out = dislike if -np.inf < value < 0 else "remove those entries first"
        place = f"user {row}, item {column} ({bad.sum()} such entries)"
        raise ValueError(f"{what} holds {value:g} at {place}: {way_out}")


def check_parts(evaluate_on: Any, train: sp.csr_array) -> dict[str, sp.csr_array]:
    """Return held-out matrices to follow, by name; refuse any that shares entries with train."""
    if not isinstance(evaluate_on, Mapping | None) or "train" in (evaluate_on or ()):
        raise TypeError('evaluate_on takes parts by name, not "train": {"validation": matrix}')
    parts = {}
    for name, part in (evaluate_on or {}).items():
        parts[name] = check_matrix(name, part, train, like_name="train")
        if both := (pattern(train) * pattern(parts[name])).nnz:
            raise ValueError(f"{both} entries of {name} are in train as well: use leave_n_out")
    return parts


def check_scores(scores: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Return scores, shape (len(users), …), as float32; raise a ValueError if any is NaN."""
    if np.isnan(scores.max(initial=-np.inf)):  # one look at each, and no array of answers
        user = users[np.argwhere(np.isnan(scores))[0, 0]]
        raise ValueError(f"scores of user {user} contain NaN: did the training diverge?")
    return scores.astype(np.float32, copy=False)


def check_memory(what: str, n_bytes: float, way_out: str) -> None:
    """Raise a ValueError if so much memory is not free: taking it could end the whole process."""
    if n_bytes > psutil.virtual_memory().available:
        raise ValueError(f"{what} needs {n_bytes / 2**30:.3g} GiB, more than is free: {way_out}")


def nearest(what: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is known; otherwise raise a ValueError that suggests the nearest one."""
    known = sorted(known)
    if name in known:
        return name
    folded = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0)
    hint = f"did you mean {folded[close[0]]!r}? " if close else ""
    raise ValueError(f"unknown {what} {name!r}: {hint}Known: {known}")


def pattern(matrix: sp.csr_array, data: Any = 1.0) -> sp.csr_array:
    """Return a matrix with entries in the same places and other values, by default 1."""
    data = data if np.ndim(data) else np.full(matrix.nnz, data)
    return sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)


class Scorer:
    """What scores any user with any item, and refuses what cannot be scored.

    A subclass sets ``shape_``, (n_users, n_items), once it can score, and writes
    ``_scores(users)``, and ``_pairs(users, items)`` where single scores are cheaper than whole
    rows. RuntimeError: asked before that. ValueError: scores that are NaN, or do not fit in
    memory; ids not in one dimension. TypeError: ids that are not whole. IndexError: out of range.
    """

    shape_: tuple[int, int]

    def predict(self, users: Any, items: Any) -> np.ndarray:
        """Score pairs, user ``users[i]`` with item ``items[i]``: float32 of shape (n,)."""
        n_users, n_items = self._fitted_shape()
        users, items = check_ids("users", users, n_users), check_ids("items", items, n_items)
        if len(users) != len(items):
            raise ValueError(f"{len(users)} users but {len(items)} items: give one item per user")
        return check_scores(self._pairs(users, items), users)

    def score_matrix(self, users: Any = None) -> np.ndarray:
        """Score every item for each of `users` (default: all): float32 (len(users), n_items)."""
        n_users, n_items = self._fitted_shape()
        users = np.arange(n_users) if users is None else check_ids("users", users, n_users)
        size = f"a score matrix of {len(users)} users x {n_items} items"
        check_memory(size, 4 * len(users) * n_items, "ask for fewer users at once")
        return check_scores(self._scores(users), users)

    def _fitted_shape(self) -> tuple[int, int]:
        if not hasattr(self, "shape_"):
            raise RuntimeError(f"this {type(self).__name__} is not fitted: call fit(train) first")
        return self.shape_

    def _scores(self, users: np.ndarray) -> np.ndarray:
        raise NotImplementedError  # (len(users),) -> (len(users), n_items)

    def _pairs(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Take the scores of pairs, shape (n,), from whole rows, some megabytes at a time."""
        result = np.empty(len(users), dtype=np.float32)
        n = max(1, 2**20 // self.shape_[1])
        for part in np.split(np.argsort(users), range(n, len(users), n)):  # user by user
            distinct, row = np.unique(users[part], return_inverse=True)
            result[part] = self._scores(distinct)[row, items[part]]
        return result

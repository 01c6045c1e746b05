"""Is this setting possible? Errors that name the setting and say what would do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real

import numpy as np


def check_number(
    name: str,
    value: float,
    *,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    whole: bool = False,
) -> None:
    """Raise a ValueError that names the number unless it is finite and in range."""
    good = isinstance(value, Integral if whole else Real) and math.isfinite(value)
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


def check_ids(name: str, ids: np.ndarray, n: int) -> np.ndarray:
    """Return ids as int64 if they are whole numbers in a row, from 0 to n - 1."""
    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, not of shape {ids.shape}")
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} must be whole numbers, not {ids.dtype}: encode them first")
    if ids.size and (ids.min() < 0 or ids.max() >= n):
        wrong = ids[(ids < 0) | (ids >= n)][0]
        raise IndexError(f"{name} must lie between 0 and {n - 1}: {wrong} does not")
    return ids.astype(np.int64)


def nearest(what: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is known; otherwise raise an error that suggests the nearest one."""
    known = sorted(known)
    if name in known:
        return name
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0)
    raise ValueError(f"unknown {what} {name!r}: did you mean {close[0]!r}? Known: {known}")

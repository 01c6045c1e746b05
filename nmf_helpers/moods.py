"""Ratings of one sitting share a mood: what the time of a rating adds to Bayesian MF.

A random split puts ratings of one sitting on both sides: moods learned from the one half help.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from scipy.sparse import csr_array

from nmf_helpers.checks import check_matrix, check_number, pattern

Array = np.ndarray


class Moods:
    """What ratings by one user on one day, in one hour, … one second have in common.

    For each width w, rating n belongs to the group (user, ⌊time / w⌋) and is moved by its effect
    e = s · η, with η ~ Normal(0, 1) and one s ~ ``|Normal(0, 1)|`` for all widths.
    """

    def __init__(self, train: csr_array, times: Any, widths: Sequence[int]) -> None:
        times = check_matrix("times", times, like=train)
        if (pattern(times) != pattern(train)).nnz:
            wanted = f"not in the places of the {train.nnz} of train: give one for each, no others"
            raise ValueError(f"times has {times.nnz} entries, {wanted}")
        user, seconds = train.tocoo().row, check_seconds(times.data, train.nnz)
        for width in (wide := np.atleast_1d(widths).tolist()) or [None]:
            check_number("a width in windows", width, at_least=1, whole=True)
        self.s, self.widths = 0.22, wide
        found = [np.unique(window(user, seconds, w), return_inverse=True) for w in wide]
        self.keys, self.groups = zip(*found, strict=True)  # for each width (n_groups,) and (n,)
        self.effects = [np.zeros(len(keys)) for keys in self.keys]

    def draw(self, residual: Array, precision: Array, rng: Generator, anew: bool) -> Array:
        """Draw all effects and s; return the sum of its effects for each rating.

        With ρ a rating's residual after all but its effect e and α its precision, sums over a
        group:  e ~ Normal(Σ α ρ / P, 1 / P),  P = Σ α + 1 / s².  Then s is the slope of a
        regression of the residuals r on x = Σ e / s:  Normal(Σ α x r / A, 1 / A),  A = 1 + Σ α x².
        (To draw 1 / s² from its gamma would move slowly.) Averages start again with `anew`.
        """
        if anew:
            self.n, self.sums = 0, [np.zeros(len(keys)) for keys in self.keys]
        total = sum(e[g] for e, g in zip(self.effects, self.groups, strict=True))
        for w, group in enumerate(self.groups):
            total -= self.effects[w][group]
            p = np.bincount(group, precision) + self.s**-2
            mean = np.bincount(group, precision * (residual - total)) / p
            self.effects[w] = mean + rng.standard_normal(len(p)) / np.sqrt(p)
            self.sums[w] += mean
            total += self.effects[w][group]
        self.n += 1
        x = total / self.s
        a = 1 + precision @ (x * x)
        s = abs(rng.normal((precision * x) @ residual / a, a**-0.5))
        self.effects, self.s = [e * (s / self.s) for e in self.effects], s
        return (x * s).astype(np.float32)

    def at(self, users: Array, times: Any) -> Array:
        """Return the mean mood of users at some times in seconds: float32 of shape (n,)."""
        seconds, total = check_seconds(times, len(users)), np.zeros(len(users), dtype=np.float32)
        for known, sums, w in zip(self.keys, self.sums, self.widths, strict=True):
            wanted = window(users, seconds, w)
            place = np.searchsorted(known, wanted).clip(max=len(known) - 1)
            total += np.where(known[place] == wanted, sums[place] / self.n, 0)
        return total


def window(users: Array, seconds: Array, width: int) -> Array:
    """Give a number to each window of time of each user: (n,)."""
    return users.astype(np.int64) * 2**40 + (seconds // width).astype(np.int64)


def check_seconds(times: Any, n: int) -> Array:
    """Return n times, shape (n,), if they can be seconds."""
    times = np.asarray(times)
    if times.shape != (n,):
        raise ValueError(f"times has shape {times.shape}: it needs one for each of {n} pairs")
    if times.dtype.kind not in "iu" and times.dtype != np.float64:  # float32 rounds to minutes
        raise ValueError(f"times must be seconds, as integers or float64, not {times.dtype}")
    for wrong in times[~((times >= 0) & (times < 2**37))]:  # NaN is neither, nor milliseconds
        raise ValueError(f"times must be seconds since 1970, at least 0, not {wrong}")
    return times

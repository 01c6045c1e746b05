"""Rank by alternating least squares: solve for every user at once, then for every item.

While the items' vectors stand still, the best vector of a user is a ridge regression: d equations
with d unknowns. Then users and items change places. There is no learning rate to choose, and a new
user is one more solve.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from scipy.sparse import csr_array

from nmf_helpers.baselines import Baseline, Kind
from nmf_helpers.checks import (
    AtLeastOne,
    Natural,
    NotNegative,
    Positive,
    check_ids,
    check_memory,
    pattern,
)

Equations = tuple[np.ndarray, np.ndarray]


def normal_equations(
    weights: csr_array, targets: Any, v: np.ndarray, precision: np.ndarray, right: Any
) -> Equations:
    """Write down the ridge regression of every row of a matrix: A x = b, one for each.

    A row's x minimises ``Σ w (y - x·v[j])² + xᵀ Λ x - 2 x·r``, the sum over its entries: w their
    weights, y their targets, v[j] the vectors of their columns. So with a penalty
    ``(x - μ)ᵀ Λ (x - μ)``, r is Λ μ. The derivative is zero where

        (Λ + Σ w v[j] v[j]ᵀ) x = r + Σ w y v[j].

    Λ is `precision`, (d, d) or for each row (n, d, d); r is `right`, (n, d); `weights` is (n, m),
    `targets` (weights.nnz,) and `v` (m, d). Returns A, (n, d, d), and b, (n, d).
    """
    n, d = weights.shape[0], v.shape[1]
    i, j = np.triu_indices(d)  # a half of v vᵀ is enough
    a = np.empty((n, d, d), dtype=v.dtype)
    a[:, i, j] = a[:, j, i] = weights @ (v[:, i] * v[:, j])
    a += precision
    return a, pattern(weights, weights.data * targets) @ v + right


def solve(a: np.ndarray, *b: np.ndarray) -> np.ndarray:
    """Solve A x = b for every row, (n, d, d), and each of several b, (n, d): (len(b), n, d)."""
    return np.moveaxis(np.linalg.solve(a, np.stack(b, axis=-1)), -1, 0)


def check_features(features: Any, n_items: int) -> np.ndarray:
    """Return the items' features as floats, shape (n_items, f), or say what is wrong with them."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) != n_items:
        raise ValueError(
            f"item_features has shape {features.shape}: it needs a row for each of the {n_items} "
            "columns of train, in the same order"
        )
    for item, column in np.argwhere(~np.isfinite(features)):
        raise ValueError(f"item_features holds {features[item, column]} for item {item}")
    return features


@dataclass(eq=False)
class ImplicitALS(Baseline):
    """Matrix factorization of likes: a like should score 1, and everything else about 0.

    The users' vectors u and the items' v minimise

        Σ_likes (1 - u·v)² + Σ_all a_u (u·v)² + Σ λ_u ‖u‖² + Σ λ_i ‖v - p_i‖².

    What a user has not chosen is weak evidence, of weight a_u = `unobserved_weight` ·
    ((likes + 5) / mean)^`activity_power`: more where she has seen much. λ grows with the likes of
    a user or an item, `l2` · (size / mean)^`l2_power` with size = likes + `unobserved_weight` ·
    (how many there are on the other side). p is 0, or with `item_features` F what they tell about
    v: ``p = F (FᵀF + 100 I)⁻¹ FᵀV``, found anew after each round.

    Hu, Koren and Volinsky 2008, "Collaborative Filtering for Implicit Feedback Datasets"; Rendle
    et al. 2022, "Revisiting the Performance of iALS on Item Recommendation Benchmarks".

    Parameters
    ----------
    n_factors, n_rounds : int
        A round solves for all users, then for all items.
    l2, unobserved_weight, activity_power, l2_power : float
        The defaults suit MovieLens 100K; `l2` matters most.
    seed : int
    """

    n_factors: AtLeastOne = 32
    n_rounds: AtLeastOne = 10
    l2: Positive = 6.5
    unobserved_weight: Positive = 0.2
    activity_power: NotNegative = 0.4
    l2_power: NotNegative = 0.3
    seed: Natural = 0
    kind: ClassVar[Kind] = "interactions"

    def fit(self, train: Any, item_features: Any = None) -> Self:
        """Learn from likes; `item_features`, shape (n_items, f), say what the items are."""
        self._given_features = item_features
        return super().fit(train)

    def _fit(self, train: csr_array) -> None:
        n_bytes = 12 * max(train.shape) * self.n_factors**2
        check_memory(f"ImplicitALS with n_factors={self.n_factors}", n_bytes, "use fewer factors")
        shape, f = (train.shape[1], self.n_factors), self._given_features
        f = None if f is None else check_features(f, shape[0])
        users, items = pattern(train), pattern(train.T.tocsr())
        n_likes, n_liked = np.diff(users.indptr), np.diff(items.indptr)
        self._mean_likes = n_likes.mean()
        v = np.random.default_rng(self.seed).normal(0, 0.1 / self.n_factors**0.5, shape)
        p, identity = np.zeros(shape), np.eye(self.n_factors)
        l2 = self._penalty(n_liked, n_liked.mean(), len(n_likes))[:, None]  # (n_items, 1)
        for _ in range(self.n_rounds):
            (u,) = solve(*self._user_equations(users, v))
            zeros = u.T @ (self._zero_weight(n_likes)[:, None] * u)  # (d, d): of all users
            precision = zeros + l2[:, :, None] * identity  # (n_items, d, d)
            (v,) = solve(*normal_equations(items, 1.0, u, precision, l2 * p))
            if f is not None:
                p = f @ np.linalg.solve(f.T @ f + 100 * np.eye(f.shape[1]), f.T @ v)
        (self.user_vectors_,), self.item_vectors_ = solve(*self._user_equations(users, v)), v

    def _user_equations(self, rows: csr_array, v: np.ndarray) -> Equations:
        n_likes = np.diff(rows.indptr)
        l2 = self._penalty(n_likes, self._mean_likes, len(v))[:, None, None]
        zeros = self._zero_weight(n_likes)[:, None, None] * (v.T @ v)  # (n, d, d)
        return normal_equations(rows, 1.0, v, zeros + l2 * np.eye(v.shape[1]), 0.0)

    def _zero_weight(self, n_likes: np.ndarray) -> np.ndarray:
        relative = (n_likes + 5) / (self._mean_likes + 5)
        return self.unobserved_weight * relative**self.activity_power

    def _penalty(self, n_likes: np.ndarray, mean: float, n_others: int) -> np.ndarray:
        others = self.unobserved_weight * n_others
        return self.l2 * ((n_likes + others) / (mean + others)) ** self.l2_power

    def fold_in(self, items: Any) -> np.ndarray:
        """Score all items, shape (n_items,), for a new user who likes `items`."""
        (u,) = solve(*self._user_equations(self._row(items), self.item_vectors_))
        return (u @ self.item_vectors_.T)[0].astype(np.float32)

    def explain(self, item: int, items: Any) -> np.ndarray:
        """Say how much of an item's score comes from each of the liked `items`: (len(items),).

        Her vector is u = A⁻¹ Σ v[j], so that the score v[i]·u, which is ``fold_in(items)[item]``,
        is the sum of v[i]·A⁻¹v[j].
        """
        row, v = self._row(items), self.item_vectors_
        (item,) = check_ids("item", [item], len(v))
        a, _ = self._user_equations(row, v)
        return (v[np.asarray(items)] @ solve(a, v[[item]])[0, 0]).astype(np.float32)

    def _row(self, items: Any) -> csr_array:
        n_items = self._fitted_shape()[1]
        items = check_ids("items", items, n_items)
        if len(np.unique(items)) < len(items):
            raise ValueError("items names an item twice: each is liked once")
        return csr_array((np.ones(len(items)), items, [0, len(items)]), shape=(1, n_items))

    def _scores(self, users: np.ndarray) -> np.ndarray:
        return (self.user_vectors_[users] @ self.item_vectors_.T).astype(np.float32)

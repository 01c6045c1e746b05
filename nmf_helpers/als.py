"""Rank by alternating least squares: users by a ridge regression on the items, and vice versa."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_array, issparse

from nmf_helpers import checks as takes
from nmf_helpers.baselines import Baseline
from nmf_helpers.checks import check_ids, check_memory, pattern


def normal_equations(weights: csr_array, targets: Any, v: np.ndarray) -> tuple[np.ndarray, ...]:
    """Write down the least squares problem of every row of a matrix: A x = b, one for each.

    A row's x minimises ``Σ w (y - x·v[j])²``, the sum over its entries: w are their `weights`,
    (n, m), y their `targets`, (weights.nnz,), and v[j] the vectors of their columns, (m, d). The
    derivative is zero where ``Σ w v[j] v[j]ᵀ x = Σ w y v[j]``, which is A x = b. For a prior,
    ``+ (x - μ)ᵀ Λ (x - μ)``, add Λ to A and Λ μ to b. Returns A, (n, d, d), and b, (n, d); a
    ValueError if there is no memory for them.
    """
    n, d = weights.shape[0], v.shape[1]
    size, way_out = 3 * v.itemsize * n * d**2, "use a smaller n_factors"
    check_memory(f"solving for {n} vectors of {d} numbers", size, way_out)
    i, j = np.triu_indices(d)  # a half of v vᵀ is enough
    a = np.empty((n, d, d), dtype=v.dtype)
    a[:, i, j] = a[:, j, i] = weights @ (v[:, i] * v[:, j])
    return a, pattern(weights, weights.data * targets) @ v


def solve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Solve A x = b for every row, (n, d, d) and (n, d): x, (n, d)."""
    return np.linalg.solve(a, b[..., None])[..., 0]


def check_features(features: Any, n_items: int) -> np.ndarray:
    """Return the items' features as floats, (n_items, f), or say what is wrong; None is f = 0."""
    features = features.toarray() if issparse(features) else features
    features = np.zeros((n_items, 0)) if features is None else np.asarray(features)
    fits = features.ndim == 2 and len(features) == n_items and features.dtype.kind in "buif"
    if not (fits and np.isfinite(features).all()):
        wanted = f"a row of finite numbers for each of the {n_items} columns of train"
        raise ValueError(f"item_features, {features.dtype} {features.shape}, must have {wanted}")
    return features.astype(np.float64)


@dataclass(eq=False)
class ImplicitALS(Baseline):
    """Matrix factorization of likes: a like should score 1, and everything else about 0.

    The users' vectors u and the items' v minimise

        Σ_likes (1 - u·v)² + Σ_all a_u (u·v)² + Σ λ_u ‖u‖² + Σ λ_i ‖v - p_i‖².

    What a user has not chosen is weak evidence, of weight a_u = `unobserved_weight` ·
    ((likes + 5) / mean)^`activity_power`. λ grows with the likes of a user or item, `l2` · (size /
    mean)^`l2_power`, size = likes + `unobserved_weight` · (number of items or users). p is 0, or
    with `item_features` F what they tell of v after each round: F (FᵀF + 100 I)⁻¹ FᵀV. (Rendle
    et al. 2022, "Revisiting the Performance of iALS on Item Recommendation Benchmarks".)
    """

    n_factors: takes.AtLeastOne = 32
    n_rounds: takes.AtLeastOne = 10
    l2: takes.Positive = 6.5  # which matters most; all suit MovieLens 100K
    unobserved_weight: takes.Positive = 0.2
    activity_power: takes.NotNegative = 0.4
    l2_power: takes.NotNegative = 0.3
    seed: takes.Natural = 0
    kind = "interactions"

    def fit(self, train: Any, item_features: Any = None) -> Self:
        """Learn from likes; `item_features`, shape (n_items, f), say what the items are."""
        self._features = item_features
        return super().fit(train)

    def _fit(self, train: csr_array) -> None:
        f = check_features(self._features, train.shape[1])
        users, items = pattern(train), pattern(train.T.tocsr())
        n_likes, n_liked = np.diff(users.indptr), np.diff(items.indptr)
        self._mean_likes = n_likes.mean()
        start, size = np.random.default_rng(self.seed), (len(n_liked), self.n_factors)
        v = start.normal(0, 0.1 / self.n_factors**0.5, size)
        u, p = solve(*self._user_equations(users, v)), 0 * v
        l2 = self._penalty(n_liked, n_liked.mean(), len(n_likes))[:, None]  # (n_items, 1)
        for _ in range(self.n_rounds):
            zeros = u.T @ (self._zero_weight(n_likes)[:, None] * u)  # (d, d): of all users
            a, b = normal_equations(items, 1.0, u)
            a += zeros + l2[:, :, None] * np.eye(self.n_factors)  # (n_items, d, d)
            v = solve(a, b + l2 * p)
            p = f @ np.linalg.solve(f.T @ f + 100 * np.eye(f.shape[1]), f.T @ v)
            u = solve(*self._user_equations(users, v))
        self.user_vectors_, self.item_vectors_ = u, v

    def _user_equations(self, rows: csr_array, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (a, b), n_likes = normal_equations(rows, 1.0, v), np.diff(rows.indptr)
        l2 = self._penalty(n_likes, self._mean_likes, len(v))[:, None, None]
        zeros = self._zero_weight(n_likes)[:, None, None] * (v.T @ v)  # (n, d, d)
        a += zeros + l2 * np.eye(v.shape[1])
        return a, b

    def _zero_weight(self, n: np.ndarray) -> np.ndarray:
        return self.unobserved_weight * ((n + 5) / (self._mean_likes + 5)) ** self.activity_power

    def _penalty(self, n: np.ndarray, mean: float, n_others: int) -> np.ndarray:
        others = self.unobserved_weight * n_others
        return self.l2 * ((n + others) / (mean + others)) ** self.l2_power

    def fold_in(self, items: Any) -> np.ndarray:
        """Score all items, shape (n_items,), for a new user who likes `items`."""
        u = solve(*self._user_equations(self._row(items), self.item_vectors_))  # (1, d)
        return (u @ self.item_vectors_.T)[0].astype(np.float32)

    def explain(self, item: int, items: Any) -> np.ndarray:
        """Say how much of ``fold_in(items)[item]`` comes from each of `items`: (len(items),)."""
        row, v = self._row(items), self.item_vectors_
        a, _ = self._user_equations(row, v)
        # The score v[item]·u, with u = A⁻¹ Σ v[j], is the sum of all v[item]·A⁻¹ v[j].
        solved = solve(a, v[check_ids("item", [item], len(v))])  # (1, d)
        return (v[row.indices] @ solved[0]).astype(np.float32)

    def _row(self, items: Any) -> csr_array:
        items = check_ids("items", items, self._fitted_shape()[1])
        if len(np.unique(items)) < len(items):
            raise ValueError("items holds one of them twice: give each liked item once")
        return csr_array((np.ones(len(items)), items, [0, len(items)]), shape=(1, self.shape_[1]))

    def _scores(self, users: np.ndarray) -> np.ndarray:
        return self.user_vectors_[users] @ self.item_vectors_.T  # (len(users), n_items)

"""What every model must beat: averages, popularity, and a linear model in ten lines.

All baselines are used alike::

    baseline = BiasRidge().fit(train)       # scipy.sparse matrix (n_users, n_items)
    baseline.predict(users, items)          # one score for each pair
    baseline.score_matrix()                 # every user with every item, float32

``GlobalMean``, ``UserMean``, ``ItemMean`` and ``BiasRidge`` predict ratings; ``Popularity`` and
``EASE`` rank items and their scores have no unit. All but ``EASE`` have one form,

    score(user, item) = mean + user_bias[user] + item_bias[item],

and differ in what they put in. None knows which *match* of user and item is good: all users get
the items in the same order. That is what makes them a measure for models that claim to know.

A user or an item without training ratings has a bias of 0, so its prediction falls back on what
is known: the mean, and the bias of the other side.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import cg


class Baseline:
    """Shared checks of the baselines; a subclass writes ``_fit`` and ``_scores``.

    After ``fit``, ``shape_`` holds ``(n_users, n_items)``.
    """

    def fit(self, train: Any) -> Self:
        """Learn from the stored entries of ``train``.

        Parameters
        ----------
        train : sparse matrix or array of shape (n_users, n_items)
            Ratings, or ones where there was an interaction. In an array 0 means no rating; in a
            sparse matrix a stored 0 is a rating.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is no rating, or one is NaN or infinite.
        """
        if np.ndim(train) != 2:  # before the conversion: an older SciPy makes one row of a list
            raise ValueError(f"train must be a (n_users, n_items) matrix, not {np.ndim(train)}-D")
        train = sparse.csr_array(train, dtype=np.float64)
        if not train.nnz:
            raise ValueError("train has no ratings to learn from")
        if not np.isfinite(train.data).all():
            raise ValueError("train has a rating that is NaN or infinite; leave that entry out")
        self._fit(train)
        self.shape_ = train.shape
        return self

    def predict(self, users: Any, items: Any) -> np.ndarray:
        """Score pairs of user and item.

        Parameters
        ----------
        users, items : integer arrays of shape (n,)
            Row and column numbers of the training matrix.

        Returns
        -------
        array of shape (n,), float32

        Raises
        ------
        ValueError
            If an id is outside the training matrix, or the arrays differ in length.
        TypeError
            If the ids are not integers.
        """
        users, items = self._check_ids(users, "user"), self._check_ids(items, "item")
        if users.shape != items.shape:
            raise ValueError(f"{len(users)} users cannot be paired with {len(items)} items")
        return self._pairs(users, items).astype(np.float32)

    def score_matrix(self, users: Any = None) -> np.ndarray:
        """Score every item for each of ``users`` (all of them by default).

        Returns
        -------
        array of shape (len(users), n_items), float32

        Raises
        ------
        ValueError, TypeError
            As for :meth:`predict`.
        """
        if users is None:
            users = np.arange(self._check_fitted()[0])
        return self._scores(self._check_ids(users, "user")).astype(np.float32, copy=False)

    def _fit(self, train: sparse.csr_array) -> None:
        raise NotImplementedError

    def _scores(self, users: np.ndarray) -> np.ndarray:
        raise NotImplementedError  # (len(users),) -> (len(users), n_items)

    def _pairs(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        distinct, row = np.unique(users, return_inverse=True)
        return self._scores(distinct)[row, items]

    def _check_fitted(self) -> tuple[int, int]:
        if not hasattr(self, "shape_"):
            raise RuntimeError(f"this {type(self).__name__} is not fitted; call fit(train) first")
        return self.shape_

    def _check_ids(self, ids: Any, kind: str) -> np.ndarray:
        n = self._check_fitted()[0 if kind == "user" else 1]
        ids = np.asarray(ids)
        if ids.ndim != 1:
            raise ValueError(f"{kind} ids must be a 1-D array, not {ids.ndim}-D")
        if not ids.size:
            return ids.astype(np.int64)
        if not np.issubdtype(ids.dtype, np.integer):
            raise TypeError(f"{kind} ids must be integers, not {ids.dtype}")
        if ids.min() < 0 or ids.max() >= n:
            bad = ids[(ids < 0) | (ids >= n)][0]
            raise ValueError(
                f"{kind} {bad} is not among the {n} {kind}s of the training matrix (0 to {n - 1}); "
                "encode raw ids first (see encode_ratings)"
            )
        return ids


class _Additive(Baseline):
    """``mean_ + user_bias_[user] + item_bias_[item]``."""

    mean_: float
    user_bias_: np.ndarray  # (n_users,)
    item_bias_: np.ndarray  # (n_items,)

    def _fit(self, train: sparse.csr_array) -> None:
        self.mean_ = train.data.mean()
        self.user_bias_ = np.zeros(train.shape[0])
        self.item_bias_ = np.zeros(train.shape[1])
        rated, deviation = train.copy(), train.copy()
        rated.data = np.ones(train.nnz)
        deviation.data = train.data - self.mean_
        self._fit_biases(rated, deviation)

    def _fit_biases(self, rated: sparse.csr_array, deviation: sparse.csr_array) -> None:
        """Set the biases; the arguments store 1 and rating - mean at each rating."""
        raise NotImplementedError

    def _scores(self, users: np.ndarray) -> np.ndarray:
        return (self.mean_ + self.user_bias_[users])[:, None] + self.item_bias_[None, :]

    def _pairs(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        return self.mean_ + self.user_bias_[users] + self.item_bias_[items]


@dataclass(eq=False)
class GlobalMean(_Additive):
    """The mean of all ratings, for everyone and everything."""

    def _fit_biases(self, rated: sparse.csr_array, deviation: sparse.csr_array) -> None:
        pass


@dataclass(eq=False)
class UserMean(_Additive):
    """The mean of the user's ratings."""

    def _fit_biases(self, rated: sparse.csr_array, deviation: sparse.csr_array) -> None:
        self.user_bias_ = deviation.sum(axis=1) / np.maximum(rated.sum(axis=1), 1)


@dataclass(eq=False)
class ItemMean(_Additive):
    """The mean of the item's ratings."""

    def _fit_biases(self, rated: sparse.csr_array, deviation: sparse.csr_array) -> None:
        self.item_bias_ = deviation.sum(axis=0) / np.maximum(rated.sum(axis=0), 1)


@dataclass(eq=False)
class BiasRidge(_Additive):
    """How kind the user is and how good the item: ridge regression on biases alone.

    With μ the mean rating, b and c minimise

        Σ (rating - μ - b[user] - c[item])² + user_reg · Σ b² + item_reg · Σ c²

    Unlike a pair of means this is fair to an item that only severe users rated. The penalty works
    like ``user_reg`` extra ratings with no deviation from the mean, so the bias of a film rated
    once stays small. This is the baseline of Koren, "Factorization Meets the Neighborhood"
    (2008), equation 3, solved exactly.

    Parameters
    ----------
    user_reg, item_reg : float > 0
        In ratings. The defaults were chosen on a validation part of the training ratings, and
        suit MovieLens 100K and latest-small alike.
    """

    user_reg: float = 5.0
    item_reg: float = 3.0

    def _fit_biases(self, rated: sparse.csr_array, deviation: sparse.csr_array) -> None:
        for name in ("user_reg", "item_reg"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        # The normal equations, with the users' biases above the items':
        #   [ ratings per user + user_reg   rated                       ] [b]   [ Σ per user ]
        #   [ ratedᵀ                        ratings per item + item_reg ] [c] = [ Σ per item ]
        diagonal = np.concatenate(
            [rated.sum(axis=1) + self.user_reg, rated.sum(axis=0) + self.item_reg]
        )
        matrix = sparse.block_array([[None, rated], [rated.T, None]], format="csr")
        matrix = matrix + sparse.diags_array(diagonal, format="csr")
        total = np.concatenate([deviation.sum(axis=1), deviation.sum(axis=0)])
        # Conjugate gradients: exact to 1e-8 in some twenty products with a sparse matrix.
        biases, failed = cg(matrix, total, rtol=1e-8, M=sparse.diags_array(1 / diagonal))
        if failed:
            raise ValueError("the biases did not settle; use a larger user_reg or item_reg")
        self.user_bias_, self.item_bias_ = np.split(biases, [rated.shape[0]])


@dataclass(eq=False)
class Popularity(_Additive):
    """The number of users who have the item in training, whatever they thought of it."""

    def _fit_biases(self, rated: sparse.csr_array, deviation: sparse.csr_array) -> None:
        self.mean_ = 0.0
        self.item_bias_ = rated.sum(axis=0)


@dataclass(eq=False)
class EASE(Baseline):
    """Each item's score as a weighted sum of the items the user has: a linear autoencoder.

    With X the (n_users, n_items) training matrix, ``weights_`` B minimises

        ‖X - X B‖² + l2 · ‖B‖²    where the diagonal of B is 0,

    so that no item predicts itself. There is a closed form: with P = (XᵀX + l2·I)⁻¹,
    B[i, j] = -P[i, j] / P[j, j]. (Steck, "Embarrassingly Shallow Autoencoders for Sparse Data",
    2019.) It needs memory for n_items² numbers and time for n_items³ steps.

    Parameters
    ----------
    l2 : float > 0
        The default suits MovieLens 100K. A user without training items scores 0 everywhere.
    """

    l2: float = 500.0

    def _fit(self, train: sparse.csr_array) -> None:
        if not self.l2 > 0:
            raise ValueError(f"l2={self.l2} must be above 0")
        gram = (train.T @ train).toarray()  # (n_items, n_items): how often two items meet
        gram[np.diag_indices_from(gram)] += self.l2
        inverse = np.linalg.inv(gram)
        weights = -inverse / inverse.diagonal()
        np.fill_diagonal(weights, 0)
        self.weights_ = weights.astype(np.float32)  # (n_items, n_items)
        self._train = train.astype(np.float32)

    def _scores(self, users: np.ndarray) -> np.ndarray:
        return self._train[users] @ self.weights_  # (len(users), n_items)

"""What every model must beat: averages, popularity, and a linear model in ten lines.

All but EASE have one form, ``mean_ + user_bias_[user] + item_bias_[item]``. They give every user
the items in the same order, so a model beats them only by knowing who likes what.
"""

from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_type_hints

import numpy as np
from scipy import sparse
from scipy.sparse import csr_array
from scipy.sparse.linalg import cg

from nmf_helpers.checks import Positive, Scorer, check_matrix, check_memory, check_number, pattern


class Baseline(Scorer):
    """A scorer that learns from a matrix of its ``kind``; a subclass writes ``_fit(train)``."""

    kind: ClassVar[Literal["ratings", "interactions"]] = "ratings"

    def fit(self, train: Any) -> Self:
        """Learn from a sparse matrix or array (where 0 is "nothing there"); return self."""
        self.check_settings()
        matrix = check_matrix("train", train, kind=self.kind)
        fitted = copy(self)  # what fails halfway leaves all as it was
        fitted._fit(matrix.astype(np.float64))  # a copy: the caller's is never written to
        vars(self).update(vars(fitted), shape_=matrix.shape)
        return self

    def check_settings(self) -> None:
        """Raise a ValueError that names a setting out of its limits."""
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            for limits in getattr(hint, "__metadata__", ()):
                check_number(name, getattr(self, name), **limits)

    def _fit(self, train: csr_array) -> None:
        raise NotImplementedError


@dataclass(eq=False)
class GlobalMean(Baseline):
    """The mean of all ratings, for everyone and everything: all biases are 0."""

    def _fit(self, train: csr_array) -> None:
        self.mean_ = train.data.mean()
        train.data -= self.mean_  # what subclasses find biases in
        self.user_bias_, self.item_bias_ = (np.zeros(n) for n in train.shape)

    def _pairs(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        return self.mean_ + self.user_bias_[users] + self.item_bias_[items]  # (len(users),)

    def _scores(self, users: np.ndarray) -> np.ndarray:
        left, right = self.mean_ + self.user_bias_[users], self.item_bias_
        scores = np.empty((len(left), len(right)), dtype=np.float32)  # no float64 of this size
        return np.add.outer(left, right, out=scores, casting="same_kind")


class UserMean(GlobalMean):
    """The mean of the user's ratings (the mean of all for a user who has none)."""

    def _fit(self, train: csr_array) -> None:
        super()._fit(train)
        self.user_bias_ = train.sum(axis=1) / np.maximum(pattern(train).sum(axis=1), 1)


class ItemMean(GlobalMean):
    """The mean of the item's ratings (the mean of all for an item that has none)."""

    def _fit(self, train: csr_array) -> None:
        super()._fit(train)
        self.item_bias_ = train.sum(axis=0) / np.maximum(pattern(train).sum(axis=0), 1)


@dataclass(eq=False)
class BiasRidge(GlobalMean):
    """How kind the user is and how good the item: ridge regression on biases alone.

    With μ the mean rating, b and c minimise

        Σ (rating - μ - b[user] - c[item])² + user_reg · Σ b² + item_reg · Σ c²

    This is fair to an item that only severe users rated, and the bias of an item rated once stays
    small: `user_reg` (`item_reg`) works like that many more ratings that equal μ.
    """

    user_reg: Positive = 5.0  # both suit MovieLens
    item_reg: Positive = 3.0

    def _fit(self, train: csr_array) -> None:
        super()._fit(train)
        # The normal equations, with the users' biases above the items':
        #   [ ratings per user + user_reg   rated                       ] [b]   [ Σ per user ]
        #   [ ratedᵀ                        ratings per item + item_reg ] [c] = [ Σ per item ]
        rated = pattern(train)
        count, total = (np.concatenate([m.sum(axis=1), m.sum(axis=0)]) for m in (rated, train))
        diagonal = count + np.repeat([self.user_reg, self.item_reg], rated.shape)
        matrix = sparse.block_array([[None, rated], [rated.T, None]], format="csr")
        matrix = matrix + sparse.diags_array(diagonal, format="csr")
        # Conjugate gradients: exact to 1e-8 in some twenty products with a sparse matrix.
        biases, failed = cg(matrix, total, rtol=1e-8, M=sparse.diags_array(1 / diagonal))
        if failed:
            raise ValueError("the biases did not settle: use a larger user_reg or item_reg")
        self.user_bias_, self.item_bias_ = np.split(biases, [rated.shape[0]])


class Popularity(GlobalMean):
    """The number of users who have the item in training."""

    kind = "interactions"

    def _fit(self, train: csr_array) -> None:
        self.mean_, self.user_bias_ = 0.0, np.zeros(train.shape[0])
        self.item_bias_ = pattern(train).sum(axis=0)


@dataclass(eq=False)
class EASE(Baseline):
    """Each item's score as a weighted sum of the items the user has: a linear autoencoder.

    With X the (n_users, n_items) matrix of ones where there is an interaction, ``weights_`` B
    minimises ``‖X - X B‖² + l2 · ‖B‖²`` with a diagonal of 0, so that no item predicts itself:
    B[i, j] = -P[i, j] / P[j, j] with P = (XᵀX + l2·I)⁻¹. Time grows with n_items³. (Steck 2019,
    "Embarrassingly Shallow Autoencoders for Sparse Data".)
    """

    kind = "interactions"
    l2: Positive = 500.0

    def _fit(self, train: csr_array) -> None:
        n_items = train.shape[1]
        size = f"EASE, which needs {n_items} x {n_items} items three times,"
        check_memory(size, 24 * n_items**2, "leave out the rare items, or use ImplicitALS")
        self._train = pattern(train, np.float32(1))
        gram = (self._train.T @ self._train).toarray()  # (n_items, n_items): how often two meet
        inverse = np.linalg.inv(gram + self.l2 * np.eye(n_items))
        weights = inverse / -inverse.diagonal()
        np.fill_diagonal(weights, 0)
        self.weights_ = weights.astype(np.float32)  # (n_items, n_items)

    def _scores(self, users: np.ndarray) -> np.ndarray:
        return self._train[users] @ self.weights_  # (len(users), n_items)

"""Matrix factorization without a best fit: draw many models that fit, and average what they say.

The model is biased matrix factorization once more,

    rating = mean + b[user] + c[item] + p[user] · q[item] + noise,

but instead of the one set of numbers that fits best it looks for all that fit well. Write θ for
a user's factors and bias together, (p, b); items have the same, (q, c). Everything unknown has a
distribution, and *Gibbs sampling* draws each in turn with the others held fixed:

1. the users' prior: where their θ lie, and how far they scatter around it;
2. every user's θ, given the items;
3. the items' prior, and every item's θ given the users, by the same two functions;
4. the noise: how far ratings fall from the prediction.

Each single draw is *worse* than the best fit, as it has noise in it on purpose. Where the ratings
leave no doubt the draws agree, elsewhere their errors cancel, and the average beats both.

This is Salakhutdinov and Mnih, "Bayesian Probabilistic Matrix Factorization using Markov Chain
Monte Carlo" (2008), with two additions. *Which* films someone rated says something about her
taste before any rating is read, as in SVD++ (Koren, 2008): see :class:`_Side`. And some users
rate at whim and some films divide, so each user and each film has a noise of its own.

The scores of all users and items are kept, and so is a square matrix of the smaller side: this
is for MovieLens 100K or 1M, not for 20M.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.stats import wishart

from nmf_helpers.baselines import Baseline, GlobalMean
from nmf_helpers.metrics import rmse


@dataclass(eq=False)
class BayesianMF(Baseline):
    """Bayesian matrix factorization; ``predict`` and ``score_matrix`` give averages over sweeps.

    Parameters
    ----------
    n_factors : int >= 1
        Averaging guards against overfitting, so there is no penalty to choose.
    n_sweeps : int
        How often everything is drawn.
    burn_in : int, below `n_sweeps`
        The first sweeps still remember the random start; they are left out of the average.
    steadiness : float > 0
        How much alike the noises of users, and of films, are taken to be: worth twice as many
        ratings with the noise of all.
    seed : int
        The same seed gives the same scores.
    """

    n_factors: int = 16
    n_sweeps: int = 280
    burn_in: int = 40
    steadiness: float = 4.0
    seed: int = 0

    def sweeps(self, train: Any, test: Any = None) -> Iterator[dict[str, float]]:
        """Fit as ``fit`` does, but stop after every sweep; the model can be used as it stands.

        Parameters
        ----------
        train : sparse matrix or array of shape (n_users, n_items)
            As for ``fit``.
        test : sparse matrix of the same shape, optional
            Ratings to follow. They change nothing.

        Yields
        ------
        dict
            ``sweep``, from 1; ``noise``, the standard deviation of a typical rating; ``seconds``
            since the start. With `test` also ``sample_rmse``, of this sweep alone, and ``rmse``,
            of the average (until the end of the burn-in, they are the same). Predictions are
            clipped to the range of the training ratings.

        Raises
        ------
        ValueError
            For a setting out of its range, and as for ``fit``.
        """
        self._check_settings()
        self.mean_ = GlobalMean().fit(train).mean_  # raises for ratings nobody can learn from
        train = sparse.csr_array(train, dtype=np.float64, copy=True)
        train.sum_duplicates()
        if test is not None and test.shape != train.shape:
            raise ValueError(f"test has shape {test.shape}, train {train.shape}; index both alike")
        self.shape_ = train.shape
        deviation, scale = train.data - self.mean_, (train.data.min(), train.data.max())

        rng, start = np.random.default_rng(self.seed), time.perf_counter()
        position = sparse.csr_array((np.arange(train.nnz), train.indices, train.indptr))
        position.resize(train.shape)
        sides = _Side(position), _Side(position.T.tocsr())
        rows = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr))
        ids = user, item = rows, train.indices  # of each rating
        thetas = [rng.normal(0, 0.3, (n, self.n_factors + 1)) for n in train.shape]
        precision = np.ones(train.nnz)  # one over the variance of each rating's noise
        own = [np.ones(n) for n in train.shape]  # the part of it that is the user's, the film's

        for sweep in range(1, self.n_sweeps + 1):
            for me, other in (0, 1), (1, 0):
                prior = sides[me].draw_prior(thetas[me], rng)
                thetas[me] = sides[me].draw(deviation, precision, thetas[other], *prior, rng)

            left, right = with_ones(thetas[0], last=True), with_ones(thetas[1], last=False)
            squared = (deviation - np.einsum("nd,nd->n", left[user], right[item])) ** 2
            # A gamma prior on a precision and normal noise give a gamma again: half a count for
            # each rating, and half its square. First what all ratings share, with a prior worth
            # one rating missed by a star; then each user's own part and each film's.
            missed = squared @ (own[0][user] * own[1][item])
            shared = rng.gamma((train.nnz + 1) / 2) / ((missed + 1) / 2)
            for me, other in (0, 1), (1, 0):
                halves = shared * own[other][ids[other]] * squared / 2
                count = np.bincount(ids[me], minlength=train.shape[me])
                rate = self.steadiness + np.bincount(ids[me], halves, train.shape[me])
                own[me] = rng.gamma(self.steadiness + count / 2) / rate
            precision = shared * own[0][user] * own[1][item]

            scores = left.astype(np.float32) @ right.T.astype(np.float32)
            scores += np.float32(self.mean_)  # (n_users, n_items)
            if sweep <= self.burn_in + 1:
                self._average, n_averaged = np.zeros_like(scores), 0
            n_averaged += 1
            self._average += (scores - self._average) / n_averaged
            record = {"sweep": sweep, "noise": np.median(precision) ** -0.5}
            if test is not None:
                record["sample_rmse"] = rmse(scores, test, clip=scale)
                record["rmse"] = rmse(self._average, test, clip=scale)
            yield record | {"seconds": time.perf_counter() - start}

    def _fit(self, train: sparse.csr_array) -> None:
        for _ in self.sweeps(train):
            pass

    def _scores(self, users: np.ndarray) -> np.ndarray:
        return self._average[users]

    def _check_settings(self) -> None:
        for name, least in ("n_factors", 1), ("burn_in", 0), ("n_sweeps", self.burn_in + 1):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if not self.steadiness > 0:
            raise ValueError(f"steadiness={self.steadiness} must be above 0")


class _Side:
    """The users or the items: who rated what, and how to draw all their θ at once.

    The prior of the θ, n rows of d numbers, is that of a linear regression on what was rated:

        θ = F + scatter,    F = X W,    with scatter and W of covariance Λ⁻¹ in every row.

    X, (n, m + 1), says what each row rated. Who rated a hundred films has said more than who
    rated one, but not a hundred times as much: rows are divided by (number of ratings)^0.35. The
    last column is 1 for all: what all rows have in common.

    Only X Xᵀ = Q s Qᵀ matters. Along each column of Q the prior variance of F is s times the
    scatter's, which makes s / (s + 1) the part of θ that F explains.
    """

    def __init__(self, position: sparse.csr_array):
        self.position = position.data  # where in the list of all ratings each entry is
        self.other, self.indptr, self.shape = position.indices, position.indptr, position.shape
        count = np.diff(self.indptr)
        x = self._matrix(np.repeat(np.maximum(count, 1) ** -0.35, count)).toarray()
        x /= np.sqrt((x * x).sum(axis=1).mean())  # a typical row has length 1
        x = with_ones(x, last=True)  # (n, m + 1)
        # From the smaller of X Xᵀ and Xᵀ X; they have the same s.
        s, q = np.linalg.eigh(x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x)
        s, q = s[s > 1e-6], q[:, s > 1e-6]
        self.q = q if len(q) == len(x) else x @ q / np.sqrt(s)  # (n, rank)
        self.explained = s / (s + 1)  # (rank,)

    def _matrix(self, values: np.ndarray) -> sparse.csr_array:
        return sparse.csr_array((values, self.other, self.indptr), shape=self.shape)

    def draw_prior(
        self, theta: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw (Λ, F) given θ.

        Λ | θ ~ Wishart with n + d degrees of freedom, inverse scale I + θᵀ (X Xᵀ + 1)⁻¹ θ;
        F | θ, Λ ~ Normal, Qᵀ F having mean s/(s+1) Qᵀ θ and covariance s/(s+1) Λ⁻¹.
        """
        n, d = theta.shape
        z, explained = self.q.T @ theta, self.explained[:, None]  # (rank, d)
        inverse_scale = np.eye(d) + theta.T @ theta - z.T @ (explained * z)
        scatter = wishart.rvs(n + d, np.linalg.inv(inverse_scale), random_state=rng)
        root = np.linalg.inv(np.linalg.cholesky(scatter))  # rootᵀ root = Λ⁻¹
        f = explained * z + np.sqrt(explained) * (rng.normal(size=z.shape) @ root)
        return scatter, self.q @ f

    def draw(
        self,
        deviation: np.ndarray,
        precision: np.ndarray,
        others: np.ndarray,
        prior_precision: np.ndarray,
        prior_mean: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Draw every θ given the other side's, as in a ridge regression for each row.

        With y a rating's deviation from the mean less the other's bias, v = (other's factors, 1)
        and α the precision of its noise, a row's θ is normal with

            precision P = Λ + Σ α v vᵀ    and mean P⁻¹ (Λ F + Σ α v y),    sums over its ratings.

        From P = C Cᵀ comes a draw: C⁻ᵀ (C⁻¹ (Λ F + Σ α v y) + standard normal numbers).
        """
        n, d = prior_mean.shape
        alpha = precision[self.position]
        y = deviation[self.position] - others[self.other, -1]
        v = with_ones(others[:, :-1], last=True)  # (m, d)
        i, j = np.triu_indices(d)  # a half of v vᵀ is enough
        p = np.empty((n, d, d))
        p[:, i, j] = p[:, j, i] = self._matrix(alpha) @ (v[:, i] * v[:, j])
        p += prior_precision
        right = self._matrix(alpha * y) @ v + prior_mean @ prior_precision  # (n, d)
        inverse = np.linalg.inv(np.linalg.cholesky(p))  # C⁻¹, (n, d, d)
        z = inverse @ right[:, :, None] + rng.normal(size=(n, d, 1))
        return (inverse.transpose(0, 2, 1) @ z)[:, :, 0]


def with_ones(theta: np.ndarray, last: bool) -> np.ndarray:
    """Append a column of ones, as the last one or, so that biases meet ones, before it."""
    return np.insert(theta, theta.shape[1] - (not last), 1.0, axis=1)

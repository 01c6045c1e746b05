"""Matrix factorization without a best fit: draw many models that fit, and average what they say.

The model is biased matrix factorization once more,

    rating = mean + b[user] + c[item] + p[user] · q[item] + noise,

but instead of the one set of numbers that fits best it looks for all that fit well. With θ a user's
(p, b), or an item's (q, c), *Gibbs sampling* draws in turn, the rest held fixed: the users' prior
(where their θ lie, how far they scatter); every user's θ; the same two of the items; and the noise.
Each draw alone is *worse* than the best fit, having noise in it on purpose; the average is not.

Salakhutdinov and Mnih (2008), "Bayesian Probabilistic Matrix Factorization using Markov Chain Monte
Carlo", with four additions. *Own noises*: some users are steadier than others. *Who rated what*
says something about tastes before any rating is read, as in SVD++, and so do *item features*: see
`_Side`. *Times*: see `nmf_helpers.moods`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.random import Generator
from scipy.sparse import coo_array, csr_array

from nmf_helpers import checks as takes
from nmf_helpers.als import check_features, normal_equations
from nmf_helpers.baselines import Baseline
from nmf_helpers.checks import check_matrix, check_memory, check_parts, pattern
from nmf_helpers.metrics import rmse
from nmf_helpers.moods import Moods

Array = np.ndarray


@dataclass(eq=False)
class BayesianMF(Baseline):
    """Bayesian matrix factorization; ``predict`` and ``score_matrix`` give averages over sweeps.

    Ratings may be on any scale. The scores of all users and items are kept, and so is a square
    matrix of the smaller side: this is for MovieLens 100K or 1M, not for 20M.
    """

    n_factors: takes.AtLeastOne = 16
    n_sweeps: takes.AtLeastOne = 560  # how often everything is drawn
    burn_in: takes.Natural = 40  # the first of these remember the start and don't count
    own_noises: bool = True
    who_rated_what: bool = True
    noise_prior_shape: takes.Positive = 8.0  # how much alike noises are: see `draw_noises`
    count_power: takes.NotNegative = 0.35  # what another rating says: see `_Side`
    windows: Sequence[int] = (86400, 3600, 600, 60, 1)  # widths in seconds, from a day down
    seed: takes.Natural = 0
    history: Sequence[dict[str, float]] = field(default=(), init=False, repr=False)

    def fit(self, train: Any, *, item_features: Any = None, times: Any = None) -> Self:
        """Learn from ratings; arguments and errors as in ``sweeps``. Returns self."""
        list(self.sweeps(train, item_features=item_features, times=times))
        return self

    def sweeps(
        self, train: Any, *, item_features: Any = None, times: Any = None, evaluate_on: Any = None
    ) -> Iterator[dict[str, float]]:
        """Fit as ``fit`` does, but stop after every sweep; the model can be used as it stands.

        Arguments are those of `nmf_helpers.recipes.bayesian`. A record has ``sweep``, from 1;
        ``noise``, a typical rating's standard deviation; and for each name of `evaluate_on`
        ``<name>_sample_rmse``, of this draw alone, and ``<name>_rmse``, of the average so far.
        """
        self.check_settings()
        if self.n_sweeps <= self.burn_in:
            raise ValueError(f"n_sweeps={self.n_sweeps} must be above burn_in={self.burn_in}")
        train = check_matrix("train", train)
        n_users, n_items = train.shape
        n_bytes = 28 * n_users * n_items + 32 * min(n_users, n_items) ** 2
        n_bytes += 12 * max(n_users, n_items) * (self.n_factors + 1) ** 2
        size = f"BayesianMF, with scores of {n_users} users x {n_items} items,"
        check_memory(size, n_bytes, "leave out rare items, take fewer n_factors, or explicit()")
        facts = check_features(item_features, n_items)
        windows = None if times is None else Moods(train, times, self.windows)
        followed = {name: part.tocoo() for name, part in check_parts(evaluate_on, train).items()}
        return self._sweeps(train, facts, windows, followed)

    def _sweeps(
        self, train: csr_array, facts: Array, windows: Any, followed: dict[str, coo_array]
    ) -> Iterator[dict[str, float]]:
        rng = np.random.default_rng(self.seed)
        low, high = float(train.data.min()), float(train.data.max())
        mean, unit = float(train.data.mean(dtype=np.float64)), (high - low) / 4 or 1.0
        y = ((train.data - mean) / unit).astype(np.float32)  # (n_ratings,): any scale is like stars
        position = pattern(train, np.arange(train.nnz))
        power = self.count_power if self.who_rated_what else None
        sides = _Side(position, power), _Side(position.T.tocsr(), power, facts)
        user, item = train.tocoo().coords  # (n_ratings,)
        thetas = [0.1 * normal(rng, n, self.n_factors + 1) for n in train.shape]
        own = [np.ones(n) for n in train.shape]  # the users' and the items' part of a precision
        shape = self.noise_prior_shape if self.own_noises else np.inf
        precision = np.ones_like(y)  # one over the variance of each rating's noise
        moods = np.zeros_like(y)  # what the windows add to each rating

        for sweep in range(1, self.n_sweeps + 1):
            for me, side in enumerate(sides):
                prior = side.draw_prior(thetas[me], rng)
                expected, thetas[me] = side.draw(y - moods, precision, thetas[1 - me], *prior, rng)
            left, right = with_ones(thetas[0], last=True), with_ones(thetas[1], last=False)
            residual = y - np.einsum("nd,nd->n", left[user], right[item])
            anew = sweep <= self.burn_in + 1  # averages start again
            if windows:
                moods = windows.draw(residual, precision, rng, anew)
            precision = draw_noises((residual - moods) ** 2, (user, item), own, shape, rng)

            # Averaged are, of the items, what could be expected of the draw: less noise for free.
            scores = left @ with_ones(expected, last=False).T  # (n_users, n_items)
            if anew:
                self.shape_, self.mean_, self._unit, self._moods = train.shape, mean, unit, windows
                self._sum, self._n_averaged = np.zeros_like(scores), 0
            self._sum += scores
            self._n_averaged += 1
            record = {"sweep": sweep, "noise": float(np.median(precision)) ** -0.5 * unit}
            for name, at in followed.items():
                sample = mean + unit * np.einsum("nd,nd->n", left[at.row], right[at.col])
                record[f"{name}_sample_rmse"] = rmse(sample, at.data, clip=(low, high))
                record[f"{name}_rmse"] = rmse(self._pairs(*at.coords), at.data, clip=(low, high))
            yield record

    def predict(self, users: Any, items: Any, times: Any = None) -> Array:
        """Predict ratings of pairs, float32 (n,); at `times` in seconds, (n,), add their moods."""
        predictions = super().predict(users, items)
        if times is None:
            return predictions
        if self._moods is None:
            raise ValueError("this model was fitted without times, so it has no use for them")
        return predictions + np.float32(self._unit) * self._moods.at(np.asarray(users), times)

    def _pairs(self, users: Array, items: Any) -> Array:
        return self.mean_ + self._sum[users, items] * (self._unit / self._n_averaged)

    def _scores(self, users: Array) -> Array:
        return self._pairs(users, slice(None))


class _Side:
    """The users or the items: who rated what, and how to draw all their θ at once.

    The prior of the θ, n rows of d numbers, is that of a linear regression on what is known of
    each row before any rating is read:

        θ = F + scatter,    F = X W,    with scatter and W of covariance Λ⁻¹ in every row.

    X says who rated what (unless `power` is None), then the features; a column of 1 stands for what
    all rows have in common. Who rated a hundred films has said more than who rated one, but not a
    hundred times as much: rows are divided by (number of ratings)^power, and all by one number.
    Only X Xᵀ = Q s Qᵀ matters. Along each column of Q the prior variance of F is s times the
    scatter's, which makes s / (s + 1) the part of θ that F explains.
    """

    def __init__(self, position: csr_array, power: float | None, features: Any = None) -> None:
        self.position = position  # (n, m): where in the list of all ratings each entry is
        x = with_ones(check_features(features, position.shape[0]), last=True)
        if power is not None:
            count = np.diff(position.indptr)
            rated = pattern(position, np.repeat(np.maximum(count, 1.0) ** -power, count)).toarray()
            x = np.hstack([rated / np.sqrt((rated * rated).sum(axis=1).mean()), x])
        # From the smaller of X Xᵀ and Xᵀ X; they have the same s.
        s, q = np.linalg.eigh(x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x)
        s, q = s[s > 1e-6], q[:, s > 1e-6]
        q = q if len(q) == len(x) else x @ q / np.sqrt(s)
        self.q, self.explained = q.astype(np.float32), (s / (s + 1)).astype(np.float32)

    def draw_prior(self, theta: Array, rng: Generator) -> tuple[Array, Array]:
        """Draw (Λ, F) given θ.

        Λ | θ ~ Wishart with n + d degrees of freedom, inverse scale I + θᵀ (X Xᵀ + 1)⁻¹ θ;
        F | θ, Λ ~ Normal, Qᵀ F having mean s/(s+1) Qᵀ θ and covariance s/(s+1) Λ⁻¹.
        """
        from scipy.stats import wishart  # here, as it takes as long as all else that is imported

        n, d = theta.shape
        z: Array = self.q.T @ theta  # (rank, d)
        explained = self.explained[:, None]
        inverse_scale = np.eye(d) + theta.T @ theta - z.T @ (explained * z)
        scatter = np.asarray(wishart.rvs(n + d, np.linalg.inv(inverse_scale), random_state=rng))
        root = np.linalg.inv(np.linalg.cholesky(scatter)).astype(np.float32)  # rootᵀ root = Λ⁻¹
        f = explained * z + np.sqrt(explained) * (normal(rng, *z.shape) @ root)
        return scatter.astype(np.float32), self.q @ f

    def draw(
        self, y: Array, precision: Array, others: Array, scatter: Array, f: Array, rng: Generator
    ) -> Array:
        """Draw every θ given the other side's; return their means and the draw, (2, n, d).

        With v = (other's factors, 1) and α the precision of a rating's noise, θ is normal with
        precision A = Λ + Σ α v vᵀ and mean A⁻¹ b, b = Λ F + Σ α v (y - other's bias): the normal
        equations of a ridge regression. Their solution becomes a draw when a noise of covariance
        A is added to b, for A⁻¹ A A⁻¹ is A⁻¹: Λ^½ ε + Σ √α v ε', with all ε, ε' ~ Normal(0, 1).
        """
        alpha, ids = precision[self.position.data], self.position.indices
        v = with_ones(others[:, :-1], last=True)  # (m, d)
        targets = y[self.position.data] - others[ids, -1]
        a, b = normal_equations(pattern(self.position, alpha), targets, v)
        a, b = a + scatter, b + f @ scatter
        noise = pattern(self.position, np.sqrt(alpha) * normal(rng, len(alpha))) @ v
        noise += normal(rng, *noise.shape) @ np.linalg.cholesky(scatter).T
        return np.moveaxis(np.linalg.solve(a, np.stack([b, b + noise], axis=-1)), -1, 0)


def draw_noises(
    squared: Array, ids: tuple[Array, Array], own: list[Array], shape: float, rng: Generator
) -> Array:
    """Draw the precision of every rating's noise, (n,), given the squared errors.

    It is a product of one that all share, the user's own and the item's own (drawn in place).
    With normal noise a gamma prior becomes a gamma again: its shape grows by half a count for each
    rating, its rate by half the square. What all share has a prior worth one rating missed by a
    star; the own ones have Gamma(shape, shape), or are 1 with an infinite shape.
    """
    (user, item), n = ids, len(squared)
    missed = squared @ (own[0][user] * own[1][item])
    shared = rng.gamma((n + 1) / 2) / ((missed + 1) / 2)
    for me, other in ((0, 1), (1, 0)) if np.isfinite(shape) else ():
        halves = shared * own[other][ids[other]] * squared / 2
        count = np.bincount(ids[me], minlength=len(own[me]))
        rate = shape + np.bincount(ids[me], halves, len(own[me]))
        own[me] = rng.gamma(shape + count / 2) / rate
    return (shared * own[0][user] * own[1][item]).astype(np.float32)


def normal(rng: Generator, *shape: int) -> Array:
    """Draw standard normal numbers in single precision, which is twice as fast to reckon with."""
    return rng.standard_normal(shape, dtype=np.float32)


def with_ones(theta: Array, last: bool) -> Array:
    """Append a column of ones, as the last one or, so that biases meet ones, before it."""
    return np.insert(theta, theta.shape[1] - (not last), 1.0, axis=1)

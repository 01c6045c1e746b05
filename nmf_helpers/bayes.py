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
Monte Carlo" (2008), with four additions, each of which can be left out:

- *own noises*: some users rate at whim and some films divide, so each has a noise of its own;
- *who rated what* says something about tastes before any rating is read, as in SVD++ (Koren,
  2008): see :class:`_Side`;
- *item features*, such as genre and year, say something about the items in the same way;
- *times*: ratings of one sitting share a mood: see :class:`_Windows`.

The scores of all users and items are kept, and so is a square matrix of the smaller side: this
is for MovieLens 100K or 1M, not for 20M.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import wishart

from nmf_helpers.als import check_features, normal_equations, same_pattern
from nmf_helpers.baselines import Baseline
from nmf_helpers.checks import check_matrix, check_memory, check_number
from nmf_helpers.metrics import rmse

Record = dict[str, float]


@dataclass(eq=False)
class BayesianMF(Baseline):
    """Bayesian matrix factorization; ``predict`` and ``score_matrix`` give averages over sweeps.

    Inside, ratings are divided by a quarter of their range, so that any scale is like stars.

    Parameters
    ----------
    n_factors : int >= 1
        Averaging guards against overfitting, so there is no penalty to choose.
    n_sweeps : int
        How often everything is drawn.
    burn_in : int, below `n_sweeps`
        The first sweeps still remember the random start; they are left out of the average.
    own_noises, who_rated_what : bool
        False leaves that part of the model out.
    noise_prior_shape : float > 0
        How much alike the noises of users, and of films, are taken to be: worth twice as many
        ratings with the noise of all.
    count_power : float >= 0
        How much less than twice the evidence twice as many ratings are, in *who rated what*.
    windows : sequence of int >= 1
        Widths in seconds; the defaults are a day, an hour, ten minutes, a minute and a second.
    seed : int
        The same seed gives the same scores.
    """

    n_factors: int = 16
    n_sweeps: int = 560
    burn_in: int = 40
    own_noises: bool = True
    who_rated_what: bool = True
    noise_prior_shape: float = 4.0
    count_power: float = 0.35
    windows: Sequence[int] = (86400, 3600, 600, 60, 1)
    seed: int = 0

    def fit(self, train: Any, *, item_features: Any = None, times: Any = None) -> Self:
        """Learn from ratings; parameters and errors as in ``sweeps``. Returns self."""
        for _ in self.sweeps(train, item_features=item_features, times=times):
            pass
        return self

    def sweeps(
        self,
        train: Any,
        *,
        item_features: Any = None,
        times: Any = None,
        evaluate_on: Mapping[str, Any] | None = None,
    ) -> Iterator[Record]:
        """Fit as ``fit`` does, but stop after every sweep; the model can be used as it stands.

        Parameters
        ----------
        train : sparse matrix or array, shape (n_users, n_items)
            Ratings on any scale.
        item_features : array, shape (n_items, f), optional
            What is known of each item, as from `nmf_helpers.data.item_features`.
        times : sparse matrix, shape (n_users, n_items), optional
            When each rating of `train` was given, in seconds, as float64 or integers.
        evaluate_on : dict of name to matrix, shape (n_users, n_items), optional
            Ratings to follow, without their times. They change nothing.

        Yields
        ------
        dict
            ``sweep``, from 1; ``noise``, the standard deviation of a typical rating; ``seconds``
            since the start; for each name of `evaluate_on` ``<name>_sample_rmse``, of this draw
            alone, and ``<name>_rmse``, of the average (until the end of the burn-in, of this
            draw). Predictions are clipped to the range of the training ratings.

        Raises
        ------
        ValueError
            For a setting out of its range, features or times that do not belong to `train`, and
            ratings that nobody can learn from, or that need more memory than there is.
        """
        for name, least in ("n_factors", 1), ("burn_in", 0), ("seed", 0):
            check_number(name, getattr(self, name), at_least=least, whole=True)
        check_number("n_sweeps", self.n_sweeps, whole=True)
        if self.n_sweeps <= self.burn_in:
            raise ValueError(
                f"n_sweeps={self.n_sweeps} leaves nothing to average after burn_in={self.burn_in}"
            )
        check_number("noise_prior_shape", self.noise_prior_shape, above=0)
        check_number("count_power", self.count_power, at_least=0)
        for width in self.windows:
            check_number("windows: each", width, at_least=1, whole=True)
        train = check_matrix("train", train)
        n_users, n_items = train.shape
        n_bytes = 28 * n_users * n_items + 32 * min(train.shape) ** 2
        size = f"BayesianMF, with scores of {n_users} users x {n_items} items,"
        check_memory(size, n_bytes, "use explicit() instead, or fewer users or items")
        if item_features is not None:
            item_features = check_features(item_features, n_items)
        seconds = None if times is None else check_times(times, train)
        followed = {
            name: check_matrix(f"evaluate_on[{name!r}]", matrix, like=train)
            for name, matrix in (evaluate_on or {}).items()
        }
        return self._sweeps(train, item_features, seconds, followed)

    def _sweeps(
        self,
        train: csr_array,
        features: np.ndarray | None,
        seconds: np.ndarray | None,
        followed: dict[str, csr_array],
    ) -> Iterator[Record]:
        rng, start = np.random.default_rng(self.seed), time.perf_counter()
        low, high = float(train.data.min()), float(train.data.max())
        self.shape_, self.mean_ = train.shape, float(train.data.mean(dtype=np.float64))
        self._unit = (high - low) / 4 or 1.0
        y = ((train.data - self.mean_) / self._unit).astype(np.float32)  # (n_ratings,)

        position = same_pattern(train, np.arange(train.nnz))
        who = self.count_power if self.who_rated_what else None
        sides = _Side(position, who), _Side(position.T.tocsr(), who, features)
        user = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr))
        item = train.indices
        thetas = [normal(rng, n, self.n_factors + 1) * 0.1 for n in train.shape]
        noises = _Noises((user, item), train.shape, self.noise_prior_shape, self.own_noises)
        self._windows = None if seconds is None else _Windows(user, seconds, self.windows)
        moods = np.zeros_like(y)  # what the windows add to each rating
        pairs = {name: matrix.tocoo() for name, matrix in followed.items()}

        for sweep in range(1, self.n_sweeps + 1):
            if sweep <= self.burn_in + 1:
                self._average = _Average(train.shape)
                running = dict.fromkeys(pairs, 0.0)
                if self._windows:
                    self._windows.forget()
            for me, other in (0, 1), (1, 0):
                prior = sides[me].draw_prior(thetas[me], rng)
                mean, thetas[me] = sides[me].draw(
                    y - moods, noises.precision, thetas[other], *prior, rng
                )
            left, right = with_ones(thetas[0], last=True), with_ones(thetas[1], last=False)
            expected = with_ones(mean, last=False)  # of the items, which were drawn last
            residual = y - np.einsum("nd,nd->n", left[user], right[item])
            if self._windows:
                moods = self._windows.draw(residual, noises.precision, rng)
            noises.draw((residual - moods) ** 2, rng)
            self._average.add(left, expected)

            typical = float(np.median(noises.precision)) ** -0.5 * self._unit
            record: Record = {"sweep": sweep, "noise": typical}
            for name, at in pairs.items():
                sample, better = (
                    self.mean_ + self._unit * np.einsum("nd,nd->n", left[at.row], items[at.col])
                    for items in (right, expected)
                )
                running[name] += (better - running[name]) / self._average.n
                record[f"{name}_sample_rmse"] = rmse(sample, at.data, clip=(low, high))
                record[f"{name}_rmse"] = rmse(running[name], at.data, clip=(low, high))
            yield record | {"seconds": time.perf_counter() - start}

    def predict(self, users: Any, items: Any, times: Any = None) -> np.ndarray:
        """Predict ratings of pairs: float32 of shape (n,).

        Parameters
        ----------
        users, items : int array, shape (n,)
        times : array, shape (n,), optional
            When each rating is given, in seconds: adds the moods of the windows it falls into,
            0 for a window without training ratings.
        """
        predictions = super().predict(users, items)
        if times is None:
            return predictions
        if self._windows is None:
            raise ValueError("this model was fitted without times, so it has no use for them")
        times = check_seconds(times)
        if times.shape != predictions.shape:
            raise ValueError(f"times has shape {times.shape}: give one for each of the pairs")
        return predictions + np.float32(self._unit) * self._windows.at(np.asarray(users), times)

    def _scores(self, users: np.ndarray) -> np.ndarray:
        return np.float32(self.mean_) + np.float32(self._unit) * self._average.rows(users)


class _Side:
    """The users or the items: who rated what, and how to draw all their θ at once.

    The prior of the θ, n rows of d numbers, is that of a linear regression on what is known of
    each row before any rating is read:

        θ = F + scatter,    F = X W,    with scatter and W of covariance Λ⁻¹ in every row.

    X, (n, m + f + 1), says who rated what, then the features. Who rated a hundred films has said
    more than who rated one, but not a hundred times as much: rows are divided by
    (number of ratings)^power. The last column is 1 for all: what all rows have in common.

    Only X Xᵀ = Q s Qᵀ matters. Along each column of Q the prior variance of F is s times the
    scatter's, which makes s / (s + 1) the part of θ that F explains.
    """

    def __init__(
        self, position: csr_array, power: float | None, features: np.ndarray | None = None
    ) -> None:
        self.position = position  # where in the list of all ratings each entry is
        parts = []
        if power is not None:
            count = np.diff(position.indptr)
            x = same_pattern(position, np.repeat(np.maximum(count, 1.0) ** -power, count)).toarray()
            parts.append(x / np.sqrt((x * x).sum(axis=1).mean()))  # a typical row has length 1
        if features is not None:
            parts.append(features)
        x = np.hstack([*parts, np.ones((position.shape[0], 1))])
        # From the smaller of X Xᵀ and Xᵀ X; they have the same s.
        s, q = np.linalg.eigh(x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x)
        s, q = s[s > 1e-6], q[:, s > 1e-6]
        q = q if len(q) == len(x) else x @ q / np.sqrt(s)
        self.q = q.astype(np.float32)  # (n, rank)
        self.explained = (s / (s + 1)).astype(np.float32)  # (rank,)

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
        scatter = scatter.reshape(d, d)
        root = np.linalg.inv(np.linalg.cholesky(scatter)).astype(np.float32)  # rootᵀ root = Λ⁻¹
        f = explained * z + np.sqrt(explained) * (normal(rng, *z.shape) @ root)
        return scatter.astype(np.float32), self.q @ f

    def draw(
        self,
        y: np.ndarray,
        precision: np.ndarray,
        others: np.ndarray,
        scatter: np.ndarray,
        prior_mean: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw every θ given the other side's; return their means as well, both (n, d).

        With v = (other's factors, 1) and α the precision of a rating's noise, θ is normal with
        precision A = Λ + Σ α v vᵀ and mean A⁻¹ b, b = Λ F + Σ α v (y - other's bias): the normal
        equations of a ridge regression. Add to b a noise η of covariance A, and their solution
        has the covariance that is wanted: A⁻¹ A A⁻¹ = A⁻¹. Such a noise is Λ's and the ratings',

            η = Λ^½ ε + Σ √α v ε'    with all ε, ε' ~ Normal(0, 1).
        """
        position = self.position
        alpha = precision[position.data]
        y = y[position.data] - others[position.indices, -1]
        v = with_ones(others[:, :-1], last=True)  # (m, d)
        a, b = normal_equations(same_pattern(position, alpha), y, v, scatter, prior_mean @ scatter)
        noise = same_pattern(position, np.sqrt(alpha) * normal(rng, len(alpha))) @ v
        noise += normal(rng, *noise.shape) @ np.linalg.cholesky(scatter).T
        both = np.linalg.solve(a, np.stack([b, b + noise], axis=-1))  # (n, d, 2)
        return both[:, :, 0], both[:, :, 1]


class _Noises:
    """How far ratings fall from the prediction: one for all, times the user's, times the film's.

    A gamma prior on a precision and normal noise give a gamma again: half a count for each
    rating, and half its square. What all share has a prior worth one rating missed by a star.
    """

    def __init__(
        self, ids: tuple[np.ndarray, np.ndarray], shape: tuple[int, int], prior: float, own: bool
    ) -> None:
        self.ids, self.prior, self.vary = ids, prior, own
        self.counts = [np.bincount(i, minlength=n) for i, n in zip(ids, shape, strict=True)]
        self.own = [np.ones(n) for n in shape]
        self.precision = np.ones(len(ids[0]), dtype=np.float32)  # of each rating: 1 / variance

    def draw(self, squared: np.ndarray, rng: np.random.Generator) -> None:
        """Draw all precisions, given the squared error of each rating."""
        (user, item), own = self.ids, self.own
        missed = squared @ (own[0][user] * own[1][item])
        shared = rng.gamma((len(squared) + 1) / 2) / ((missed + 1) / 2)
        for me, other in ((0, 1), (1, 0)) if self.vary else ():
            halves = shared * own[other][self.ids[other]] * squared / 2
            rate = self.prior + np.bincount(self.ids[me], halves, len(own[me]))
            own[me] = rng.gamma(self.prior + self.counts[me] / 2) / rate
        self.precision = (shared * own[0][user] * own[1][item]).astype(np.float32)


class _Windows:
    """Moods: what ratings by one user on one day, in one hour, … one second have in common.

    For each width w, rating n belongs to the group (user, ⌊time / w⌋) and is moved by
    its effect e = s · η, with η ~ Normal(0, 1) and one s ~ |Normal(0, 1)| for all windows.
    """

    def __init__(self, user: np.ndarray, seconds: np.ndarray, widths: Sequence[int]) -> None:
        self.widths = widths
        found = [np.unique(_keys(user, seconds, w), return_inverse=True) for w in widths]
        self.keys, self.groups = zip(*found, strict=True)  # group: (n_ratings,) for each width
        self.effects = [np.zeros(len(keys)) for keys in self.keys]
        self.s = 0.22
        self.forget()

    def forget(self) -> None:
        """Start the average anew."""
        self.sums, self.n = [np.zeros(len(keys)) for keys in self.keys], 0

    def draw(
        self, residual: np.ndarray, precision: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw all effects and s; return the sum of its effects for each rating.

        With ρ a rating's residual after all but its effect e and α its precision, sums over a
        group:  e ~ Normal(Σ α ρ / P, 1 / P),  P = Σ α + 1 / s².  Then s is the slope of a
        regression of the residuals r on x = Σ e / s:  Normal(Σ α x r / A, 1 / A),  A = 1 + Σ α x².
        Drawing 1 / s² from its gamma would move slowly: most groups are single ratings.
        """
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
        self.effects = [e * (s / self.s) for e in self.effects]
        self.s = s
        return (x * s).astype(np.float32)

    def at(self, users: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """Return the mean mood of users at some times: float32 of shape (n,)."""
        total = np.zeros(len(seconds), dtype=np.float32)
        for known, sums, w in zip(self.keys, self.sums, self.widths, strict=True):
            keys = _keys(users, seconds, w)
            place = np.searchsorted(known, keys).clip(max=len(known) - 1)
            total += np.where(known[place] == keys, sums[place] / self.n, 0)
        return total


class _Average:
    """The mean of left @ rightᵀ over draws, multiplied out for sixteen of them at once."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape, self.n = shape, 0
        self.total: Any = 0.0
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, left: np.ndarray, right: np.ndarray) -> None:
        """Take in one draw, (n_users, d) and (n_items, d)."""
        self.n += 1
        self.waiting.append((left, right))
        if len(self.waiting) == 16:
            self._multiply()

    def _multiply(self) -> None:
        lefts, rights = map(np.hstack, zip(*self.waiting, strict=True))
        self.total += lefts @ rights.T  # (n_users, n_items)
        self.waiting = []

    def rows(self, users: np.ndarray) -> np.ndarray:
        if self.waiting:
            self._multiply()
        return self.total[users] / np.float32(self.n)


def _keys(users: np.ndarray, seconds: np.ndarray, width: int) -> np.ndarray:
    return users.astype(np.int64) * 2**40 + (seconds // width).astype(np.int64)


def check_times(times: Any, train: csr_array) -> np.ndarray:
    """Return the time of each rating of `train`, shape (train.nnz,), or say what is wrong."""
    times = check_matrix("times", times, like=train)
    same = times.nnz == train.nnz and (times.indptr == train.indptr).all()
    if not (same and (times.indices == train.indices).all()):
        raise ValueError(
            f"times has {times.nnz} entries, in other places than the {train.nnz} of train: give "
            "the time of each training rating, and no others"
        )
    return check_seconds(times.data)


def check_seconds(times: Any) -> np.ndarray:
    """Return times as they are, shape (n,), if they can be seconds."""
    times = np.asarray(times)
    if times.dtype.kind not in "iuf":
        raise TypeError(f"times must be seconds, not {times.dtype}")
    if times.dtype.kind == "f" and times.dtype.itemsize < 8 and (times > 2**24).any():
        raise ValueError(f"times as {times.dtype} are rounded to minutes: give float64 or integers")
    if not ((times >= 0) & (times < 2**40)).all():  # NaN is neither
        wrong = times[~((times >= 0) & (times < 2**40))][0]
        raise ValueError(f"times must be seconds, at least 0 and below 2^40, not {wrong}")
    return times


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Draw standard normal numbers in single precision, which is twice as fast to reckon with."""
    return rng.standard_normal(shape, dtype=np.float32)


def with_ones(theta: np.ndarray, last: bool) -> np.ndarray:
    """Append a column of ones, as the last one or, so that biases meet ones, before it."""
    return np.insert(theta, theta.shape[1] - (not last), 1.0, axis=1)

"""How good are the scores? RMSE for ratings; AUC, precision, recall and nDCG for rankings.

Scores, higher for better, come as an array of shape (n_users, n_items), or from a *scorer*, such
as a fitted pipeline or baseline, which has that as its ``shape_`` and the methods ``predict`` and
``score_matrix``. All ranking metrics take what `evaluate` takes, and have one protocol:

- Ranked are a user's *candidates*: all items but those in ``exclude``, as a rule the training ones.
- Every interaction in ``test`` is equally relevant, whatever its value.
- The metric is a mean over the users who have a test item, and for AUC another candidate.
- Ties: a metric is its expected value when tied items are put in random order, as in scikit-learn.
- An infinite score is a score like any other (``-inf`` puts an item last); NaN is refused.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from nmf_helpers.checks import check_matrix, check_number, check_scores, nearest, pattern

_CHUNK_SCORES = 2**20  # held at once, 4 MiB of float32: memory does not grow with the users
_USUAL = "auc", "precision@5", "recall@10", "ndcg@10"


def rmse(predictions: Any, ratings: Any, clip: tuple[float, float] | None = None) -> float:
    """Root of the mean squared error, in the unit of the ratings (stars).

    Takes two arrays of shape (n,), or a scorer and a matrix (n_users, n_items), of which every
    entry is predicted. Predictions outside `clip`, the (low, high) of the scale, are moved to its
    ends first. TypeError: a table for a matrix. ValueError: other shapes, no rating, NaN, infinity.
    """
    if hasattr(predictions, "predict"):
        shape = getattr(predictions, "shape_", None)
        matrix = check_matrix("ratings", ratings, shape, like_name="the scorer")
        predictions, ratings = predictions.predict(*matrix.tocoo().coords), matrix.data
    predictions, ratings = (np.asarray(values, np.float64) for values in (predictions, ratings))
    if predictions.ndim != 1 or predictions.shape != ratings.shape:
        # (n, 1) against (n,) would broadcast to n² differences without a word.
        shapes = f"predictions {predictions.shape} and ratings {ratings.shape}"
        raise ValueError(f"{shapes} must be 1-D and of one length, as .ravel() makes them")
    if not ratings.size:
        raise ValueError("ratings is empty: there is nothing to compare with")
    if not (np.isfinite(predictions).all() and np.isfinite(ratings).all()):
        raise ValueError("predictions or ratings contain NaN or infinity: did training diverge?")
    predictions = predictions if clip is None else predictions.clip(*clip)
    return float(np.sqrt(np.mean((predictions - ratings) ** 2)))


def auc(scores: Any, test: Any, exclude: Any = None) -> float:
    """Chance that a random test item is scored above a random other candidate (ties count half)."""
    return float(_Ranks(scores, test, exclude).metric("auc", 1).mean())


def precision_at_k(scores: Any, test: Any, exclude: Any = None, k: int = 10) -> float:
    """Part of the first `k` places that test items take, be there so many candidates or not."""
    return float(_Ranks(scores, test, exclude).metric("precision", k).mean())


def recall_at_k(scores: Any, test: Any, exclude: Any = None, k: int = 10) -> float:
    """Part of the user's test items that are among the `k` best scored candidates."""
    return float(_Ranks(scores, test, exclude).metric("recall", k).mean())


def ndcg_at_k(scores: Any, test: Any, exclude: Any = None, k: int = 10) -> float:
    """Discounted gain of the `k` best scored candidates, as a part of the best possible one.

    A test item at place 1, 2, 3 … is worth 1/log2(2), 1/log2(3), 1/log2(4) … (Järvelin &
    Kekäläinen 2002, with relevance 0 or 1).
    """
    return float(_Ranks(scores, test, exclude).metric("ndcg", k).mean())


def per_user(scores: Any, test: Any, exclude: Any = None, metric: str = "ndcg@10") -> np.ndarray:
    """One metric, user by user, shape (n_evaluated_users,): what `evaluate` takes the mean of.

    Two scorers are best compared by their differences d, user by user: the mean of d has the
    standard error ``d.std(ddof=1) / len(d) ** 0.5``.
    """
    kind, k = parse_metric(metric)  # complains before any work is done
    return _Ranks(scores, test, exclude).metric(kind, k)


def evaluate(
    scores: Any, test: Any, exclude: Any = None, metrics: Iterable[str] = _USUAL
) -> dict[str, float | int]:
    """Several ranking metrics from one pass over the scores: {name: value}.

    `test` and `exclude` are matrices (n_users, n_items): relevant is what is not 0 in `test`, left
    out of the ranking every entry of `exclude`. Metrics are named ``"auc"``, ``"precision@k"``,
    ``"recall@k"`` and ``"ndcg@k"``, k a number. Beside them stand ``"n_users"`` with test items and
    ``"n_skipped"`` without. TypeError: a table for a matrix. ValueError: shapes that differ, an
    unknown metric, k above n_items, NaN, a dislike in `test`, an entry in both, or no test item.
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    parsed = {name: parse_metric(name) for name in names}  # complains before any work is done
    ranks = _Ranks(scores, test, exclude)
    result = {name: float(ranks.metric(*parsed[name]).mean()) for name in names}
    n_users = len(ranks.n_test)
    return result | {"n_users": n_users, "n_skipped": ranks.shape[0] - n_users}


def parse_metric(name: str) -> tuple[str, int]:
    """Split a metric's name into kind and k, ``"ndcg@10"`` → ``("ndcg", 10)``, or say why not."""
    if not re.fullmatch(r"auc|(precision|recall|ndcg)@[1-9]\d*", name):
        nearest("metric", name, ["auc", "precision@10", "recall@10", "ndcg@10"])  # raises
    kind, _, k = name.partition("@")
    return kind, int(k or 1)


class _Ranks:
    """Where the test items of all evaluated users, user after user, stand among candidates."""

    def __init__(self, scores: Any, test: Any, exclude: Any) -> None:
        scores = scores if hasattr(scores, "score_matrix") else np.asarray(scores)
        shape = getattr(scores, "shape_", getattr(scores, "shape", None))
        test = check_matrix("test", test, shape, "interactions", like_name="the scorer")
        self.shape, n_items = test.shape, test.shape[1]
        exclude = csr_array(test.shape) if exclude is None else exclude
        exclude = check_matrix("exclude", exclude, test, like_name="test", may_be_empty=True)
        both = (test * pattern(exclude)).tocoo()
        for user, item in zip(*both.coords, strict=True):
            where = f"in test and in exclude (user {user}, item {item} for one)"
            way_out = "make the two disjoint, as leave_n_out does, or leave exclude out"
            raise ValueError(f"{both.nnz} entries are {where}: {way_out}")
        users = np.flatnonzero(np.diff(test.indptr))
        n_rows, parts = max(1, _CHUNK_SCORES // n_items), []
        for chunk in np.split(users, range(n_rows, len(users), n_rows)):
            own, hidden = test[chunk].tocoo(), exclude[chunk].tocoo()
            n_test, n_hidden = (np.bincount(p.row, minlength=len(chunk)) for p in (own, hidden))
            rows = scores[chunk] if isinstance(scores, np.ndarray) else scores.score_matrix(chunk)
            # A copy (chunk, n_items), as they may be lent; whole numbers as doubles.
            rows = np.array(rows, np.result_type(rows, np.float32))
            own_scores = rows[own.coords]
            rows[hidden.coords] = -np.inf  # to the front of the sorted row
            rows.sort(axis=1)  # once; two binary searches place every test item
            check_scores(rows[:, -1:], chunk)  # NaN sorts last
            n_not_above = _count(rows, own.row, own_scores, np.less_equal)
            # A candidate scored -inf is tied with what is hidden, but that doesn't count.
            n_below = np.maximum(_count(rows, own.row, own_scores, np.less), n_hidden[own.row])
            parts.append((n_items - n_not_above, n_not_above - n_below, n_test, n_items - n_hidden))
        # Of each test item (itself is among the tied), and of each evaluated user.
        self.n_above, self.n_tied, *of_users = map(np.concatenate, zip(*parts, strict=True))
        self.n_test, self.n_candidates = of_users
        self.first = np.cumsum(self.n_test) - self.n_test  # where a user's test items begin

    def metric(self, kind: str, k: int) -> np.ndarray:
        """Return a metric user by user: (n_users,)."""
        check_number("k", k, at_least=1, at_most=self.shape[1], whole=True)
        if kind == "auc":
            return self._auc()
        worth = 1 / np.log2(np.arange(2, k + 2)) if kind == "ndcg" else np.ones(k)  # of each place
        total = np.append(0, np.cumsum(worth))  # [n]: what the first n places are worth together
        # A group of tied items takes the places n_above + 1 ... n_above + n_tied, in random order.
        begin, end = np.minimum([self.n_above, self.n_above + self.n_tied], k)
        gain = np.add.reduceat((total[end] - total[begin]) / self.n_tied, self.first)
        ideal = total[np.minimum(self.n_test, k)]
        return gain / {"precision": k, "recall": self.n_test, "ndcg": ideal}[kind]

    def _auc(self) -> np.ndarray:
        n_below = np.repeat(self.n_candidates, self.n_test) - self.n_above - self.n_tied
        won = np.add.reduceat(n_below + (self.n_tied - 1) / 2, self.first)  # (n_users,)
        # That counts test items against each other too: one win for each pair of them.
        won -= self.n_test * (self.n_test - 1) / 2
        n_pairs = self.n_test * (self.n_candidates - self.n_test)
        if not n_pairs.any():
            raise ValueError("AUC is undefined: for every user all candidates are test items")
        return won[n_pairs > 0] / n_pairs[n_pairs > 0]


def _count(rows: np.ndarray, row: np.ndarray, values: np.ndarray, below: Callable) -> np.ndarray:
    """Count the numbers in sorted row ``row[i]`` for which ``below(number, values[i])`` holds.

    All at once, one halving after another: faster than `searchsorted` in a loop over the rows.
    """
    n, count = rows.shape[1], np.zeros(len(row), dtype=np.int64)
    for step in 2 ** np.arange(n.bit_length())[::-1]:
        last = count + step - 1  # place of the last number, if there are so many more
        count += step * ((last < n) & below(rows[row, np.minimum(last, n - 1)], values))
    return count

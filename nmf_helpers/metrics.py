"""How good are the scores? RMSE for ratings; AUC, precision, recall and nDCG for rankings.

Scores come as an array of shape (n_users, n_items), or from a *scorer*: an object with
``score_matrix(users) -> (len(users), n_items)``, such as a fitted pipeline or baseline. Higher is
better. All ranking metrics take what `evaluate` takes, raise what it raises, and have one protocol:

- A user's *candidates* are all items but those in ``exclude``, as a rule those of training. What
  is excluded is not ranked, and counts neither for nor against the scorer.
- Every interaction in ``test`` is equally relevant, whatever its value.
- The metric is a mean over the users who have a test item. The others are left out and counted.
- Ties: a metric is its expected value when tied items are put in random order, as in scikit-learn
  (``roc_auc_score``; ``ndcg_score`` with ``ignore_ties=False``).
- An infinite score is a score like any other (``-inf`` puts an item last); NaN is refused.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import csr_array, issparse

from nmf_helpers.checks import check_matrix, check_number, check_scores, pattern, pick_pairs

_CHUNK_SCORES = 2**20  # held at once, 4 MiB of float32: memory does not grow with the users


def rmse(predictions: Any, ratings: Any, clip: tuple[float, float] | None = None) -> float:
    """Root of the mean squared error, in the unit of the ratings (stars).

    Parameters
    ----------
    predictions, ratings : arrays of shape (n,); or a scorer and a matrix (n_users, n_items)
        Of a matrix, every entry is predicted.
    clip : (low, high), optional
        Range of the rating scale; predictions outside it are moved to its ends first.

    Raises
    ------
    TypeError, ValueError
        For a table instead of a matrix; for shapes that differ, no rating, NaN and infinity.
    """
    if _is_scorer(predictions) or issparse(ratings) or np.ndim(ratings) == 2:
        predictions, ratings = _at_ratings(predictions, ratings)
    predictions, ratings = (np.asarray(values, np.float64) for values in (predictions, ratings))
    if predictions.ndim != 1 or predictions.shape != ratings.shape:
        # (n, 1) against (n,) would broadcast to n² differences without a word.
        raise ValueError(
            f"predictions {predictions.shape} and ratings {ratings.shape} must be 1-D arrays of "
            "the same length: flatten them first with .ravel()"
        )
    if not ratings.size:
        raise ValueError("ratings is empty: there is nothing to compare with")
    for name, values in (("predictions", predictions), ("ratings", ratings)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} contain NaN or infinity: did the training diverge?")
    if clip is not None:
        if not clip[0] < clip[1]:
            raise ValueError(f"clip={clip!r} must be (low, high) with low < high")
        predictions = predictions.clip(*clip)
    return float(np.sqrt(np.mean((predictions - ratings) ** 2)))


def auc(scores: Any, test: Any, exclude: Any = None) -> float:
    """Chance that a random test item is scored above a random other candidate (ties count half).

    A user whose candidates are all test items has no AUC and is left out of this mean.
    """
    return float(per_user(scores, test, exclude, "auc").mean())


def precision_at_k(scores: Any, test: Any, exclude: Any = None, k: int = 10) -> float:
    """Part of the `k` best scored candidates that are test items.

    The denominator is `k` also for a user with fewer than `k` test items or candidates.
    """
    return float(per_user(scores, test, exclude, f"precision@{_check_k(k)}").mean())


def recall_at_k(scores: Any, test: Any, exclude: Any = None, k: int = 10) -> float:
    """Part of the user's test items that are among the `k` best scored candidates."""
    return float(per_user(scores, test, exclude, f"recall@{_check_k(k)}").mean())


def ndcg_at_k(scores: Any, test: Any, exclude: Any = None, k: int = 10) -> float:
    """Discounted gain of the `k` best scored candidates, as a part of the best possible one.

    A test item at place 1, 2, 3 … is worth 1/log2(2), 1/log2(3), 1/log2(4) … (Järvelin &
    Kekäläinen 2002, with relevance 0 or 1).
    """
    return float(per_user(scores, test, exclude, f"ndcg@{_check_k(k)}").mean())


def per_user(scores: Any, test: Any, exclude: Any = None, metric: str = "ndcg@10") -> np.ndarray:
    """One metric, user by user, shape (n_evaluated_users,): what `evaluate` takes the mean of.

    Two scorers are best compared by their differences d, user by user: the mean of d has the
    standard error ``d.std(ddof=1) / len(d) ** 0.5``.
    """
    kind, k = parse_metric(metric)
    return _METRICS[kind](_rank(scores, test, exclude, [k]), k)


def evaluate(
    scores: Any,
    test: Any,
    exclude: Any = None,
    metrics: Iterable[str] = ("auc", "precision@5", "recall@10", "ndcg@10"),
) -> dict[str, float | int]:
    """Several ranking metrics from one pass over the scores.

    Parameters
    ----------
    scores : array of shape (n_users, n_items), or scorer
    test, exclude : sparse matrices or arrays, shape (n_users, n_items)
        Relevant is what is not 0 in `test`, left out of the ranking every entry of `exclude`.
    metrics : names
        ``"auc"``, ``"precision@k"``, ``"recall@k"`` or ``"ndcg@k"`` with a number for k.

    Returns
    -------
    dict
        Each metric under its name; ``"n_users"`` with test items, ``"n_skipped"`` without.

    Raises
    ------
    TypeError, ValueError
        For a table instead of a matrix; for shapes that differ, an unknown metric, k below 1 or
        above n_items, NaN, a dislike in `test`, an entry in both matrices, or no test item.
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    parsed = {name: parse_metric(name) for name in names}  # complains before any work is done
    ranks = _rank(scores, test, exclude, [k for _, k in parsed.values()])
    result = {name: float(_METRICS[kind](ranks, k).mean()) for name, (kind, k) in parsed.items()}
    return result | {"n_users": len(ranks.n_test), "n_skipped": ranks.n_skipped}


def parse_metric(name: str) -> tuple[str, int | None]:
    """Split a metric's name into kind and k, ``"ndcg@10"`` → ``("ndcg", 10)``, or say why not."""
    kind, _, k = str(name).partition("@")
    if name == "auc":
        return "auc", None
    if kind in _METRICS and kind != "auc" and re.fullmatch(r"-?\d+", k):
        return kind, _check_k(int(k))
    word, digits = re.findall(r"^([a-z]*)\D*(\d*)", str(name).lower())[0]
    near = "".join(difflib.get_close_matches(word, _METRICS, n=1, cutoff=0.5))
    meant = near if near == "auc" else f"{near}@{digits or 10}"
    hint = f"did you mean {meant!r}? " if near else ""
    raise ValueError(f"unknown metric {name!r}: {hint}Known: auc, precision@k, recall@k, ndcg@k")


def _check_k(k: int) -> int:
    check_number("k", k, at_least=1, whole=True)
    return k


@dataclass(frozen=True)
class _Ranks:
    """Where the test items of all evaluated users, user after user, stand among candidates."""

    n_skipped: int  # users without test items
    n_above: np.ndarray  # (n_test_items,) candidates with a higher score
    n_tied: np.ndarray  # (n_test_items,) candidates with the same score, itself included
    n_test: np.ndarray  # (n_users,) test items of each user, at least 1
    n_candidates: np.ndarray  # (n_users,)

    def sum_by_user(self, values: np.ndarray) -> np.ndarray:
        first = np.cumsum(self.n_test) - self.n_test  # where each user's test items begin
        return np.add.reduceat(values, first)  # (n_test_items,) -> (n_users,)

    def gain(self, worth: np.ndarray) -> np.ndarray:
        """Add up what the places of each user's test items are worth: the k first, `worth`."""
        total = np.append(0, np.cumsum(worth))  # [n]: what the first n places are worth together
        # A group of tied items takes the places n_above + 1 ... n_above + n_tied, in random order.
        begin, end = np.minimum([self.n_above, self.n_above + self.n_tied], len(worth))
        return self.sum_by_user((total[end] - total[begin]) / self.n_tied)


def _auc(ranks: _Ranks, k: None = None) -> np.ndarray:
    n_candidates = np.repeat(ranks.n_candidates, ranks.n_test)
    n_below = n_candidates - ranks.n_above - ranks.n_tied
    won = ranks.sum_by_user(n_below + (ranks.n_tied - 1) / 2)
    # That counts test items against each other too: one win for each pair of them.
    won -= ranks.n_test * (ranks.n_test - 1) / 2
    n_others = ranks.n_candidates - ranks.n_test
    defined = n_others > 0
    if not defined.any():
        raise ValueError("AUC is undefined: for every user all candidates are test items")
    return won[defined] / (ranks.n_test * n_others)[defined]


def _ndcg(ranks: _Ranks, k: int) -> np.ndarray:
    worth = 1 / np.log2(np.arange(2, k + 2))
    return ranks.gain(worth) / np.cumsum(worth)[np.minimum(ranks.n_test, k) - 1]


_METRICS: dict[str, Callable[[_Ranks, Any], np.ndarray]] = {
    "auc": _auc,
    "precision": lambda ranks, k: ranks.gain(np.ones(k)) / k,
    "recall": lambda ranks, k: ranks.gain(np.ones(k)) / ranks.n_test,
    "ndcg": _ndcg,
}


def _rank(scores: Any, test: Any, exclude: Any, ks: Iterable[int | None]) -> _Ranks:
    """Sort each user's scores once; two binary searches place every test item among them."""
    scores, test = _check_against(scores, "test", test, "interactions")
    n_users, n_items = test.shape
    if (k := max((k or 1 for k in ks), default=1)) > n_items:
        raise ValueError(f"k={k} is more than the catalogue has items ({n_items})")
    exclude = _check_exclude(exclude, test)
    users = np.flatnonzero(np.diff(test.indptr))
    n_rows, parts = max(1, _CHUNK_SCORES // n_items), []
    for chunk in np.split(users, range(n_rows, len(users), n_rows)):
        own, hidden = test[chunk].tocoo(), exclude[chunk].tocoo()
        n_test, n_hidden = (np.bincount(part.row, minlength=len(chunk)) for part in (own, hidden))
        rows = _score_rows(scores, n_items, chunk)  # (chunk, n_items), ours to overwrite
        own_scores = rows[own.coords]
        rows[hidden.coords] = -np.inf  # to the front of the sorted row
        rows.sort(axis=1)
        check_scores(rows[:, -1:], chunk)  # NaN sorts last
        n_not_above = _count(rows, own.row, own_scores, np.less_equal)
        # A candidate scored -inf is tied with what is hidden, but that doesn't count.
        n_below = np.maximum(_count(rows, own.row, own_scores, np.less), n_hidden[own.row])
        parts.append((n_items - n_not_above, n_not_above - n_below, n_test, n_items - n_hidden))
    placed = [np.concatenate(part) for part in zip(*parts, strict=True)]
    return _Ranks(n_users - len(users), *placed)


def _count(rows: np.ndarray, row: np.ndarray, values: np.ndarray, below: Callable) -> np.ndarray:
    """Count the numbers in sorted row ``row[i]`` for which ``below(number, values[i])`` holds.

    All at once, one halving after another: faster than `searchsorted` in a loop over the rows.
    """
    n = rows.shape[1]
    count = np.zeros(len(row), dtype=np.int64)
    for step in 2 ** np.arange(n.bit_length())[::-1]:
        last = count + step - 1  # place of the last number, if there are so many more
        count += step * ((last < n) & below(rows[row, np.minimum(last, n - 1)], values))
    return count


def _check_exclude(exclude: Any, test: csr_array) -> csr_array:
    exclude = csr_array(test.shape) if exclude is None else exclude
    exclude = check_matrix("exclude", exclude, test, like_name="test", may_be_empty=True)
    both = (test * pattern(exclude)).tocoo()
    if both.nnz:
        raise ValueError(
            f"{both.nnz} entries are in test and in exclude (user {both.row[0]}, item "
            f"{both.col[0]} for one). What is excluded is not ranked, so it cannot be tested: "
            "make the two disjoint (see leave_n_out), or leave exclude out to rank everything"
        )
    return exclude


def _is_scorer(scores: Any) -> bool:
    return hasattr(scores, "score_matrix") or hasattr(scores, "predict")


def _check_against(scores: Any, name: str, matrix: Any, kind: Any) -> tuple[Any, csr_array]:
    """Return a scorer or an array, and the matrix that it is compared with, of the same shape."""
    scores = scores if _is_scorer(scores) else np.asarray(scores)
    shape = getattr(scores, "shape_" if _is_scorer(scores) else "shape", None)
    return scores, check_matrix(name, matrix, shape, kind, like_name="the scorer")


def _score_rows(scores: Any, n_items: int, users: np.ndarray) -> np.ndarray:
    """Scores of some users, (len(users), n_items), in an array of our own."""
    rows = np.asarray(scores.score_matrix(users) if _is_scorer(scores) else scores[users])
    if rows.shape != (len(users), n_items):
        raise ValueError(
            f"score_matrix returned {rows.shape} for {len(users)} users and {n_items} items: "
            "scorer and matrix must number users and items alike"
        )
    # A copy, as they may be lent; whole numbers as doubles.
    return np.array(rows, dtype=rows.dtype if rows.dtype.kind == "f" else np.float64)


def _at_ratings(scores: Any, ratings: Any) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and ratings, shape (n,) each, at the entries of a matrix of ratings."""
    scores, ratings = _check_against(scores, "ratings", ratings, "ratings")
    users, items = ratings.tocoo().coords
    if hasattr(scores, "predict"):
        return scores.predict(users, items), ratings.data
    if not _is_scorer(scores):
        return scores[users, items], ratings.data
    rows_of = partial(_score_rows, scores, ratings.shape[1])
    return pick_pairs(rows_of, users, items, ratings.shape[1]), ratings.data

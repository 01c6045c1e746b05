"""How good are the scores? RMSE for ratings; AUC, precision, recall and nDCG for rankings.

A *scorer* is anything that can score every item for a user: an array of shape
``(n_users, n_items)``, or an object with ``score_matrix(users) -> (len(users), n_items)`` such
as a fitted pipeline or baseline. Higher is better.

All ranking metrics follow one protocol:

- Each user's *candidates* are the whole catalogue except that user's training items. Training
  items are not ranked, and count neither for nor against the scorer.
- Every non-zero entry of ``test`` is equally relevant; its value is not looked at.
- The metric is a mean over the users who have a test item. The others are left out, and
  :func:`evaluate` says how many they were.
- Ties are broken neither in favour of the scorer nor against it: a metric is its expected value
  when tied items are put in random order. For AUC and nDCG that is what scikit-learn computes
  (``roc_auc_score``; ``ndcg_score`` with ``ignore_ties=False``).
- An infinite score is a score like any other (``-inf`` puts an item last); NaN is refused.

There is no loop over items. Each user's scores are sorted once, and two binary searches find,
for every test item, how many candidates lie above it and how many are tied with it. Every metric
is a formula in these two counts. Users are taken in chunks, so memory stays bounded however many
there are.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

_CHUNK_SCORES = 2**20  # scores held at once: 4 MiB of float32


def rmse(predictions: Any, ratings: Any, clip: tuple[float, float] | None = None) -> float:
    """Root of the mean squared error, in the unit of the ratings (stars).

    Parameters
    ----------
    predictions : array of shape (n,), or scorer
    ratings : array of shape (n,), or sparse matrix of shape (n_users, n_items)
        With a scorer give the sparse matrix; the error is taken over its stored entries.
    clip : (low, high), optional
        Range of the rating scale; predictions outside it are moved to its ends first.

    Raises
    ------
    ValueError
        If shapes differ, nothing is given, or a value is NaN or infinite.
    """
    if sparse.issparse(ratings):
        ratings = ratings.tocoo()
        users, items = ratings.row, ratings.col
        predictions = _predict(predictions, users, items, ratings.shape)
        ratings = ratings.data
    predictions = np.asarray(predictions, dtype=np.float64)  # (n,)
    ratings = np.asarray(ratings, dtype=np.float64)  # (n,)
    if predictions.ndim != 1 or predictions.shape != ratings.shape:
        # (n, 1) against (n,) would broadcast to n² differences without a word.
        raise ValueError(
            f"predictions {predictions.shape} and ratings {ratings.shape} must be 1-D arrays of "
            "the same length; flatten them first with .ravel()"
        )
    if not ratings.size:
        raise ValueError("there are no ratings to compare with")
    for name, values in (("predictions", predictions), ("ratings", ratings)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} contain NaN or infinity; did the training diverge?")
    if clip is not None:
        low, high = clip
        if not low < high:
            raise ValueError(f"clip={clip!r} must be (low, high) with low < high")
        predictions = predictions.clip(low, high)
    return float(np.sqrt(np.mean((predictions - ratings) ** 2)))


def auc(scores: Any, test: Any, train: Any = None) -> float:
    """Chance that a random test item is scored above a random other candidate (ties count half).

    A user whose candidates are all test items has no AUC and is left out of this mean.
    See :func:`evaluate` for the arguments and errors.
    """
    return _mean(_auc(_rank(scores, test, train)))


def precision_at_k(scores: Any, test: Any, train: Any = None, k: int = 10) -> float:
    """Part of the ``k`` best scored candidates that are test items.

    The denominator is ``k`` also for a user with fewer than ``k`` test items or candidates.
    See :func:`evaluate` for the arguments and errors.
    """
    return _mean(_precision(_rank(scores, test, train, [_check_k(k)]), k))


def recall_at_k(scores: Any, test: Any, train: Any = None, k: int = 10) -> float:
    """Part of the user's test items that are among the ``k`` best scored candidates.

    See :func:`evaluate` for the arguments and errors.
    """
    return _mean(_recall(_rank(scores, test, train, [_check_k(k)]), k))


def ndcg_at_k(scores: Any, test: Any, train: Any = None, k: int = 10) -> float:
    """Discounted gain of the ``k`` best scored candidates, as a part of the best possible one.

    A test item at place 1, 2, 3 ... is worth 1/log2(2), 1/log2(3), 1/log2(4) ... (Järvelin &
    Kekäläinen 2002, with relevance 0 or 1). See :func:`evaluate` for the arguments and errors.
    """
    return _mean(_ndcg(_rank(scores, test, train, [_check_k(k)]), k))


def evaluate(
    scores: Any,
    test: Any,
    train: Any = None,
    metrics: Iterable[str] = ("auc", "precision@5", "recall@10", "ndcg@10"),
) -> dict[str, float | int]:
    """Several ranking metrics from one pass over the scores.

    Parameters
    ----------
    scores : array of shape (n_users, n_items), or object with ``score_matrix(users)``
    test : sparse matrix or array of shape (n_users, n_items)
        Non-zero where an item is relevant.
    train : sparse matrix or array of shape (n_users, n_items), optional
        Non-zero where an item is left out of the ranking. Disjoint from ``test``.
    metrics : names
        ``"auc"``, ``"precision@k"``, ``"recall@k"`` or ``"ndcg@k"`` with a number for k.

    Returns
    -------
    dict
        Each metric under its name; ``"n_users"`` with test items, over whom the means are taken;
        ``"n_skipped"`` without any.

    Raises
    ------
    ValueError
        For shapes that differ, an unknown metric, k below 1 or above n_items, NaN scores, an
        entry that is in ``test`` and in ``train``, or no user with a test item.
    TypeError
        If k is not an integer.
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    parsed = {name: parse_metric(name) for name in names}  # complains before any work is done
    ranks = _rank(scores, test, train, [k for _, k in parsed.values() if k is not None])
    result = {name: _mean(_METRICS[kind](ranks, k)) for name, (kind, k) in parsed.items()}
    return result | {"n_users": len(ranks.n_test), "n_skipped": ranks.n_skipped}


def parse_metric(name: str) -> tuple[str, int | None]:
    """Split a metric's name into kind and k: ``"ndcg@10"`` → ``("ndcg", 10)``.

    Raises
    ------
    ValueError
        For an unknown name (the nearest known one is suggested) or k below 1.
    """
    if name == "auc":
        return "auc", None
    kind, _, k = str(name).partition("@")
    if kind in _METRICS and kind != "auc" and re.fullmatch(r"-?\d+", k):
        return kind, _check_k(int(k))
    word, digits = re.match(r"([a-z]*)\D*(\d*)", str(name).lower()).groups()
    near = difflib.get_close_matches(word, _METRICS, n=1, cutoff=0.5)
    hint = ""
    if near:
        hint = f"did you mean {near[0] + ('' if near[0] == 'auc' else f'@{digits or 10}')!r}? "
    raise ValueError(
        f"unknown metric {name!r}: {hint}Known are 'auc', 'precision@k', 'recall@k' and 'ndcg@k'"
    )


# --- From ranks to metrics: one value for each user ------------------------------------------


@dataclass(frozen=True)
class _Ranks:
    """Where each user's test items stand among the user's candidates.

    Test items of all evaluated users are laid end to end, user after user.
    """

    n_above: np.ndarray  # (n_test_items,) candidates with a higher score
    n_tied: np.ndarray  # (n_test_items,) candidates with the same score, itself included
    first: np.ndarray  # (n_users,) where each user's test items begin
    n_test: np.ndarray  # (n_users,) test items of each user, at least 1
    n_candidates: np.ndarray  # (n_users,)
    n_skipped: int  # users without test items

    def sum_by_user(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, self.first)  # (n_test_items,) -> (n_users,)


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


def _hits(ranks: _Ranks, k: int) -> np.ndarray:
    # A group of tied items takes the places n_above + 1 ... n_above + n_tied, in random order.
    chance = np.clip((k - ranks.n_above) / ranks.n_tied, 0, 1)  # to be among the first k
    return ranks.sum_by_user(chance)


def _precision(ranks: _Ranks, k: int) -> np.ndarray:
    return _hits(ranks, k) / k


def _recall(ranks: _Ranks, k: int) -> np.ndarray:
    return _hits(ranks, k) / ranks.n_test


def _ndcg(ranks: _Ranks, k: int) -> np.ndarray:
    gain = np.zeros(k + 1)  # gain[n] = what the first n places are worth together
    gain[1:] = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
    begin = np.minimum(ranks.n_above, k)
    end = np.minimum(ranks.n_above + ranks.n_tied, k)
    dcg = ranks.sum_by_user((gain[end] - gain[begin]) / ranks.n_tied)
    return dcg / gain[np.minimum(ranks.n_test, k)]


_METRICS: dict[str, Callable[[_Ranks, Any], np.ndarray]] = {
    "auc": _auc,
    "precision": _precision,
    "recall": _recall,
    "ndcg": _ndcg,
}


def _mean(values: np.ndarray) -> float:
    return float(values.mean())


# --- From scores to ranks --------------------------------------------------------------------


def _rank(scores: Any, test: Any, train: Any, ks: Sequence[int] = ()) -> _Ranks:
    test = _entries(test, "test")
    n_users, n_items = test.shape
    train = sparse.csr_array(test.shape) if train is None else _entries(train, "train")
    if train.shape != test.shape:
        raise ValueError(f"train {train.shape} and test {test.shape} must have the same shape")
    if max(ks, default=0) > n_items:
        raise ValueError(f"k={max(ks)} is more than the catalogue has items ({n_items})")
    both = (train * test).tocoo()
    if both.nnz:
        raise ValueError(
            f"{both.nnz} entries are in test and in train (user {both.row[0]}, item "
            f"{both.col[0]} for one). Training items are not ranked, so they cannot be tested: "
            "make the two disjoint (see leave_n_out), or leave train out to rank everything"
        )
    users = np.flatnonzero(np.diff(test.indptr))
    if not users.size:
        raise ValueError("no user has a test item, so there is nothing to evaluate")

    n_above, n_tied = [], []
    for chunk, chunk_scores in _score_chunks(scores, users, test.shape):
        # chunk_scores: (chunk, n_items), ours to overwrite
        held_out, seen = test[chunk], train[chunk]
        test_scores = chunk_scores[_rows(held_out), held_out.indices]
        chunk_scores[_rows(seen), seen.indices] = -np.inf  # to the front of the sorted row
        chunk_scores.sort(axis=1)
        if np.isnan(chunk_scores[:, -1]).any():  # NaN sorts last
            bad = chunk[np.isnan(chunk_scores[:, -1])][0]
            raise ValueError(f"scores of user {bad} contain NaN; did the training diverge?")
        begin = np.empty(len(test_scores), dtype=np.int64)
        end = np.empty_like(begin)
        for row, ordered in enumerate(chunk_scores):
            own = slice(held_out.indptr[row], held_out.indptr[row + 1])
            begin[own] = ordered.searchsorted(test_scores[own], side="left")
            end[own] = ordered.searchsorted(test_scores[own], side="right")
        # A candidate scored -inf is tied with the masked items, but they don't count.
        begin = np.maximum(begin, np.diff(seen.indptr)[_rows(held_out)])
        n_above.append(n_items - end)
        n_tied.append(end - begin)
    n_test = np.diff(test.indptr)[users].astype(np.int64)
    return _Ranks(
        n_above=np.concatenate(n_above),
        n_tied=np.concatenate(n_tied),
        first=np.cumsum(n_test) - n_test,
        n_test=n_test,
        n_candidates=n_items - np.diff(train.indptr)[users].astype(np.int64),
        n_skipped=n_users - len(users),
    )


def _score_chunks(
    scorer: Any, users: np.ndarray, shape: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield some of the users, and a fresh array (chunk, n_items) of their scores."""
    if not hasattr(scorer, "score_matrix"):
        scorer = np.asarray(scorer)
        if scorer.shape != shape:
            raise ValueError(
                f"scores {scorer.shape} must have the shape of the matrix they are judged by, "
                f"{shape}; or give an object with a score_matrix method"
            )
    n_rows = max(1, _CHUNK_SCORES // shape[1])
    for start in range(0, len(users), n_rows):
        chunk = users[start : start + n_rows]
        scores = scorer[chunk] if isinstance(scorer, np.ndarray) else scorer.score_matrix(chunk)
        scores = np.array(scores)  # a copy: a scorer may hand out its own memory
        if scores.shape != (len(chunk), shape[1]):
            raise ValueError(
                f"score_matrix returned {scores.shape} for {len(chunk)} users and {shape[1]} items"
            )
        floating = np.issubdtype(scores.dtype, np.floating)
        yield chunk, scores if floating else scores.astype(np.float64)


def _predict(
    scorer: Any, users: np.ndarray, items: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Scores of (users[i], items[i]) pairs, by ``predict`` where the scorer has one."""
    if hasattr(scorer, "predict"):
        return scorer.predict(users, items)
    values = np.empty(len(users))
    for chunk, scores in _score_chunks(scorer, np.unique(users), shape):
        here = np.isin(users, chunk)
        values[here] = scores[np.searchsorted(chunk, users[here]), items[here]]
    return values


def _entries(matrix: Any, name: str) -> sparse.csr_array:
    """A copy with a one wherever the matrix is not zero."""
    if np.ndim(matrix) != 2:  # before the conversion: an older SciPy makes one row of a list
        raise ValueError(f"{name} must be a (n_users, n_items) matrix, not {np.ndim(matrix)}-D")
    matrix = sparse.csr_array(matrix, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    if np.isnan(matrix.data).any():
        raise ValueError(f"{name} contains NaN; write 0 where there is no rating")
    matrix.data = np.ones(matrix.nnz, dtype=np.float32)
    return matrix


def _rows(matrix: sparse.csr_array) -> np.ndarray:
    """The row of each stored entry, in storage order: (nnz,)."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def _check_k(k: int) -> int:
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(f"k must be a whole number of items, not {k!r}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    return k

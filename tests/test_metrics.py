"""Metrics against scikit-learn, brute force and small cases worked by hand."""

import itertools
import math
import tracemalloc
import types

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import ndcg_score, roc_auc_score

from nmf_helpers import metrics
from nmf_helpers.baselines import GlobalMean
from nmf_helpers.metrics import (
    auc,
    evaluate,
    ndcg_at_k,
    parse_metric,
    per_user,
    precision_at_k,
    recall_at_k,
    rmse,
)


class Scorer:
    """A matrix behind a score_matrix method that remembers whom it was asked for."""

    def __init__(self, scores):
        self.scores, self.asked = scores, []

    def score_matrix(self, users=None):
        self.asked.append(np.arange(len(self.scores)) if users is None else users)
        return self.scores[self.asked[-1]]


def by_hand(scores, test, train, k):
    """One user at a time, one item at a time: the mean of four metrics.

    Ties are broken at random in the definition, so precision and recall are means over every
    order of the tied items that is possible at the cut-off.
    """
    each = {"auc": [], "precision": [], "recall": [], "ndcg": []}
    for user in range(len(scores)):
        relevant = {item for item in range(scores.shape[1]) if test[user, item]}
        candidates = [item for item in range(scores.shape[1]) if not train[user, item]]
        if not relevant:
            continue
        score = [scores[user, item] for item in candidates]
        label = [int(item in relevant) for item in candidates]
        if len(relevant) < len(candidates):
            each["auc"].append(roc_auc_score(label, score))
        cut = sorted(score, reverse=True)[:k][-1]
        sure = sum(y for y, s in zip(label, score, strict=True) if s > cut)
        tied = [y for y, s in zip(label, score, strict=True) if s == cut]
        places = min(k, len(candidates)) - sum(s > cut for s in score)
        draws = list(itertools.combinations(tied, places))
        hits = sure + sum(sum(draw) for draw in draws) / len(draws)
        each["precision"].append(hits / k)
        each["recall"].append(hits / len(relevant))
        if len(candidates) > 1:
            each["ndcg"].append(ndcg_score([label], [score], k=k))
        else:  # scikit-learn refuses a list of one, which is always in the best order
            each["ndcg"].append(1.0)
    return {name: np.mean(values) if values else None for name, values in each.items()}


@st.composite
def problems(draw):
    """Odd shapes, many ties, users with nothing held out, k up to the whole catalogue."""
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 2, 4, 1000]))
    scores = rng.integers(-levels, levels + 1, size=(n_users, n_items)).astype(np.float32)
    part = rng.choice(3, p=[0.4, 0.3, 0.3], size=(n_users, n_items))
    part[rng.integers(n_users), rng.integers(n_items)] = 2  # someone has a test item
    return scores, part == 2, part == 1, draw(st.integers(1, n_items))


@given(problems())
@settings(max_examples=300, deadline=None)
def test_every_metric_agrees_with_brute_force_and_scikit_learn(problem):
    scores, test, train, k = problem
    expected = by_hand(scores, test, train, k)
    train = train if train.any() else None  # then the whole catalogue is ranked
    assert precision_at_k(scores, test, train, k=k) == pytest.approx(expected["precision"])
    assert recall_at_k(scores, test, train, k=k) == pytest.approx(expected["recall"])
    assert ndcg_at_k(scores, test, train, k=k) == pytest.approx(expected["ndcg"])
    if expected["auc"] is None:
        with pytest.raises(ValueError, match="AUC is undefined"):
            auc(scores, test, train)
    else:
        assert auc(scores, test, train) == pytest.approx(expected["auc"])


@pytest.fixture
def catalogue():
    """Thirty users, fifty items, scores without ties; every fifth user has nothing held out."""
    rng = np.random.default_rng(7)
    part = rng.choice(3, p=[0.7, 0.2, 0.1], size=(30, 50))
    part[::5][part[::5] == 2] = 0
    scores = rng.standard_normal((30, 50)).astype(np.float32)
    return scores, sparse.csr_matrix(part == 2), sparse.csr_matrix(part == 1)


def test_a_worked_example():
    # Items by score: 0 (train), 3 (test), 1, 4 (test), 2. Ranked: 3, 1, 4, 2.
    scores = np.array([[9.0, 7.0, 1.0, 8.0, 3.0]])
    train, test = np.array([[1, 0, 0, 0, 0]]), np.array([[0, 0, 0, 1, 1]])
    assert precision_at_k(scores, test, train, k=2) == 1 / 2
    assert recall_at_k(scores, test, train, k=2) == 1 / 2
    assert auc(scores, test, train) == 3 / 4  # of 4 pairs only (4, 1) is in the wrong order
    best = 1 + 1 / math.log2(3)
    assert ndcg_at_k(scores, test, train, k=3) == pytest.approx((1 + 1 / 2) / best)


def test_tied_items_share_the_places_that_are_left():
    scores = np.array([[2.0, 1.0, 1.0, 1.0, 0.0]])
    test = np.array([[0, 1, 0, 0, 0]])
    assert precision_at_k(scores, test, k=2) == pytest.approx(1 / 3 / 2)  # 1 place, 3 items
    assert recall_at_k(scores, test, k=3) == pytest.approx(2 / 3)
    assert auc(scores, test) == pytest.approx((1 + 1 / 2 + 1 / 2) / 4)


def test_training_items_are_not_ranked(catalogue):
    # The tutorial left them in, and they took 41 % of the places in its top five.
    scores, test, train = catalogue
    learned = scores + 10 * train.toarray().astype(np.float32)  # a model that knows train by heart
    expected = by_hand(scores, test.toarray(), train.toarray(), 5)["precision"]
    assert precision_at_k(learned, test, train, k=5) == pytest.approx(expected)
    assert precision_at_k(learned, test, k=5) < expected / 2
    learned[train.toarray()] = np.random.default_rng(0).choice([-1e9, 0.0, np.inf], train.nnz)
    assert evaluate(learned, test, train) == evaluate(scores, test, train)


def test_users_without_test_items_are_left_out_and_counted(catalogue):
    scores, test, train = catalogue
    result = evaluate(scores, test, train, metrics=["recall@10"])
    assert (result["n_users"], result["n_skipped"]) == (24, 6)
    some = np.flatnonzero(test.sum(axis=1))
    only = evaluate(scores[some], test[some], train[some], metrics=["recall@10"])
    assert only == result | {"n_skipped": 0}


def test_a_user_whose_candidates_are_all_test_items_counts_for_recall_but_not_for_auc():
    scores = np.array([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    test, train = np.array([[1, 1, 0], [1, 0, 0]]), np.array([[0, 0, 1], [0, 0, 0]])
    assert auc(scores, test, train) == 0.0  # the second user alone
    assert recall_at_k(scores, test, train, k=2) == 0.5


def test_evaluate_says_the_same_as_the_single_functions_and_as_each_user(catalogue):
    scores, test, train = catalogue
    result = evaluate(scores, test, train, ["auc", "precision@3", "recall@7", "ndcg@50"])
    assert result == {
        "auc": auc(scores, test, exclude=train),
        "precision@3": precision_at_k(scores, test, exclude=train, k=3),
        "recall@7": recall_at_k(scores, test, exclude=train, k=7),
        "ndcg@50": ndcg_at_k(scores, test, exclude=train, k=50),
        "n_users": 24,
        "n_skipped": 6,
    }
    assert all(type(result[name]) is float for name in ("auc", "precision@3", "ndcg@50"))
    for name in ("auc", "precision@3"):
        each = per_user(scores, test, train, name)
        some = np.flatnonzero(test.sum(axis=1))
        alone = [evaluate(scores[[u]], test[[u]], train[[u]], name)[name] for u in some]
        assert each.tolist() == alone


@pytest.mark.parametrize("n_scores", [1, 7 * 50 + 49, 10**9])
def test_users_with_a_test_item_are_scored_once_in_chunks_of_any_size(
    catalogue, monkeypatch, n_scores
):
    scores, test, train = catalogue
    whole, scorer = evaluate(scores, test, train), Scorer(scores)
    monkeypatch.setattr(metrics, "_CHUNK_SCORES", n_scores)
    assert evaluate(scores, test, train) == evaluate(scorer, test, train) == whole
    sizes = {1: [1] * 24, 10**9: [24]}.get(n_scores, [7, 7, 7, 3])
    assert [len(users) for users in scorer.asked] == sizes
    np.testing.assert_array_equal(np.concatenate(scorer.asked), np.flatnonzero(test.sum(axis=1)))
    assert rmse(scorer, test) == pytest.approx(rmse(scores, test))


def test_memory_is_bounded_by_the_chunk_not_by_the_number_of_users():
    wide = Scorer(None)
    wide.score_matrix = lambda users: np.tile(np.arange(20_000, dtype=np.float32), (len(users), 1))
    test = sparse.eye_array(2_000, 20_000, format="csr")  # scores together take 160 MB
    tracemalloc.start()
    auc(wide, test)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


def test_nothing_given_is_written_to(catalogue):
    scores, test, train = (part[np.arange(30) % 5 > 0] for part in catalogue)
    before = scores.copy(), test.copy(), train.copy()
    lender = Scorer(scores)
    lender.score_matrix = lambda users: scores  # its own memory, not a copy
    evaluate(lender, test, train)
    np.testing.assert_array_equal(scores, before[0])
    assert (test != before[1]).nnz == (train != before[2]).nnz == 0


@pytest.mark.parametrize("kind", [np.asarray, sparse.csc_matrix, sparse.coo_array])
def test_any_matrix_type_will_do(catalogue, kind):
    scores, test, train = catalogue
    expected = evaluate(scores, test, train)
    assert evaluate(scores, kind(test.toarray()), kind(train.toarray())) == expected


def test_values_are_not_weights_a_stored_zero_is_nothing_and_a_double_counts_once():
    stored = [4.0, 1, 0, 1], [0, 2, 3, 0], [0, 4]  # item 0 twice
    scores, names = np.array([[3.0, 2.0, 1.0, 0.0]]), ["auc", "recall@2"]
    expected = evaluate(scores, [[1, 0, 1, 0]], metrics=names)
    assert evaluate(scores, sparse.csr_matrix(stored, shape=(1, 4)), metrics=names) == expected


def test_an_infinite_score_is_the_first_or_the_last_place_and_whole_numbers_are_exact():
    scores = np.array([[-np.inf, 0.0, np.inf, -np.inf, 5.0]])
    finite = np.array([[-9.0, 0.0, 9.0, -9.0, 5.0]])
    metric = ["auc", "precision@2", "recall@4", "ndcg@4"]
    for test in np.eye(5)[[0, 2, 3, 4]][:, None]:
        both = (evaluate(one, test, [[0, 1, 0, 0, 0]], metric) for one in (scores, finite))
        assert next(both) == next(both)
    assert auc(np.array([[2**53 - 1, 2**53 - 2, 0]]), [[1, 0, 0]]) == 1.0


# --- Input that cannot work --------------------------------------------------------------------


def test_nan_scores_are_refused_and_the_user_is_named(catalogue):
    scores, test, train = catalogue
    free = np.argwhere(~(test + train).toarray())
    user, item = free[free[:, 0] == 3][0]  # neither learned from nor held out
    scores[user, item] = np.nan
    with pytest.raises(ValueError, match="scores of user 3 contain NaN"):
        auc(scores, test, train)


def test_shapes_must_agree(catalogue):
    scores, test, train = catalogue
    with pytest.raises(ValueError, match=r"exclude has shape \(29, 50\), test \(30, 50\)"):
        auc(scores, test, train[1:])
    with pytest.raises(ValueError, match=r"score_matrix returned \(24, 49\) for 24 users and 50"):
        auc(Scorer(scores[:, 1:]), test, train)
    mean = GlobalMean().fit(np.ones((6, 4)))
    for scorer, shape in itertools.product((mean, np.ones((6, 4))), [(7, 4), (5, 4), (6, 5)]):
        for judge in (rmse, auc, evaluate, per_user):
            says = rf"has shape .*{shape[0]}, {shape[1]}.*, the scorer \(6, 4\): number users and"
            with pytest.raises(ValueError, match=says):
                judge(scorer, np.eye(*shape))


def test_an_entry_cannot_be_in_test_and_in_exclude():
    test, train = np.array([[0, 1, 1], [1, 0, 0]]), np.array([[1, 0, 0], [1, 1, 0]])
    for factor in (1, np.int8(16)):  # 16 · 16 is 0 in eight bits
        with pytest.raises(ValueError, match=r"1 entries .* in exclude \(user 1, item 0 for one\)"):
            auc(np.zeros((2, 3)), (test * factor).astype(np.int8), (train * factor).astype(np.int8))


def test_the_held_out_matrix_is_no_table_and_has_no_nan_no_dislike_and_an_entry():
    scores, test = np.zeros((1, 2)), np.array([[0, 1]])
    with pytest.raises(TypeError, match=r"test is int64 of shape .* not a users x items matrix"):
        auc(scores, np.array([0, 1]))
    for judge in (rmse, auc):
        with pytest.raises(TypeError, match=r"is a table"):
            judge(scores, pd.DataFrame({"userId": [1], "movieId": [2]}))
        with pytest.raises(ValueError, match=r"is empty"):
            judge(scores, np.zeros((1, 2)))
    with pytest.raises(ValueError, match="exclude holds nan at user 0, item 0"):
        auc(scores, test, np.array([[np.nan, 0]]))
    with pytest.raises(ValueError, match=r"test holds -1 .* a dislike is no interaction"):
        auc(scores, -test)


def test_whatever_is_stored_in_exclude_is_left_out():
    # A rating of 0 is a rating, and a dislike too: neither item is recommended again.
    rated = sparse.csr_matrix(([0.0, -1.0], ([0, 0], [0, 1])), shape=(1, 4))
    scores, test = np.array([[9.0, 8.0, 1.0, 0.0]]), np.array([[0, 0, 1, 0]])
    assert recall_at_k(scores, test, rated, k=1) == auc(scores, test, rated) == 1


@pytest.mark.parametrize("metric", [precision_at_k, recall_at_k, ndcg_at_k])
def test_k_is_a_number_of_items_in_the_catalogue(metric):
    scores, test = np.zeros((1, 3)), np.array([[1, 0, 0]])
    for k in (0, -1, 2.0, "2", None, True):
        with pytest.raises(ValueError, match=f"k must be a whole number, at least 1, not {k!r}"):
            metric(scores, test, k=k)
    with pytest.raises(ValueError, match=r"k=4 is more than the catalogue has items \(3\)"):
        metric(scores, test, k=4)
    assert metric(scores, test, k=np.int64(3)) == metric(scores, test, k=3)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *(("ndgc@10", "ndcg@10"), ("NDCG@5", "ndcg@5"), ("ndcg", "ndcg@10"), ("ndcg10", "ndcg@10")),
        *(("ndcg@ten", "ndcg@10"), ("prec@5", "precision@5"), ("recal@20", "recall@20")),
        *(("AUC", "auc"), ("auc@10", "auc"), ("roc_auc", None), ("", None), ("rmse", None)),
    ],
)
def test_an_unknown_metric_is_refused_with_the_nearest_known_one(name, meant):
    with pytest.raises(ValueError, match="unknown metric") as caught:
        parse_metric(name)
    assert ("did you mean" in str(caught.value)) == (meant is not None)
    assert meant is None or f"did you mean {meant!r}?" in str(caught.value)


def test_an_unknown_metric_is_noticed_before_any_scoring(catalogue):
    scores, test, train = catalogue
    scorer = Scorer(scores)
    with pytest.raises(ValueError, match=r"did you mean 'ndcg@10'\?"):
        evaluate(scorer, test, train, metrics=["auc", "ncdg@10"])
    with pytest.raises(ValueError, match="k must be a whole number, at least 1, not 0"):
        evaluate(scorer, test, train, metrics="ndcg@0")
    assert scorer.asked == []
    assert parse_metric("auc") == ("auc", None) and parse_metric("recall@5") == ("recall", 5)


# --- RMSE --------------------------------------------------------------------------------------


def test_rmse_by_hand_and_clipped_to_the_rating_scale():
    assert rmse([3.0, 5.0], [4.0, 2.0]) == pytest.approx(math.sqrt((1 + 9) / 2))
    assert rmse([7.0, -1.0, 3.0], [5.0, 1.0, 4.0], clip=(1, 5)) == pytest.approx(math.sqrt(1 / 3))
    with pytest.raises(ValueError, match="low < high"):
        rmse([1.0], [1.0], clip=(5, 1))


def test_rmse_of_a_scorer_is_taken_at_the_stored_entries():
    scores = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    # A stored zero is a rating of 0.
    ratings = sparse.csr_matrix(([2.0, 0.0, 5.0], ([0, 0, 1], [0, 2, 1])), shape=(2, 3))
    predictor = types.SimpleNamespace(predict=lambda users, items: scores[users, items])
    for scorer in (scores, Scorer(scores), predictor):
        assert rmse(scorer, ratings) == pytest.approx(math.sqrt((1 + 9 + 0) / 3))
    assert rmse(scores, ratings.toarray()) == pytest.approx(math.sqrt(1 / 2))  # a 0 is nothing


@pytest.mark.parametrize(
    ("predictions", "ratings", "says"),
    [
        # The tutorial once forgot an unsqueeze and subtracted every rating from every prediction.
        (np.zeros((3, 1)), np.zeros(3), r"\(3, 1\) and ratings \(3,\).*ravel"),
        (np.zeros(1), np.zeros(3), "1-D arrays of the same length"),
        ([], [], "ratings is empty"),
        ([np.nan], [1.0], "predictions contain NaN"),
        ([1.0], [np.inf], "ratings contain NaN"),
    ],
)
def test_rmse_refuses_what_it_would_measure_wrongly(predictions, ratings, says):
    with pytest.raises(ValueError, match=says):
        rmse(predictions, ratings)

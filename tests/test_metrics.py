"""Metrics against scikit-learn, brute force and small cases worked by hand."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import ndcg_score, roc_auc_score

from nmf_helpers import metrics
from nmf_helpers.baselines import GlobalMean
from nmf_helpers.metrics import auc, evaluate, ndcg_at_k, precision_at_k, recall_at_k, rmse


class Lender:
    """A scorer that hands out its own memory where it can, and remembers whom it was asked for."""

    def __init__(self, scores):
        self.scores, self.asked = scores, []

    def score_matrix(self, users):
        self.asked.append(users)
        everyone = len(users) == len(self.scores)
        return self.scores if everyone else self.scores[users]

    def predict(self, users, items):
        return self.scores[users, items]


def by_hand(scores, test, train, k):
    """One user at a time, one item at a time: the mean of four metrics.

    Ties are broken at random in the definition, so precision and recall are means over every
    order of the tied items that is possible at the cut-off.
    """
    each = {"auc": [], f"precision@{k}": [], f"recall@{k}": [], f"ndcg@{k}": []}
    for user in np.flatnonzero(test.any(axis=1)):
        candidates = np.flatnonzero(~train[user])
        score, label = scores[user, candidates].tolist(), test[user, candidates].tolist()
        if not all(label):
            each["auc"].append(roc_auc_score(label, score))
        cut = sorted(score, reverse=True)[:k][-1]
        sure = [y for y, s in zip(label, score, strict=True) if s > cut]
        tied = [y for y, s in zip(label, score, strict=True) if s == cut]
        draws = itertools.combinations(tied, min(k, len(candidates)) - len(sure))
        hits = sum(sure) + np.mean([sum(draw) for draw in draws])
        each[f"precision@{k}"].append(hits / k)
        each[f"recall@{k}"].append(hits / sum(label))
        # scikit-learn refuses a list of one, which is always in the best order
        alone = len(candidates) == 1
        each[f"ndcg@{k}"].append(1.0 if alone else ndcg_score([label], [score], k=k))
    return {name: pytest.approx(np.mean(values)) for name, values in each.items() if values}


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
@settings(max_examples=150, deadline=None)
def test_every_metric_agrees_with_brute_force_and_scikit_learn(problem):
    scores, test, train, k = problem
    expected = by_hand(scores, test, train, k)
    train = train if train.any() else None  # then the whole catalogue is ranked
    if "auc" not in expected:
        with pytest.raises(ValueError, match="AUC is undefined"):
            auc(scores, test, train)
    found = evaluate(scores, test, train, expected)
    assert {name: found[name] for name in expected} == expected


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


def test_training_items_are_not_ranked(catalogue):
    # The tutorial left them in, and they took 41 % of the places in its top five.
    scores, test, train = catalogue
    learned = scores + 10 * train.toarray().astype(np.float32)  # a model that knows train by heart
    assert precision_at_k(learned, test, k=5) < precision_at_k(scores, test, train, k=5) / 2
    learned[train.toarray()] = np.random.default_rng(0).choice([-1e9, 0.0, np.inf], train.nnz)
    assert evaluate(learned, test, train) == evaluate(scores, test, train)


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
    some = np.flatnonzero(test.sum(axis=1))
    for name in ("auc", "precision@3"):
        alone = [evaluate(scores[[u]], test[[u]], train[[u]], name)[name] for u in some]
        assert metrics.per_user(scores, test, train, name).tolist() == alone


@pytest.mark.parametrize("n_scores", [1, 7 * 50 + 49, 10**9])
def test_users_with_a_test_item_are_scored_once_in_chunks_of_any_size(
    catalogue, monkeypatch, n_scores
):
    scores, test, train = catalogue
    whole, scorer = evaluate(scores, test, train), Lender(scores)
    monkeypatch.setattr(metrics, "_CHUNK_SCORES", n_scores)
    assert evaluate(scores, test, train) == evaluate(scorer, test, train) == whole
    sizes = {1: [1] * 24, 10**9: [24]}.get(n_scores, [7, 7, 7, 3])
    assert [len(users) for users in scorer.asked] == sizes
    np.testing.assert_array_equal(np.concatenate(scorer.asked), np.flatnonzero(test.sum(axis=1)))


def test_the_scores_lent_are_not_written_to(catalogue):
    scores, test, train = (part[np.arange(30) % 5 > 0] for part in catalogue)
    before = scores.copy()
    evaluate(Lender(scores), test, train)
    np.testing.assert_array_equal(scores, before)


def test_values_are_not_weights_a_stored_zero_is_nothing_and_a_double_counts_once():
    stored = [4.0, 1, 0, 1], [0, 2, 3, 0], [0, 4]  # item 0 twice
    scores, names = np.array([[3.0, 2.0, 1.0, 0.0]]), ["auc", "recall@2"]
    expected = evaluate(scores, [[1, 0, 1, 0]], metrics=names)
    assert evaluate(scores, sparse.csr_matrix(stored, shape=(1, 4)), metrics=names) == expected


def test_an_infinite_score_is_the_first_or_the_last_place_and_whole_numbers_are_exact():
    scores, train = np.array([[-np.inf, 0.0, np.inf, -np.inf, 5.0]]), [[0, 1, 0, 0, 0]]
    for test in np.eye(5)[[0, 2, 3, 4]][:, None]:
        both = [evaluate(s, test, train, ["auc", "ndcg@4"]) for s in (scores, scores.clip(-9, 9))]
        assert both[0] == both[1]
    assert auc(np.array([[2**53 - 1, 2**53 - 2, 0]]), [[1, 0, 0]]) == 1.0


# --- Input that cannot work --------------------------------------------------------------------


ONES, TEST, NAN = np.ones((2, 3)), np.array([[0, 1, 1], [1, 0, 0]]), np.array([[np.nan, 9, 0]] * 2)
MEAN = GlobalMean().fit(ONES)


@pytest.mark.parametrize(
    ("judge", "given", "says"),
    [
        (auc, (NAN, TEST), "scores of user 0 contain NaN"),
        (auc, (ONES, TEST, TEST[1:]), r"exclude has shape \(1, 3\), test \(2, 3\)"),
        *((judge, (scorer, np.eye(3)), r"shape \(3, 3\), the scorer \(2, 3\): number users and")
          for judge, scorer in ((auc, ONES), (metrics.per_user, MEAN), (rmse, MEAN))),
        # 16 · 16 is 0 in eight bits
        (auc, (ONES, 16 * TEST.astype("i1"), 16 * np.array([[1, 0, 0]] * 2, "i1")),
         r"1 entries are in test and in exclude \(user 1, item 0 for one\)"),
        (auc, (ONES, TEST[0]), r"test is int64 of shape .* not a users x items matrix"),
        *((judge, (MEAN, pd.DataFrame(TEST)), "is a table") for judge in (auc, rmse)),
        *((judge, (MEAN, 0 * TEST), "is empty") for judge in (auc, rmse)),
        (auc, (ONES, TEST, NAN), "exclude holds nan at user 0, item 0"),
        (auc, (ONES, -TEST), "test holds -1 .* a dislike is no interaction"),
        *((metric, (ONES, TEST, None, k), f"k must be .*at least 1 and at most 3, not {k!r}")
          for metric in (precision_at_k, recall_at_k, ndcg_at_k) for k in (0, 4, 2.0, "2", True)),
        # The tutorial once forgot an unsqueeze and subtracted every rating from every prediction.
        (rmse, (np.zeros((3, 1)), np.zeros(3)), r"\(3, 1\) and ratings \(3,\).*ravel"),
        (rmse, ([], []), "ratings is empty"),
        (rmse, ([np.nan], [1.0]), "contain NaN"),
        (rmse, ([1.0], [np.inf]), "contain NaN or infinity"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_by_name(judge, given, says):
    with pytest.raises((ValueError, TypeError), match=says):
        judge(*given)


def test_whatever_is_stored_in_exclude_is_left_out():
    # A rating of 0 is a rating, and a dislike too: neither item is recommended again.
    rated = sparse.csr_matrix(([0.0, -1.0], ([0, 0], [0, 1])), shape=(1, 3))
    assert recall_at_k([[9.0, 8.0, 1.0]], [[0, 0, 1]], rated, k=1) == 1


def test_an_unknown_metric_is_refused_before_any_scoring_with_the_nearest_known_one():
    scorer = Lender(ONES)
    near = {"AUC": "auc", "ndcg": "ndcg@10", "NDCG@5": "ndcg@10", "ndcg@0": "ndcg@10"}
    for name, meant in (near | {"ndgc@10": "ndcg@10", "recal@2": "recall@10"}).items():
        with pytest.raises(ValueError, match=f"unknown metric {name!r}: did you mean {meant!r}"):
            evaluate(scorer, TEST, metrics=["auc", name])
    assert scorer.asked == []


# --- RMSE --------------------------------------------------------------------------------------


def test_rmse_by_hand_and_clipped_to_the_rating_scale():
    assert rmse([3.0, 5.0], [4.0, 2.0]) == pytest.approx(math.sqrt((1 + 9) / 2))
    assert rmse([7.0, -1.0, 3.0], [5.0, 1.0, 4.0], clip=(1, 5)) == pytest.approx(math.sqrt(1 / 3))


def test_rmse_of_a_scorer_is_taken_at_the_stored_entries():
    scores = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    # A stored zero is a rating of 0.
    ratings = sparse.csr_matrix(([2.0, 0.0, 5.0], ([0, 0, 1], [0, 2, 1])), shape=(2, 3))
    assert rmse(Lender(scores), ratings) == pytest.approx(math.sqrt((1 + 9 + 0) / 3))
    assert rmse(Lender(scores), ratings.toarray()) == pytest.approx(math.sqrt(1 / 2))  # of two

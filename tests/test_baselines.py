"""Baselines against dense linear algebra, counting, and averages taken one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from nmf_helpers.baselines import EASE, BiasRidge, GlobalMean, ItemMean, Popularity, UserMean
from nmf_helpers.data import encode_ratings, interaction_matrix, load_ratings, split_ratings
from nmf_helpers.metrics import auc, rmse

ALL = [GlobalMean, UserMean, ItemMean, BiasRidge, Popularity, EASE]


def random_ratings(n_users=12, n_items=9, density=0.4, seed=0):
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 6, size=(n_users, n_items)) * (rng.random((n_users, n_items)) < density)
    dense[rng.integers(n_users), rng.integers(n_items)] = 3
    return sparse.csr_matrix(dense.astype(np.float32))


@pytest.fixture
def ratings():
    """Three users, four films; the last user and the last film have no rating."""
    return sparse.csr_matrix(np.array([[5, 3, 0, 0], [4, 0, 2, 0], [0, 0, 0, 0]], dtype=np.float32))


# --- Each against an independent answer ----------------------------------------------------------


def test_the_means_by_hand(ratings):
    mean = 14 / 4
    np.testing.assert_allclose(GlobalMean().fit(ratings).score_matrix(), np.full((3, 4), mean))
    by_user = UserMean().fit(ratings).score_matrix()
    np.testing.assert_allclose(by_user, np.repeat([[4.0], [3.0], [mean]], 4, axis=1))
    by_item = ItemMean().fit(ratings).score_matrix()
    np.testing.assert_allclose(by_item, np.repeat([[4.5, 3.0, 2.0, mean]], 3, axis=0))


def test_a_rating_equal_to_the_mean_counts_in_a_mean():
    ratings = sparse.csr_matrix(np.array([[3.0, 5.0], [1.0, 3.0]]))
    assert UserMean().fit(ratings).predict([0, 1], [0, 0]).tolist() == [4.0, 2.0]


@given(
    st.integers(1, 15),
    st.integers(1, 15),
    st.floats(0.01, 1),
    st.sampled_from([(5.0, 3.0), (0.1, 20.0), (100.0, 0.5)]),
    st.integers(0, 10**6),
)
@settings(max_examples=100, deadline=None)
def test_bias_ridge_solves_its_normal_equations(n_users, n_items, density, regs, seed):
    ratings = random_ratings(n_users, n_items, density, seed).tocoo()
    # One row for each rating, with a one for its user and a one for its item.
    design = np.zeros((ratings.nnz, n_users + n_items))
    design[np.arange(ratings.nnz), ratings.row] = 1
    design[np.arange(ratings.nnz), n_users + ratings.col] = 1
    penalty = np.diag(np.repeat(regs, [n_users, n_items]))
    mean = ratings.data.mean()
    bias = np.linalg.solve(design.T @ design + penalty, design.T @ (ratings.data - mean))
    expected = mean + bias[:n_users, None] + bias[None, n_users:]
    fitted = BiasRidge(*regs).fit(ratings)
    np.testing.assert_allclose(fitted.score_matrix(), expected, atol=1e-5)


def test_bias_ridge_finds_planted_biases_where_means_cannot():
    rng = np.random.default_rng(0)
    user_bias, item_bias = rng.normal(size=(40, 1)), rng.normal(size=(1, 30))
    planted = 3.5 + user_bias + item_bias
    # Kind users rate the good films, severe users the bad ones.
    rated = rng.random((40, 30)) < np.where(user_bias * item_bias > 0, 0.9, 0.2)
    train = sparse.csr_matrix(np.where(rated, planted, 0))
    rest = sparse.csr_matrix(np.where(rated, 0, planted))
    assert rmse(BiasRidge(1e-4, 1e-4).fit(train), rest) < 1e-3
    assert rmse(UserMean().fit(train), rest) > 0.5
    assert rmse(ItemMean().fit(train), rest) > 0.5


@given(st.integers(2, 10), st.sampled_from([0.5, 10.0, 500.0]), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_ease_is_a_ridge_regression_of_each_item_on_all_others(n_items, l2, seed):
    train = random_ratings(12, n_items, seed=seed)
    x = train.toarray().astype(np.float64)
    weights = np.zeros((n_items, n_items))
    for item in range(n_items):
        others = np.arange(n_items) != item
        left = x[:, others]
        ridge = np.linalg.solve(left.T @ left + l2 * np.eye(n_items - 1), left.T @ x[:, item])
        weights[others, item] = ridge
    np.testing.assert_allclose(EASE(l2).fit(train).score_matrix(), x @ weights, atol=1e-4)


def test_bias_ridge_on_real_ratings_is_what_models_must_beat():
    raw_train, raw_valid = split_ratings(load_ratings("latest-small"))
    train = interaction_matrix(encode_ratings(raw_train, raw_train))
    valid = interaction_matrix(encode_ratings(raw_valid, raw_train))
    error = {kind: rmse(kind().fit(train), valid, clip=(0.5, 5)) for kind in ALL[:4]}
    assert error[BiasRidge] == pytest.approx(0.880, abs=0.001)
    assert error[BiasRidge] < error[UserMean] - 0.05 < error[ItemMean] < error[GlobalMean]


def test_popularity_counts_users_not_stars(ratings):
    scores = Popularity().fit(ratings).score_matrix()
    np.testing.assert_array_equal(scores, [[2, 1, 1, 0]] * 3)


def test_a_match_that_only_ease_can_know_is_found_by_ease_alone():
    # Two tastes, equally popular: nothing but what a user has tells which films come next.
    rng = np.random.default_rng(0)
    likes = (np.arange(60)[:, None] % 2) == (np.arange(20)[None, :] % 2)
    known = rng.random(likes.shape) < 0.5
    train, test = sparse.csr_matrix(likes & known), sparse.csr_matrix(likes & ~known)
    assert auc(EASE(10.0).fit(train), test, train) > 0.99
    assert auc(Popularity().fit(train), test, train) < 0.75


# --- What all of them share ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
class TestEveryBaseline:
    def test_predict_and_score_matrix_agree(self, kind):
        baseline = kind().fit(random_ratings())
        users, items = np.divmod(np.arange(12 * 9), 9)
        scores = baseline.score_matrix()
        assert scores.shape == (12, 9) and scores.dtype == np.float32
        predicted = baseline.predict(users, items)
        assert predicted.shape == (108,) and predicted.dtype == np.float32
        np.testing.assert_allclose(predicted, scores.ravel(), atol=1e-6)

    def test_some_users_are_scored_in_the_order_asked(self, kind):
        baseline = kind().fit(random_ratings())
        some = baseline.score_matrix(np.array([7, 2, 7]))
        np.testing.assert_allclose(some, baseline.score_matrix()[[7, 2, 7]], atol=1e-6)

    def test_users_and_items_without_ratings_get_a_finite_score(self, kind, ratings):
        assert np.isfinite(kind().fit(ratings).score_matrix()).all()

    def test_the_training_matrix_is_not_written_to(self, kind):
        ratings = random_ratings().astype(np.float64)
        before = ratings.copy()
        kind().fit(ratings)
        assert (ratings != before).nnz == 0

    def test_fitting_again_forgets_the_first_fit(self, kind):
        first, second = random_ratings(seed=1), random_ratings(5, 4, seed=2)
        again = kind().fit(first).fit(second).score_matrix()
        np.testing.assert_array_equal(again, kind().fit(second).score_matrix())

    def test_every_sparse_format_and_an_array_will_do(self, kind):
        ratings = random_ratings()
        expected = kind().fit(ratings).score_matrix()
        for convert in (sparse.coo_matrix, sparse.csc_array, sparse.csr_array, np.asarray):
            other = convert(ratings.toarray())
            np.testing.assert_allclose(kind().fit(other).score_matrix(), expected, atol=1e-6)

    def test_ids_outside_the_training_matrix_are_refused(self, kind, ratings):
        baseline = kind().fit(ratings)
        with pytest.raises(ValueError, match=r"user 3 is not among the 3 users .*\(0 to 2\)"):
            baseline.predict([0, 3], [0, 0])
        with pytest.raises(ValueError, match="item -1 is not among the 4 items"):
            baseline.predict([0], [-1])
        with pytest.raises(ValueError, match="user 9 is not among"):
            baseline.score_matrix([9])

    def test_ids_must_pair_up_and_be_whole_numbers(self, kind, ratings):
        baseline = kind().fit(ratings)
        with pytest.raises(ValueError, match="2 users cannot be paired with 1 items"):
            baseline.predict([0, 1], [0])
        with pytest.raises(TypeError, match="item ids must be integers, not float64"):
            baseline.predict([0], [1.0])
        with pytest.raises(ValueError, match="user ids must be a 1-D array, not 2-D"):
            baseline.predict([[0]], [0])
        assert baseline.predict([], []).shape == (0,)

    def test_predicting_before_fitting_is_refused(self, kind):
        with pytest.raises(RuntimeError, match=f"this {kind.__name__} is not fitted; call fit"):
            kind().predict([0], [0])
        with pytest.raises(RuntimeError, match="call fit"):
            kind().score_matrix()

    def test_training_ratings_must_exist_and_be_finite(self, kind):
        with pytest.raises(ValueError, match="no ratings"):
            kind().fit(sparse.csr_matrix((3, 4)))
        with pytest.raises(ValueError, match="NaN or infinite"):
            kind().fit(np.array([[1.0, np.nan]]))
        with pytest.raises(ValueError, match=r"must be a .* matrix, not 1-D"):
            kind().fit(np.array([1.0, 2.0]))


def test_unseen_users_and_items_fall_back_on_what_is_known(ratings):
    fitted = BiasRidge().fit(ratings)
    mean = pytest.approx(3.5)
    assert fitted.predict([2], [3])[0] == mean
    assert fitted.predict([2], [0])[0] == pytest.approx(3.5 + fitted.item_bias_[0])
    assert fitted.predict([0], [3])[0] == pytest.approx(3.5 + fitted.user_bias_[0])


def test_penalties_must_be_above_zero(ratings):
    for baseline, name in (
        (BiasRidge(user_reg=0), "user_reg=0"),
        (BiasRidge(item_reg=-1.0), "item_reg=-1.0"),
        (EASE(l2=float("nan")), "l2=nan"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be above 0"):
            baseline.fit(ratings)


def test_a_baseline_shows_its_settings():
    assert repr(BiasRidge(item_reg=2.0)) == "BiasRidge(user_reg=5.0, item_reg=2.0)"

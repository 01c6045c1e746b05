"""Baselines against dense linear algebra, counting, and averages taken one by one."""

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scorers import ScorerContract, random_ratings

from nmf_helpers.als import ImplicitALS
from nmf_helpers.baselines import EASE, BiasRidge, GlobalMean, ItemMean, Popularity, UserMean

NAN = float("nan")


@pytest.fixture
def ratings():
    """Three users, four films; the last user and the last film have no rating."""
    return sparse.csr_matrix(np.array([[5, 3, 0, 0], [4, 0, 2, 0], [0, 0, 0, 0]], dtype=np.float32))


# --- Each against an independent answer ----------------------------------------------------------


def test_the_means_by_hand(ratings):
    mean = 14 / 4
    for kind, expected in (
        (GlobalMean, np.full((3, 4), mean)),
        (UserMean, np.repeat([[4.0], [3.0], [mean]], 4, axis=1)),
        (ItemMean, np.repeat([[4.5, 3.0, 2.0, mean]], 3, axis=0)),
    ):
        np.testing.assert_allclose(kind().fit(ratings).score_matrix(), expected)
    level = sparse.csr_matrix(np.array([[3.0, 5.0], [1.0, 3.0]]))  # the mean is a rating too
    assert UserMean().fit(level).predict([0, 1], [0, 0]).tolist() == [4.0, 2.0]


@pytest.mark.parametrize("seed", range(30))
def test_bias_ridge_solves_its_normal_equations(seed):
    rng = np.random.default_rng(seed)
    (n_users, n_items), density = rng.integers(1, 16, 2), rng.uniform(0.01, 1)
    regs = rng.choice([(5.0, 3.0), (0.1, 20.0), (100.0, 0.5)])
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


@given(st.integers(2, 10), st.sampled_from([0.5, 10.0, 500.0]), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_ease_is_a_ridge_regression_of_each_item_on_all_others(n_items, l2, seed):
    train = random_ratings(12, n_items, seed=seed)
    x = (train.toarray() > 0).astype(np.float64)  # five stars or one, it is an interaction
    weights = np.zeros((n_items, n_items))
    for item in range(n_items):
        others = np.arange(n_items) != item
        left = x[:, others]
        ridge = np.linalg.solve(left.T @ left + l2 * np.eye(n_items - 1), left.T @ x[:, item])
        weights[others, item] = ridge
    np.testing.assert_allclose(EASE(l2).fit(train).score_matrix(), x @ weights, atol=1e-4)


def test_popularity_counts_users_not_stars(ratings):
    scores = Popularity().fit(ratings).score_matrix()
    np.testing.assert_array_equal(scores, [[2, 1, 1, 0]] * 3)


# --- What all of them share ----------------------------------------------------------------------


for each in (GlobalMean, UserMean, ItemMean, BiasRidge, Popularity, EASE):
    name = f"Test{each.__name__}"
    globals()[name] = type(name, (ScorerContract,), {"make": each, "kind": each.kind})


@pytest.mark.parametrize("kind", [BiasRidge, Popularity, EASE])
def test_a_fit_that_fails_halfway_leaves_the_old_one(ratings, monkeypatch, kind):
    def halfway(self, train, whole=kind._fit):
        whole(self, train)
        raise MemoryError

    fitted = kind().fit(ratings)
    before = fitted.score_matrix()
    monkeypatch.setattr(kind, "_fit", halfway)
    with pytest.raises(MemoryError):
        fitted.fit(ratings[:, ::-1])
    np.testing.assert_array_equal(fitted.score_matrix(), before)


@pytest.mark.parametrize("baseline", [BiasRidge(user_reg=0), BiasRidge(5, -1.0), EASE(NAN)])
def test_penalties_must_be_above_zero(ratings, baseline):
    with pytest.raises(ValueError, match=r"^(user_reg|item_reg|l2) must be a number, above 0, not"):
        baseline.fit(ratings)
    with pytest.raises(RuntimeError, match="call fit"):
        baseline.predict([0], [0])


def test_a_baseline_shows_its_settings():
    assert repr(BiasRidge(item_reg=2.0)) == "BiasRidge(user_reg=5.0, item_reg=2.0)"


def test_memory_is_looked_at_before_it_is_asked_for(monkeypatch):
    real, likes = psutil.virtual_memory(), sparse.eye_array(1000, format="csr")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=10**6))
    with pytest.raises(ValueError, match=r"EASE.* 1000 x 1000 items.*0.0224 GiB.*rare items"):
        EASE().fit(likes)
    with pytest.raises(ValueError, match=r"1000 vectors of 32 numbers .* smaller n_factors"):
        ImplicitALS().fit(likes)
    popularity = Popularity().fit(likes)
    with pytest.raises(ValueError, match="1000 users x 1000 items needs"):
        popularity.score_matrix()
    assert popularity.score_matrix(range(100)).shape == (100, 1000)


def test_single_pairs_of_many_users_never_take_all_their_rows_at_once(monkeypatch):
    ease = EASE().fit(sparse.eye_array(4000, 600))
    asked, rows = [], ease._scores
    monkeypatch.setattr(ease, "_scores", lambda users: asked.append(len(users)) or rows(users))
    assert ease.predict(np.arange(4000), np.arange(4000) % 600).shape == (4000,)
    assert sum(asked) == 4000 and max(asked) * 600 <= 2**20

"""Gibbs sampling against dense algebra, brute force and ratings whose truth is known."""

import numpy as np
import pytest
from scipy import sparse

from nmf_helpers.baselines import BiasRidge
from nmf_helpers.bayes import BayesianMF, _Side, with_ones
from nmf_helpers.metrics import rmse

QUICK = {"n_factors": 2, "n_sweeps": 8, "burn_in": 2}


def planted(seed=0, n_users=80, n_items=60):
    """Return (train, truth): noisy ratings of a third of the pairs, and all without noise."""
    rng = np.random.default_rng(seed)
    bias = rng.normal(0, 0.3, (n_users, 1)) + rng.normal(0, 0.3, n_items)
    truth = 3.5 + bias + rng.normal(0, 1, (n_users, 2)) @ rng.normal(0, 0.6, (2, n_items))
    rated = rng.random(truth.shape) < 1 / 3
    return sparse.csr_array(np.where(rated, truth + rng.normal(0, 0.3, truth.shape), 0)), truth


def side(train):
    position = train.copy()
    position.data = np.arange(train.nnz)
    return _Side(position)


@pytest.fixture
def small():
    """Four users, five films; the last user and the last film have no rating."""
    return sparse.csr_array(
        np.array([[5, 3, 0, 1, 0], [4, 0, 2, 0, 0], [1, 2, 0, 4, 0], [0, 0, 0, 0, 0]], dtype=float)
    )


# --- Each draw has the mean and covariance that the formula says ---------------------------------


def test_the_draws_of_a_user_follow_her_posterior(small):
    rng = np.random.default_rng(0)
    others, prior_mean = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    prior_precision = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 3.0]])
    precision = rng.uniform(0.5, 2, small.nnz)
    users = side(small)
    args = (small.data, precision, others, prior_precision, prior_mean, rng)
    draws = np.array([users.draw(*args) for _ in range(4000)])  # (draws, users, 3)
    for user in range(4):
        # Bayes' rule rating by rating, on covariances: a Kalman filter, which inverts nothing.
        mean, covariance = prior_mean[user].copy(), np.linalg.inv(prior_precision)
        for entry in range(small.indptr[user], small.indptr[user + 1]):
            item = small.indices[entry]
            v = np.array([others[item, 0], others[item, 1], 1.0])
            surprise = small.data[entry] - others[item, 2] - v @ mean
            gain = covariance @ v / (v @ covariance @ v + 1 / precision[entry])
            mean, covariance = mean + gain * surprise, covariance - np.outer(gain, v @ covariance)
        error = 5 * np.sqrt(covariance.diagonal() / len(draws))
        assert (abs(draws[:, user].mean(axis=0) - mean) < error).all()
        np.testing.assert_allclose(np.cov(draws[:, user].T), covariance, atol=0.06)


@pytest.mark.parametrize("tall", [True, False])
def test_the_draws_of_the_prior_follow_a_gaussian_process(small, tall):
    train = sparse.csr_array(small.T) if tall else small
    seen = (train.toarray() > 0).astype(float)
    x = seen / np.maximum(seen.sum(axis=1, keepdims=True), 1) ** 0.35
    kernel = x @ x.T
    kernel = kernel / np.trace(kernel) * len(x) + 1
    n = len(kernel)
    posterior = kernel @ np.linalg.inv(kernel + np.eye(n))  # of a noise as large as Λ⁻¹
    rng = np.random.default_rng(1)
    theta = rng.normal(size=(n, 2))
    rows = side(train)
    np.testing.assert_allclose((rows.q * rows.explained) @ rows.q.T, posterior, atol=1e-9)
    draws = [rows.draw_prior(theta, rng) for _ in range(2500)]
    means = np.array([f for _, f in draws])
    np.testing.assert_allclose(means.mean(axis=0), posterior @ theta, atol=0.06)
    # Given Λ, column 0 has covariance posterior · Λ⁻¹[0, 0]; Λ⁻¹ differs from draw to draw.
    size = np.mean([np.linalg.inv(scatter)[0, 0] for scatter, _ in draws])
    np.testing.assert_allclose(np.cov(means[:, :, 0].T), posterior * size, atol=0.08 * size + 0.02)
    inverse_scale = np.eye(2) + theta.T @ np.linalg.inv(kernel + np.eye(n)) @ theta
    wanted = (n + 2) * np.linalg.inv(inverse_scale)
    np.testing.assert_allclose(np.mean([s for s, _ in draws], axis=0), wanted, rtol=0.1, atol=0.1)


def test_biases_meet_ones():
    left, right = np.array([[2.0, 3.0, 0.5]]), np.array([[5.0, 7.0, 0.25]])
    dot = with_ones(left, last=True) @ with_ones(right, last=False).T
    assert dot.item() == 2 * 5 + 3 * 7 + 0.5 + 0.25


# --- What comes out ------------------------------------------------------------------------------


def test_it_recovers_planted_tastes_and_noise():
    train, truth = planted()
    hidden = sparse.csr_array(np.where(train.toarray() == 0, truth, 0))
    *_, last = BayesianMF(n_factors=4, n_sweeps=80, burn_in=30).sweeps(train, hidden)
    assert last["rmse"] < 0.5 * rmse(BiasRidge().fit(train), hidden)
    assert last["rmse"] < 0.9 * last["sample_rmse"]  # the average beats its last draw
    assert 0.25 < last["noise"] < 0.35  # planted: 0.3


def test_who_rated_what_tells_tastes_before_any_rating_does():
    # Two crowds, each with ten films that only it rates, 3 stars for all of them. Of twenty
    # other films one crowd loves the first half and the other the second. Two new users have
    # rated nothing but their crowd's ten, 3 stars: all that is known of them is *which* films.
    dense, rng = np.zeros((60, 40)), np.random.default_rng(0)
    dense[:30, :10], dense[30:, 10:20] = 3, 3
    dense[:30, 20:30], dense[30:, 30:] = 5, 5
    dense[:30, 30:], dense[30:, 20:30] = 1, 1
    dense *= rng.random(dense.shape) < 0.7
    dense[[0, 59], 20:] = 0
    scores = BayesianMF(n_factors=2, n_sweeps=60, burn_in=20).fit(dense).score_matrix()
    assert scores[0, 20:30].mean() > scores[0, 30:].mean() + 1
    assert scores[59, 30:].mean() > scores[59, 20:30].mean() + 1


def test_the_average_is_of_the_sweeps_after_the_burn_in():
    train, _ = planted()
    model, samples = BayesianMF(**QUICK), []
    short = [BayesianMF(**QUICK | {"n_sweeps": n, "burn_in": n - 1}) for n in range(3, 9)]
    for one in short:  # the last draw alone
        samples.append(one.fit(train).score_matrix())
    np.testing.assert_allclose(
        model.fit(train).score_matrix(), np.mean(samples, axis=0), rtol=1e-4, atol=1e-4
    )


def test_following_test_ratings_changes_nothing():
    train, truth = planted()
    followed = BayesianMF(**QUICK)
    records = list(followed.sweeps(train, sparse.csr_array(truth)))
    assert [r["sweep"] for r in records] == list(range(1, 9))
    assert records[1]["rmse"] == records[1]["sample_rmse"]
    assert records[7]["rmse"] == pytest.approx(
        rmse(followed, sparse.csr_array(truth), clip=(train.data.min(), train.data.max()))
    )
    alone = BayesianMF(**QUICK).fit(train)
    assert np.array_equal(alone.score_matrix(), followed.score_matrix())
    assert "rmse" not in next(BayesianMF(**QUICK).sweeps(train))


def test_seeds_decide_and_the_global_state_is_left_alone():
    train, _ = planted()
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    first, again, other = (
        BayesianMF(**QUICK, seed=seed).fit(train).score_matrix() for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(before, np.random.get_state()[1])


def test_the_training_matrix_is_left_alone_and_its_form_does_not_matter():
    train, _ = planted()
    twice = sparse.csr_array(train, copy=True)
    wanted = BayesianMF(**QUICK).fit(train).score_matrix()
    assert (train != twice).nnz == 0
    split = sparse.csr_array(([2.0, 2.0, 3.0], [0, 0, 1], [0, 3]), shape=(1, 2))
    BayesianMF(**QUICK).fit(split)
    assert split.nnz == 3  # the two halves of a rating are still two
    for form in (train.toarray(), train.tocsc(), sparse.csr_matrix(train).astype(np.float32)):
        np.testing.assert_allclose(BayesianMF(**QUICK).fit(form).score_matrix(), wanted, rtol=0.01)


def test_ratings_without_noise_or_without_difference_are_no_trouble():
    same = np.full((6, 5), 4.0)
    scores = BayesianMF(n_factors=2, n_sweeps=60, burn_in=20).fit(same).score_matrix()
    np.testing.assert_allclose(scores, 4, atol=0.2)


def test_users_and_films_without_ratings_get_finite_scores(small):
    model = BayesianMF(**QUICK).fit(small)
    scores = model.score_matrix([3, 0])
    assert scores.dtype == np.float32
    assert scores.shape == (2, 5)
    assert np.isfinite(scores).all()
    assert model.predict([0, 3], [4, 2]).tolist() == [scores[1, 4], scores[0, 2]]


# --- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_factors": 0}, "n_factors=0 must be at least 1"),
        ({"burn_in": -1}, "burn_in=-1 must be at least 0"),
        ({"n_sweeps": 20, "burn_in": 20}, "n_sweeps=20 must be at least 21"),
        ({"steadiness": 0.0}, "steadiness=0.0 must be above 0"),
    ],
)
def test_a_setting_out_of_range_is_named(small, setting, message):
    with pytest.raises(ValueError, match=message):
        BayesianMF(**setting).fit(small)


def test_what_cannot_be_learned_from_is_refused(small):
    with pytest.raises(ValueError, match="no ratings"):
        next(BayesianMF().sweeps(sparse.csr_array((3, 4))))
    with pytest.raises(ValueError, match=r"test has shape \(2, 2\), train \(4, 5\)"):
        next(BayesianMF().sweeps(small, sparse.csr_array((2, 2))))
    with pytest.raises(RuntimeError, match="not fitted"):
        BayesianMF().score_matrix()
    with pytest.raises(ValueError, match="user 9"):
        BayesianMF(**QUICK).fit(small).predict([9], [0])

"""Gibbs sampling against dense algebra, brute force and ratings whose truth is known."""

import numpy as np
import pytest
from scipy import sparse
from scorers import ScorerContract

from nmf_helpers.baselines import BiasRidge
from nmf_helpers.bayes import BayesianMF, _Side, draw_noises
from nmf_helpers.metrics import rmse
from nmf_helpers.moods import Moods

QUICK = {"n_factors": 2, "n_sweeps": 8, "burn_in": 2}


class TestBayesianMF(ScorerContract):
    def make(self):
        return BayesianMF(**QUICK)


def planted(seed=0, n_users=80, n_items=60, unit=1.0):
    """Return (train, truth): noisy ratings of a third of the pairs, and all without noise."""
    rng = np.random.default_rng(seed)
    bias = rng.normal(0, 0.3, (n_users, 1)) + rng.normal(0, 0.3, n_items)
    truth = 3.5 + bias + rng.normal(0, 1, (n_users, 2)) @ rng.normal(0, 0.6, (2, n_items))
    rated = rng.random(truth.shape) < 1 / 3
    noisy = truth + rng.normal(0, 0.3, truth.shape)
    return sparse.csr_array(np.where(rated, unit * noisy, 0)), unit * truth


def in_sittings(mood=0.8):
    """Return (train, times, hidden, its times): three moments of each user, each with a mood."""
    rng = np.random.default_rng(0)
    _, truth = planted()
    moment = rng.integers(3, size=truth.shape)
    moods = np.take_along_axis(rng.normal(0, mood, (len(truth), 3)), moment, axis=1)
    ratings = truth + moods + rng.normal(0, 0.3, truth.shape)
    part, both = rng.integers(4, size=truth.shape), (ratings, 8e8 + 90000 * moment)
    return [sparse.csr_array(np.where(part == p, x, 0)) for p in (0, 1) for x in both]


def side(train, power=0.35, features=None):
    position = train.copy()
    position.data = np.arange(train.nnz)
    return _Side(position, power, features)


# Four users, five films; the last user and the last film have no rating.
SMALL = sparse.csr_array([[5.0, 3, 0, 1, 0], [4, 0, 2, 0, 0], [1, 2, 0, 4, 0], [0, 0, 0, 0, 0]])


# --- Each draw has the mean and covariance that the formula says ---------------------------------


def test_the_draws_of_a_user_follow_her_posterior():
    rng = np.random.default_rng(0)
    others, prior_mean = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    scatter = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 3.0]])
    precision = rng.uniform(0.5, 2, SMALL.nnz)
    users = side(SMALL)
    args = (SMALL.data, precision, others, scatter, prior_mean, rng)
    means, draws = np.moveaxis([users.draw(*args) for _ in range(2000)], 1, 0)
    for user in range(4):
        # Bayes' rule rating by rating, on covariances: a Kalman filter, which inverts nothing.
        mean, covariance = prior_mean[user].copy(), np.linalg.inv(scatter)
        for entry in range(SMALL.indptr[user], SMALL.indptr[user + 1]):
            item = SMALL.indices[entry]
            v = np.array([others[item, 0], others[item, 1], 1.0])
            surprise = SMALL.data[entry] - others[item, 2] - v @ mean
            gain = covariance @ v / (v @ covariance @ v + 1 / precision[entry])
            mean, covariance = mean + gain * surprise, covariance - np.outer(gain, v @ covariance)
        np.testing.assert_allclose(means[0, user], mean, atol=1e-5)
        error = 5 * np.sqrt(covariance.diagonal() / len(draws))
        assert (abs(draws[:, user].mean(axis=0) - mean) < error).all()
        np.testing.assert_allclose(np.cov(draws[:, user].T), covariance, atol=0.08)


@pytest.mark.parametrize("power", [0.35, None])
def test_the_draws_of_the_prior_follow_a_gaussian_process(power):
    train = sparse.csr_array(SMALL.T)
    n = train.shape[0]
    features = np.random.default_rng(2).normal(size=(n, 2))
    kernel = features @ features.T + 1
    if power is not None:
        seen = (train.toarray() > 0).astype(float)
        x = seen / np.maximum(seen.sum(axis=1, keepdims=True), 1) ** power
        kernel += x @ x.T / np.trace(x @ x.T) * n
    posterior = kernel @ np.linalg.inv(kernel + np.eye(n))  # of a noise as large as Λ⁻¹
    rng = np.random.default_rng(1)
    theta = rng.normal(size=(n, 2))
    rows = side(train, power, features)
    np.testing.assert_allclose((rows.q * rows.explained) @ rows.q.T, posterior, atol=1e-6)
    draws = [rows.draw_prior(theta, rng) for _ in range(2500)]
    means = np.array([f for _, f in draws])
    np.testing.assert_allclose(means.mean(axis=0), posterior @ theta, atol=0.06)
    # Given Λ, column 0 has covariance posterior · Λ⁻¹[0, 0]; Λ⁻¹ differs from draw to draw.
    size = np.mean([np.linalg.inv(scatter)[0, 0] for scatter, _ in draws])
    np.testing.assert_allclose(np.cov(means[:, :, 0].T), posterior * size, atol=0.08 * size + 0.02)
    inverse_scale = np.eye(2) + theta.T @ np.linalg.inv(kernel + np.eye(n)) @ theta
    wanted = (n + 2) * np.linalg.inv(inverse_scale)
    np.testing.assert_allclose(np.mean([s for s, _ in draws], axis=0), wanted, rtol=0.1, atol=0.1)


def test_moods_of_a_known_size_have_their_posterior_in_closed_form():
    rng = np.random.default_rng(0)
    user, seconds = rng.integers(2, size=12), rng.integers(3 * 86400, size=12) // 1800 * 1800
    residual, precision = rng.normal(size=12), rng.uniform(0.5, 4, size=12)
    widths = 86400, 3600, 60
    times = sparse.csr_array((seconds, (user, np.arange(12))))
    user, seconds = times.tocoo().row, times.data
    moods, totals = Moods(times, times, widths), []
    for n in range(6000):
        totals.append(moods.draw(residual, precision, rng, anew=n == 0) * 0.7 / moods.s)
        moods.effects = [e * 0.7 / moods.s for e in moods.effects]  # s stays as it was
        moods.s = 0.7
    same_user = user[:, None] == user
    shared = sum(same_user & (seconds[:, None] // w == seconds // w) for w in widths)
    prior = 0.7**2 * shared  # the covariance of the sums of effects
    gain = prior @ np.linalg.inv(prior + np.diag(1 / precision))
    np.testing.assert_allclose(moods.at(user, seconds), gain @ residual, atol=0.06)
    np.testing.assert_allclose(np.cov(np.transpose(totals)), prior - gain @ prior, atol=0.08)


def test_the_draws_of_the_noises_follow_their_posterior():
    rng, n = np.random.default_rng(0), 300_000
    ids, squared = (np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1])), np.array([0.2, 0.1, 0.3, 4.0])
    # Bayes' rule: draws from the prior, each counted by how likely it makes the errors.
    shared = rng.gamma(0.5, 2, (n, 1)).repeat(4, axis=1)
    times_own = np.prod([shared, *(rng.gamma(3, 1 / 3, (n, 2))[:, of] for of in ids)], axis=0)
    for shape, precision in ((np.inf, shared), (3.0, times_own)):
        weight = np.prod(np.sqrt(precision) * np.exp(-precision * squared / 2), axis=1)
        own = [np.ones(2), np.ones(2)]
        draws = [draw_noises(squared, ids, own, shape, rng) for _ in range(5000)]
        np.testing.assert_allclose(np.mean(draws, 0), weight @ precision / weight.sum(), rtol=0.06)


# --- What comes out ------------------------------------------------------------------------------


def test_it_recovers_planted_tastes_and_noise_on_any_scale():
    errors = []
    for unit in (1.0, 20.0):
        train, truth = planted(unit=unit)
        hidden = sparse.csr_array(np.where(train.toarray() == 0, truth, 0))
        model = BayesianMF(n_factors=4, n_sweeps=60, burn_in=30)
        *_, last = model.sweeps(train, evaluate_on={"hidden": hidden})
        assert last["hidden_rmse"] < 0.5 * rmse(BiasRidge().fit(train), hidden)
        assert last["hidden_rmse"] < 0.9 * last["hidden_sample_rmse"]  # the average beats a draw
        assert 0.25 < last["noise"] / unit < 0.35  # planted: 0.3
        errors.append(last["hidden_rmse"] / unit)
    assert errors[0] == pytest.approx(errors[1], abs=0.002)


@pytest.mark.parametrize(
    ("part", "setting"), [("own_noises", "noise_prior_shape"), ("who_rated_what", "count_power")]
)
def test_a_part_can_be_left_out_and_then_its_setting_says_nothing(part, setting):
    for included in (True, False):
        models = (BayesianMF(**QUICK, **{part: included, setting: value}) for value in (0.2, 2.0))
        first, second = (model.fit(SMALL).score_matrix() for model in models)
        assert np.array_equal(first, second) == (not included)


def test_features_tell_what_the_films_that_nobody_rated_are_like():
    loves = np.add.outer(np.arange(60), np.arange(20)) % 2 == 0
    dense = np.where(loves, 5, 1) * (np.random.default_rng(0).random(loves.shape) < 0.7)
    dense[:, 8:12], loves = 0, loves[:, 8:12]
    model = BayesianMF(n_factors=2, n_sweeps=60, burn_in=20)
    scores = model.fit(dense, item_features=np.eye(2)[np.arange(20) % 2]).score_matrix()[:, 8:12]
    assert scores[loves].mean() > 2 + scores[~loves].mean()


def test_moods_are_recovered_and_an_unseen_window_adds_nothing():
    train, times, hidden, later = in_sittings()
    model = BayesianMF(n_factors=3, n_sweeps=60, burn_in=20).fit(train, times=times)
    pairs = hidden.nonzero()
    without, with_times = model.predict(*pairs), model.predict(*pairs, later.data)
    assert rmse(with_times, hidden.data) < 0.8 * rmse(without, hidden.data)
    assert np.std(with_times - without) == pytest.approx(0.8 * (2 / 3) ** 0.5, rel=0.2)
    assert np.array_equal(model.predict(*pairs, later.data + 1e8), without)


def test_times_that_say_nothing_change_nothing_beyond_noise():
    train, times, hidden, _ = in_sittings(mood=0.0)
    rng, pairs = np.random.default_rng(0), hidden.nonzero()
    times.data = rng.integers(10**9, size=times.nnz)
    model = BayesianMF(n_factors=3, n_sweeps=60, burn_in=20)
    plain = model.fit(train).predict(*pairs)
    dated = model.fit(train, times=times).predict(*pairs, rng.integers(10**9, size=hidden.nnz))
    assert rmse(dated, hidden.data) == pytest.approx(rmse(plain, hidden.data), rel=0.03)


def test_the_average_is_of_the_sweeps_after_the_burn_in():
    train, _ = planted()
    single = BayesianMF(n_factors=2, n_sweeps=40, burn_in=39)  # until then there is no average
    each = [single.score_matrix() for _ in single.sweeps(train)]
    averaged = BayesianMF(n_factors=2, n_sweeps=40, burn_in=2).fit(train).score_matrix()
    np.testing.assert_allclose(averaged, np.mean(each[2:], axis=0), rtol=1e-4, atol=1e-4)


def test_following_ratings_changes_nothing():
    train, truth = planted()
    followed, hidden = BayesianMF(**QUICK), sparse.csr_array(np.where(train.toarray(), 0, truth))
    one = hidden * (hidden == hidden.max())
    for n, record in enumerate(followed.sweeps(train, evaluate_on={"a": hidden, "b": one}), 1):
        now = rmse(followed, hidden, clip=(train.data.min(), train.data.max()))
        assert record["a_rmse"] == pytest.approx(now, abs=1e-4)  # usable as it stands
        assert record["sweep"] == n and record.keys() > {"noise", "b_sample_rmse"}
    alone = BayesianMF(**QUICK).fit(train)
    np.testing.assert_array_equal(alone.score_matrix(), followed.score_matrix())
    other = BayesianMF(**QUICK, seed=1).fit(train)
    assert not np.allclose(alone.score_matrix(), other.score_matrix(), atol=1e-3)


def test_ratings_without_noise_or_without_difference_are_no_trouble():
    same = np.full((6, 5), 4.0)
    scores = BayesianMF(n_factors=2, n_sweeps=60, burn_in=20).fit(same).score_matrix()
    np.testing.assert_allclose(scores, 4, atol=0.2)


# --- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "given", "message"),
    [
        ({"burn_in": -1}, {}, r"burn_in must be .* not -1"),
        ({"burn_in": 8}, {}, "n_sweeps=8 must be above burn_in=8"),
        ({}, {"times": SMALL[:, ::-1]}, "times has 8 entries, not in the places"),
        ({}, {"times": SMALL[:2]}, r"times has shape \(2, 5\)"),
        ({}, {"times": -SMALL}, r"times must be seconds .* not -5"),
        ({}, {"times": SMALL * np.nan}, "times holds nan"),
        ({}, {"times": (SMALL * 1e9).astype("f4")}, "as integers or float64, not float32"),
        ({}, {"item_features": np.ones((4, 2))}, r"item_features, float64 \(4, 2\)"),
        ({}, {"item_features": [["a"]] * 5}, r"item_features, <U1 .* row of finite numbers"),
        ({}, {"evaluate_on": {"later": SMALL[:2]}}, "later has shape"),
        ({}, {"evaluate_on": {"later": SMALL}}, "8 entries of later are in train as well"),
        ({"windows": ()}, {"times": SMALL}, "a width in windows must be .* not None"),
        ({"windows": (60, 0)}, {"times": SMALL}, "a width in windows must be .* at least 1, not 0"),
    ],
)
def test_what_cannot_be_is_refused_at_once_by_name(setting, given, message):
    with pytest.raises(ValueError, match=message):
        BayesianMF(**QUICK | setting).sweeps(SMALL, **given)


def test_times_of_predictions_are_seconds_one_for_each_and_of_use():
    dated, undated = BayesianMF(**QUICK).fit(SMALL, times=SMALL), BayesianMF(**QUICK).fit(SMALL)
    for model, times, message in (
        (dated, [1.0], "one for each of 2"),
        (dated, [1.0, np.nan], "not nan"),
        (dated, np.array([1, 2], "M8[s]"), "seconds, as integers .* not datetime64"),
        (dated, [1.0, 883e9], "not 883000000000"),  # milliseconds
        (undated, [1.0, 2.0], "fitted without times"),
    ):
        with pytest.raises(ValueError, match=message):
            model.predict([0, 1], [0, 1], times)


def test_memory_is_looked_at_before_it_is_taken():
    one = sparse.csr_array(([3.0, 4.0], ([0, 1], [0, 1])), shape=(2 * 10**6, 10**6))
    for train, n_factors, says in ((one, 16, "2000000 users .* GiB"), (SMALL, 10**6, "n_factors")):
        with pytest.raises(ValueError, match=f"BayesianMF, with scores of .*{says}"):
            BayesianMF(n_factors).fit(train)

"""The softmax autoencoder learns who belongs together, and knows users only by their rows."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from nmf_helpers.autoencoder import SoftmaxAutoencoder, z_scores
from nmf_helpers.baselines import Popularity
from nmf_helpers.data import leave_n_out
from nmf_helpers.metrics import ndcg_at_k


@pytest.fixture(scope="module")
def two_tastes():
    """Even users choose even items, odd users odd ones; nothing else tells items apart."""
    rng = np.random.default_rng(0)
    taste = np.add.outer(np.arange(80), np.arange(60)) % 2 == 0
    return leave_n_out(sp.csr_matrix((rng.random((80, 60)) < 0.5) & taste, dtype=np.float32), 3)


def test_it_finds_tastes_that_popularity_cannot(two_tastes):
    train, test = two_tastes
    model = SoftmaxAutoencoder(n_factors=4, weight_decay=0.1).fit(train)
    popularity = ndcg_at_k(Popularity().fit(train), test, train=train)
    assert ndcg_at_k(model, test, train=train) > 2 * popularity
    right = np.add.outer(np.arange(80), np.arange(60)) % 2 == 0
    scores = model.score_matrix()
    assert scores[right].mean() > scores[~right].mean() + 1


def test_scores_are_the_formula(two_tastes):
    train, _ = two_tastes
    model = SoftmaxAutoencoder(n_factors=3, n_epochs=2).fit(train)
    x = train.toarray()
    mean = x.sum(1).mean()
    hidden = x * (x.sum(1, keepdims=True) / mean) ** -0.75 / mean**0.5 @ model.encoder_.numpy()
    expected = hidden @ model.decoder_.numpy().T + model.bias_.numpy()
    np.testing.assert_allclose(model.score_matrix(), expected, rtol=1e-4, atol=1e-5)


def test_users_with_the_same_row_get_the_same_scores(two_tastes):
    train, _ = two_tastes
    doubled = sp.vstack([train, train[:1]]).tocsr()
    scores = SoftmaxAutoencoder(n_factors=3, n_epochs=3).fit(doubled).score_matrix()
    np.testing.assert_allclose(scores[0], scores[-1], rtol=1e-5)


def test_the_seed_decides_and_the_caller_s_random_state_is_left_alone(two_tastes):
    train, _ = two_tastes
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, again, other = (
        SoftmaxAutoencoder(n_epochs=3, seed=seed).fit(train).score_matrix() for seed in (1, 1, 2)
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("wrong", [{"n_factors": 0}, {"lr": 0}, {"dropout": 1}, {"n_epochs": -1}])
def test_settings_out_of_range_are_named(two_tastes, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SoftmaxAutoencoder(**wrong).fit(two_tastes[0])


def test_z_scores_have_mean_zero_and_spread_one_for_each_user():
    scores = z_scores(np.array([[1.0, 2.0, 3.0], [7.0, 7.0, 7.0]]))
    np.testing.assert_allclose(scores[0], [-1.2247449, 0, 1.2247449])
    assert not scores[1].any()  # a user for whom all is alike

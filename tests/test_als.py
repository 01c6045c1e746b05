"""Alternating least squares against a general minimiser, and its promises to a new user."""

import numpy as np
import pytest
from planted import likes
from scipy.optimize import minimize
from scorers import ScorerContract

from nmf_helpers.als import ImplicitALS

SMALL = {"n_factors": 3, "l2": 0.5}


class TestImplicitALS(ScorerContract):
    kind = "interactions"

    def make(self):
        return ImplicitALS(n_factors=3, n_rounds=3)


def objective(model, train, u, v, p=0.0):
    """The sum that the class promises to minimise, written out for a dense array."""
    liked = np.asarray(train.toarray() > 0)
    n_users, n_items = liked.shape
    n, m, w = liked.sum(1), liked.sum(0), model.unobserved_weight
    zeros = w * ((n + 5) / (n + 5).mean()) ** model.activity_power
    sizes = n + w * n_items, m + w * n_users
    l2 = [model.l2 * (size / size.mean()) ** model.l2_power for size in sizes]
    scores = u @ v.T
    return (
        ((1 - scores) ** 2)[liked].sum() + (zeros[:, None] * scores**2).sum()
        + (l2[0] * (u**2).sum(1)).sum() + (l2[1] * ((v - p) ** 2).sum(1)).sum()
    )  # fmt: skip


@pytest.mark.parametrize("known", [False, True])
def test_each_side_is_the_minimum_while_the_other_stands_still(known):
    train, _ = likes(12, 9)
    features = np.random.default_rng(1).normal(size=(9, 2)) if known else None
    before, model = (ImplicitALS(**SMALL, n_rounds=r).fit(train, features) for r in (3, 4))
    u, v, p = before.user_vectors_, model.item_vectors_, 0.0
    if known:  # what the features told after the third round
        ridge = features.T @ features + 100 * np.eye(2)
        p = features @ np.linalg.inv(ridge) @ features.T @ before.item_vectors_
    shape = v.shape
    best = minimize(lambda x: objective(model, train, u, x.reshape(shape), p), 0 * v.ravel())
    np.testing.assert_allclose(v.ravel(), best.x, atol=1e-4)
    u, shape = model.user_vectors_, model.user_vectors_.shape
    best = minimize(lambda x: objective(model, train, x.reshape(shape), v), 0 * u.ravel())
    np.testing.assert_allclose(u.ravel(), best.x, atol=1e-4)


def test_the_objective_never_rises():
    train, _ = likes()
    models = [ImplicitALS(**SMALL, n_rounds=r).fit(train) for r in (1, 2, 3, 5, 8, 13)]
    values = [objective(m, train, m.user_vectors_, m.item_vectors_) for m in models]
    assert (np.diff(values) < 0).all()


def test_features_place_items_that_nobody_knows_yet():
    taste = np.add.outer(np.arange(80), np.arange(60)) % 2 == 0
    train = taste & (np.random.default_rng(0).random(taste.shape) < 0.5)
    train[:, 50:] = False
    features = np.eye(2)[np.arange(60) % 2] * 20
    model = ImplicitALS(n_factors=4)
    blind, knowing = (model.fit(train, f).score_matrix() for f in (None, features))
    new, right = np.s_[:, 50:], taste[:, 50:]
    assert abs(blind[new]).max() < 1e-6
    assert knowing[new][right].min() > knowing[new][~right].max()


def test_folding_in_a_training_user_gives_her_own_row_and_the_reasons_add_up_to_it():
    train, _ = likes()
    model = ImplicitALS(**SMALL).fit(train)
    for user in (0, 7):
        own = np.random.default_rng(0).permutation(train[[user]].indices)
        scores, reasons = model.fold_in(own), model.explain(own[1], own)
        np.testing.assert_allclose(scores, model.score_matrix([user])[0], atol=1e-6)
        assert reasons.shape == own.shape and reasons.sum() == pytest.approx(scores[own[1]])
    assert model.explain(3, [11, 3, 30]).argmax() == 1  # the best reason for an item is itself
    assert not model.fold_in([]).any()


def test_what_cannot_be_is_refused_by_name():
    train, _ = likes()
    for wrong in (np.ones((5, 2)), np.ones(40), np.full((40, 1), np.nan)):
        with pytest.raises(ValueError, match=r"item_features, float64 .*each of the 40 columns"):
            ImplicitALS().fit(train, wrong)
    with pytest.raises(ValueError, match=r"unobserved_weight must be .*above 0, not -1"):
        ImplicitALS(unobserved_weight=-1).fit(train)
    with pytest.raises(RuntimeError, match="not fitted"):
        ImplicitALS().fold_in([1])
    with pytest.raises(ValueError, match="one of them twice"):
        ImplicitALS(**SMALL).fit(train).fold_in([3, 3])
    with pytest.raises(IndexError, match=r"item must lie .*99 does not"):
        ImplicitALS(**SMALL).fit(train).explain(99, [1])

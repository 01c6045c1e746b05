"""The recipes on real ratings, against what every model must beat."""

import numpy as np
import pytest
import torch
from planted import LIKED, LIKED_TEST

from nmf_helpers.baselines import BiasRidge, ItemMean, Popularity
from nmf_helpers.data import encode_ratings, leave_n_out, load_ratings, split_ratings
from nmf_helpers.data import interaction_matrix as matrix_of
from nmf_helpers.metrics import evaluate, rmse
from nmf_helpers.models import CollabFNet
from nmf_helpers.recipes import explicit, hogwild, implicit


@pytest.fixture(scope="module")
def rated():
    train, valid = split_ratings(load_ratings())
    return [matrix_of(encode_ratings(part, train)) for part in (train, valid)]


@pytest.fixture(scope="module")
def liked(rated):
    positives = (rated[0] >= 4).astype(float).tocsr()
    return leave_n_out(positives, 5)


QUICK = {"n_factors": 20, "n_epochs": 18}  # explicit(): .8655 against the ridge's .8802
FEW = {"n_factors": 32, "n_epochs": 20, "metrics": ()}  # AUC .917 against .894, nDCG .113 to .079
SEEDS = pytest.mark.parametrize("seed", [0, 1])


def predicts_better_than_biases(scorer, train, test):
    ours, theirs = (rmse(each, test, clip=(0.5, 5)) for each in (scorer, BiasRidge().fit(train)))
    return ours < theirs - 0.01


def ranks_better_than_popularity(scorer, train, test):
    ours, theirs = (
        evaluate(each, test, exclude=train, metrics=("auc", "ndcg@10"))
        for each in (scorer, Popularity().fit(train))
    )
    return ours["auc"] > theirs["auc"] + 0.015 and ours["ndcg@10"] > theirs["ndcg@10"] + 0.02


@SEEDS
def test_explicit_beats_the_table_of_biases(rated, seed):
    assert predicts_better_than_biases(explicit(rated[0], seed=seed, **QUICK), *rated)


@SEEDS
@pytest.mark.parametrize("recipe", [implicit, hogwild])
def test_implicit_and_hogwild_beat_popularity(recipe, liked, seed):
    assert ranks_better_than_popularity(recipe(liked[0], seed=seed, **FEW), *liked)


def test_what_must_be_beaten_does_not_pass_for_a_model(rated, liked):
    untrained = explicit(rated[0], **QUICK | {"n_epochs": 0})
    for scorer in (BiasRidge().fit(rated[0]), ItemMean().fit(rated[0]), untrained):
        assert not predicts_better_than_biases(scorer, *rated)
    untrained = implicit(liked[0], **FEW | {"n_epochs": 0})
    for scorer in (Popularity().fit(liked[0]), untrained):
        assert not ranks_better_than_popularity(scorer, *liked)


def test_explicit_does_as_well_on_any_scale(rated):
    def error_in_stars(stretch, shift):
        train, valid = (part.copy() for part in rated)
        for part in (train, valid):  # a 0 that is stored stays
            part.data = part.data * np.float32(stretch) + np.float32(shift)
        return explicit(train, n_factors=10, n_epochs=12).rmse(valid) / stretch

    expected = pytest.approx(error_in_stars(1, 0), abs=0.002)
    assert error_in_stars(100 / 4.5, -100 / 9) == expected == error_in_stars(0.2, 0)


def test_one_thing_can_be_changed():
    changes = {"n_factors": 3, "metrics": "auc", "loss": "squared_sigmoid"}
    fitted = implicit(LIKED, evaluate_on={"validation": LIKED_TEST}, n_epochs=2, **changes)
    assert fitted.model.user_factors.embedding_dim == 3
    followed = ["train_loss", "validation_loss", "validation_auc", "seconds"]
    assert list(fitted.history.to_frame()) == followed
    net = explicit(LIKED, n_epochs=2, model=CollabFNet, sparse=False, optimizer="adam")
    assert isinstance(net.model, CollabFNet)
    assert net.history and explicit(LIKED, n_epochs=0).history == []
    with pytest.raises(ValueError, match="did you mean 'n_factors'"):
        implicit(LIKED, n_factor=3)


def test_another_size_of_the_start_does_not_change_its_kind():
    with pytest.raises(ValueError, match=r'init_std .* belong to init="normal", and this'):
        implicit(LIKED, init_std=0.1)
    starts = [{"svd_scale": 0.1}, {"init": "normal", "init_std": 0.1}, {}]
    svd, noise, ours = (
        implicit(LIKED, n_epochs=0, n_factors=3, **s).model.user_factors.weight for s in starts
    )
    assert torch.equal(svd, ours) and not torch.equal(noise, ours)


def test_a_catalogue_of_five_items_is_enough():
    small, hidden = np.eye(5) + np.eye(5, k=1), np.eye(5, k=2)
    record = implicit(small, evaluate_on={"hidden": hidden}, n_epochs=2).history[-1]
    assert np.isfinite(record["hidden_loss"])


def test_the_gradient_by_hand_takes_the_steps_of_autograd():
    by_hand, autograd, ours = (
        implicit(LIKED, n_epochs=20, n_factors=4, **step).score_matrix()
        for step in ({"step": "by_hand"}, {"step": "autograd"}, {})
    )
    np.testing.assert_allclose(by_hand, autograd, atol=1e-3)
    assert (by_hand == ours).all()

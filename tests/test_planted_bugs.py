"""The defects of the tutorial that this course grew from, put back one at a time.

Each is a few lines that behave as the tutorial's did. For each, a check that our code passes
elsewhere in this folder must fail: a check that cannot fail proves nothing.
"""

from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import test_hogwild
import test_interactions
import test_losses
import test_metrics
import test_models
import test_pipeline
import test_training
import torch
from planted import likes
from torch import nn

from nmf_helpers import hogwild, models, training
from nmf_helpers.interactions import PairwiseInteractions
from nmf_helpers.losses import squared_sigmoid_loss
from nmf_helpers.metrics import precision_at_k

TRAIN, _ = likes()


def caught(check, *arguments, **named):
    """The check fails: by an assertion, or because an error it waits for doesn't come."""
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(*arguments, **named)


# --- Negative sampling ------------------------------------------------------------------------


class OldSampler:
    """Draw until an item is thought to be free. What is thought was wrong in three ways."""

    def __init__(self, matrix):
        self.matrix = matrix
        self.rng = np.random.default_rng(0)

    def thought_free(self, user, item):
        begin, end = self.matrix.indptr[user : user + 2]
        place = np.searchsorted(self.matrix.indices[begin:end], item, side="right")
        if place == end - begin:
            return False  # all items after the user's last one are refused
        # A place in the user's row, looked up in the row of user 0; and the *next* entry of it.
        return item != self.matrix.indices[place]

    def __call__(self, users):
        return [self.draw(user) for user in users.tolist()]

    def draw(self, user):
        for _ in range(10_000):
            item = int(self.rng.integers(self.matrix.shape[1]))
            if self.thought_free(user, item):
                return item
        raise AssertionError(f"no negative found for user {user}: this would go on for ever")


@pytest.mark.parametrize(
    "check",
    [
        test_interactions.check_never_a_positive,
        test_interactions.check_uniform_over_the_free_items,
    ],
)
def test_the_old_sampler_is_caught(check):
    caught(check, OldSampler(TRAIN), TRAIN)
    check(PairwiseInteractions(TRAIN).sample_negatives, TRAIN)


def test_a_sampler_that_forgets_the_check_altogether_is_caught():
    def any_item(users):
        return torch.randint(TRAIN.shape[1], users.shape)

    caught(test_interactions.check_never_a_positive, any_item, TRAIN)


def test_the_old_sampler_never_draws_the_last_items_and_spins_on_a_user_with_item_0():
    matrix = sp.csr_matrix([[1.0, 1, 0, 0], [0, 0, 1, 0]])
    drawn = {OldSampler(matrix).draw(1) for _ in range(100)}
    assert 3 not in drawn
    with pytest.raises(AssertionError, match="for ever"):
        OldSampler(sp.csr_matrix([[1.0, 0, 0]])).draw(0)


def test_negatives_checked_against_the_test_part_alone_are_caught(monkeypatch):
    class OnlyTest(PairwiseInteractions):
        def __init__(self, matrix, avoid=None, generator=None):
            super().__init__(matrix, None, generator)

    monkeypatch.setattr(test_interactions, "PairwiseInteractions", OnlyTest)
    caught(test_interactions.test_items_to_avoid_are_avoided)


# --- Losses and metrics -----------------------------------------------------------------------


def test_one_minus_sigma_squared_is_not_taken_for_bpr(monkeypatch):
    monkeypatch.setattr(test_losses, "bpr_loss", squared_sigmoid_loss)
    caught(test_losses.test_the_gradient_of_bpr_is_minus_sigma_of_minus_x, -5.0)
    caught(test_losses.test_bpr_is_minus_log_sigma, -5.0)


def test_metrics_that_rank_training_items_are_caught():
    rng = np.random.default_rng(0)
    scores, part = rng.random((20, 12)), rng.choice(3, size=(20, 12))
    scores[part == 1] += 1  # a model scores highest what it was trained on
    expected = test_metrics.by_hand(scores, part == 2, part == 1, 5)["precision"]
    assert precision_at_k(scores, part == 2, train=part == 1, k=5) == pytest.approx(expected)
    assert precision_at_k(scores, part == 2, k=5) < 0.5 * expected


def test_a_loss_taken_for_a_sum_is_caught(monkeypatch):
    def summed(model, users, items, target, loss):
        return loss(model(users, items), target) / len(target)

    monkeypatch.setattr(training, "batch_loss", summed)
    caught(test_training.test_losses_are_means_whatever_the_reduction, "sum")


# --- Models -----------------------------------------------------------------------------------


def test_a_bare_squeeze_is_caught():
    class Squeezed(models.BiasedMF):
        def forward(self, users, items):
            return super().forward(users, items)[..., None].squeeze()

    caught(test_models.test_a_batch_of_one_is_still_a_batch, Squeezed(5, 7, 3))


def test_an_overridden_call_is_caught():
    class NoHooks(models.BiasedMF):
        __call__ = models.BiasedMF.forward

    caught(test_models.test_forward_hooks_fire, NoHooks(5, 7, 3))


def test_torchs_own_wide_start_is_caught(monkeypatch):
    monkeypatch.setattr(models, "_normal", lambda n, k, mean, std, sparse=False: nn.Embedding(n, k))
    caught(test_models.test_factors_start_where_init_std_says)


def test_a_relu_on_the_embeddings_is_caught(monkeypatch):
    class Cut(nn.Dropout):
        def forward(self, x):
            return super().forward(x.relu())

    build = test_models.MODELS["CollabFNet"]

    def build_cut():
        model = build()
        model.dropout = Cut(0.5)
        return model

    monkeypatch.setitem(test_models.MODELS, "CollabFNet", build_cut)
    caught(test_models.test_collabfnet_tells_the_negative_half_of_an_embedding)


# --- Seeds and processes ----------------------------------------------------------------------


def test_weights_built_before_the_seed_is_set_are_caught(monkeypatch):
    class Unseeded(models.BiasedMF):
        def __init__(self, *sizes, **options):
            torch.seed()
            super().__init__(*sizes, **options)

    build = partial(test_pipeline.build, model=Unseeded)
    monkeypatch.setattr(test_pipeline, "build", build)
    caught(test_pipeline.test_the_seed_decides_the_weights_before_training_too)


forks = pytest.mark.skipif(test_hogwild.QUICK != "fork", reason="patches reach forks only")


@forks
def test_hogwild_workers_with_one_random_state_are_caught(monkeypatch, tmp_path):
    work = hogwild._work
    monkeypatch.setattr(hogwild, "_work", lambda *job: work(*job[:-1], 2017))
    caught(test_hogwild.test_each_worker_has_a_random_state_of_its_own, tmp_path)


@forks
def test_hogwild_workers_that_each_walk_all_the_data_are_caught(monkeypatch):
    work = hogwild._work

    def work_on_all(connection, model, dataset, shard, *rest):
        work(connection, model, dataset, torch.arange(len(dataset)), *rest)

    monkeypatch.setattr(hogwild, "_work", work_on_all)
    caught(test_hogwild.test_an_epoch_is_one_pass_whatever_the_number_of_workers, 2)

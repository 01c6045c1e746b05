"""The loop, its optimizer and its records against PyTorch's own, and against plain loops."""

from functools import partial

import numpy as np
import pytest
import torch
from planted import TRAIN
from torch import nn
from torch.nn import functional as F

from nmf_helpers.bpr import BPRStep
from nmf_helpers.history import History
from nmf_helpers.interactions import Interactions, batches
from nmf_helpers.losses import bpr_loss
from nmf_helpers.models import MF, BiasedMF
from nmf_helpers.training import OPTIMIZERS, Diverged, batch_loss, make_optimizer, mean_loss, train

PAIRS = torch.tensor([0, 1, 1, 2, 1]), torch.tensor([2, 0, 0, 1, 3])
TARGET = torch.tensor([4.0, 1.0, 3.0, 2.0, 5.0])
BATCH = PAIRS, TARGET
NAN = float("nan")


def small_model(seed=0, **options):
    torch.manual_seed(seed)
    return BiasedMF(3, 4, 2, init_std=0.5, **options)


def trained(model, step=None, data=(BATCH,), **settings):
    """Train, and return the model and the losses of its epochs."""
    records = list(train(model, data, step, **{"n_epochs": 3} | settings))
    return model, [record["train_loss"] for record in records]


def same_training(ours, theirs, **tolerance):
    """Two of `trained` end with the same weights and went through the same losses."""
    for one, other in zip(ours[0].parameters(), theirs[0].parameters(), strict=True):
        torch.testing.assert_close(one, other, **tolerance)
    assert ours[1] == pytest.approx(theirs[1], rel=1e-5)


# --- RowSGD -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [True, False])
def test_row_sgd_without_decay_is_torchs_sgd(sparse):
    settings = {"lr": 0.1, "reduction": "sum"}
    same_training(
        trained(small_model(sparse=sparse), optimizer="row_sgd", **settings),
        trained(small_model(), optimizer=torch.optim.SGD, **settings),
    )


def test_row_sgd_decays_a_dense_parameter_as_torchs_sgd_does():
    ours, theirs = (
        trained(small_model(), optimizer=optimizer, lr=0.1, weight_decay=0.3)
        for optimizer in ("row_sgd", "sgd")
    )
    same_training(ours, theirs)


def test_row_sgd_decays_a_row_once_for_each_time_it_occurs():
    model, lr, decay = small_model(sparse=True), 0.01, 0.5
    tables = [model.user_factors, model.item_factors, model.user_bias, model.item_bias]
    before = [table.weight.detach().double().clone() for table in tables]
    p, q, b, c = (table.clone() for table in before)
    for user, item, rating in zip(*PAIRS, TARGET, strict=True):
        old_p, old_q, old_b, old_c = (
            table[i] for table, i in zip(before, (user, item) * 2, strict=True)
        )
        error = 2 * (old_p @ old_q + old_b + old_c - rating)
        p[user] -= lr * (error * old_q + decay * old_p)
        q[item] -= lr * (error * old_p + decay * old_q)
        b[user] -= lr * (error + decay * old_b)
        c[item] -= lr * (error + decay * old_c)
    rates = {"lr": lr, "weight_decay": decay}
    trained(model, optimizer="row_sgd", **rates, n_epochs=1, reduction="sum")
    for table, expected in zip(tables, (p, q, b, c), strict=True):
        torch.testing.assert_close(table.weight.detach().double(), expected)


# --- The gradient by hand ---------------------------------------------------------------------


def pairs(seed=0, n=50):
    source = torch.Generator().manual_seed(seed)
    users, i, j = (torch.randint(high, (n,), generator=source) for high in (3, 4, 4))
    return [((users, (i, j)), torch.ones(n))]


def with_biases():
    model = small_model(sparse=True)
    nn.init.normal_(model.item_bias.weight, generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize("weight_decay", [0, 0.3])
def test_the_step_by_hand_is_autograds(weight_decay):
    ours, rates = with_biases(), {"lr": 0.02, "weight_decay": weight_decay}
    autograd = {"loss": bpr_loss, "optimizer": "row_sgd", "reduction": "sum"} | rates
    same_training(
        trained(ours, BPRStep(ours, **rates), pairs()),
        trained(with_biases(), data=pairs(), **autograd),
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip


def test_the_step_by_hand_is_refused_where_it_would_be_another_models():
    for model in (MF(3, 4, 2), small_model(), small_model(sparse=True, dropout=0.1)):
        with pytest.raises(ValueError, match="BiasedMF only, with sparse=True and dropout=0"):
            BPRStep(model)


def test_any_callable_that_returns_a_mean_loss_is_a_step():
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(model, batch):
        (users, items), target = batch
        loss = (model(users, items) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    same_training(trained(model, step), trained(small_model(), optimizer="sgd", lr=0.1))
    with pytest.raises(TypeError, match="lr: a step has its own settings"):
        trained(model, step, lr=0.1)
    with pytest.raises(ValueError, match="needs a step with an attribute optimizer"):
        trained(model, step, lr_schedule="linear")


@pytest.mark.parametrize(("which", "says"), [(0, "users.*7 does not"), (1, "items.*-1 does not")])
def test_ids_that_were_not_encoded_are_named(which, says):
    ids = [PAIRS[0].clone(), PAIRS[1].clone()]
    ids[which][2] = (7, -1)[which]
    for look in (lambda b: trained(small_model(), data=b), lambda b: mean_loss(small_model(), b)):
        with pytest.raises(IndexError, match=f"{says}.*encode"):
            look([(tuple(ids), TARGET)])


# --- Optimizers by name -----------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains(name):
    model = small_model(sparse=name in ("sparse_adam", "row_sgd"))
    _, losses = trained(model, optimizer=name, lr=0.05, n_epochs=20)
    assert losses[-1] < 0.7 * losses[0]


DECAY = {"weight_decay": 0.1}
NO_SPARSE, NO_DECAY = (
    "does not take sparse gradients: use sparse=False",
    "weight_decay=0.1 to sparse",
)


@pytest.mark.parametrize(
    ("optimizer", "sparse", "rates", "says"),
    [
        *((name, True, {}, NO_SPARSE) for name in ("adam", "adamw")),
        (partial(torch.optim.Adam, betas=(0.8, 0.9)), True, {}, NO_SPARSE),
        *((o, True, DECAY, NO_DECAY) for o in ("sgd", "adagrad", "sparse_adam", torch.optim.SGD)),
        ("sgd", True, DECAY, 'use optimizer="row_sgd"'),
        ("sparse_adam", False, {}, "use sparse=True"),
        ("adan", False, {}, "did you mean 'adam'"),
        *(("adam", False, {"lr": lr}, "lr must be a number") for lr in (0, -1, "x", NAN)),
        ("adam", False, {"weight_decay": -0.1}, "weight_decay must be a number"),
    ],
)
def test_what_cannot_work_is_refused_with_the_way_out(optimizer, sparse, rates, says):
    with pytest.raises(ValueError, match=says):
        make_optimizer(optimizer, small_model(sparse=sparse), **{"lr": 0.1} | rates)


def test_a_class_with_options_will_do_as_an_optimizer():
    optimizer = partial(torch.optim.SGD, momentum=0.9)
    groups = make_optimizer(optimizer, small_model(sparse=True), lr=0.1).param_groups
    assert groups[0]["momentum"] == 0.9


def test_no_decay_means_none_for_adamw_either():
    assert make_optimizer("adamw", small_model(), lr=0.1).param_groups[0]["weight_decay"] == 0


# --- The loop ---------------------------------------------------------------------------------


def test_the_loop_finds_a_planted_low_rank_matrix():
    torch.manual_seed(0)
    truth = torch.randn(30, 2, dtype=torch.float64) @ torch.randn(2, 20, dtype=torch.float64) + 3
    users, items = torch.nonzero(torch.ones(30, 20), as_tuple=True)
    data = [((users, items), truth[users, items].float())]
    model = MF(30, 20, 3, init_std=0.3)
    assert trained(model, data=data, lr=0.05, n_epochs=300)[1][-1] < 1e-3
    np.testing.assert_allclose(model.score_matrix(), truth, atol=0.3)


def test_a_step_of_full_batch_sgd_by_hand():
    model = small_model()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    residual = (model(*PAIRS) - TARGET).detach()
    (record,) = train(model, [BATCH], optimizer="sgd", lr=0.1, n_epochs=1)
    gradient = torch.zeros(3)
    for user, r in zip(PAIRS[0], residual, strict=True):
        gradient[user] += 2 * r / 5
    torch.testing.assert_close(
        model.user_bias.weight[:, 0].detach(), before["user_bias.weight"][:, 0] - 0.1 * gradient
    )
    assert record["train_loss"] == pytest.approx(residual.square().mean().item())  # before the step
    assert record["epoch"] == 1 and record["seconds"] > 0


def test_the_recorded_loss_is_per_sample_whatever_the_batches():
    thirds = (part.split(3) for part in (*PAIRS, TARGET))
    uneven = [((users, items), target) for users, items, target in zip(*thirds, strict=True)]
    model, (loss,) = trained(small_model(), data=uneven, optimizer="sgd", lr=1e-9, n_epochs=1)
    assert loss == pytest.approx(F.mse_loss(small_model()(*PAIRS), TARGET).item())
    assert mean_loss(model, uneven) == pytest.approx(loss)


@pytest.mark.parametrize("reduction", ["sum", "none", "mean"])
def test_losses_are_means_whatever_the_reduction(reduction):
    ours, theirs = (
        trained(small_model(), loss=loss, optimizer="sgd", lr=0.05)
        for loss in (nn.MSELoss(reduction=reduction), F.mse_loss)
    )
    same_training(ours, theirs)


def test_summed_gradients_are_those_of_the_mean_times_the_batch():
    same_training(
        trained(small_model(), optimizer="sgd", lr=0.01, reduction="sum"),
        trained(small_model(), optimizer="sgd", lr=0.05),
    )


def test_a_pairwise_loss_is_given_the_difference_of_two_scores():
    model = small_model()
    users, items = PAIRS
    value = batch_loss(model, ((users, (items, items.flip(0))), TARGET), bpr_loss)
    difference = model(users, items) - model(users, items.flip(0))
    torch.testing.assert_close(value, bpr_loss(difference))


def test_a_column_of_predictions_against_a_row_of_targets_is_refused():
    class Column(BiasedMF):
        def forward(self, users, items):
            return super().forward(users, items)[:, None]  # (batch, 1)

    with pytest.raises(ValueError, match=r"returned shape \(5, 1\) for targets of shape \(5,\)"):
        trained(Column(3, 4, 2))


def test_no_data_is_an_error_and_no_epochs_are_not():
    with pytest.raises(ValueError, match="nothing to train on"):
        trained(small_model(), data=[])
    assert trained(small_model(), n_epochs=0)[1] == []
    with pytest.raises(ValueError, match="nothing to measure: the batches are empty"):
        mean_loss(small_model(), [])


@pytest.mark.parametrize("n_epochs", [-1, 2.5, 2.0, "3", None])
def test_an_impossible_number_of_epochs_is_refused(n_epochs):
    with pytest.raises(ValueError, match="n_epochs must be a whole number"):
        trained(small_model(), n_epochs=n_epochs)


def test_training_stops_when_nobody_asks():
    calls = []
    model = small_model()
    model.register_forward_hook(lambda *_: calls.append(1))
    records = train(model, [BATCH], n_epochs=100)
    assert calls == []
    next(records), next(records)
    records.close()
    assert len(calls) == 2


def test_evaluation_is_recorded_and_sees_the_model_in_eval_mode():
    modes = []
    model = small_model(dropout=0.5)
    model.dropout.register_forward_hook(lambda module, *_: modes.append(module.training))

    def evaluate(model):
        return {"validation_loss": mean_loss(model, [BATCH]), "fun": 7}

    for record in train(model, [BATCH], n_epochs=2, evaluate=evaluate):
        assert record["fun"] == 7 and record["validation_loss"] > 0
        assert not model.training  # and so does who looks between epochs
    assert modes == [True, True, False, False] * 2


def test_a_lower_epoch_to_start_from_is_counted_on():
    records = list(train(small_model(), [BATCH], start_epoch=4, n_epochs=6))
    assert [record["epoch"] for record in records] == [4, 5, 6]


@pytest.mark.parametrize("optimizer", ["sgd", "row_sgd"])
def test_a_linear_schedule_falls_in_equal_steps(optimizer):
    model = small_model()
    optimizer = make_optimizer(optimizer, model, lr=0.4)
    records = train(model, [BATCH], optimizer=optimizer, n_epochs=4, lr_schedule="linear")
    rates = [optimizer.param_groups[0]["lr"] for _ in records]
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1])
    with pytest.raises(ValueError, match="did you mean 'linear'"):
        list(train(model, [BATCH], lr_schedule="linaer"))


def test_divergence_is_noticed_at_the_batch_and_says_what_to_do():
    model, steps, losses = small_model(), [], []
    model.register_forward_hook(lambda *_: steps.append(1))
    with pytest.raises(Diverged, match=r"in epoch \d+: try a smaller lr"):
        for record in train(model, [BATCH] * 50, optimizer="sgd", lr=1e4, n_epochs=100):
            losses.append(record["train_loss"])
    assert len(steps) < 50  # not at the end of the epoch
    assert np.isfinite(losses).all()


def test_weights_that_overflow_in_the_last_step_are_noticed_before_they_are_scored():
    with pytest.raises(Diverged, match="weights became NaN or infinite in epoch 1"):
        trained(small_model(), optimizer="sgd", lr=3e38, n_epochs=1, evaluate=pytest.fail)


def run(seed, batch_seed=0):
    torch.manual_seed(seed)
    model = BiasedMF(*TRAIN.shape, 4, dropout=0.2)
    loader = batches(Interactions(TRAIN), 64, torch.Generator().manual_seed(batch_seed))
    return trained(model, data=loader, n_epochs=2)[0].score_matrix()


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    np.testing.assert_array_equal(run(0), run(0))
    assert not np.array_equal(run(0), run(1))
    assert not np.array_equal(run(0), run(0, batch_seed=1))


def test_mean_loss_leaves_the_mode_as_it_was():
    model = small_model()
    for mode in (True, False):
        mean_loss(model.train(mode), [BATCH])
        assert model.training == mode


# --- History ----------------------------------------------------------------------------------


def test_a_history_is_a_table_with_a_row_for_each_epoch():
    history = History(train(small_model(), [BATCH], n_epochs=3))
    frame = history.to_frame()
    assert frame.index.tolist() == [1, 2, 3] and frame.index.name == "epoch"
    assert list(frame.columns) == ["train_loss", "seconds"]
    assert frame["train_loss"].tolist() == history.column("train_loss")
    assert History().to_frame().empty
    says = r"no 'valid' was recorded in epoch 1, only \['epoch', 'sec"
    with pytest.raises(ValueError, match=says):
        history.column("valid")

"""The loop, its optimizer and its records against PyTorch's own, and against plain loops."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nmf_helpers.bpr import BPRStep
from nmf_helpers.history import History
from nmf_helpers.losses import bpr_loss
from nmf_helpers.models import MF, BiasedMF
from nmf_helpers.training import OPTIMIZERS, Diverged, GradientStep, mean_loss, train

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


@pytest.mark.parametrize(("sparse", "decay"), [(True, 0), (False, 0), (False, 0.3)])
def test_row_sgd_is_torchs_sgd_where_no_row_is_decayed_alone(sparse, decay):
    settings = {"lr": 0.1, "weight_decay": decay, "reduction": "sum"}
    same_training(
        trained(small_model(sparse=sparse), optimizer="row_sgd", **settings),
        trained(small_model(), optimizer=torch.optim.SGD, **settings),
    )


def test_row_sgd_decays_a_row_once_for_each_time_it_occurs():
    model = small_model(sparse=True)
    before = model.user_factors.weight.detach().clone(), model.item_bias.weight.detach().clone()
    rates = {"lr": 0.01, "weight_decay": 0.5, "reduction": "sum", "n_epochs": 1}
    trained(model, optimizer="row_sgd", loss=lambda scores, _: 0 * scores, **rates)
    for old, table, ids in zip(before, (model.user_factors, model.item_bias), PAIRS, strict=True):
        times = ids.bincount(minlength=len(old))[:, None]
        torch.testing.assert_close(table.weight, old * (1 - 0.01 * 0.5 * times))


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


@pytest.mark.parametrize(("which", "says"), [(0, "users.*7 does not"), (1, "items.*-1 does not")])
def test_ids_that_were_not_encoded_are_named(which, says):
    ids = [PAIRS[0].clone(), PAIRS[1].clone()]
    ids[which][2] = (7, -1)[which]
    for look in (lambda b: trained(small_model(), data=b), lambda b: mean_loss(small_model(), b)):
        with pytest.raises(IndexError, match=f"{says}.*encode"):
            look([(tuple(ids), TARGET)])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_and_none_decays_unasked(name):
    model = small_model(sparse=name == "row_sgd")
    step = GradientStep(model, optimizer=name, lr=0.05)
    assert step.optimizer.param_groups[0]["weight_decay"] == 0  # AdamW's own is .01
    _, losses = trained(model, step, n_epochs=20)
    assert losses[-1] < 0.7 * losses[0]


SGD = torch.optim.SGD
DECAY, NO_SPARSE = {"weight_decay": 0.1}, "take sparse gradients: use sparse=False, or .*row_sgd"


@pytest.mark.parametrize(
    ("optimizer", "sparse", "rates", "says"),
    [
        *((name, True, {}, f"{name} .*does not {NO_SPARSE}") for name in ("Adam", "AdamW")),
        *((o, True, DECAY, f"weight_decay=0.1 .*{NO_SPARSE}") for o in ("sgd", "adagrad", SGD)),
        ("adan", False, {}, "did you mean 'adam'"),
        *(("adam", False, {"lr": lr}, "lr must be a number") for lr in (0, -1, "x", NAN)),
        ("adam", False, {"weight_decay": -0.1}, "weight_decay must be a number"),
        ("adam", False, {"reduction": "summ"}, "did you mean 'sum'"),
    ],
)
def test_what_cannot_work_is_refused_with_the_way_out(optimizer, sparse, rates, says):
    optimizer = optimizer.lower() if isinstance(optimizer, str) else optimizer
    with pytest.raises(ValueError, match=says):
        GradientStep(small_model(sparse=sparse), optimizer=optimizer, **rates)


def test_a_class_with_options_or_an_optimizer_ready_made_will_do():
    model, momentum = small_model(), partial(SGD, momentum=0.9)
    step = GradientStep(model, optimizer=momentum)
    assert step.optimizer.param_groups[0]["momentum"] == 0.9
    own = GradientStep(small_model(sparse=True), optimizer=step.optimizer, weight_decay=0.1)
    assert own.optimizer is step.optimizer  # with rates of its own


def test_the_recorded_loss_is_per_sample_whatever_the_batches():
    thirds = (part.split(3) for part in (*PAIRS, TARGET))
    uneven = [((users, items), target) for users, items, target in zip(*thirds, strict=True)]
    before = F.mse_loss(small_model()(*PAIRS), TARGET).item()
    model, (loss,) = trained(small_model(), data=uneven, optimizer="sgd", lr=1e-9, n_epochs=1)
    assert loss == pytest.approx(before) and mean_loss(model, uneven) == pytest.approx(before)
    _, (loss,) = trained(small_model(), optimizer="sgd", lr=1.0, n_epochs=1)
    assert loss == pytest.approx(before)  # the batch's, before its own step


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


def test_a_column_of_predictions_against_a_row_of_targets_is_refused():
    class Column(BiasedMF):
        def forward(self, users, items):
            return super().forward(users, items)[:, None]  # (batch, 1)

    with pytest.raises(ValueError, match=r"returned shape \(5, 1\) for targets of shape \(5,\)"):
        trained(Column(3, 4, 2))


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        *(({"n_epochs": n}, ValueError, "n_epochs must be a whole") for n in (-1, 2.0, "3", None)),
        ({"lr_schedule": "linaer"}, ValueError, "did you mean 'linear'"),
        ({"data": []}, ValueError, "batches are empty: there is nothing to train on"),
        ({"step": len, "lr": 0.1}, TypeError, "lr: a step has its own settings"),
    ],
)
def test_training_that_cannot_be_is_refused(settings, error, says):
    with pytest.raises(error, match=says):
        trained(small_model(), **settings)


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


@pytest.mark.parametrize("optimizer", ["sgd", "row_sgd"])
def test_a_linear_schedule_falls_in_equal_steps_and_goes_on_where_it_was(optimizer):
    model = small_model()
    step, rates = GradientStep(model, optimizer=optimizer, lr=0.4), {}
    for start_epoch in (1, 3):
        epochs = {"start_epoch": start_epoch, "n_epochs": 4, "lr_schedule": "linear"}
        for record in train(model, [BATCH], step, **epochs):
            rates[record["epoch"]] = step.optimizer.param_groups[0]["lr"]
            if record["epoch"] == 2:
                break
    assert rates == pytest.approx({1: 0.4, 2: 0.3, 3: 0.2, 4: 0.1})


@pytest.mark.parametrize("lr", [1e4, 3e38])  # the latter: the weights alone, in the last step
def test_divergence_is_noticed_before_anything_is_scored_and_says_what_to_do(lr):
    says = "training loss or a weight became NaN or infinite in epoch 1: try a smaller lr"
    with pytest.raises(Diverged, match=says):
        batches = [BATCH] * (1 if lr > 1e9 else 50)
        trained(small_model(), data=batches, optimizer="sgd", lr=lr, evaluate=pytest.fail)


def test_mean_loss_leaves_the_mode_as_it_was_and_says_what_is_empty():
    model = small_model()
    for mode in (True, False):
        mean_loss(model.train(mode), [BATCH])
        assert model.training == mode
    with pytest.raises(ValueError, match="batches are empty"):
        mean_loss(model, [])


def test_a_history_is_a_table_with_a_row_for_each_epoch():
    history = History(train(small_model(), [BATCH], n_epochs=3))
    frame = history.to_frame()
    assert frame.index.tolist() == [1, 2, 3] and list(frame) == ["train_loss", "seconds"]
    assert frame["train_loss"].tolist() == history.column("train_loss")
    assert History().to_frame().empty
    assert History([{"sweep": 1, "noise": 0.9}]).to_frame().index.name == "sweep"
    with pytest.raises(ValueError, match=r"column 'los': .*Known: \['epoch', 'seconds', 'train_l"):
        history.column("los")

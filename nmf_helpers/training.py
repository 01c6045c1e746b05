"""The one training loop of the course, the optimizer it is fastest with, and its History."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmf_helpers.checks import check_number, nearest
from nmf_helpers.losses import bpr_loss, squared_sigmoid_loss
from nmf_helpers.models import BiasedMF

if TYPE_CHECKING:
    import pandas as pd

Record = dict[str, float]

LOSSES: dict[str, Callable] = {
    "mse": F.mse_loss,
    "bpr": bpr_loss,
    "squared_sigmoid": squared_sigmoid_loss,
}


class History(list[Record]):
    """The records of a training run, one dictionary per epoch, oldest first."""

    def to_frame(self) -> pd.DataFrame:
        """Return one row per epoch, one column per recorded number."""
        import pandas as pd  # here, because training itself does without

        return pd.DataFrame(list(self)).set_index("epoch") if self else pd.DataFrame()

    def column(self, name: str) -> list[float]:
        """Return one number of every epoch."""
        return [record[name] for record in self]


class Diverged(ArithmeticError):
    """Training produced a loss that is no longer a number."""


class RowSGD:
    """Stochastic gradient descent on the rows that a batch touched, and only on those.

    ``row -= lr * (gradient + weight_decay * row)``, once for every time the row occurs in the
    batch. A film with a thousand ratings is so decayed a thousand times an epoch and one with a
    single rating once: the penalty of Koren et al. (2009), equation 5, which sums over ratings.
    Dense parameters take an ordinary step.

    Parameters
    ----------
    params : iterable of nn.Parameter
    lr : float
        Learning rate for one sample, when the loss is summed over the batch.
    weight_decay : float
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0):
        # Named and shaped as in torch.optim, so that a schedule can change lr in one way.
        self.param_groups = [{"params": list(params), "lr": lr, "weight_decay": weight_decay}]

    def zero_grad(self) -> None:
        for p in self.param_groups[0]["params"]:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        group = self.param_groups[0]
        lr, weight_decay = group["lr"], group["weight_decay"]
        for p in group["params"]:
            if p.grad is None:
                continue
            if not p.grad.is_sparse:
                p.sub_(lr * (p.grad + weight_decay * p))
                continue
            # Repeated rows stay apart on purpose: adding them up first costs a sort. Nothing is
            # changed in place: two parameters that were added share one gradient tensor.
            rows = p.grad._indices()[0]  # (occurrences,)
            step = p.grad._values()  # (occurrences, factors)
            if weight_decay:
                step = step.add(p.index_select(0, rows), alpha=weight_decay).mul_(-lr)
            else:
                step = step * -lr
            p.index_add_(0, rows, step)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Do nothing: this optimizer remembers nothing between steps."""


class FusedBPR(RowSGD):
    """`RowSGD` on the BPR loss of a `BiasedMF`, with the gradient written by hand.

    With x the score of a positive i less that of a negative j, the loss is ``-log σ(x)`` and its
    derivative ``-g`` with ``g = σ(-x)``. Going downhill, user u and the two items move by lr times

        g (q_i - q_j)  for p_u,     g p_u  for q_i,     -g p_u  for q_j,     ±g  for their biases.

    The step is autograd's, in half the time: nothing is recorded on the way, rows that were
    looked up for the score serve the decay as well, and a user's bias, which is part of both
    scores, isn't looked at.
    """

    @torch.no_grad()
    def fused_step(self, model: BiasedMF, users: Tensor, items: tuple[Tensor, Tensor]) -> Tensor:
        """Take a step on one batch, and return its mean loss before the step."""
        i, j = items
        user_factors, item_factors = model.user_factors.weight, model.item_factors.weight
        item_bias = model.item_bias.weight[:, 0]  # (items,)
        lr = self.param_groups[0]["lr"]
        decay = lr * self.param_groups[0]["weight_decay"]
        p = user_factors.index_select(0, users)  # (batch, factors), as the next three
        q_i, q_j = item_factors.index_select(0, i), item_factors.index_select(0, j)
        difference = q_i - q_j
        b_i, b_j = item_bias[i], item_bias[j]  # (batch,)
        x = torch.linalg.vecdot(p, difference) + b_i - b_j  # (batch,)
        g = torch.sigmoid(-x) * lr
        move = g[:, None] * p  # (batch, factors)
        user_factors.index_add_(0, users, difference.mul_(g[:, None]).sub_(p, alpha=decay))
        item_factors.index_add_(0, i, move.sub(q_i, alpha=decay))
        item_factors.index_add_(0, j, move.add_(q_j, alpha=decay).neg_())
        item_bias.index_add_(0, i, g - decay * b_i)
        item_bias.index_add_(0, j, -g - decay * b_j)
        return bpr_loss(x)


LR_SCHEDULES = ("constant", "linear")
OPTIMIZERS: dict[str, Callable] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "sparse_adam": torch.optim.SparseAdam,
    "row_sgd": RowSGD,
    "fused_bpr": FusedBPR,
}


def make_optimizer(
    optimizer: str | Callable, model: nn.Module, lr: float, weight_decay: float = 0.0
):
    """Build an optimizer from its name or its class, refusing what cannot work.

    Raises
    ------
    ValueError
        If the name is unknown, a number is out of range, or the model's sparse gradients do not
        go with the optimizer or with its weight decay.
    """
    check_number("lr", lr, above=0)
    check_number("weight_decay", weight_decay, at_least=0)
    build = optimizer
    if not callable(optimizer):
        build = OPTIMIZERS[nearest("optimizer", optimizer, OPTIMIZERS)]
    kind = getattr(build, "func", build)  # the class behind functools.partial(SGD, momentum=.9)
    sparse = any(getattr(module, "sparse", False) for module in model.modules())
    if sparse and kind in (torch.optim.Adam, torch.optim.AdamW):
        raise ValueError(
            f"{kind.__name__} does not take sparse gradients: "
            'use sparse=False, or optimizer="row_sgd", "sgd", "adagrad" or "sparse_adam"'
        )
    if kind is FusedBPR and not (isinstance(model, BiasedMF) and sparse and not model.dropout.p):
        raise ValueError(
            'optimizer="fused_bpr" knows the gradient of BiasedMF only, with sparse=True and '
            'dropout=0: use optimizer="row_sgd" for other models'
        )
    if sparse and weight_decay and kind not in (RowSGD, FusedBPR):
        raise ValueError(
            f"{kind.__name__} cannot apply weight_decay={weight_decay} to sparse gradients: "
            'use optimizer="row_sgd", which decays the rows it touches, or sparse=False, '
            "or weight_decay=0"
        )
    if kind is torch.optim.SparseAdam:
        if not sparse:
            raise ValueError('optimizer="sparse_adam" needs sparse gradients: use sparse=True')
        return build(model.parameters(), lr=lr)  # it has no weight_decay to set to 0
    return build(model.parameters(), lr=lr, weight_decay=weight_decay)


def train(
    model: nn.Module,
    batches: Iterable,
    *,
    loss: Callable = F.mse_loss,
    optimizer: str | Callable | Any = "adam",
    lr: float = 0.01,
    weight_decay: float = 0.0,
    n_epochs: int = 10,
    first_epoch: int = 1,
    lr_schedule: str = "constant",
    sum_gradients: bool = False,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
) -> Iterator[Record]:
    """Train a model, yielding one record per epoch.

    A generator, so that whoever watches decides: a progress bar, a plot, early stopping and a
    test all loop over the same records, and training stops when they stop asking.

    Parameters
    ----------
    model : nn.Module
        Called as ``model(users, items)`` with tensors of shapes that broadcast.
    batches : iterable of ((users, items), target)
        Walked once an epoch: a DataLoader, or a list with one batch for full-batch training.
        `items` may be a pair (positives, negatives): the loss then gets the difference of their
        scores.
    loss : callable
        ``loss(prediction, target)`` → mean over the batch, one number a sample, or the sum if
        it says ``reduction="sum"`` of itself as PyTorch's modules do.
    optimizer : str, class or object
        One of `OPTIMIZERS`, an optimizer class, or a ready-made optimizer (then `lr` and
        `weight_decay` are its own).
    n_epochs, first_epoch : int
        Epochs `first_epoch` … `n_epochs` are run.
    lr_schedule : {"constant", "linear"}
        "linear" lets the learning rate fall in equal steps, to nearly zero in the last epoch.
    sum_gradients : bool
        Follow the gradient of the loss summed over the batch, not averaged, so that the learning
        rate is that of one sample whatever the batch size.
    evaluate : callable, optional
        ``evaluate(model)`` → numbers to add to the record, after each epoch. The model is in
        eval mode then, and while a record is looked at.

    Yields
    ------
    dict
        ``epoch``, ``train_loss`` (per sample, over the epoch's batches, each before its own
        step), what `evaluate` returned, and ``seconds`` of training without evaluation.

    Raises
    ------
    Diverged
        When the loss or a weight is NaN or infinite.
    """
    check_number("n_epochs", n_epochs, at_least=0, whole=True)
    if isinstance(optimizer, str) or callable(optimizer):
        optimizer = make_optimizer(optimizer, model, lr, weight_decay)
    nearest("lr_schedule", lr_schedule, LR_SCHEDULES)
    fused = isinstance(optimizer, FusedBPR)
    if fused and not (loss is bpr_loss and sum_gradients):
        raise ValueError(
            'optimizer="fused_bpr" knows the gradient of loss="bpr" only, summed over the batch: '
            'use optimizer="row_sgd" for other losses'
        )
    for epoch in range(first_epoch, n_epochs + 1):
        start = time.perf_counter()
        if lr_schedule == "linear":
            for group in optimizer.param_groups:
                first = group.setdefault("initial_lr", group["lr"])  # survives a resume
                group["lr"] = first * (1 - (epoch - 1) / n_epochs)
        model.train()
        total, count = 0.0, 0
        for (users, items), target in batches:
            if fused:
                mean = optimizer.fused_step(model, users, items)
            else:
                optimizer.zero_grad()
                mean = batch_loss(model, users, items, target, loss)
                (mean * len(target) if sum_gradients else mean).backward()
                optimizer.step()
            total += mean.item() * len(target)
            count += len(target)
            if not math.isfinite(total):
                raise _diverged(f"the training loss became {mean.item()}", epoch)
        if not count:
            raise ValueError("there is nothing to train on: the batches are empty")
        record: Record = {"epoch": epoch, "train_loss": total / count}
        seconds = time.perf_counter() - start
        # Summed, not weight.isfinite(): that compares each number with itself, and takes one that
        # another hogwild worker changes between the two looks for NaN.
        if not all(math.isfinite(weight.sum().item()) for weight in model.parameters()):
            raise _diverged("weights became NaN or infinite", epoch)
        model.eval()
        if evaluate is not None:
            record.update(evaluate(model))
        record["seconds"] = seconds
        yield record


def _diverged(what: str, epoch: int) -> Diverged:
    return Diverged(
        f"{what} in epoch {epoch}: try a smaller lr (a tenth of it), or a smaller initialisation"
    )


def batch_loss(model: nn.Module, users: Tensor, items, target: Tensor, loss: Callable) -> Tensor:
    """Return the mean loss of one batch, of single items or of (positive, negative) pairs."""
    if isinstance(items, tuple | list):
        positive, negative = model(users, torch.stack(tuple(items)))  # each (batch,)
        prediction = positive - negative
    else:
        prediction = model(users, items)  # (batch,)
    if prediction.shape != target.shape:
        # MSE would broadcast (batch, 1) against (batch,) to batch × batch numbers, and train on.
        raise ValueError(
            f"the model returned shape {tuple(prediction.shape)} for targets of shape "
            f"{tuple(target.shape)}: they must be the same"
        )
    value = loss(prediction, target)
    if getattr(loss, "reduction", "mean") == "sum":
        return value / len(target)
    return value.mean() if value.ndim else value


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Iterable, loss: Callable = F.mse_loss) -> float:
    """Return the per-sample loss over all batches, without training."""
    training = model.training
    model.eval()
    total, count = 0.0, 0
    for (users, items), target in batches:
        total += batch_loss(model, users, items, target, loss).item() * len(target)
        count += len(target)
    model.train(training)
    return total / count if count else math.nan

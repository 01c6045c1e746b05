"""The one training loop of the course, and the step that most models take in it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmf_helpers.checks import check_ids, check_number, nearest
from nmf_helpers.history import Record
from nmf_helpers.interactions import Batch

Step = Callable[[nn.Module, Batch], Tensor]  # takes a step, returns the batch's mean loss before
Loss = Callable[..., Tensor]
Evaluate = Callable[[nn.Module], Mapping[str, Any]]
LrSchedule = Literal["constant", "linear"]


class Diverged(ArithmeticError):
    """Training produced a loss that is no longer a number."""


class RowSGD:
    """Stochastic gradient descent on the rows that a batch touched, and only on those.

    ``row -= lr * (gradient + weight_decay * row)``, once for every time the row occurs in the
    batch. A film with a thousand ratings is so decayed a thousand times an epoch and one with a
    single rating once: the penalty of Koren et al. (2009), equation 5, which sums over ratings.
    Dense parameters take an ordinary step. `lr` is that of one sample if the loss is summed.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0):
        # Named as in torch.optim, whose own base class takes a second to import what it needs.
        group = {"params": list(params), "lr": lr, "weight_decay": weight_decay}
        self.param_groups: list[dict[str, Any]] = [group]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.param_groups[0]["params"]:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move each row that has a gradient."""
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
            rows, step = p.grad._indices()[0], p.grad._values()  # (n,), (n, factors)
            if weight_decay:
                step = step.add(p.index_select(0, rows), alpha=weight_decay).mul_(-lr)
            else:
                step = step * -lr
            p.index_add_(0, rows, step)


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad, "sparse_adam": torch.optim.SparseAdam, "row_sgd": RowSGD,
}  # fmt: skip


def make_optimizer(
    optimizer: str | Callable[..., Any], model: nn.Module, lr: float, weight_decay: float = 0.0
) -> Any:
    """Build an optimizer from its name or its class.

    A ValueError says so if the name is unknown, a number is out of range, or the model's sparse
    gradients do not go with the optimizer or with its weight decay.
    """
    check_number("lr", lr, above=0)
    check_number("weight_decay", weight_decay, at_least=0)
    rates = {"lr": float(lr), "weight_decay": float(weight_decay)}  # no NumPy: it can't be saved
    if isinstance(optimizer, str):
        optimizer = OPTIMIZERS[nearest("optimizer", optimizer, OPTIMIZERS)]
    kind = getattr(optimizer, "func", optimizer)  # the class behind partial(SGD, momentum=.9)
    sparse = any(getattr(module, "sparse", False) for module in model.modules())
    if sparse and kind in (torch.optim.Adam, torch.optim.AdamW):
        raise ValueError(
            f"{kind.__name__} does not take sparse gradients: "
            'use sparse=False, or optimizer="row_sgd", "sgd", "adagrad" or "sparse_adam"'
        )
    if sparse and weight_decay and kind is not RowSGD:
        raise ValueError(
            f"{kind.__name__} cannot apply weight_decay={weight_decay} to sparse gradients: use "
            'optimizer="row_sgd", which decays the rows it touches, sparse=False or weight_decay=0'
        )
    if kind is torch.optim.SparseAdam:
        if not sparse:
            raise ValueError('optimizer="sparse_adam" needs sparse gradients: use sparse=True')
        del rates["weight_decay"]  # it has none to set to 0
    return optimizer(model.parameters(), **rates)


class GradientStep:
    """One step of an optimizer along the gradient that autograd finds.

    `loss`, called as ``loss(prediction, target)``, returns the mean over the batch, one number a
    sample, or the sum if it says ``reduction="sum"`` of itself as PyTorch's modules do.
    `optimizer` is one of `OPTIMIZERS`, a class, or ready-made (and has its own rates). With
    ``reduction="sum"`` the gradient of the batch's summed loss is followed instead of the mean's:
    then the learning rate is that of one sample, whatever the batch size.
    """

    def __init__(
        self, model: nn.Module, *, loss: Loss = F.mse_loss, optimizer: Any = "adam",
        lr: float = 0.01, weight_decay: float = 0.0, reduction: Literal["mean", "sum"] = "mean",
    ) -> None:  # fmt: skip
        self.loss, self.reduction = loss, nearest("reduction", reduction, ("mean", "sum"))
        named = isinstance(optimizer, str) or callable(optimizer)
        self.optimizer = make_optimizer(optimizer, model, lr, weight_decay) if named else optimizer

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Take a step on one batch, and return its mean loss before the step."""
        self.optimizer.zero_grad()
        mean = batch_loss(model, batch, self.loss)  # ()
        (mean * len(batch[1]) if self.reduction == "sum" else mean).backward()
        self.optimizer.step()
        return mean


def train(
    model: nn.Module, batches: Iterable[Batch], step: Step | None = None, *, n_epochs: int = 10,
    start_epoch: int = 1, lr_schedule: str = "constant", evaluate: Evaluate | None = None,
    **settings: Any,
) -> Generator[Record, None, None]:  # fmt: skip
    """Train a model for the epochs `start_epoch` … `n_epochs`, yielding a record after each.

    A generator, so that whoever watches decides: a progress bar, a plot, early stopping and a
    test all loop over the same records, and training stops when they stop asking. A record holds
    ``epoch``, ``train_loss`` (per sample, each batch's before its own step), what `evaluate`
    returns for the model in eval mode, and ``seconds`` of training without evaluation.

    Parameters
    ----------
    batches : iterable of ((users, items), target)
        Walked once an epoch: a DataLoader, or a list with one batch. `items` may be a pair
        (positives, negatives): the loss then gets the difference of their scores.
    step : callable, optional
        ``step(model, batch) -> mean loss of the batch``, which holds its optimizer, as attribute
        ``optimizer`` if a schedule is to reach it. By default ``GradientStep(model, **settings)``.
    lr_schedule : {"constant", "linear"}
        "linear" lets the learning rate fall in equal steps, to nearly zero in the last epoch.

    Raises
    ------
    Diverged
        When the loss or a weight is NaN or infinite.
    """
    check_number("n_epochs", n_epochs, at_least=0, whole=True)
    nearest("lr_schedule", lr_schedule, get_args(LrSchedule))
    if step is not None and settings:
        raise TypeError(f"{', '.join(settings)}: a step has its own settings; give them to it")
    step = GradientStep(model, **settings) if step is None else step
    groups = getattr(getattr(step, "optimizer", None), "param_groups", None)
    if lr_schedule != "constant" and groups is None:
        raise ValueError(f"lr_schedule={lr_schedule!r} needs a step with an attribute optimizer")
    for epoch in range(start_epoch, n_epochs + 1):
        for group in groups or ():
            first = group.setdefault("initial_lr", group["lr"])  # survives a resume
            if lr_schedule != "constant":
                group["lr"] = scheduled_lr(lr_schedule, first, epoch, n_epochs)
        yield train_epoch(model, batches, step, epoch, evaluate)


def scheduled_lr(lr_schedule: str, lr: float, epoch: int, n_epochs: int) -> float:
    """Return the learning rate of an epoch, counted from 1."""
    return lr * (1 - (epoch - 1) / n_epochs) if lr_schedule == "linear" else lr


def set_rates(step: Any, loader: Any, lr: float, weight_decay: float, batch_size: int) -> None:
    """Let a step and the loader of its batches go on with other settings."""
    for group in step.optimizer.param_groups:
        rates = {"lr": lr, "weight_decay": weight_decay}
        group.update({name: rate for name, rate in rates.items() if name in group})
    loader.sampler.batch_size = batch_size


def train_epoch(
    model: nn.Module, batches: Iterable[Batch], step: Step, epoch: int,
    evaluate: Evaluate | None = None,
) -> Record:  # fmt: skip
    """Walk all batches once, a step for each, and return the epoch's record, as in `train`."""
    start = time.perf_counter()
    model.train()
    total, count = 0.0, 0
    for batch in batches:
        mean = step(model, batch).item()
        total += mean * len(batch[1])
        count += len(batch[1])
        if not math.isfinite(total):
            raise diverged(f"the training loss became {mean}", epoch)
    if not count:
        raise ValueError("there is nothing to train on: the batches are empty")
    record: Record = {"epoch": epoch, "train_loss": total / count}
    seconds = time.perf_counter() - start
    # Summed, not weight.isfinite(): that compares each number with itself, and takes one that
    # another hogwild worker changes between the two looks for NaN.
    if not all(math.isfinite(weight.sum().item()) for weight in model.parameters()):
        raise diverged("weights became NaN or infinite", epoch)
    model.eval()
    if evaluate is not None:
        record.update(evaluate(model))
    return record | {"seconds": seconds}


def diverged(what: str, epoch: int) -> Diverged:
    """Return the error that says what became of training, and what to try."""
    way_out = "try a smaller lr (a tenth of it), or a smaller initialisation"
    return Diverged(f"{what} in epoch {epoch}: {way_out}")


def batch_loss(model: nn.Module, batch: Batch, loss: Loss = F.mse_loss) -> Tensor:
    """Return the mean loss of one batch, of single items or of (positive, negative) pairs.

    A user or an item that the model has no row for is an IndexError; scores of another shape than
    the targets are a ValueError.
    """
    (users, items), target = batch
    try:
        if isinstance(items, Tensor):
            prediction = model(users, items)  # (batch,)
        else:
            positive, negative = model(users, torch.stack(tuple(items)))  # each (batch,)
            prediction = positive - negative
    except IndexError:
        for name, ids in ("users", users), ("items", items):
            n = getattr(model, f"n_{name}", None)  # our models say how many rows they have
            if n is not None and isinstance(ids, Tensor):
                check_ids(name, ids.flatten().numpy(force=True), n)
        raise
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
def mean_loss(model: nn.Module, batches: Iterable[Batch], loss: Loss = F.mse_loss) -> float:
    """Return the per-sample loss over all batches, without training."""
    training = model.training
    model.eval()
    total, count = 0.0, 0
    for batch in batches:
        total += batch_loss(model, batch, loss).item() * len(batch[1])
        count += len(batch[1])
    model.train(training)
    if not count:
        raise ValueError("there is nothing to measure: the batches are empty")
    return total / count

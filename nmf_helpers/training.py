"""The one training loop of the course, and the step that most models take in it."""

import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmf_helpers.checks import Scorer, check_number, nearest
from nmf_helpers.history import Record
from nmf_helpers.interactions import Batch

Step = Callable[[nn.Module, Batch], Tensor]  # takes a step, returns the batch's mean loss before
Loss = Callable[..., Tensor]
Evaluate = Callable[[nn.Module], Mapping[str, Any]] | None
LrSchedule = Literal["constant", "linear"]


class Diverged(ArithmeticError):
    """Training produced a loss or a weight that is no longer a number: what, in which epoch."""

    def __str__(self) -> str:
        what, epoch = self.args
        return f"{what} in epoch {epoch}: try a smaller lr (a tenth of it), or a smaller init_std"


class RowSGD:
    """Stochastic gradient descent on the rows that a batch touched, and only on those.

    ``row -= lr * (gradient + weight_decay * row)``, once for every time the row occurs in the
    batch: an item with a thousand ratings is decayed a thousand times an epoch, as in Surprise's
    SVD. Dense parameters take an ordinary step. `lr` is that of one sample if the loss is summed.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0):
        # Named as in torch.optim, whose own base class takes a second to import what it needs.
        group = {"params": list(params), "lr": lr, "weight_decay": weight_decay}
        self.param_groups: list[dict[str, Any]] = [group]

    @torch.no_grad()
    def step(self) -> None:
        """Move each row that has a gradient."""
        group = self.param_groups[0]
        lr, weight_decay = group["lr"], group["weight_decay"]
        for p in (p for p in group["params"] if p.grad is not None):
            if not p.grad.is_sparse:
                p.sub_(lr * (p.grad + weight_decay * p))
                continue
            # Repeated rows stay apart: adding them up first costs a sort. The gradient is not
            # written to: two parameters that were added share one.
            rows, gradient = p.grad._indices()[0], p.grad._values()  # (n,), (n, factors)
            step = gradient.add(p.index_select(0, rows), alpha=weight_decay)  # (n, factors)
            p.index_add_(0, rows, step.mul_(-lr))


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad, "row_sgd": RowSGD,
}  # fmt: skip


class GradientStep:
    """One step of an optimizer along the gradient that autograd finds.

    ``loss(prediction, target)`` returns the mean over the batch, one number a sample, or the sum if
    it has an attribute ``reduction = "sum"``. `optimizer` is one of `OPTIMIZERS`, a class, or
    ready-made (and has its own rates). With `reduction` "sum" the gradient is that of the batch's
    summed loss, not of the mean: then `lr` is that of one sample, whatever the batch size.
    """

    def __init__(
        self, model: nn.Module, *, loss: Loss = F.mse_loss, optimizer: Any = "adam",
        lr: float = 0.01, weight_decay: float = 0.0, reduction: Literal["mean", "sum"] = "mean",
    ) -> None:  # fmt: skip
        self.loss, self.reduction = loss, nearest("reduction", reduction, ("mean", "sum"))
        check_number("lr", lr, above=0)
        check_number("weight_decay", weight_decay, at_least=0)
        if isinstance(optimizer, str):
            optimizer = OPTIMIZERS[nearest("optimizer", optimizer, OPTIMIZERS)]
        sparse = any(getattr(module, "sparse", False) for module in model.modules())
        dense_only = weight_decay or optimizer in (torch.optim.Adam, torch.optim.AdamW)
        if sparse and dense_only and callable(optimizer) and optimizer is not RowSGD:
            with_decay = f"{getattr(optimizer, '__name__', optimizer)} with {weight_decay=}"
            way_out = 'use sparse=False, or optimizer="row_sgd", which decays the rows it moves'
            raise ValueError(f"{with_decay} does not take sparse gradients: {way_out}")
        if callable(optimizer):
            optimizer = optimizer(model.parameters(), lr=lr, weight_decay=weight_decay)
        self.optimizer = optimizer

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Take a step on one batch, and return its mean loss before the step."""
        model.zero_grad()
        mean = batch_loss(model, batch, self.loss)  # ()
        (mean * len(batch[1]) if self.reduction == "sum" else mean).backward()
        self.optimizer.step()
        return mean


def train(
    model: nn.Module, batches: Iterable[Batch], step: Step | None = None, *, n_epochs: int = 10,
    start_epoch: int = 1, lr_schedule: LrSchedule = "constant", evaluate: Evaluate = None,
    **settings: Any,
) -> Generator[Record, None, None]:  # fmt: skip
    """Train a model for the epochs `start_epoch` … `n_epochs`, yielding a record after each.

    Training goes on only while somebody asks. A record holds ``epoch``, ``train_loss`` (per sample,
    each batch's before its own step), what `evaluate` returns for the model in eval mode, and
    ``seconds`` of training without evaluation. A loss or weight that is NaN or infinite: Diverged.

    `batches` of ``((users, items), target)`` are walked once an epoch: a DataLoader, or a list.
    `items` may be a pair (positives, negatives): the loss then gets the difference of their scores.
    ``step(model, batch)`` takes a step and returns the batch's mean loss, by default
    ``GradientStep(model, **settings)``. With `lr_schedule` "linear" the rate of its attribute
    ``optimizer`` falls in equal steps, to nearly zero.
    """
    check_number("n_epochs", n_epochs, at_least=0, whole=True)
    nearest("lr_schedule", lr_schedule, get_args(LrSchedule))
    if step is not None and settings:
        raise TypeError(f"{', '.join(settings)}: a step has its own settings; give them to it")
    taken: Any = GradientStep(model, **settings) if step is None else step
    for epoch in range(start_epoch, n_epochs + 1):
        for group in taken.optimizer.param_groups if lr_schedule == "linear" else ():
            first = group.setdefault("initial_lr", group["lr"])  # survives a resume
            group["lr"] = first * (1 - (epoch - 1) / n_epochs)
        yield train_epoch(model, batches, taken, epoch, evaluate)


def set_rates(step: Any, loader: Any, batch_size: int, **rates: float) -> None:
    """Let a step and the loader of its batches go on with another `lr`, `weight_decay` and size."""
    for group in step.optimizer.param_groups:
        group.update(rates)
    loader.sampler.batch_size = batch_size


def train_epoch(
    model: nn.Module, batches: Iterable[Batch], step: Step, epoch: int, evaluate: Evaluate = None
) -> Record:
    """Walk all batches once, a step for each, and return the epoch's record, as in `train`."""
    start = time.perf_counter()
    model.train()
    loss = _mean(batches, lambda batch: step(model, batch))
    seconds = time.perf_counter() - start
    # Summed, not weight.isfinite(): that compares each number with itself, and takes one that
    # another hogwild worker changes between the two looks for NaN.
    if not all(map(math.isfinite, (loss, *(w.sum().item() for w in model.parameters())))):
        raise Diverged("the training loss or a weight became NaN or infinite", epoch)
    model.eval()
    numbers = evaluate(model) if evaluate else {}
    return {"epoch": epoch, "train_loss": loss, **numbers, "seconds": seconds}


def _mean(batches: Iterable[Batch], loss_of: Callable[[Batch], Tensor]) -> float:
    """Return the mean over all samples, from the mean of each batch."""
    total, count = 0.0, 0
    for batch in batches:
        total += loss_of(batch).item() * len(batch[1])
        count += len(batch[1])
    if not count:
        raise ValueError("the batches are empty: there is nothing to train on or to measure")
    return total / count


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Iterable[Batch], loss: Loss = F.mse_loss) -> float:
    """Return the per-sample loss over all batches, without training."""
    training = model.training
    model.eval()
    mean = _mean(batches, lambda batch: batch_loss(model, batch, loss))
    model.train(training)
    return mean


def batch_loss(model: nn.Module, batch: Batch, loss: Loss = F.mse_loss) -> Tensor:
    """Return the mean loss of one batch, of single items or of (positive, negative) pairs."""
    (users, items), target = batch
    try:
        if isinstance(items, Tensor):
            prediction = model(users, items)  # (batch,)
        else:
            positive, negative = model(users, torch.stack(tuple(items)))  # each (batch,)
            prediction = positive - negative
    except IndexError:
        if isinstance(model, Scorer) and isinstance(items, Tensor):
            model.predict(users, items)  # says which id it is
        raise
    if prediction.shape != target.shape:  # MSE would broadcast (n, 1) against (n,) to n² numbers
        shapes = f"shape {tuple(prediction.shape)} for targets of shape {tuple(target.shape)}"
        raise ValueError(f"the model returned {shapes}: they must be the same")
    value = loss(prediction, target)
    return value / len(target) if getattr(loss, "reduction", "") == "sum" else value.mean()

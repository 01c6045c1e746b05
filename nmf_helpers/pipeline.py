"""Data, model, step, loop and metrics put together, so that each can be replaced."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from difflib import get_close_matches
from functools import partial
from itertools import count
from threading import RLock
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from nmf_helpers import checks as takes
from nmf_helpers import metrics as scores
from nmf_helpers import models, saving, training
from nmf_helpers.bpr import BPRStep
from nmf_helpers.checks import Scorer, check_matrix, check_number, nearest
from nmf_helpers.history import History, Record
from nmf_helpers.hogwild import train_hogwild
from nmf_helpers.interactions import Interactions, PairwiseInteractions, batches
from nmf_helpers.losses import LOSSES, bpr_loss
from nmf_helpers.settings import Settings, find_device, name_of

MODELS = {model.__name__: model for model in (models.MF, models.BiasedMF, models.CollabFNet)}
NAMED: dict[str, Mapping] = {"model": MODELS, "optimizer": training.OPTIMIZERS, "loss": LOSSES}
_TURN = RLock()  # held by the thread whose pipeline uses PyTorch's own random generator


class Pipeline(Settings, Scorer):
    """Train a model on a matrix of interactions and follow how well it does.

    Every setting is an attribute of its own name. `lr`, `weight_decay`, `n_epochs`, `batch_size`
    and `verbose` may be changed at any time, and count from the next epoch; the others decide how
    the pipeline is built, and changing them later is refused.

    Parameters
    ----------
    train : sparse matrix or array, shape (n_users, n_items)
        Ratings, or ones for implicit feedback.
    evaluate_on : dict of name to matrix of the same shape
        Held-out entries to follow, ``{"validation": matrix}``. Only `patience` chooses by them.
    model : class
        Called as ``model(n_users, n_items, n_factors=…, **model_options)``; the attribute is what
        it built. What is not given, `dropout` too, is the model's own.
    init : {"normal", "svd"}
        Start from noise of the model's ``init_std``, or from who rated what, at size `svd_scale`.
    lr, lr_schedule : float, {"constant", "linear"}
        Of one sample, as losses are summed over the batch; "linear" lets it fall to nearly zero.
    optimizer, loss : str, or class and callable
        A name in `nmf_helpers.training.OPTIMIZERS`, or a class such as ``torch.optim.Adam``.
        "mse" for ratings; "bpr" (or "squared_sigmoid") to rank pairs; or ``loss(prediction,
        target)``, which gets differences of scores if it has an attribute ``pairwise = True``.
    step : {"autograd", "by_hand"}
        "by_hand" is `nmf_helpers.bpr.BPRStep`: the same step for BPR in about half the time.
    rating_unit : float
        Ratings are learned, and losses taken, divided by this; predictions are multiplied by it.
    metrics : sequence of str
        Followed besides the loss: "rmse", "auc", "precision@5", "recall@10", "ndcg@10" and so on.
        Training items are left out of rankings.
    patience : int, optional
        Stop when the first of `metrics` (else the loss) on the part named "validation" has not
        improved for so many epochs, and at the end go back to the best epoch. Without such a part
        `validation_fraction` of `train` becomes ``validation``, and the rest ``train_part``.
    seed : int
        Decides the model that is built and, with the number of an epoch, all that is drawn in it.
    sparse, n_workers, device : bool, int, str
        Sparse gradients, which the optimizer has to take; train hogwild in so many processes
        (0: in this one); "auto" takes a GPU when there is one.
    """

    def __init__(
        self, train: Any, *, evaluate_on: Mapping[str, Any] | None = None,
        model: type[nn.Module] = models.BiasedMF, n_factors: takes.Count = 40,
        init: Literal["normal", "svd"] = "normal", svd_scale: takes.Positive = 0.1,
        batch_size: takes.Count = 1024, dropout: takes.Chance = None, sparse: bool = False,
        lr: takes.Positive = 0.01, lr_schedule: training.LrSchedule = "constant",
        weight_decay: takes.NotNegative = 0.0, optimizer: str | type = "adam",
        loss: str | Callable[..., Any] = "mse", step: Literal["autograd", "by_hand"] = "autograd",
        rating_unit: takes.Positive = 1.0, n_epochs: takes.Natural = 10,
        metrics: Sequence[str] = (), patience: takes.Count = None,
        validation_fraction: takes.Fraction = 0.1, n_workers: takes.Natural = 0,
        seed: takes.Seed = 0, device: str = "auto", verbose: bool = False, **model_options: Any,
    ) -> None:  # fmt: skip
        given = locals()
        for name in self.defaults:
            setattr(self, name, given[name])
        self.metrics = (metrics,) if isinstance(metrics, str) else tuple(map(str, metrics))
        self._loss = LOSSES[nearest("loss", loss, LOSSES)] if isinstance(loss, str) else loss
        self.pairwise: bool = getattr(self._loss, "pairwise", False)
        self._take(train, evaluate_on)
        self._check_metrics()
        rated = self.train.nnz and not self.pairwise  # pairs have no mean
        mean = float(self.train.data.mean()) / rating_unit if rated else 0.0
        self.model_options = self.check_options(model, model_options, mean)
        self._device = find_device(device, n_workers)
        self.history = History()
        self._generator = torch.Generator()  # of the order of samples and of negatives
        with self._seeded(epoch=0):  # before the model is built, or its weights are not seeded
            self.model = model(self.n_users, self.n_items, **self.model_options).to(self._device)
        if init == "svd" and self.train.nnz:
            models.svd_init(self.model, self.train_part, svd_scale)
        self._make_step(self.model)  # refuse early what cannot work
        self._step: Any = None  # made when it is needed
        self._best_weights: dict[str, Any] | None = None
        self.is_built = True

    def _take(self, train: Any, evaluate_on: Mapping[str, Any] | None) -> None:
        """Keep the matrices, checked, and set some of train aside where `patience` needs it."""
        kind: Any = "interactions" if self.pairwise else "ratings"
        self.train = check_matrix("train", train, kind=kind, may_be_empty=True)
        self.n_users, self.n_items = self.shape_ = self.train.shape
        data, self.evaluate_on = self.train.data, {}
        self.rating_range = (data.min(), data.max()) if len(data) else None
        if not isinstance(evaluate_on, Mapping | None):
            raise TypeError('evaluate_on takes parts by name: {"validation": matrix}')
        for name, part in (evaluate_on or {}).items():
            part = check_matrix(name, part, self.train, like_name="train")
            if both := ((self.train != 0) * (part != 0)).nnz:
                raise ValueError(
                    f"{both} entries of {name} are in train as well, so it would measure nothing: "
                    "make the two disjoint, as leave_n_out does"
                )
            self.evaluate_on[name] = part
        self.train_part, self.validation = self.train, None
        if self.patience is None or "validation" in self.evaluate_on or not len(data):
            return
        held = np.random.default_rng(self.seed).random(len(data)) < self.validation_fraction
        if held.all() or not held.any():
            share = f"validation_fraction={self.validation_fraction} of {len(data)} entries"
            raise ValueError(f"{share} leaves nothing to train on or nothing to validate on")
        row, column = self.train.tocoo().coords
        self.train_part, self.validation = (
            sp.csr_array((data[m], (row[m], column[m])), self.shape_) for m in (~held, held)
        )

    def _check_metrics(self) -> None:
        for metric in self.metrics:
            if get_close_matches(metric.lower(), ["rmse"], cutoff=0.7):
                if metric != "rmse":
                    raise ValueError(f"unknown metric {metric!r}: did you mean 'rmse'?")
                if self.pairwise:
                    raise ValueError('"rmse" compares with ratings, but this loss only ranks')
            elif (scores.parse_metric(metric)[1] or 1) > (n := self.n_items):
                raise ValueError(f"{metric!r} asks for more than the {n} items: choose another")

    def fit(self, checkpoint: str | os.PathLike | None = None, every: int = 1) -> Pipeline:
        """Train until `n_epochs` are done, and return the pipeline.

        A run that was interrupted, stopped or loaded from a file goes on where it was; one that
        has done its epochs returns at once. An interrupt keeps the model and the history so far.

        With `checkpoint`, a path, it is saved there at the start, every `every` epochs and at the
        end. `Pipeline.load` and `fit` then go on to the same numbers as a run never stopped.
        """
        from tqdm.auto import tqdm

        check_number("every", every, at_least=1, whole=True)
        save = (lambda: None) if checkpoint is None else partial(self.save, checkpoint)
        save()  # whatever keeps it from being written is better known now
        epochs = {"total": self.n_epochs, "initial": len(self.history), "unit": "epoch"}
        try:
            with tqdm(**epochs, disable=not self.verbose) as bar, closing(self.epochs()) as records:
                for record in records:
                    bar.update()
                    bar.set_postfix(list(record.items())[1:-1])  # but the epoch and seconds
                    if record["epoch"] % every == 0:
                        save()
            save()
        except KeyboardInterrupt:
            print(f"Interrupted after {len(self.history)} epochs; fit() goes on from here.")
        return self

    def epochs(self) -> Generator[Record, None, None]:
        """Train, yielding the record of each epoch as it ends."""
        if self._finished():
            return
        if not self.train.nnz:
            raise ValueError("train is empty: give Pipeline.load the matrix it was trained on")
        records, ended = self._records(), False
        try:
            while not self._finished():
                with self._seeded(epoch=len(self.history) + 1):
                    record = next(records)
                self.history.append(record)
                if self.patience is not None and self._best_epoch() == len(self.history):
                    self._best_weights = copy.deepcopy(self.model.state_dict())
                yield record
                ended = self._finished()
        except training.Diverged:
            ended = True
            raise
        finally:
            records.close()
            self.model.eval()
            if ended and self._best_weights is not None:
                self.model.load_state_dict(self._best_weights)

    def _records(self) -> Generator[Record, None, None]:
        """Train epoch after epoch, in this process or in several, as long as somebody asks."""
        parts = {name: (entries, self.train) for name, entries in self.evaluate_on.items()}
        if self.validation is not None:
            parts["validation"] = self.validation, self.train_part
        evaluate = partial(self._evaluate, {
            name: (*part, self._loader(*part, 65536, torch.Generator()))
            for name, part in parts.items()
        })  # fmt: skip
        loader = self._loader(self.train_part, None, self.batch_size, self._generator)
        first = len(self.history) + 1
        if self.n_workers:
            yield from train_hogwild(
                self.model, loader.dataset, self._make_step, rates=self._rates,
                n_workers=self.n_workers, start_epoch=first, evaluate=evaluate, seed=self.seed,
            )  # fmt: skip
        self._step = self._step or self._make_step(self.model)
        for epoch in count(first):
            training.set_rates(self._step, loader, **self._rates(epoch))
            yield training.train_epoch(self.model, loader, self._step, epoch, evaluate)

    @property
    def _make_step(self) -> Callable[..., Any]:
        """The step's class with its settings: what is called with a model, here or in a worker."""
        rates = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.step == "autograd":
            ours = {"loss": self._loss, "optimizer": self.optimizer, "reduction": "sum"}
            return partial(training.GradientStep, **rates, **ours)
        if self._loss is not bpr_loss:
            raise ValueError('step="by_hand" is for loss="bpr" only: use step="autograd"')
        return partial(BPRStep, **rates)

    def _rates(self, epoch: int) -> dict[str, Any]:
        """Return what an epoch is trained with, of all that may be changed between epochs."""
        lr = training.scheduled_lr(self.lr_schedule, self.lr, epoch, self.n_epochs)
        return {"lr": lr, "weight_decay": self.weight_decay, "batch_size": self.batch_size}

    def _best_epoch(self) -> int:
        """Return the epoch with the best validation score so far, the first of equals."""
        name = self.metrics[0] if self.metrics else "loss"
        sign = 1 if name in ("loss", "rmse") else -1  # of what is better when it is lower
        return int(np.argmin(sign * np.array(self.history.column(f"validation_{name}")))) + 1

    def _finished(self) -> bool:
        done = len(self.history)
        if self.patience is None or not 0 < done < self.n_epochs:
            return done >= self.n_epochs
        return done - self._best_epoch() >= self.patience

    def _loader(
        self, matrix: sp.csr_array, exclude: Any, batch_size: int, generator: torch.Generator
    ) -> Any:
        """Return batches of a matrix's entries, beside negatives if the loss compares pairs."""
        if self.pairwise:  # a part that is only followed need not be complete
            followed = exclude is not None
            dataset: Any = PairwiseInteractions(matrix, exclude, generator, skip_full=followed)
        else:
            dataset = Interactions(matrix)
            dataset.values = dataset.values / self.rating_unit
        return batches(dataset, batch_size, generator, self._device)

    def _evaluate(self, followed: Mapping[str, tuple], model: nn.Module) -> Record:
        """Return the loss and the metrics of each part, as asked after each epoch."""
        numbers: Record = {}
        ranking = [metric for metric in self.metrics if metric != "rmse"]
        for name, (entries, exclude, loader) in followed.items():
            # The same negatives each epoch, so that the curve moves only when the model does.
            loader.generator.manual_seed(self.seed)
            loss = training.mean_loss(model, loader, self._loss)
            if not math.isfinite(loss):  # the weights are numbers still, but too large
                raise training.diverged(f"the {name} loss became {loss}", len(self.history) + 1)
            found = scores.evaluate(model, entries, exclude, ranking) if ranking else {}
            if "rmse" in self.metrics:
                found["rmse"] = self.rmse(entries)
            shown = {"loss": loss} | {metric: found[metric] for metric in self.metrics}
            numbers |= {f"{name}_{metric}": value for metric, value in shown.items()}
        return numbers

    @contextmanager
    def _seeded(self, epoch: int) -> Iterator[None]:
        """Let `seed` and the epoch decide all that is drawn; give the caller's state back after.

        So an epoch draws the same whether or not the run was stopped before it. Two pipelines in
        two threads, such as two labs, take turns: PyTorch's own generator is shared by all.
        """
        own, shared = np.random.SeedSequence([self.seed, epoch]).generate_state(2).tolist()
        self._generator.manual_seed(own)
        gpus = [self._device] if self._device.type == "cuda" else []
        with _TURN, torch.random.fork_rng(gpus):
            torch.default_generator.manual_seed(shared)  # initialisation and dropout draw from it
            if gpus:
                torch.cuda.manual_seed_all(shared)
            yield

    def _scores(self, users: np.ndarray) -> np.ndarray:
        return self.model.score_matrix(users) * self.rating_unit

    def _pairs(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        return models.FactorModel._pairs(self.model, users, items) * self.rating_unit

    def rmse(self, matrix: Any) -> float:
        """Return the RMSE over a matrix's entries, predictions clipped to the training range."""
        return scores.rmse(self, matrix, clip=self.rating_range)

    def save(self, path: str | os.PathLike) -> None:
        """Write everything but the matrices to a file, all of it or nothing."""
        settings = self.settings | {"model": type(self.model), "loss": self._loss}
        settings |= {what: name_of(what, settings[what], known) for what, known in NAMED.items()}
        optimizer = getattr(self._step, "optimizer", None)  # RowSGD has nothing to remember
        saving.write(path, {
            "shape": self.shape_, "rating_range": self.rating_range, "settings": settings,
            "weights": self.model.state_dict(), "best_weights": self._best_weights,
            "optimizer": getattr(optimizer, "state_dict", dict)(), "history": self.history,
        })  # fmt: skip

    @classmethod
    def load(
        cls, path: str | os.PathLike, train: Any = None, evaluate_on: Mapping | None = None
    ) -> Pipeline:
        """Read a saved pipeline. Nothing in the file is ever run as code.

        To go on training, give the matrices that it was trained on; without them it predicts.
        """
        content = saving.read(path)
        shape: tuple[int, ...] = ()
        try:
            shape, settings = tuple(content["shape"]), dict(content["settings"])
            if train is not None and tuple(train.shape) != shape:
                raise ValueError(f"{path} was trained on shape {shape}, not {train.shape}")
            model = MODELS[settings.pop("model")]
            known = sp.csr_array(shape, dtype=np.float32) if train is None else train
            self = cls(known, evaluate_on=evaluate_on, model=model, **settings)
            self.model.load_state_dict(content["weights"])
            self.rating_range = content["rating_range"]
            self.history = History(content["history"])
            self._best_weights = content["best_weights"]
            if content["optimizer"]:
                self._step = self._make_step(self.model)
                self._step.optimizer.load_state_dict(content["optimizer"])
        except (KeyError, RuntimeError) as error:
            what = f"model of shape {shape} in it"
            raise ValueError(f"{path} is not a saved pipeline, no {what}: {error}") from error
        self.model.eval()
        return self

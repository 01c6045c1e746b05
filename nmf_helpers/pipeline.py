"""Data, model, step, loop and metrics put together, so that each can be replaced."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from difflib import get_close_matches
from functools import partial
from threading import RLock
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from nmf_helpers import metrics as scores
from nmf_helpers import models, saving
from nmf_helpers.bpr import BPRStep
from nmf_helpers.checks import check_matrix, check_number, check_pairs, check_scores, nearest
from nmf_helpers.history import History, Record
from nmf_helpers.hogwild import train_hogwild
from nmf_helpers.interactions import Interactions, PairwiseInteractions, batches, on_device
from nmf_helpers.losses import LOSSES, bpr_loss
from nmf_helpers.settings import Settings, find_device, name_of
from nmf_helpers.training import (
    OPTIMIZERS,
    Diverged,
    GradientStep,
    mean_loss,
    scheduled_lr,
    set_rates,
    train_epoch,
)

MODELS = {model.__name__: model for model in (models.MF, models.BiasedMF, models.CollabFNet)}
NAMED: dict[str, Mapping[str, Any]] = {"model": MODELS, "optimizer": OPTIMIZERS, "loss": LOSSES}
_TURN = RLock()  # held by the thread whose pipeline uses PyTorch's own random generator


class Part(NamedTuple):
    """Held-out entries that are followed, and what is not to be ranked or drawn beside them."""

    entries: sp.csr_array
    exclude: sp.csr_array
    loader: Any


class Pipeline(Settings):
    """Train a model on a matrix of interactions and follow how well it does.

    Every setting is an attribute of its own name. `lr`, `weight_decay`, `n_epochs`, `batch_size`
    and `verbose` may be changed at any time, and count from the next epoch; the others decide how
    the pipeline is built, and changing them later is refused.

    Parameters
    ----------
    train : sparse matrix or array, shape (n_users, n_items)
        Ratings, or ones for implicit feedback.
    evaluate_on : dict of name to matrix of the same shape, optional
        Held-out entries to follow after each epoch, such as ``{"validation": matrix}``. Nothing
        is chosen by them, but for `patience`.
    model : class
        Called as ``model(n_users, n_items, n_factors, ...)``; the attribute is what it built.
    n_factors : int
    init : {"normal", "svd"}
        Start the factors from noise (its size is the model's ``init_std``) or from who rated what
        (`nmf_helpers.models.svd_init`, of size `svd_scale`).
    svd_scale : float
    batch_size : int
        Samples in one step.
    dropout : float, optional
        The model's own when None.
    sparse : bool
        Sparse embedding gradients; the optimizer has to take them.
    lr : float
        Learning rate of one sample: losses are summed over the batch.
    lr_schedule : {"constant", "linear"}
        "linear" lets the learning rate fall to nearly zero in the last epoch.
    weight_decay : float
    optimizer : str or class
        A name in `nmf_helpers.training.OPTIMIZERS`, or a class such as ``torch.optim.Adam``.
    loss : str or callable
        "mse" for ratings; "bpr" (or "squared_sigmoid") to rank pairs; or a function
        ``loss(prediction, target)``. One with an attribute ``pairwise = True`` is given the
        difference of a positive's and a negative's score as its prediction.
    step : {"autograd", "by_hand"}
        "by_hand" is `nmf_helpers.bpr.BPRStep`: the same step for BPR in about half the time.
    rating_unit : float
        The model learns ratings divided by this, and predictions are multiplied by it. Losses
        are of the divided ratings.
    n_epochs : int
    metrics : sequence of str
        Followed on each part besides the loss: "rmse", "auc", "precision@5", "recall@10",
        "ndcg@10" and so on. Training items are left out of rankings.
    patience : int, optional
        Stop when the score on the part named "validation" (the first of `metrics`, else the
        loss) has not improved for so many epochs. When training ends, by this or by `n_epochs`,
        the model goes back to its best epoch.
    validation_fraction : float
        With `patience`, and without a part named "validation", so much of `train` is set aside.
    n_workers : int
        0 trains in this process; more trains hogwild in so many processes.
    seed : int
        Decides everything random: with it, the model that is built; with it and the number of
        an epoch, all that is drawn in that epoch.
    device : str
        "auto" takes a GPU when there is one.
    verbose : bool
        Show a progress bar.
    **model_options
        Passed on to the model: ``init_std=0.01``, ``n_hidden=64``.

    Attributes
    ----------
    train_part, validation : sparse matrix
        What `train` is parted into when `patience` sets some aside; otherwise all of it, and None.
    rating_range : (low, high)
        Of the training ratings; `rmse` clips predictions to it.
    history : History
        One record per epoch; ``history.to_frame()`` is a table.

    Raises
    ------
    ValueError
        For settings that cannot work together, with what to change.
    """

    def __init__(
        self,
        train: Any,
        *,
        evaluate_on: Mapping[str, Any] | None = None,
        model: type[nn.Module] = models.BiasedMF,
        n_factors: int = 40,
        init: str = "normal",
        svd_scale: float = 0.1,
        batch_size: int = 1024,
        dropout: float | None = None,
        sparse: bool = False,
        lr: float = 0.01,
        lr_schedule: str = "constant",
        weight_decay: float = 0.0,
        optimizer: str | type = "adam",
        loss: str | Callable[..., Any] = "mse",
        step: str = "autograd",
        rating_unit: float = 1.0,
        n_epochs: int = 10,
        metrics: Sequence[str] = (),
        patience: int | None = None,
        validation_fraction: float = 0.1,
        n_workers: int = 0,
        seed: int = 0,
        device: str = "auto",
        verbose: bool = False,
        **model_options: Any,
    ) -> None:
        given = locals()
        for name in self.defaults:
            setattr(self, name, given[name])
        self.metrics = (metrics,) if isinstance(metrics, str) else tuple(map(str, metrics))
        self._loss = LOSSES[nearest("loss", loss, LOSSES)] if isinstance(loss, str) else loss
        self.pairwise: bool = getattr(self._loss, "pairwise", False)
        kind = "interactions" if self.pairwise else "ratings"
        self.train = check_matrix("train", train, kind=kind, may_be_empty=True)  # type: ignore[arg-type]
        self.n_users, self.n_items = self.shape_ = self.train.shape
        data = self.train.data
        self.rating_range = (data.min(), data.max()) if len(data) else None
        if not isinstance(evaluate_on, Mapping | None):
            raise TypeError('evaluate_on takes parts by name: {"validation": matrix}')
        self.evaluate_on = {
            name: self._check_part(name, part) for name, part in (evaluate_on or {}).items()
        }
        self._check_metrics()
        self.train_part, self.validation = self._carve_validation()
        self._device = find_device(device, n_workers)
        mean = float(data.mean()) / rating_unit if len(data) and not self.pairwise else 0.0
        ours = {"n_factors": n_factors, "dropout": dropout, "sparse": sparse or None}
        self.model_options = self.check_options(model, ours, model_options, {"global_mean": mean})
        self.history = History()
        self._generator = torch.Generator()  # of the order of samples and of negatives
        with self._seeded(epoch=0):  # before the model is built, or its weights are not seeded
            self.model = model(self.n_users, self.n_items, **self.model_options).to(self._device)
        if init == "svd" and len(data):
            models.svd_init(self.model, self.train_part, svd_scale)
        self._make_step(self.model)  # refuse early what cannot work
        self._step: Any = None  # made when it is needed
        self._best_weights: dict[str, Any] | None = None
        self.is_built = True

    def _check_part(self, name: str, part: Any) -> sp.csr_array:
        part = check_matrix(name, part, self.train, like_name="train")
        both = ((self.train != 0) * (part != 0)).nnz
        if both:
            raise ValueError(
                f"{both} entries of {name} are in train as well, so it would measure nothing: "
                "make the two disjoint, as leave_n_out does"
            )
        return part

    def _check_metrics(self) -> None:
        for metric in self.metrics:
            if metric == "rmse":
                if self.pairwise:
                    raise ValueError('"rmse" compares with ratings, but this loss only ranks')
                continue
            if get_close_matches(metric.lower(), ["rmse"], cutoff=0.7):
                raise ValueError(f"unknown metric {metric!r}: did you mean 'rmse'?")
            _, k = scores.parse_metric(metric)
            if k is not None and k > self.n_items:
                raise ValueError(
                    f"{metric!r} asks for more than the {self.n_items} items there are: "
                    "choose other metrics"
                )

    # ------------------------------------------------------------------ training

    def fit(self, checkpoint: str | os.PathLike | None = None, every: int = 1) -> Pipeline:
        """Train until `n_epochs` are done, and return the pipeline.

        A run that was interrupted, stopped or loaded from a file goes on where it was; one that
        has done its epochs returns at once. An interrupt keeps the model and the history so far.

        Parameters
        ----------
        checkpoint : path, optional
            Save there at the start, every `every` epochs and at the end. `Pipeline.load` and
            `fit` then go on to the same numbers as a run that was never stopped.
        """
        from tqdm.auto import tqdm

        check_number("every", every, at_least=1, whole=True)
        if checkpoint is not None:
            self.save(checkpoint)  # whatever keeps it from being written is better known now
        progress = tqdm(
            total=self.n_epochs, initial=len(self.history), unit="epoch", disable=not self.verbose
        )
        try:
            with progress, closing(self.epochs()) as records:
                for record in records:
                    progress.update()
                    shown = {k: v for k, v in record.items() if k not in ("epoch", "seconds")}
                    progress.set_postfix(shown)
                    if checkpoint is not None and record["epoch"] % every == 0:
                        self.save(checkpoint)
            if checkpoint is not None:
                self.save(checkpoint)
        except KeyboardInterrupt:
            print(f"Interrupted after {len(self.history)} epochs; fit() goes on from here.")
        return self

    def epochs(self) -> Generator[Record, None, None]:
        """Train, yielding the record of each epoch as it ends."""
        if self._finished():
            return
        if not self.train.nnz:
            raise ValueError(
                "there are no training entries. To go on training a saved pipeline, give "
                "Pipeline.load the matrix that it was trained on"
            )
        records = self._records()
        try:
            while not self._finished():
                with self._seeded(epoch=len(self.history) + 1):
                    record = next(records)
                self.history.append(record)
                if self.patience is not None and self._best_epoch() == len(self.history):
                    weights = self.model.state_dict()
                    self._best_weights = {name: w.clone() for name, w in weights.items()}
                yield record
            self._back_to_best()
        except Diverged:
            self._back_to_best()
            raise
        finally:
            records.close()
            self.model.eval()

    def _records(self) -> Generator[Record, None, None]:
        """Train epoch after epoch, in this process or in several, as long as somebody asks."""
        followed = {
            name: self._part(entries, self.train) for name, entries in self.evaluate_on.items()
        }
        if self.validation is not None:
            followed["validation"] = self._part(self.validation, self.train_part)
        evaluate = partial(self._evaluate, followed)
        dataset = self._dataset(self.train_part, self._generator)
        epoch = len(self.history) + 1
        if self.n_workers:
            yield from train_hogwild(
                self.model, dataset, self._make_step, rates=self._rates, n_workers=self.n_workers,
                start_epoch=epoch, n_epochs=None, evaluate=evaluate, seed=self.seed,
            )  # fmt: skip
        self._step = self._step or self._make_step(self.model)
        loader = batches(dataset, self.batch_size, self._generator)
        while True:
            set_rates(self._step, loader, **self._rates(epoch))
            moved = on_device(loader, self._device)
            yield train_epoch(self.model, moved, self._step, epoch, evaluate)
            epoch += 1

    @property
    def _make_step(self) -> Callable[..., Any]:
        """The step's class with its settings: what is called with a model, here or in a worker."""
        rates = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.step == "by_hand":
            if self._loss is not bpr_loss:
                raise ValueError(
                    'step="by_hand" knows the gradient of loss="bpr" only: use step="autograd"'
                )
            return partial(BPRStep, **rates)
        return partial(
            GradientStep, loss=self._loss, optimizer=self.optimizer, reduction="sum", **rates
        )

    def _rates(self, epoch: int) -> dict[str, Any]:
        """Return what an epoch is trained with, of all that may be changed between epochs."""
        lr = scheduled_lr(self.lr_schedule, self.lr, epoch, self.n_epochs)
        return {"lr": lr, "weight_decay": self.weight_decay, "batch_size": self.batch_size}

    def _best_epoch(self) -> int:
        """Return the epoch with the best validation score so far, the first of equals."""
        name = self.metrics[0] if self.metrics else "loss"
        return self.history.best_epoch(f"validation_{name}", name in ("loss", "rmse"))

    def _finished(self) -> bool:
        n_done = len(self.history)
        if n_done == 0 or n_done >= self.n_epochs or self.patience is None:
            return n_done >= self.n_epochs
        return n_done - self._best_epoch() >= self.patience

    def _back_to_best(self) -> None:
        if self._best_weights is not None:
            self.model.load_state_dict(self._best_weights)

    def _carve_validation(self) -> tuple[sp.csr_array, sp.csr_array | None]:
        if self.patience is None or "validation" in self.evaluate_on or not self.train.nnz:
            return self.train, None
        coo = self.train.tocoo()
        held = np.random.default_rng(self.seed).random(coo.nnz) < self.validation_fraction
        if held.all() or not held.any():
            raise ValueError(
                f"validation_fraction={self.validation_fraction} of {coo.nnz} training entries "
                "leaves nothing to train on or nothing to validate on"
            )
        row, column = coo.coords
        rest, held_out = (
            sp.csr_array((coo.data[m], (row[m], column[m])), coo.shape) for m in (~held, held)
        )
        return rest, held_out

    def _dataset(
        self, matrix: sp.csr_array, generator: torch.Generator, exclude: Any = None
    ) -> Interactions:
        if self.pairwise:
            followed = exclude is not None  # a part that is only followed need not be complete
            return PairwiseInteractions(matrix, exclude, generator, skip_full=followed)
        dataset = Interactions(matrix)
        if self.rating_unit != 1:
            dataset.values = dataset.values / self.rating_unit
        return dataset

    def _part(self, entries: sp.csr_array, exclude: sp.csr_array) -> Part:
        generator = torch.Generator()
        dataset = self._dataset(entries, generator, exclude)
        return Part(entries, exclude, batches(dataset, 65536, generator))

    def _evaluate(self, followed: Mapping[str, Part], model: nn.Module) -> Record:
        numbers: Record = {}
        ranking = [metric for metric in self.metrics if metric != "rmse"]
        for name, part in followed.items():
            # The same negatives each epoch, so that the curve moves only when the model does.
            part.loader.generator.manual_seed(self.seed)
            loss = mean_loss(model, on_device(part.loader, self._device), self._loss)
            if not math.isfinite(loss):  # the weights are numbers still, but too large
                raise Diverged(f"the {name} loss became {loss}: try a smaller lr (a tenth of it)")
            numbers[f"{name}_loss"] = loss
            if ranking:
                found = scores.evaluate(model, part.entries, part.exclude, metrics=ranking)
                numbers.update({f"{name}_{metric}": found[metric] for metric in ranking})
            if "rmse" in self.metrics:
                numbers[f"{name}_rmse"] = self.rmse(part.entries)
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

    # ------------------------------------------------------------------ using the model

    def predict(self, users: Any, items: Any) -> np.ndarray:
        """Score pairs of users and items.

        Parameters
        ----------
        users, items : array_like of int, shape (n,)
            Row and column numbers of the training matrix.

        Returns
        -------
        ndarray of float32, shape (n,)

        Raises
        ------
        ValueError, TypeError, IndexError
            As `nmf_helpers.checks.check_pairs`.
        """
        users, items = check_pairs(users, items, self.train.shape)
        self.model.eval()
        parts = [np.zeros(0, np.float32)]
        with torch.no_grad():
            for start in range(0, len(users), 1_000_000):
                u, i = (
                    torch.from_numpy(ids[start : start + 1_000_000]).to(self._device)
                    for ids in (users, items)
                )
                parts.append(self.model(u, i).float().cpu().numpy())
        return check_scores(np.concatenate(parts) * self.rating_unit, users)

    def score_matrix(self, users: Any = None) -> np.ndarray:
        """Score every item for the given users (all when None): float32, (len(users), n_items)."""
        users = np.arange(self.n_users) if users is None else users
        return check_scores(self.model.score_matrix(users) * self.rating_unit, users)

    def rmse(self, matrix: Any) -> float:
        """Return the RMSE over a matrix's entries, predictions clipped to `rating_range`."""
        return scores.rmse(self, matrix, clip=self.rating_range)

    # ------------------------------------------------------------------ files

    def save(self, path: str | os.PathLike) -> None:
        """Write everything but the matrices to a file, all of it or nothing."""
        settings = self.settings | {"model": type(self.model), "loss": self._loss}
        settings |= {what: name_of(what, settings[what], known) for what, known in NAMED.items()}
        optimizer = getattr(self._step, "optimizer", None)
        saving.write(path, {
            "shape": self.train.shape,
            "rating_range": self.rating_range,
            "settings": settings,
            "weights": self.model.state_dict(),
            "optimizer": None if optimizer is None else optimizer.state_dict(),
            "best_weights": self._best_weights,
            "history": self.history,
        })  # fmt: skip

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        train: Any = None,
        evaluate_on: Mapping[str, Any] | None = None,
    ) -> Pipeline:
        """Read a saved pipeline. Nothing in the file is ever run as code.

        Parameters
        ----------
        path : path
        train, evaluate_on
            The matrices it was trained on, to go on training. Without them it predicts.
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
            if content["optimizer"] is not None:
                self._step = self._make_step(self.model)
                self._step.optimizer.load_state_dict(content["optimizer"])
        except (KeyError, RuntimeError) as error:
            what = f"model of shape {shape} in it"
            raise ValueError(f"{path} is not a saved pipeline, no {what}: {error}") from error
        self.model.eval()
        return self

"""Data, model, optimizer, loop and metrics put together, so that each can be replaced."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from difflib import get_close_matches
from io import BytesIO
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from nmf_helpers import metrics as scores
from nmf_helpers import models
from nmf_helpers.checks import check_ids, check_number, nearest
from nmf_helpers.hogwild import train_hogwild
from nmf_helpers.interactions import Interactions, PairwiseInteractions, batches, checked_csr
from nmf_helpers.training import (
    LOSSES,
    LR_SCHEDULES,
    OPTIMIZERS,
    Diverged,
    History,
    Record,
    make_optimizer,
    mean_loss,
    train,
)

FORMAT = 1  # of saved files
_TURN = RLock()  # held by the thread whose pipeline uses PyTorch's own random generator
MODELS = {model.__name__: model for model in (models.MF, models.BiasedMF, models.CollabFNet)}


class Pipeline:
    """Train a model on a matrix of interactions and follow how well it does.

    Parameters
    ----------
    train : sparse matrix, shape (n_users, n_items)
        Ratings, or ones for implicit feedback.
    test : sparse matrix of the same shape, optional
        Held-out entries. They are only looked at, never used to choose anything.
    model : class
        Called as ``model(n_users, n_items, n_factors, ...)``.
    n_factors : int
    batch_size : int
        Samples in one step.
    dropout : float, optional
        The model's own when None.
    sparse : bool
        Sparse embedding gradients; the optimizer has to take them.
    lr : float
        Learning rate, for losses summed over the batch.
    lr_schedule : {"constant", "linear"}
        "linear" lets the learning rate fall to nearly zero in the last epoch.
    weight_decay : float
    optimizer : str or class
        A name in `nmf_helpers.training.OPTIMIZERS`, or a class such as ``torch.optim.Adam``.
    loss : str or callable
        "mse" for ratings; "bpr" (or "squared_sigmoid") to rank pairs; or a function
        ``loss(prediction, target)``. One with an attribute ``pairwise = True`` is given the
        difference of a positive's and a negative's score as its prediction.
    n_epochs : int
    metrics : sequence of str
        Followed after each epoch, on `test` and on the validation part: "rmse", "auc",
        "precision@5", "recall@10", "ndcg@10" and so on. Training items are masked.
    patience : int, optional
        Stop when the validation score (the first of `metrics`, else the loss) has not improved
        for so many epochs. When training ends, by this or by `n_epochs`, the model goes back to
        its best epoch.
    valid_fraction : float
        Share of the training entries set aside to decide when to stop; used with `patience`.
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
    model : nn.Module
    fit_part, valid : sparse matrix
        What `train` is parted into when `patience` is set; otherwise all of it, and None.
    history : History
        One record per epoch; ``history.to_frame()`` is a table.

    Raises
    ------
    ValueError
        For settings that cannot work together, with what to change.
    """

    def __init__(
        self,
        train: sp.spmatrix,
        test: sp.spmatrix | None = None,
        *,
        model: type[nn.Module] = models.BiasedMF,
        n_factors: int = 40,
        batch_size: int = 1024,
        dropout: float | None = None,
        sparse: bool = False,
        lr: float = 0.01,
        lr_schedule: str = "constant",
        weight_decay: float = 0.0,
        optimizer: str | type = "adam",
        loss: str | Callable = "mse",
        n_epochs: int = 10,
        metrics: Sequence[str] = (),
        patience: int | None = None,
        valid_fraction: float = 0.1,
        n_workers: int = 0,
        seed: int = 0,
        device: str = "auto",
        verbose: bool = False,
        **model_options: Any,
    ) -> None:
        self.train = checked_csr(train)
        self.test = None if test is None else checked_csr(test)
        self.n_users, self.n_items = self.train.shape
        self.scale = (self.train.data.min(), self.train.data.max()) if self.train.nnz else None
        self._check_test()
        check_number("n_epochs", n_epochs, at_least=0, whole=True)
        check_number("batch_size", batch_size, at_least=1, whole=True)
        check_number("n_workers", n_workers, at_least=0, whole=True)
        check_number("seed", seed, at_least=0, at_most=2**32 - 1, whole=True)
        if patience is not None:
            check_number("patience", patience, at_least=1, whole=True)
            check_number("valid_fraction", valid_fraction, above=0, below=1)
        self.batch_size = batch_size
        self.lr, self.weight_decay, self.optimizer = lr, weight_decay, optimizer
        self.lr_schedule = nearest("lr_schedule", lr_schedule, LR_SCHEDULES)
        self.loss = loss
        self._loss = LOSSES[nearest("loss", loss, LOSSES)] if isinstance(loss, str) else loss
        self.pairwise = getattr(self._loss, "pairwise", False)
        self.n_epochs = n_epochs
        self.metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        self._check_metrics()
        self.patience, self.valid_fraction = patience, valid_fraction
        self.n_workers = n_workers
        self.seed = seed
        self.fit_part, self.valid = self._carve_validation()
        self.verbose = verbose
        self.device = _device(device, n_workers)
        self.model_class = model
        self.model_options = self._check_options(
            {"n_factors": n_factors, "dropout": dropout, "sparse": sparse or None}, model_options
        )
        self._generator = torch.Generator()  # of the order of samples and of negatives
        with self._seeded(epoch=0):  # before the model is built, or its weights are not seeded
            self.model = model(self.n_users, self.n_items, **self.model_options).to(self.device)
        make_optimizer(optimizer, self.model, lr, weight_decay)  # refuse early what cannot work
        self._optimizer = None
        self._best_weights: dict | None = None
        self.history = History()

    def _check_test(self) -> None:
        if self.test is None:
            return
        if self.test.shape != self.train.shape:
            raise ValueError(
                f"train has shape {self.train.shape} but test {self.test.shape}: "
                "split one matrix, so that a row means the same user in both"
            )
        if not self.test.nnz:
            raise ValueError("test holds no entries: leave it out, or hold some out of train")
        both = (self.train != 0).multiply(self.test != 0).nnz
        if both:
            raise ValueError(
                f"{both} entries of test are in train as well, so the test would test nothing: "
                "make the two disjoint, as leave_n_out does"
            )

    def _check_metrics(self) -> None:
        for metric in self.metrics:
            if metric == "rmse":
                if self.pairwise:
                    raise ValueError('"rmse" compares with ratings, but this loss only ranks')
                continue
            if get_close_matches(str(metric).lower(), ["rmse"], cutoff=0.7):
                raise ValueError(f"unknown metric {metric!r}: did you mean 'rmse'?")
            _, k = scores.parse_metric(metric)
            if k is not None and k > self.n_items:
                raise ValueError(
                    f"{metric!r} asks for more than the {self.n_items} items there are: "
                    "choose other metrics"
                )

    def _check_options(self, named: Mapping[str, Any], others: Mapping[str, Any]) -> dict:
        """Return the options the model is built with."""
        name, known = self.model_class.__name__, _options_of(self.model_class)
        options = {option: value for option, value in named.items() if value is not None}
        for option in options:
            if option not in known:
                raise ValueError(f"{name} has no {option}: leave it out, or use another model")
        own = set(inspect.signature(type(self)).parameters) - {"train", "test", "model_options"}
        for option in others:
            nearest(f"option of Pipeline or {name}", option, own | known)
        options.update(others)
        if "global_mean" in known and not self.pairwise and self.train.nnz:
            options.setdefault("global_mean", float(self.train.data.mean()))
        return options

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

    def epochs(self) -> Iterator[Record]:
        """Train, yielding the record of each epoch as it ends."""
        if self._finished():
            return
        if not self.train.nnz:
            raise ValueError(
                "there are no training entries. To go on training a saved pipeline, give "
                "Pipeline.load the matrix that it was trained on"
            )
        held_out = self._held_out()
        dataset = self._dataset(self.fit_part, None, self._generator)
        settings = {
            "loss": self._loss,
            "n_epochs": self.n_epochs,
            "first_epoch": len(self.history) + 1,
            "lr_schedule": self.lr_schedule,
            "evaluate": lambda model: self._evaluate(held_out),
        }
        if self.n_workers:
            records = train_hogwild(
                self.model, dataset, n_workers=self.n_workers, batch_size=self.batch_size,
                optimizer=self.optimizer, lr=self.lr, weight_decay=self.weight_decay,
                seed=self.seed, **settings,
            )  # fmt: skip
        else:
            if self._optimizer is None:
                self._optimizer = self._make_optimizer()
            loader = batches(dataset, self.batch_size, self._generator)
            records = train(
                self.model, _OnDevice(loader, self.device), optimizer=self._optimizer,
                sum_gradients=True, **settings,
            )  # fmt: skip
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

    def _best_epoch(self) -> int:
        """Return the epoch with the best validation score so far, the first of equals."""
        found = [self._validation_score(record) for record in self.history]
        return 1 + int(np.argmax(np.nan_to_num(found, nan=-np.inf)))

    def _finished(self) -> bool:
        n_done = len(self.history)
        if n_done == 0 or n_done >= self.n_epochs or self.patience is None:
            return n_done >= self.n_epochs
        return n_done - self._best_epoch() >= self.patience

    def _back_to_best(self) -> None:
        if self._best_weights is not None:
            self.model.load_state_dict(self._best_weights)

    def _carve_validation(self) -> tuple[sp.csr_matrix, sp.csr_matrix | None]:
        if self.patience is None or not self.train.nnz:  # nothing yet, when just loaded
            return self.train, None
        coo = self.train.tocoo()
        held = np.random.default_rng(self.seed).random(coo.nnz) < self.valid_fraction
        if held.all() or not held.any():
            raise ValueError(
                f"valid_fraction={self.valid_fraction} of {coo.nnz} training entries leaves "
                "nothing to train on or nothing to validate on"
            )

        def part(mask):
            entries = (coo.data[mask], (coo.row[mask], coo.col[mask]))
            return sp.csr_matrix(entries, shape=coo.shape)

        return part(~held), part(held)

    def _dataset(self, matrix, avoid, generator) -> Interactions:
        if self.pairwise:
            return PairwiseInteractions(matrix, avoid, generator)
        return Interactions(matrix)

    def _held_out(self) -> list[tuple]:
        """Return name, entries, batches and known entries of each part that is followed."""
        parts = []
        for name, entries, known in (
            ("valid", self.valid, self.fit_part),
            ("test", self.test, self.train),
        ):
            if entries is not None:
                generator = torch.Generator()
                loader = batches(self._dataset(entries, known, generator), 65536, generator)
                parts.append((name, entries, loader, known))
        return parts

    def _evaluate(self, held_out: list[tuple]) -> Record:
        numbers: Record = {}
        ranking = [metric for metric in self.metrics if metric != "rmse"]
        for name, entries, loader, known in held_out:
            # The same negatives each epoch, so that the curve moves only when the model does.
            loader.generator.manual_seed(self.seed)
            loss = mean_loss(self.model, _OnDevice(loader, self.device), self._loss)
            if not math.isfinite(loss):  # the weights are numbers still, but too large
                raise Diverged(f"the {name} loss became {loss}: try a smaller lr (a tenth of it)")
            numbers[f"{name}_loss"] = loss
            if ranking:
                found = scores.evaluate(self.model, entries, train=known, metrics=ranking)
                numbers.update({f"{name}_{metric}": found[metric] for metric in ranking})
            if "rmse" in self.metrics:
                numbers[f"{name}_rmse"] = self.rmse(entries)
        return numbers

    def _validation_score(self, record: Record) -> float:
        if not self.metrics:
            return -record["valid_loss"]
        score = record[f"valid_{self.metrics[0]}"]
        return -score if self.metrics[0] == "rmse" else score

    def _make_optimizer(self):
        return make_optimizer(self.optimizer, self.model, self.lr, self.weight_decay)

    @contextmanager
    def _seeded(self, epoch: int) -> Iterator[None]:
        """Let `seed` and the epoch decide all that is drawn; give the caller's state back after.

        So an epoch draws the same whether or not the run was stopped before it. Two pipelines in
        two threads, such as two labs, take turns: PyTorch's own generator is shared by all.
        """
        own, shared = np.random.SeedSequence([self.seed, epoch]).generate_state(2).tolist()
        self._generator.manual_seed(own)
        gpus = [self.device] if self.device.type == "cuda" else []
        with _TURN, torch.random.fork_rng(gpus):
            torch.default_generator.manual_seed(shared)  # initialisation and dropout draw from it
            if gpus:
                torch.cuda.manual_seed_all(shared)
            yield

    # ------------------------------------------------------------------ using the model

    def predict(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
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
        ValueError, IndexError
            For ids of the wrong shape or type, or out of range.
        """
        users = check_ids("users", users, self.n_users)
        items = check_ids("items", items, self.n_items)
        if len(users) != len(items):
            raise ValueError(f"{len(users)} users but {len(items)} items: give one item per user")
        self.model.eval()
        parts = []
        with torch.no_grad():
            for start in range(0, len(users), 1_000_000):
                chunk = slice(start, start + 1_000_000)
                u = torch.from_numpy(users[chunk]).to(self.device)
                i = torch.from_numpy(items[chunk]).to(self.device)
                parts.append(self.model(u, i).float().cpu().numpy())
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def score_matrix(self, users: np.ndarray | None = None) -> np.ndarray:
        """Score every item for the given users (all when None): float32, (len(users), n_items)."""
        if users is not None:
            users = check_ids("users", users, self.n_users)
        return self.model.score_matrix(users)

    def rmse(self, matrix: sp.spmatrix) -> float:
        """Return the RMSE over a matrix's entries, predictions clipped to the training scale."""
        coo = matrix.tocoo()
        predicted = self.predict(coo.row, coo.col)
        return scores.rmse(predicted.clip(*self.scale), coo.data)

    # ------------------------------------------------------------------ files

    def save(self, path: str | os.PathLike) -> None:
        """Write everything but the matrices to a file, all of it or nothing."""
        settings = {
            "model": _name_of("model", self.model_class, MODELS),
            "optimizer": _name_of("optimizer", self.optimizer, OPTIMIZERS),
            "loss": _name_of("loss", self._loss, LOSSES),
            "batch_size": self.batch_size, "lr": self.lr, "lr_schedule": self.lr_schedule,
            "weight_decay": self.weight_decay, "n_epochs": self.n_epochs,
            "metrics": list(self.metrics), "patience": self.patience,
            "valid_fraction": self.valid_fraction, "n_workers": self.n_workers, "seed": self.seed,
            "model_options": _plain(self.model_options),
        }  # fmt: skip
        content = {
            "format": FORMAT,
            "shape": [self.n_users, self.n_items],
            "scale": None if self.scale is None else [float(end) for end in self.scale],
            "settings": _plain(settings),
            "weights": {k: v.cpu() for k, v in self.model.state_dict().items()},
            "optimizer": None if self._optimizer is None else self._optimizer.state_dict(),
            "best_weights": self._best_weights,
            "history": [dict(record) for record in self.history],
        }
        path = Path(path)
        partial = path.with_name(path.name + ".part")
        try:
            with partial.open("wb") as file:
                torch.save(content, file)
            partial.replace(path)  # atomic: a reader sees the old file or the new one
        except BaseException as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            # On a full disk PyTorch's writer fails once more, for a file that is too short.
            cause = error.__context__
            if isinstance(error, RuntimeError) and isinstance(cause, OSError):
                raise cause from None
            raise

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        train: sp.spmatrix | None = None,
        test: sp.spmatrix | None = None,
    ) -> Pipeline:
        """Read a saved pipeline. Nothing in the file is ever run as code.

        Parameters
        ----------
        path : path
        train, test : sparse matrix, optional
            The matrices it was trained on, to go on training. Without them it predicts.
        """
        data = BytesIO(Path(path).read_bytes())
        try:
            content = torch.load(data, map_location="cpu", weights_only=True)
            newer, shape = dict(content)["format"] > FORMAT, tuple(content["shape"])
            settings, weights = content["settings"], content["weights"]
        except Exception as error:  # PyTorch's own advice here is to switch the protection off
            raise ValueError(
                f"{path} is not a saved pipeline, or it is damaged ({type(error).__name__}): "
                "save it again"
            ) from None
        if newer:
            raise ValueError(
                f"{path} was saved by a newer version (format {content['format']}, this one reads "
                f"{FORMAT}): update nmf_helpers"
            )
        if train is not None and train.shape != shape:
            raise ValueError(f"{path} was trained on shape {shape}, not {train.shape}")
        options = settings.pop("model_options")
        model = MODELS[nearest("model", settings.pop("model"), MODELS)]
        known = sp.csr_matrix(shape, dtype=np.float32) if train is None else train
        self = cls(known, test, model=model, **settings, **options)
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"{path} does not hold a model of shape {shape}: {error}") from error
        self.scale = content["scale"]
        self.history = History(content["history"])
        self._best_weights = content["best_weights"]
        if content["optimizer"] is not None:
            self._optimizer = self._make_optimizer()
            self._optimizer.load_state_dict(content["optimizer"])
        self.model.eval()
        return self


def _options_of(model: type[nn.Module]) -> set[str]:
    """Return the names of the options a model takes, also those it passes on to its base."""
    known: set[str] = set()
    for cls in model.__mro__:
        takes = inspect.signature(cls).parameters.values()
        known.update(option.name for option in takes)
        if all(option.kind is not option.VAR_KEYWORD for option in takes):
            break
    return known - {"n_users", "n_items"}


def _device(name: str, n_workers: int) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if has_gpu and not n_workers else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f'unknown device {name!r}: use "auto", "cpu" or "cuda"') from None
    if device.type == "cuda" and not has_gpu:
        raise ValueError(f'device="{name}", but PyTorch sees no GPU: use "auto" or "cpu"')
    if device.type != "cpu" and n_workers:
        raise ValueError('hogwild workers share memory of the processor: use device="cpu"')
    return device


def _name_of(what: str, value: Any, known: Mapping[str, Any]) -> str:
    """Return the name that a file can call something by."""
    for name, object_ in known.items():
        if value is object_ or value == name:
            return name
    raise ValueError(
        f"a pipeline is saved with its {what} by name ({', '.join(known)}), and {value!r} has "
        "none: save the weights alone, by torch.save(pipeline.model.state_dict(), path)"
    )


def _plain(settings: Mapping[str, Any]) -> dict:
    """Return the settings with Python's numbers for NumPy's, which a safe file cannot hold."""
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in settings.items()}


class _OnDevice:
    """Batches moved to a device as they come."""

    def __init__(self, loader, device: torch.device) -> None:
        self.loader, self.device = loader, device

    def __iter__(self):
        for (users, items), values in self.loader:
            if self.device.type != "cpu":
                users, values = users.to(self.device), values.to(self.device)
                both = isinstance(items, tuple)
                items = tuple(i.to(self.device) for i in items) if both else items.to(self.device)
            yield (users, items), values

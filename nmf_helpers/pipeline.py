"""Data, model, optimizer, loop and metrics put together, so that each can be replaced."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from nmf_helpers import metrics as scores
from nmf_helpers import models
from nmf_helpers.hogwild import train_hogwild
from nmf_helpers.interactions import Interactions, PairwiseInteractions, batches
from nmf_helpers.training import (
    LOSSES,
    History,
    Record,
    check_number,
    make_optimizer,
    mean_loss,
    nearest,
    train,
)

FORMAT = 1  # of saved files
PAIRWISE = ("bpr", "squared_sigmoid")  # losses that compare a positive with a negative
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
    dropout : float
    sparse : bool
        Sparse embedding gradients; the optimizer has to take them.
    lr : float
        Learning rate, for losses summed over the batch.
    weight_decay : float
    optimizer : str or class
        A name in `nmf_helpers.training.OPTIMIZERS`, or a class such as ``torch.optim.Adam``.
    loss : str or callable
        "mse" for ratings; "bpr" (or "squared_sigmoid") to rank pairs; or a function
        ``loss(prediction, target)``.
    n_epochs : int
    metrics : sequence of str
        Followed after each epoch, on `test` and on the validation part: "rmse", "auc",
        "precision@5", "recall@10", "ndcg@10" and so on. Training items are masked.
    patience : int, optional
        Stop when the validation score (the first of `metrics`, else the loss) has not improved
        for so many epochs, and go back to the best one.
    valid_fraction : float
        Share of the training entries set aside to decide when to stop; used with `patience`.
    n_workers : int
        0 trains in this process; more trains hogwild in so many processes.
    seed : int
        Decides everything random. It is set before the model is built.
    device : str
        "auto" takes a GPU when there is one.
    verbose : bool
        Show a progress bar.
    **model_options
        Passed on to the model: ``init_std=0.01``, ``n_hidden=64``.

    Attributes
    ----------
    model : nn.Module
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
        dropout: float = 0.0,
        sparse: bool = False,
        lr: float = 0.01,
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
        if test is not None and test.shape != train.shape:
            raise ValueError(
                f"train has shape {train.shape} but test {test.shape}: "
                "split one matrix, so that a row means the same user in both"
            )
        check_number("n_epochs", n_epochs, at_least=0, whole=True)
        check_number("batch_size", batch_size, at_least=1, whole=True)
        check_number("n_workers", n_workers, at_least=0, whole=True)
        for metric in metrics:
            if metric != "rmse":
                scores.parse_metric(metric)
        self.train, self.test = train, test
        self.n_users, self.n_items = train.shape
        self.batch_size = batch_size
        self.lr, self.weight_decay, self.optimizer = lr, weight_decay, optimizer
        self.loss = loss
        self._loss = LOSSES[nearest("loss", loss, LOSSES)] if isinstance(loss, str) else loss
        self.pairwise = loss in PAIRWISE
        self.n_epochs = n_epochs
        self.metrics = tuple(metrics)
        self.patience, self.valid_fraction = patience, valid_fraction
        self.n_workers = n_workers
        self.seed = seed
        self.verbose = verbose
        has_gpu = device == "auto" and torch.cuda.is_available() and not n_workers
        self.device = torch.device("cuda" if has_gpu else "cpu" if device == "auto" else device)

        options = {"n_factors": n_factors, **model_options}
        if dropout:
            options["dropout"] = dropout
        if sparse:
            options["sparse"] = sparse
        known = inspect.signature(model).parameters
        for name in options:
            nearest(f"option of {model.__name__}", name, known)
        if "global_mean" in known and not self.pairwise and train.nnz:
            options.setdefault("global_mean", float(train.data.mean()))
        self.model_class, self.model_options = model, options
        self._generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # before the model is built, or its weights are not seeded
            self.model = model(self.n_users, self.n_items, **options).to(self.device)
            self._rng_state = torch.get_rng_state()
        make_optimizer(optimizer, self.model, lr, weight_decay)  # refuse early what cannot work
        self._optimizer = None
        self.history = History()

    # ------------------------------------------------------------------ training

    def fit(self, checkpoint: str | os.PathLike | None = None, every: int = 1) -> Pipeline:
        """Train until `n_epochs` are done, and return the pipeline.

        A run that was interrupted, stopped or loaded from a file goes on where it was; one that
        has done its epochs returns at once. An interrupt keeps the model and the history so far.

        Parameters
        ----------
        checkpoint : path, optional
            Save there every `every` epochs. `Pipeline.load` and `fit` then go on to the same
            numbers as a run that was never stopped.
        """
        records = self.epochs()
        if self.verbose:
            from tqdm.auto import tqdm

            records = tqdm(records, total=self.n_epochs, initial=len(self.history), unit="epoch")
        try:
            for record in records:
                if self.verbose:
                    shown = {k: v for k, v in record.items() if k not in ("epoch", "seconds")}
                    records.set_postfix(shown)
                if checkpoint is not None and record["epoch"] % every == 0:
                    self.save(checkpoint)
        except KeyboardInterrupt:
            print(f"Interrupted after {len(self.history)} epochs; fit() goes on from here.")
        return self

    def epochs(self) -> Iterator[Record]:
        """Train, yielding the record of each epoch as it ends."""
        if len(self.history) >= self.n_epochs:
            return
        fit_part, valid = self._carve_validation()
        dataset = self._dataset(fit_part, None, self._generator)
        settings = {
            "loss": self._loss,
            "n_epochs": self.n_epochs,
            "first_epoch": len(self.history) + 1,
            "evaluate": lambda model: self._evaluate(fit_part, valid),
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
        best, best_state, waited = None, None, 0
        try:
            while True:
                with self._own_randomness():
                    record = next(records, None)
                if record is None:
                    break
                self.history.append(record)
                yield record
                if self.patience is not None:
                    score = self._validation_score(record)
                    if best is None or score > best:
                        best, waited = score, 0
                        best_state = {k: v.clone() for k, v in self.model.state_dict().items()}
                    else:
                        waited += 1
                        if waited >= self.patience:
                            break
        finally:
            records.close()
            self.model.eval()
            if best_state is not None:
                self.model.load_state_dict(best_state)

    def _carve_validation(self) -> tuple[sp.csr_matrix, sp.csr_matrix | None]:
        if self.patience is None:
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

    def _evaluate(self, fit_part, valid) -> Record:
        numbers: Record = {}
        for name, held_out, known in (("valid", valid, fit_part), ("test", self.test, self.train)):
            if held_out is None:
                continue
            # The same negatives each epoch, so that the curve moves only when the model does.
            generator = torch.Generator().manual_seed(self.seed)
            loader = batches(self._dataset(held_out, known, generator), 65536, generator)
            loss = mean_loss(self.model, _OnDevice(loader, self.device), self._loss)
            numbers[f"{name}_loss"] = loss
            ranking = [metric for metric in self.metrics if metric != "rmse"]
            if ranking:
                found = scores.evaluate(self.model, held_out, train=known, metrics=ranking)
                numbers.update({f"{name}_{metric}": found[metric] for metric in ranking})
            if "rmse" in self.metrics:
                numbers[f"{name}_rmse"] = self.rmse(held_out)
        return numbers

    def _validation_score(self, record: Record) -> float:
        if not self.metrics:
            return -record["valid_loss"]
        score = record[f"valid_{self.metrics[0]}"]
        return -score if self.metrics[0] == "rmse" else score

    def _make_optimizer(self):
        return make_optimizer(self.optimizer, self.model, self.lr, self.weight_decay)

    @contextmanager
    def _own_randomness(self):
        """Use this pipeline's random state (dropout draws from it), and give back the caller's."""
        with torch.random.fork_rng():
            torch.set_rng_state(self._rng_state)
            yield
            self._rng_state = torch.get_rng_state()

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
        return scores.rmse(predicted.clip(self.train.data.min(), self.train.data.max()), coo.data)

    # ------------------------------------------------------------------ files

    def save(self, path: str | os.PathLike) -> None:
        """Write everything but the matrices to a file, all of it or nothing."""
        if self.model_class.__name__ not in MODELS:
            raise ValueError(
                f"only the course's models ({', '.join(MODELS)}) can be saved by name; "
                f"for {self.model_class.__name__} use torch.save(pipeline.model.state_dict(), path)"
            )
        settings = {
            "model": self.model_class.__name__, "batch_size": self.batch_size, "lr": self.lr,
            "weight_decay": self.weight_decay, "optimizer": self.optimizer, "loss": self.loss,
            "n_epochs": self.n_epochs, "metrics": list(self.metrics), "patience": self.patience,
            "valid_fraction": self.valid_fraction, "n_workers": self.n_workers, "seed": self.seed,
            "model_options": self.model_options,
        }  # fmt: skip
        for name in ("optimizer", "loss"):
            if not isinstance(settings[name], str):
                raise ValueError(f"a pipeline is saved with {name} given by name, not as an object")
        content = {
            "format": FORMAT,
            "shape": [self.n_users, self.n_items],
            "settings": settings,
            "weights": {k: v.cpu() for k, v in self.model.state_dict().items()},
            "optimizer": None if self._optimizer is None else self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "rng_state": self._rng_state,
            "history": [dict(record) for record in self.history],
        }
        path = Path(path)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save(content, file)
            os.replace(temporary, path)  # atomic: a reader sees the old file or the new one
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
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
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            version, shape, settings = content["format"], content["shape"], content["settings"]
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(
                f"{path} is not a saved pipeline, or it is damaged: save it again ({error})"
            ) from error
        if version > FORMAT:
            raise ValueError(
                f"{path} was saved by a newer version (format {version}, this one reads "
                f"{FORMAT}): update nmf_helpers"
            )
        if train is not None and list(train.shape) != list(shape):
            raise ValueError(f"{path} was trained on shape {shape}, not {list(train.shape)}")
        options = settings.pop("model_options")
        model = MODELS[nearest("model", settings.pop("model"), MODELS)]
        known = sp.csr_matrix(tuple(shape), dtype=np.float32) if train is None else train
        self = cls(known, test, model=model, **settings, **options)
        try:
            self.model.load_state_dict(content["weights"])
        except RuntimeError as error:
            raise ValueError(f"{path} does not hold a model of shape {shape}: {error}") from error
        self.history = History(content["history"])
        self._generator.set_state(content["generator"])
        self._rng_state = content["rng_state"]
        if content["optimizer"] is not None:
            self._optimizer = self._make_optimizer()
            self._optimizer.load_state_dict(content["optimizer"])
        return self


def check_ids(name: str, ids: np.ndarray, n: int) -> np.ndarray:
    """Return ids as int64 if they are whole numbers in a row, from 0 to n - 1."""
    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, not of shape {ids.shape}")
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} must be whole numbers, not {ids.dtype}: encode them first")
    if ids.size and (ids.min() < 0 or ids.max() >= n):
        wrong = ids[(ids < 0) | (ids >= n)][0]
        raise IndexError(f"{name} must lie between 0 and {n - 1}: {wrong} does not")
    return ids.astype(np.int64)


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

"""Data, model, step, loop and metrics put together, so that each can be replaced."""

import copy
import inspect
import math
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from difflib import get_close_matches
from functools import partial
from threading import RLock
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from nmf_helpers import checks as takes
from nmf_helpers import metrics as scores
from nmf_helpers import models, saving, training
from nmf_helpers.bpr import BPRStep
from nmf_helpers.checks import Scorer, check_matrix, check_number, check_parts, nearest, pattern
from nmf_helpers.history import History, Record
from nmf_helpers.hogwild import train_hogwild
from nmf_helpers.interactions import Interactions, PairwiseInteractions, batches
from nmf_helpers.losses import LOSSES, bpr_loss

MODELS = {model.__name__: model for model in (models.MF, models.BiasedMF, models.CollabFNet)}
NAMED: dict[str, Mapping] = {"model": MODELS, "optimizer": training.OPTIMIZERS, "loss": LOSSES}
ANY_TIME = ("lr", "weight_decay", "n_epochs", "batch_size", "verbose")
_TURN = RLock()  # pipelines in several threads, as in two labs, share PyTorch's generator


class Pipeline(Scorer):
    """Train a model on a matrix of interactions and follow how well it does.

    `train`, (n_users, n_items), holds ratings, or ones for implicit feedback; `evaluate_on`
    held-out entries to follow, by name: ``{"validation": matrix}``. Every setting is an attribute
    of its own name. `lr`, `weight_decay`, `n_epochs`, `batch_size` and `verbose` may be changed at
    any time, and count from the next epoch; the others decide how the pipeline is built.

    - `model` is a class, called as ``model(n_users, n_items, n_factors=…, **model_options)``. What
      is not given, `dropout` too, is the model's own. The attribute is what it built.
    - `init` "normal" starts from noise of the model's ``init_std``; "svd" from who rated what, at
      size `svd_scale`.
    - `lr` is that of one sample, as losses are summed over the batch; `lr_schedule` "linear" lets
      it fall to nearly zero. An `optimizer`, one of `nmf_helpers.training.OPTIMIZERS` or a class,
      has to take sparse gradients if they are `sparse`.
    - `loss` is "mse" for ratings; "bpr" or "squared_sigmoid" to rank pairs; or a function of
      prediction and target, of the difference of scores if it has an attribute ``pairwise = True``.
    - `step` "by_hand" takes the steps of BPR in about half the time of "autograd".
    - `rating_unit` divides ratings before they are learned, and multiplies predictions.
    - `metrics` are followed besides the loss: "rmse", "auc", "precision@5", "recall@10", "ndcg@10"
      and so on, training items left out of rankings.
    - `patience`: stop when the first of `metrics` (else the loss) on the part named "validation"
      has not improved for so many epochs, and go back to the best. Without such a part,
      `validation_fraction` of `train` becomes ``validation``, and the rest ``train_part``.
    - `n_workers` processes train hogwild (0: this one alone); `device` "auto" takes a GPU when
      there is one; `seed` and the number of an epoch decide all that is drawn in it.
    """

    def __init__(
        self, train: Any, *, evaluate_on: Mapping[str, Any] | None = None,
        model: type[nn.Module] = models.BiasedMF, n_factors: takes.AtLeastOne = 40,
        init: Literal["normal", "svd"] = "normal", svd_scale: takes.Positive = 0.1,
        batch_size: takes.AtLeastOne = 1024, dropout: takes.Chance = None, sparse: bool = False,
        lr: takes.Positive = 0.01, lr_schedule: training.LrSchedule = "constant",
        weight_decay: takes.NotNegative = 0.0, optimizer: str | type = "adam",
        loss: str | Callable[..., Any] = "mse", step: Literal["autograd", "by_hand"] = "autograd",
        rating_unit: takes.Positive = 1.0, n_epochs: takes.Natural = 10,
        metrics: Sequence[str] = (), patience: takes.Count = None,
        validation_fraction: takes.Fraction = 0.1, n_workers: takes.Natural = 0,
        seed: takes.Seed = 0, device: Literal["auto", "cpu", "cuda"] = "cpu",
        verbose: bool = False, **model_options: Any,
    ) -> None:  # fmt: skip
        self.evaluate_on, self.validation_fraction = evaluate_on, validation_fraction
        self.seed, self.verbose, self.n_workers, self.device = seed, verbose, n_workers, device
        self.n_factors, self.init, self.svd_scale = n_factors, init, svd_scale
        self.batch_size, self.dropout, self.sparse = batch_size, dropout, sparse
        self.lr, self.lr_schedule, self.weight_decay = lr, lr_schedule, weight_decay
        self.optimizer, self.loss, self.step = optimizer, loss, step
        self.rating_unit, self.n_epochs, self.patience = rating_unit, n_epochs, patience
        self.metrics = (metrics,) if isinstance(metrics, str) else tuple(map(str, metrics))
        self._loss = LOSSES[nearest("loss", loss, LOSSES)] if isinstance(loss, str) else loss
        self.pairwise: bool = getattr(self._loss, "pairwise", False)
        self._take(train, evaluate_on)
        self._check()
        use_gpu = device != "cpu" and not n_workers and torch.cuda.is_available()
        if device == "cuda" and not use_gpu:
            raise ValueError('device="cuda" needs a GPU and n_workers=0: use "auto" or "cpu"')
        self._device = torch.device("cuda" if use_gpu else "cpu")
        self.model_options = self._options_of(model, model_options)
        self.history = History()
        self._generator = torch.Generator()  # of the order of samples and of negatives
        with self._seeded(epoch=0):  # before the model is built, or its weights are not seeded
            built: Any = model(self.n_users, self.n_items, **self.model_options)
        self.model = built.to(self._device)
        if init == "svd" and self.train.nnz:
            models.svd_init(self.model, self.train_part, svd_scale)
        gradient: Any = {"loss": self._loss, "optimizer": optimizer, "reduction": "sum"}
        kind = BPRStep if step == "by_hand" else partial(training.GradientStep, **gradient)
        self._make_step = partial(kind, lr=self.lr, weight_decay=self.weight_decay)
        self._step: Any = self._make_step(self.model)
        self._best_weights: dict[str, Any] | None = None  # set last: see __setattr__

    defaults: Any = __init__.__kwdefaults__  # of every setting, by name
    hints = __init__.__annotations__  # what it may be

    def __setattr__(self, name: str, value: Any) -> None:
        """Check a setting, and refuse one that comes too late, or that there is not."""
        late = hasattr(self, "_best_weights") and name not in ANY_TIME and not name.startswith("_")
        known = {"train", *self.settings, *self.defaults} if late else set()
        if late and (name in known or not hasattr(self, name)):
            first = f"make a new one with {name}=…" if name in known else "there is no such setting"
            way_out = f"{first}; at any time you may set {', '.join(ANY_TIME)}"
            raise AttributeError(f"{name} cannot change once a pipeline is built: {way_out}")
        value = value.item() if isinstance(value, np.generic) else value
        hint = self.hints.get(name)
        if get_origin(hint) is Annotated and not (value is None and self.defaults[name] is None):
            check_number(name, value, **get_args(hint)[1])
        elif get_origin(hint) is Literal:
            nearest(name, value, get_args(hint))
        if name == "weight_decay" and hasattr(self, "_make_step"):
            self._make_step(self.model, weight_decay=value)  # says so if this optimizer can't
        super().__setattr__(name, value)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by name, the model's options among them, its class aside."""
        own = {name: getattr(self, name) for name in self.defaults} | dict(self.model_options)
        return {name: own[name] for name in own if name not in ("evaluate_on", "model")}

    def __repr__(self) -> str:
        """Name the model, and the settings that are not the defaults."""
        changed = [f"{k}={v!r}" for k, v in self.settings.items() if v != self.defaults.get(k)]
        return f"Pipeline({', '.join([type(self.model).__name__, *changed])})"

    def _take(self, train: Any, evaluate_on: Mapping[str, Any] | None) -> None:
        """Keep the matrices, checked, and set some of train aside where `patience` needs it."""
        kind: Any = "interactions" if self.pairwise else "ratings"
        self.train = check_matrix("train", train, kind=kind, may_be_empty=True)
        self.n_users, self.n_items = self.shape_ = self.train.shape
        data = self.train.data
        self.rating_range = (data.min(), data.max()) if len(data) else None
        parts = check_parts(evaluate_on, self.train)  # train is left out of their rankings
        self._parts = {name: (part, self.train) for name, part in parts.items()}
        self.train_part, self.validation = self.train, None
        if self.patience and "validation" not in self._parts and len(data):
            held = np.random.default_rng(self.seed).random(len(data)) < self.validation_fraction
            row, column = self.train.tocoo().coords
            self.train_part, self.validation = (
                check_matrix(name, sp.csr_array((data[m], (row[m], column[m])), self.shape_))
                for name, m in (("the rest of train", ~held), ("validation_fraction", held))
            )
            self._parts["validation"] = self.validation, self.train_part

    def _check(self) -> None:
        if self.step == "by_hand" and self._loss is not bpr_loss:
            raise ValueError('step="by_hand" is for loss="bpr" only: use step="autograd"')
        for metric in self.metrics:
            if get_close_matches(metric.lower(), ["rmse"], cutoff=0.7):
                nearest("metric", metric, ["rmse"])
                if self.pairwise:
                    raise ValueError('"rmse" compares with ratings, but this loss only ranks')
            elif scores.parse_metric(metric)[1] > (n := self.n_items):
                raise ValueError(f"{metric!r} asks for more than the {n} items: choose another")

    def _options_of(self, model: type, others: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a model is built with, or say which option neither it nor we have."""
        known: set[str] = set()
        for cls in model.__mro__:  # also the options that a model passes on to its base
            options = inspect.signature(cls).parameters
            known |= options.keys() - {"n_users", "n_items"}
            if all(option.kind is not option.VAR_KEYWORD for option in options.values()):
                break
        for option in others:
            nearest(f"option of Pipeline or {model.__name__}", option, {*self.defaults, *known})
        if self.init == "svd" and others.keys() & {"init_std", "init_mean"}:
            hint = 'this start is "svd": say init="normal" as well, or svd_scale instead'
            raise ValueError(f'init_std and init_mean belong to init="normal", and {hint}')
        ours = {"n_factors": self.n_factors, "dropout": self.dropout, "sparse": self.sparse or None}
        if "global_mean" in known:
            rated = self.train.nnz and not self.pairwise  # pairs have no mean
            ours["global_mean"] = float(self.train.data.mean()) / self.rating_unit if rated else 0.0
        return {name: value for name, value in {**ours, **others}.items() if value is not None}

    def fit(self, checkpoint: str | os.PathLike | None = None, every: int = 1) -> Self:
        """Train until `n_epochs` are done, and return the pipeline.

        A run that was interrupted, stopped or loaded goes on where it was, to the same numbers as
        one that never was. An interrupt keeps the model and the history so far. With `checkpoint`,
        a path, it is saved there at the start, every `every` epochs and at the end.
        """
        from tqdm.auto import tqdm

        check_number("every", every, at_least=1, whole=True)
        save = partial(self.save, checkpoint) if checkpoint else lambda: None
        save()  # whatever keeps it from being written is better known now
        done, planned, quiet = len(self.history), self.n_epochs, not self.verbose
        try:
            with closing(self.epochs()) as records:
                for record in tqdm(records, "epoch", planned, initial=done, disable=quiet):
                    if record["epoch"] % every == 0:
                        save()
            save()
        except KeyboardInterrupt:
            print(f"Interrupted after {len(self.history)} epochs; fit() goes on from here.")
        return self

    def epochs(self) -> Generator[Record, None, None]:
        """Train, yielding the record of each epoch as it ends."""
        records, ended = self._records(), False
        try:
            while not (ended := self._finished()):
                with self._seeded(epoch=len(self.history) + 1):
                    record = next(records)
                self.history.append(record)
                if self.patience and self._best_epoch() == len(self.history):
                    self._best_weights = copy.deepcopy(self.model.state_dict())
                yield record
        except training.Diverged:
            ended = True
            raise
        finally:
            records.close()
            self.model.eval()
            if ended and self._best_weights:
                self.model.load_state_dict(self._best_weights)

    def _records(self) -> Generator[Record, None, None]:
        """Train epoch after epoch, in this process or in several, as long as somebody asks."""
        if not self.train.nnz:
            raise ValueError("train is empty: give Pipeline.load the matrix it was trained on")
        parts = self._parts.items()
        loaders = {name: self._loader(*part, 65536, torch.Generator()) for name, part in parts}
        evaluate = partial(self._evaluate, loaders)

        def rates(epoch: int) -> dict[str, Any]:  # what may be changed between epochs
            lr = self.lr * (1 - (epoch - 1) / self.n_epochs if self.lr_schedule == "linear" else 1)
            return {"lr": lr, "weight_decay": self.weight_decay, "batch_size": self.batch_size}

        loader = self._loader(self.train_part, None, self.batch_size, self._generator)
        if self.n_workers:
            yield from train_hogwild(
                self.model, loader.dataset, self._make_step, n_workers=self.n_workers, rates=rates,
                start_epoch=len(self.history) + 1, evaluate=evaluate, seed=self.seed,
            )  # fmt: skip
        while True:
            epoch = len(self.history) + 1
            training.set_rates(self._step, loader, **rates(epoch))
            yield training.train_epoch(self.model, loader, self._step, epoch, evaluate)

    def _best_epoch(self) -> int:
        """Return the epoch with the best validation score so far, the first of equals."""
        name = self.metrics[0] if self.metrics else "loss"
        sign = 1 if name in ("loss", "rmse") else -1  # of what is better when it is lower
        return int(np.argmin(sign * np.array(self.history.column(f"validation_{name}")))) + 1

    def _finished(self) -> bool:
        done = len(self.history)
        waited = self.patience and done and done - self._best_epoch() >= self.patience
        return bool(waited) or done >= self.n_epochs

    def _loader(self, matrix: Any, exclude: Any, batch_size: int, generator: Any) -> Any:
        if self.pairwise:  # a part that is only followed need not be complete
            followed = exclude is not None
            data: Any = PairwiseInteractions(matrix, exclude, generator, skip_full=followed)
        else:
            data = Interactions(pattern(matrix, matrix.data / self.rating_unit))
        return batches(data, batch_size, generator, self._device)

    def _evaluate(self, loaders: Mapping[str, Any], model: nn.Module) -> Record:
        """Return the loss and the metrics of each part, as asked after each epoch."""
        numbers: Record = {}
        ranking = [metric for metric in self.metrics if metric != "rmse"]
        for name, (entries, exclude) in self._parts.items():
            # The same negatives each epoch, so that the curve moves only when the model does.
            loaders[name].generator.manual_seed(self.seed)
            loss = training.mean_loss(model, loaders[name], self._loss)
            if not math.isfinite(loss):  # the weights are numbers still, but too large
                raise training.Diverged(f"the {name} loss became {loss}", len(self.history) + 1)
            found = scores.evaluate(model, entries, exclude, ranking) if ranking else {}
            if "rmse" in self.metrics:
                found["rmse"] = self.rmse(entries)
            numbers[f"{name}_loss"] = loss
            numbers |= {f"{name}_{metric}": found[metric] for metric in self.metrics}
        return numbers

    @contextmanager
    def _seeded(self, epoch: int) -> Iterator[None]:
        """Let `seed` and the epoch decide all that is drawn; give the caller's state back after."""
        own, shared = np.random.SeedSequence([self.seed, epoch]).generate_state(2).tolist()
        self._generator.manual_seed(own)
        with _TURN, torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(shared)  # initialisation and dropout draw from it
            yield

    def _scores(self, users: np.ndarray) -> np.ndarray:
        found = self.model.score_matrix(users)
        return found if self.rating_unit == 1 else found * self.rating_unit

    def _pairs(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        return models.ask(self.model, self.model, users, items) * self.rating_unit

    def rmse(self, matrix: Any) -> float:
        """Return the RMSE over a matrix's entries, predictions clipped to the training range."""
        return scores.rmse(self, matrix, clip=self.rating_range)

    def save(self, path: str | os.PathLike) -> None:
        """Write everything but the matrices to a file, all of it or nothing."""
        settings = self.settings | {"model": type(self.model), "loss": self._loss}
        for what, known in NAMED.items():  # a class or function is saved by its name, if it has one
            settings[what] = {v: k for k, v in known.items()}.get(settings[what], settings[what])
        state: dict = getattr(self._step.optimizer, "state_dict", dict)()  # RowSGD has none
        saving.write(path, {
            "shape": self.shape_, "rating_range": self.rating_range, "settings": settings,
            "weights": self.model.state_dict(), "best_weights": self._best_weights,
            "optimizer": state, "history": self.history,
        })  # fmt: skip

    @classmethod
    def load(cls, path: str | os.PathLike, train: Any = None, evaluate_on: Any = None) -> Self:
        """Read a saved pipeline, never as code; to train on, give it the matrices it had."""
        content = saving.read(path)
        try:
            settings, shape = dict(content["settings"]), tuple(content["shape"])
            train = sp.csr_array(shape, dtype=np.float32) if train is None else train
            model = MODELS[settings.pop("model")]
            self = cls(train, evaluate_on=evaluate_on, model=model, **settings)
            self.model.load_state_dict(content["weights"])
            self.rating_range = content["rating_range"]
            self.history = History(content["history"])
            self._best_weights = content["best_weights"]
            if content["optimizer"]:
                self._step.optimizer.load_state_dict(content["optimizer"])
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{path} holds no pipeline that fits this train: {error}") from error
        self.model.eval()
        return self

"""The tables of notebook 3 with five seeds in each cell: biases, weight decay, and starts.

    python -m benchmarks.decays      measure all and write decays.json (some five minutes)

latest-small, the tutorial's split. Everything is read on the validation rows, as the notebook
reads it and says so: figures of the best decay flatter, on all sides alike. RMSE in stars, not
clipped; "rare" counts only rows whose film has at most three training ratings.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nmf_helpers.data import encode_ratings, interaction_matrix, load_ratings, split_ratings
from nmf_helpers.interactions import Batch, Interactions, batches, full_batch
from nmf_helpers.models import MF, BiasedMF, Scorer, svd_init
from nmf_helpers.training import OPTIMIZERS, train

FILE = Path(__file__).with_name("decays.json")
SEEDS = range(5)
WAYS = {  # of decaying; optimizer and weights of decay
    "coupled, Adam": ("adam", (0, 3e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3)),
    "decoupled, AdamW": ("adamw", (0.5, 1, 1.5, 2, 3)),
    "per rating, Adam": ("penalty", (0.1, 0.2, 0.25, 0.3, 0.4)),
    "per rating, row-wise SGD": ("row_sgd", (0.01, 0.02, 0.03, 0.05, 0.1)),
}
STARTS = {  # sizes, and weights of decay
    "noise": ((0.01, 0.05, 0.1), (0.03, 0.06, 0.09, 0.12, 0.16)),
    # With a size of .2, two of five seeds diverge at this learning rate.
    "who rated what": ((0.05, 0.1, 0.15), (0.06, 0.09, 0.12, 0.16, 0.2)),
}


class PenaltyStep:
    """Adam on squared error + ½ λ · (squared sizes of what predicts it), averaged over a batch."""

    def __init__(self, model: BiasedMF, lr: float, weight_decay: float) -> None:
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        self.weight_decay = weight_decay

    def __call__(self, model: BiasedMF, batch: Batch) -> torch.Tensor:
        (users, items), ratings = batch
        squares = (model(users, items) - ratings) ** 2  # (batch,)
        tables = (model.user_factors, users), (model.user_bias, users)
        tables += (model.item_factors, items), (model.item_bias, items)
        sizes = sum((table(rows) ** 2).sum(-1) for table, rows in tables)  # (batch,)
        self.optimizer.zero_grad()
        (squares + self.weight_decay / 2 * sizes).mean().backward()
        self.optimizer.step()
        return squares.mean().detach()


class Data:
    """The split, and how a model does on it."""

    def __init__(self) -> None:
        rows, rest = split_ratings(load_ratings("latest-small"))
        df_train, df_validation = encode_ratings(rows), encode_ratings(rest, rows)
        self.known = interaction_matrix(df_train)
        self.mean = float(df_train["rating"].mean())
        self.train, ((self.users, self.items), self.ratings) = (
            full_batch(df_train), full_batch(df_validation)
        )  # fmt: skip
        per_item = np.bincount(df_train["movieId"], minlength=self.known.shape[1])
        self.rare = torch.from_numpy(per_item <= 3)[self.items]

    @torch.no_grad()
    def rmse(self, model: nn.Module) -> tuple[float, float]:
        """Return the RMSE over all rows and over rows of rare films."""
        squares = (model(self.users, self.items) - self.ratings) ** 2
        return squares.mean().sqrt().item(), squares[self.rare].mean().sqrt().item()

    def fit(self, model: Scorer, way: Any, weight_decay: float, seed: int) -> tuple[float, float]:
        loader = batches(Interactions(self.known), 4096, torch.Generator().manual_seed(seed))
        settings: dict[str, Any] = {"optimizer": way, "lr": 0.02, "weight_decay": weight_decay}
        n_epochs = 10
        if way == "row_sgd":  # diverges from lr .015 on, so it gets half the rate for twice as long
            settings |= {"lr": 0.01, "reduction": "sum"}
            n_epochs = 20
        if way == "penalty":
            settings = {"step": PenaltyStep(model, 0.02, weight_decay)}
        for _ in train(model, loader, n_epochs=n_epochs, lr_schedule="linear", **settings):
            pass
        return self.rmse(model)

    def biased(self, n_factors: int, seed: int, **options: Any) -> BiasedMF:
        torch.manual_seed(seed)
        return BiasedMF(*self.known.shape, n_factors, global_mean=self.mean, **options)

    def dot_product(self, n_factors: int, seed: int) -> MF:
        """Return a dot product whose first prediction is the mean rating."""
        torch.manual_seed(seed)
        start = (self.mean / n_factors) ** 0.5
        return MF(*self.known.shape, n_factors, init_mean=start, init_std=0.015)


def summary(found: Iterable[tuple[float, float]]) -> dict[str, Any]:
    every, rare = np.array(list(found)).T
    figures = {"mean": every.mean(), "sd": every.std(ddof=1), "rare": rare.mean()}
    return {k: round(float(v), 5) for k, v in figures.items()} | {"each": every.round(5).tolist()}


def three_calls(data: Data) -> dict[str, Any]:
    """Notebook 2's model and this one under one set of settings, with no mean in either."""
    result = {}
    for name, build in {"dot product": MF, "with biases": BiasedMF}.items():
        found = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            model = build(*data.known.shape, 100, init_mean=0.025, init_std=0.015)
            for lr in (0.05, 0.01, 0.001):
                for _ in train(model, [data.train], lr=lr, weight_decay=1e-5, n_epochs=10):
                    pass
            found.append(data.rmse(model))
        result[name] = summary(found)
    return result


def biases(data: Data) -> dict[str, Any]:
    """Adam with the coupled decay, with and without biases, and few factors or more."""
    result: dict[str, Any] = {}
    for n_factors in (2, 20):
        for name, build in {"dot product": data.dot_product, "with biases": data.biased}.items():
            rows = result.setdefault(f"{name}, {n_factors} factors", {})
            for decay in WAYS["coupled, Adam"][1]:
                found = (data.fit(build(n_factors, s), "adam", decay, s) for s in SEEDS)
                rows[f"{decay:g}"] = summary(found)
    return result


def ways(data: Data) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, (way, decays) in WAYS.items():
        for decay in decays:
            found = (
                data.fit(data.biased(20, s, sparse=way == "row_sgd"), way, decay, s) for s in SEEDS
            )
            result.setdefault(name, {})[f"{decay:g}"] = summary(found)
    return result


def free_biases(data: Data) -> dict[str, Any]:
    """The first two ways once more, with decay on the factors alone."""
    result: dict[str, Any] = {}
    for name in ("coupled, Adam", "decoupled, AdamW"):
        way, decays = WAYS[name]
        for decay in [d for d in decays if d > 1e-4 * (way == "adam")]:

            def fit(seed: int, way: str = way, decay: float = decay) -> tuple[float, float]:
                model = data.biased(20, seed)
                tables = model.user_factors, model.item_factors, model.user_bias, model.item_bias
                groups = [
                    {"params": table.weight, "weight_decay": decay if n < 2 else 0.0}
                    for n, table in enumerate(tables)
                ]
                return data.fit(model, OPTIMIZERS[way](groups, lr=0.02), decay, seed)

            result.setdefault(name, {})[f"{decay:g}"] = summary(map(fit, SEEDS))
    return result


def starts(data: Data) -> dict[str, Any]:
    """The best of each start by its first seed, then with five."""
    result = {}
    for name, (sizes, decays) in STARTS.items():

        def fit(size: float, decay: float, seed: int, name: str = name) -> tuple[float, float]:
            noise = {"init_std": size} if name == "noise" else {}
            model = data.biased(50, seed, sparse=True, **noise)
            if name != "noise":
                svd_init(model, data.known, scale=size)
            return data.fit(model, "row_sgd", decay, seed)

        tried = {(size, decay): fit(size, decay, 0)[0] for size in sizes for decay in decays}
        best = min(tried, key=tried.get)
        result[name] = dict(zip(("size", "decay"), best, strict=True)) | summary(
            fit(*best, seed) for seed in SEEDS
        )
        result[name]["tried"] = {f"{s:g}, {d:g}": round(v, 4) for (s, d), v in tried.items()}
    return result


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    torch.set_num_threads(1)
    data, result = Data(), {}
    for measure in (three_calls, biases, ways, free_biases, starts):
        result[measure.__name__] = measure(data)
        print(json.dumps({measure.__name__: result[measure.__name__]}, indent=1), flush=True)
    FILE.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

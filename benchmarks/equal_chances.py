"""A network against the dot product at equal chances, on a split of latest-small used for no more.

    python -m benchmarks.equal_chances            go on where equal_chances.json ends, and print all
    python -m benchmarks.equal_chances --anew     from the beginning (some forty minutes)

Both models get the mean, biases and the start from who-rated-what, equally many random settings
from the same ranges (the network has three more to draw), and every way to hold back that
notebook 3 has. A tenth of the training rows is carved out as validation: each setting is fitted
once, the five best of each model on two further carves, and the best mean of three is chosen.
Then the test part is looked at, once: five seeds of each model on all training rows, and five of
the network without its dropout, its biases, its start. RMSE is in stars, not clipped.

The split has a seed of its own, as the notebooks look at the test part of theirs all the time; only
the ranges lie around what notebook 3 found there.
"""

from __future__ import annotations

import argparse
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nmf_helpers.baselines import BiasRidge
from nmf_helpers.data import encode_ratings, interaction_matrix, load_ratings, split_ratings
from nmf_helpers.interactions import Interactions, batches
from nmf_helpers.models import BiasedMF, CollabFNet, svd_init
from nmf_helpers.training import RowSGD, train

FILE = Path(__file__).with_name("equal_chances.json")
MODELS = ("dot product", "network")
SPLIT = 4  # the seed of the split
N_SETTINGS = 120  # for each model
N_BEST, SEEDS = 5, range(5)
DIVERGED = 9.0  # in place of an RMSE
DECAYS = {"adam": (3e-5, 1e-3), "adamw": (0.1, 3.0), "row_sgd": (0.03, 0.3)}
LEFT_OUT = {
    "dropout": {"dropout": 0.0, "hidden_dropout": 0.0},
    "biases": {"biases": False},
    "start": {"svd_scale": None},  # noise instead
}


def draw(model: str, rng: np.random.Generator) -> dict[str, Any]:
    """Draw a setting. What both models have comes first, so that they get the same draws."""

    def between(low: float, high: float) -> float:  # evenly on a logarithmic scale
        return float(f"{np.exp(rng.uniform(np.log(low), np.log(high))):.3g}")

    optimizer = list(DECAYS)[rng.integers(3)]
    settings = {
        "optimizer": optimizer,
        "lr": between(0.003, 0.02),
        "weight_decay": between(*DECAYS[optimizer]),
        "n_epochs": rng.choice([8, 16, 32]).item(),
        "n_factors": rng.choice([16, 32, 64, 100]).item(),
        "svd_scale": between(0.05, 1.5),
        "dropout": round(rng.uniform(0, 0.5), 2),
    }
    of_network = {
        "n_hidden": rng.choice([16, 32, 64, 128]).item(),
        "hidden_dropout": round(rng.uniform(0, 0.5), 2),
        "layer_lr": between(0.001, 0.02),  # of Adam on the layers, where row_sgd moves the tables
    }
    return settings | of_network if model == "network" else settings


class RowsAndLayers:
    """RowSGD moves a network's tables, a row whenever it is in the batch, and Adam its layers."""

    def __init__(self, network: nn.Module, lr: float, weight_decay: float, layer_lr: float) -> None:
        tables = [part for part in network.modules() if isinstance(part, nn.Embedding)]
        for table in tables:
            table.sparse = True
        layers = [p for part in network.modules() if isinstance(part, nn.Linear)
                  for p in part.parameters()]  # fmt: skip
        self.parts = (
            RowSGD([table.weight for table in tables], lr, weight_decay),
            torch.optim.Adam(layers, layer_lr),  # to which sum or mean of the gradient is the same
        )
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        for part in self.parts:
            part.step()


def predicted(model: str, part: tuple, settings: dict[str, Any], seed: int) -> np.ndarray:
    """Fit a model on the first of two tables and predict the second: shape (rows,)."""
    (df, held_out), s = part, {"biases": True} | settings
    known, by_row = interaction_matrix(df), s["optimizer"] == "row_sgd"
    sizes, mean = known.shape, float(df["rating"].mean())
    torch.manual_seed(seed)
    if model == "network":
        built = CollabFNet(
            *sizes, s["n_factors"], n_hidden=s["n_hidden"], dropout=s["dropout"],
            hidden_dropout=s["hidden_dropout"], biases=s["biases"], global_mean=mean,
        )  # fmt: skip
        if not s["biases"]:  # it would need some epochs to find the mean rating
            nn.init.constant_(built.output.bias, mean)
    else:
        built = BiasedMF(
            *sizes, s["n_factors"], global_mean=mean, dropout=s["dropout"], sparse=by_row
        )
    if s["svd_scale"] is not None:
        svd_init(built, known, scale=s["svd_scale"])
    rates = {"lr": s["lr"], "weight_decay": s["weight_decay"]}
    optimizer = s["optimizer"]
    if by_row and model == "network":
        optimizer = RowsAndLayers(built, **rates, layer_lr=s["layer_lr"])
    loader = batches(Interactions(known), 4096, torch.Generator().manual_seed(seed))
    for _ in train(
        built, loader, n_epochs=s["n_epochs"], lr_schedule="linear", optimizer=optimizer,
        reduction="sum" if by_row else "mean", **rates,
    ):  # fmt: skip
        pass
    users, items = (torch.tensor(held_out[name].to_numpy()) for name in ("userId", "movieId"))
    with torch.no_grad():
        return built(users, items).numpy()


def rmse(predicted: np.ndarray, part: tuple) -> float:
    return round(float(np.sqrt(np.mean((predicted - part[1]["rating"].to_numpy()) ** 2))), 5)


def encoded(df: Any, rest: Any) -> tuple:
    return encode_ratings(df), encode_ratings(rest, df)  # without the rows that are cold


def carve(number: int) -> tuple:
    """Hold out a tenth of the training rows: (fit, validation), both encoded."""
    df = split_ratings(load_ratings("latest-small"), seed=SPLIT)[0]
    held_out = np.random.default_rng(number).random(len(df)) < 0.1
    return encoded(df[~held_out], df[held_out])


def search(result: dict[str, Any]) -> dict[str, Any]:
    """Try the settings of both models on validation, and return the best of each."""
    chosen = {}
    carves = [carve(number) for number in range(3)]
    table = BiasRidge().fit(interaction_matrix(carves[0][0]))
    validation = carves[0][1]
    result["bias table, validation"] = rmse(
        table.predict(validation["userId"], validation["movieId"]), carves[0]
    )
    for model in MODELS:
        tried = result.setdefault("tried", {}).setdefault(model, [])
        rng = np.random.default_rng(0)
        for number in range(N_SETTINGS):
            # Each setting from a generator of its own: the n-th has the same draws in both models.
            settings = draw(model, rng.spawn(1)[0])
            if number < len(tried):
                continue  # from an earlier run
            tried.append(settings | {"rmse": [fitted(model, carves[0], settings, 0)]})
            print(f"{model:12} {number + 1:2}  {tried[-1]}", flush=True)
            save(result)
        for entry in sorted(tried, key=lambda entry: entry["rmse"][0])[:N_BEST]:
            settings = {name: value for name, value in entry.items() if name != "rmse"}
            for number in range(len(entry["rmse"]), 3):
                entry["rmse"].append(fitted(model, carves[number], settings, number))
                save(result)
        best = min((e for e in tried if len(e["rmse"]) == 3), key=lambda e: np.mean(e["rmse"]))
        chosen[model] = {name: value for name, value in best.items() if name != "rmse"}
        print(f"{model}: chosen {best}", flush=True)
    return chosen


def fitted(model: str, part: tuple, settings: dict[str, Any], seed: int) -> float:
    try:
        return rmse(predicted(model, part, settings, seed), part)
    except ArithmeticError:
        return DIVERGED


def look_at_test(chosen: dict[str, Any]) -> dict[str, Any]:
    """Evaluate the chosen settings, five seeds each, and the network without each of its parts."""
    part = encoded(*split_ratings(load_ratings("latest-small"), seed=SPLIT))
    users, ratings = part[1]["userId"].to_numpy(), part[1]["rating"].to_numpy()
    rows: dict[str, tuple] = {model: (model, chosen[model]) for model in MODELS}
    for name, change in LEFT_OUT.items():
        rows[f"network without {name}"] = "network", chosen["network"] | change
    table = BiasRidge().fit(interaction_matrix(part[0])).predict(users, part[1]["movieId"])
    errors = {"bias table": (table - ratings)[None] ** 2}  # (seeds, rows)
    for row, (model, settings) in rows.items():
        each = [predicted(model, part, settings, seed) for seed in SEEDS]
        errors[row] = (np.array(each) - ratings) ** 2
        print(f"{row} is measured", flush=True)
    names = list(errors)
    pairs = [*pairwise(names[:3]), ("bias table", "network"), *(("network", n) for n in names[3:])]
    return {
        "test": {row: figures(squares) for row, squares in errors.items()},
        "differences": {f"{b} - {a}": difference(errors[b], errors[a], users) for a, b in pairs},
    }


def figures(squares: np.ndarray) -> dict[str, Any]:
    """Return the RMSE of each seed, their mean and standard deviation."""
    each = np.sqrt(squares.mean(axis=1))
    spread = {"sd": round(float(each.std(ddof=1)), 5)} if len(each) > 1 else {}
    return {"mean": round(float(each.mean()), 5), **spread, "each": each.round(5).tolist()}


def difference(squares: np.ndarray, reference: np.ndarray, users: np.ndarray) -> dict[str, float]:
    """Return how far two mean RMSEs differ, and the standard error over users and over seeds.

    Over users: squared errors averaged over seeds, those of one user going together. Over seeds:
    of the mean of the seeds' differences.
    """
    gaps = np.sqrt(squares.mean(axis=1)) - np.sqrt(reference.mean(axis=1))  # (seeds,)
    change = squares.mean(axis=0) - reference.mean(axis=0)  # (rows,)
    by_user = np.bincount(users, change - change.mean())
    slope = 2 * np.sqrt(reference.mean())  # of the squared error by its root
    return {
        "rmse": round(float(gaps.mean()), 5),
        "error": round(float(np.sqrt((by_user**2).sum()) / len(users) / slope), 5),
        "error over seeds": round(float(gaps.std(ddof=1) / np.sqrt(len(gaps))), 5),
    }


def save(result: dict[str, Any]) -> None:
    """Write the file, a line for each setting that was tried and each row that was measured."""
    text = json.dumps(result, indent=1)
    text = re.sub(r"\{[^{}]*\}", lambda found: json.dumps(json.loads(found.group())), text)
    FILE.write_text(text + "\n")


def best_on_validation(tried: list[dict[str, Any]]) -> dict[str, float]:
    """Return the best RMSE on the first carve, by optimizer, of 40 and of all, and what failed."""
    found = {
        optimizer: min(e["rmse"][0] for e in tried if e["optimizer"] == optimizer)
        for optimizer in DECAYS
    }
    found["diverged"] = round(float(np.mean([e["rmse"][0] == DIVERGED for e in tried])), 3)
    return found | {f"of {n}": min(e["rmse"][0] for e in tried[:n]) for n in (40, N_SETTINGS)}


def show(result: dict[str, Any]) -> None:
    """Print what was found."""
    print(f"best on the first carve of validation: {result['best on validation']}")
    table = result["bias table, validation"]
    for model in MODELS:
        better = sum(entry["rmse"][0] < table for entry in result["tried"][model])
        print(f"\n{model}: {better} of {N_SETTINGS} settings beat the bias table on validation")
        print(f"  chosen: {result['chosen'][model]}")
    print("\ntest RMSE, mean ± standard deviation of five seeds")
    for row, found in result["test"].items():
        print(f"  {row:24} {found['mean']:.4f} ± {found.get('sd', 0):.4f}")
    print("difference ± standard error over users (over seeds)")
    for pair, found in result["differences"].items():
        seeds = found["error over seeds"]
        print(f"  {pair:34} {found['rmse']:+.4f} ± {found['error']:.4f} ({seeds:.4f})")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.equal_chances", description=__doc__)
    parser.add_argument("--anew", action="store_true", help="forget what was measured")
    anew = parser.parse_args().anew
    torch.set_num_threads(1)
    result = {} if anew or not FILE.exists() else json.loads(FILE.read_text())
    if "test" not in result:  # it is looked at once
        result["chosen"] = search(result)
        result |= look_at_test(result["chosen"])
    result["best on validation"] = {m: best_on_validation(result["tried"][m]) for m in MODELS}
    save(result)
    show(result)


if __name__ == "__main__":
    main()

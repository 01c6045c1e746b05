"""Choose settings for the models of the tables, all by the same search.

    python -m benchmarks.search             what search.json does not have yet (two hours)
    python -m benchmarks.search cornac      models whose name contains this
    python -m benchmarks.search --table     print the values searched, and what was chosen

Each model is fitted with the setting that it had before and 30 more, drawn at random from the
values stated here and in `peers`, to the training part of a split without ten ratings or likes of
each user, and judged on those. The best three get two seeds more; the best mean is chosen. Nothing
of this reads a split's test part. The course's own models keep the recipe; how it does among the 30
stands beside.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks import bayes_search, folds, peers, splits, tables
from nmf_helpers.als import ImplicitALS
from nmf_helpers.baselines import EASE
from nmf_helpers.data import item_features, leave_n_out, load_movies
from nmf_helpers.metrics import evaluate, rmse
from nmf_helpers.recipes import explicit, implicit

FILE = Path(__file__).with_name("search.json")
N_SETTINGS, N_BEST, SEEDS = 30, 3, (0, 1, 2)


def als(train: Any, seed: int, threads: int, **settings: Any) -> ImplicitALS:
    return ImplicitALS(**settings, seed=seed).fit(train)


def als_with_facts(train: Any, seed: int, threads: int, **settings: Any) -> ImplicitALS:
    facts = item_features(load_movies("100k"))
    return ImplicitALS(**settings, seed=seed).fit(train, item_features=facts)


def ease(train: Any, seed: int, threads: int, **settings: Any) -> EASE:
    return EASE(**settings).fit(train)


def bpr(train: Any, seed: int, threads: int, **settings: Any) -> Any:
    return implicit(train, seed=seed, **settings)


def ratings(train: Any, pairs: peers.Pairs, seed: int, threads: int, **settings: Any) -> np.ndarray:
    return explicit(train, seed=seed, **settings).predict(*pairs)


ALS: peers.Choices = {
    "n_factors": (24, 32, 40, 48, 64), "l2": (4.0, 5.0, 6.0, 6.5, 7.0, 8.0, 10.0),
    "unobserved_weight": (0.1, 0.15, 0.2, 0.25, 0.3), "activity_power": (0.0, 0.2, 0.4, 0.6, 0.8),
    "l2_power": (0.0, 0.15, 0.3, 0.45, 0.6), "n_rounds": (6, 10, 15),
}  # fmt: skip
OURS: dict[str, tuple[Callable, peers.Choices]] = {
    "explicit()": (ratings, {
        "n_factors": (20, 50, 100, 150), "svd_scale": (0.05, 0.1, 0.15, 0.2),
        "lr": (0.004, 0.008, 0.016), "weight_decay": (0.1, 0.13, 0.16, 0.2),
        "n_epochs": (6, 12, 24, 36, 60),
    }),
    "implicit()": (bpr, {
        "n_factors": (64, 128, 192), "svd_scale": (0.03, 0.1, 0.2), "lr": (0.02, 0.05, 0.1, 0.2),
        "weight_decay": (0.005, 0.01, 0.018, 0.03, 0.05), "batch_size": (1024, 2048, 4096),
        "n_epochs": (25, 50, 100, 150),
    }),
    "iALS": (als, ALS),
    "iALS, film facts": (als_with_facts, ALS),
    "EASE": (ease, {"l2": tuple(float(50 * n) for n in range(1, 41))}),
}  # fmt: skip
MODELS: dict[tuple[str, str], tuple[Callable, peers.Choices]] = {  # by model and split
    (name, split): found
    for kind, names in (("rating", ("exp10", "exp8020")), ("ranking", ("imp10",)))
    for name, found in (peers.RATING | OURS if kind == "rating" else peers.RANKING | OURS).items()
    for split in names
    if (name == "explicit()") == (kind == "rating") or name not in OURS
}
MODELS["myFM, film facts, dates", "u1"] = folds.myfm, folds.MYFM


def drawn(choices: peers.Choices) -> list[dict[str, Any]]:
    """Draw different settings, the same ones each time."""
    rng, found = np.random.default_rng(0), list[dict[str, Any]]()
    while len(found) < N_SETTINGS:
        setting = {name: values[rng.integers(len(values))] for name, values in choices.items()}
        if setting not in found:
            found.append(setting)
    return found


def carve(split: str) -> tuple[Any, Any]:
    """Hold out ten of each user with more than ten in a split's training part."""
    return leave_n_out(getattr(splits, split)()[0], 10, seed=0)


def fit_and_judge(model: str, split: str, settings: dict, seed: int) -> dict:
    """Fit to a part of train, judge on the rest: RMSE, or for a ranking nDCG@10."""
    fit, _ = MODELS[model, split]
    rest, held_out = bayes_search.carves()[0] if split == "u1" else carve(split)
    start = time.perf_counter()
    if split == "u1":  # its ratings have times
        predicted = fit(rest, held_out, seed, **settings)
        seconds = time.perf_counter() - start
        value = rmse(predicted, held_out.ratings, clip=(1, 5))
    elif split == "imp10":
        scores = fit(rest, seed, 1, **settings)
        seconds = time.perf_counter() - start
        value = evaluate(scores, held_out, exclude=rest, metrics=("ndcg@10",))["ndcg@10"]
    else:
        entries = held_out.tocoo()
        predicted = fit(rest, (entries.row, entries.col), seed, 1, **settings)
        seconds = time.perf_counter() - start
        value = rmse(predicted, entries.data, clip=(1, 5))
    return {
        "model": model, "split": split, "settings": settings, "seed": seed,
        "value": round(float(value), 5), "seconds": round(seconds, 3),
    }  # fmt: skip


def ranked(model: str, split: str, found: list[dict]) -> list[tuple[dict, list[float]]]:
    """Return the settings of a model and their values by seed, the best first."""
    values, settings = defaultdict(list), {}
    for row in found:
        if (row["model"], row["split"]) == (model, split):
            key = json.dumps(row["settings"])
            settings[key] = row["settings"]
            values[key].append(row["value"])
    sign = -1 if split == "imp10" else 1
    # what was tried with more seeds comes first: it was among the best
    order = sorted(values, key=lambda key: (-len(values[key]), sign * np.mean(values[key])))
    return [(settings[key], values[key]) for key in order]


def chosen(model: str, split: str) -> dict[str, Any]:
    """Return the settings that the search chose."""
    return next(setting for setting, _ in ranked(model, split, load()) if setting)


def fastest(model: str, split: str, target: float) -> dict[str, Any] | None:
    """Return the settings that reach a value on the carve in the fewest seconds, if any do."""
    sign = -1 if split == "imp10" else 1
    good = [
        row for row in load()
        if (row["model"], row["split"]) == (model, split) and sign * (row["value"] - target) <= 0
    ]  # fmt: skip
    return min(good, key=lambda row: row["seconds"])["settings"] if good else None


def search(model: str, split: str) -> None:
    """Fit what search.json lacks of one model on one split."""
    before: dict[str, Any] = peers.BEFORE.get(model, {})
    for setting in (before, *drawn(MODELS[model, split][1])):
        measure(model, split, setting, SEEDS[0])
    sign, rows = (-1 if split == "imp10" else 1), load()
    first = [r for r in rows if (r["model"], r["split"], r["seed"]) == (model, split, SEEDS[0])]
    best = sorted(first, key=lambda row: sign * row["value"])[:N_BEST]
    for setting in (before, *(row["settings"] for row in best)):
        for seed in SEEDS[1:]:
            measure(model, split, setting, seed)


def measure(model: str, split: str, setting: dict, seed: int) -> None:
    """Fit once, unless search.json has it, and write it down at once."""
    found, same = load(), ("model", "split", "settings", "seed")
    wanted = dict(zip(same, (model, split, setting, seed), strict=True))
    if any({name: row[name] for name in same} == wanted for row in found):
        return
    with threadpool_limits(1):
        found.append(fit_and_judge(model, split, setting, seed))
    print(*found[-1].values(), flush=True)
    FILE.write_text("[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n")


def load() -> list[dict]:
    """Read what was measured."""
    return json.loads(FILE.read_text()) if FILE.exists() else []


def table(found: list[dict]) -> str:
    """Return what was chosen for each model, with its mean and range on the carve."""
    rows = []
    for model, split in MODELS:
        tried = [row for row in ranked(model, split, found) if len(row[1]) == len(SEEDS)]
        best = next((row for row in tried if row[0]), None)
        for setting, values in [row for row in tried if row is best or not row[0]]:
            spread = f"{np.mean(values):.4f} [{min(values):.4f}, {max(values):.4f}]"
            said = ", ".join(f"{name}={value}" for name, value in setting.items())
            rows.append([model, split, said or "as it stands", spread])
    return tables.markdown(["model", "split", "settings", "on the carve"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.search", description=__doc__.split("\n")[0])
    parser.add_argument("name", nargs="?", default="", help="part of a model's name")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for model, split in MODELS:
        if options.name in model and not options.table:
            search(model, split)
    for model, split in MODELS:
        values = ", ".join(f"{name} {v}" for name, v in MODELS[model, split][1].items())
        print(f"{model}, {split}: {values}")
    print(table(load()))


if __name__ == "__main__":
    main()

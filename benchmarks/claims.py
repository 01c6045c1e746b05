"""Every quality figure of the course, measured here and kept in claims.json.

    python -m benchmarks.claims              measure all of it again and rewrite the file
    python -m benchmarks.claims implicit     only models whose name contains this

A claim is one metric of one model on one split: its mean over seeds, and the tolerance that
follows from their spread; users.npz has the first metric user by user, so that two models can be
compared on the same users. The tables in README and notebooks are made from these files, and
tests/test_claims.py measures the cheap ones again in another way. Test data only ever judges.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse as sp
from scipy.stats import zscore

from benchmarks import peers, search, splits, tables
from nmf_helpers import metrics
from nmf_helpers.als import ImplicitALS
from nmf_helpers.baselines import EASE, BiasRidge, GlobalMean, Popularity
from nmf_helpers.bayes import BayesianMF
from nmf_helpers.data import item_features, load_movies
from nmf_helpers.pipeline import Pipeline
from nmf_helpers.recipes import explicit, hogwild, implicit

FILE = Path(__file__).with_name("claims.json")
USERS = Path(__file__).with_name("users.npz")  # mean over seeds, by user, of the first metric


@dataclass
class Model:
    """A model that claims are made about."""

    name: str
    fit: Callable[[sp.csr_matrix, int], Any]  # (train, seed) -> anything with predict or scores
    kind: str  # "rating" or "ranking"
    seeds: tuple[int, ...] = (0,)
    by: str = "course"


def tutorial_explicit(train: sp.csr_matrix, seed: int) -> Pipeline:
    """The settings that the tutorial's second half trains ratings with."""
    return Pipeline(
        train, n_factors=10, batch_size=1024, dropout=0.02, lr=0.02, weight_decay=0.1,
        optimizer="adam", init_std=1.0, global_mean=0.0, n_epochs=40, seed=seed,
    ).fit()  # fmt: skip


def tutorial_implicit(train: sp.csr_matrix, seed: int) -> Pipeline:
    """The settings that it trains rankings with, its sampler mended."""
    return Pipeline(
        train, n_factors=20, batch_size=1024, lr=0.2, optimizer="sgd", sparse=True,
        loss="squared_sigmoid", init_std=1.0, n_epochs=40, seed=seed,
    ).fit()  # fmt: skip


def als(train: sp.csr_matrix, seed: int) -> ImplicitALS:
    return ImplicitALS(seed=seed).fit(train)


def als_with_facts(train: sp.csr_matrix, seed: int) -> ImplicitALS:
    """Fit iALS, told genres and years as well."""
    return ImplicitALS(seed=seed).fit(train, item_features=item_features(load_movies("100k")))


def blend(als: Callable) -> Callable:
    """Add the scores of ALS and of BPR, each made comparable between users."""
    return lambda train, seed: sum(
        zscore(model.score_matrix(), axis=1)
        for model in (als(train, seed), implicit(train, seed=seed))
    )


MODELS = [
    Model("global mean", lambda train, seed: GlobalMean().fit(train), "rating", by="baseline"),
    Model("bias ridge", lambda train, seed: BiasRidge().fit(train), "rating", by="baseline"),
    Model("tutorial's settings", tutorial_explicit, "rating", (0, 1, 2), "tutorial"),
    Model("explicit()", lambda train, seed: explicit(train, seed=seed), "rating", (0, 1, 2)),
    Model("Bayesian MF", lambda train, seed: BayesianMF(seed=seed).fit(train), "rating", (0, 1, 2)),
    *(Model(name, fit, "rating", (0, 1, 2), "peer") for name, (fit, _) in peers.RATING.items()),
    Model("popularity", lambda train, seed: Popularity().fit(train), "ranking", by="baseline"),
    Model("EASE", lambda train, seed: EASE().fit(train), "ranking", by="baseline"),
    Model("tutorial's settings", tutorial_implicit, "ranking", (0, 1, 2), "tutorial"),
    Model("implicit()", lambda train, seed: implicit(train, seed=seed), "ranking", (0, 1, 2)),
    Model("hogwild()", lambda train, seed: hogwild(train, seed=seed), "ranking", (0, 1, 2)),
    Model("iALS", als, "ranking", (0, 1, 2)),
    Model("iALS + implicit()", blend(als), "ranking", (0, 1, 2)),
    Model("iALS, film facts", als_with_facts, "ranking", (0, 1, 2)),
    Model("iALS, film facts, + implicit()", blend(als_with_facts), "ranking", (0, 1, 2)),
    *(Model(name, fit, "ranking", (0, 1, 2), "peer") for name, (fit, _) in peers.RANKING.items()),
]
SPLITS = {
    "rating": {"exp10": splits.exp10, "exp8020": splits.exp8020},
    "ranking": {"imp10": splits.imp10},
}


def measure(model: Model, split: str, seed: int) -> tuple[dict[str, float], np.ndarray]:
    """Fit one model; return its figures, and by user its nDCG@10, or the sum of squared errors."""
    train, test = SPLITS[model.kind][split]()
    settings = search.chosen(model.name, split) if model.by == "peer" else {}
    if model.kind == "rating":
        entries = test.tocoo()
        pairs = entries.row, entries.col
        if model.by == "peer":
            predicted = model.fit(train, pairs, seed, 1, **settings)
        else:
            predicted = model.fit(train, seed).predict(*pairs)
        errors = (np.clip(predicted, 1, 5) - entries.data) ** 2
        by_user = np.bincount(entries.row, errors, train.shape[0])
        return {"rmse": metrics.rmse(predicted, entries.data, clip=(1, 5))}, by_user
    fit = model.fit
    scores = fit(train, seed, 1, **settings) if model.by == "peer" else fit(train, seed)
    figures = metrics.evaluate(scores, test, train, ("ndcg@10", "precision@5", "auc"))
    by_user = metrics.per_user(scores, test, train, "ndcg@10")
    return {name: value for name, value in figures.items() if not name.startswith("n_")}, by_user


def ahead(model: str, other: str, split: str) -> tuple[float, float]:
    """Return how far one model's first metric is above another's, and its standard error.

    Paired: both were judged on the same users, who are drawn; seeds are averaged before.
    """
    with np.load(USERS) as users:
        a, b = (users[f"{split} {name}"] for name in (model, other))
        if split == "imp10":
            return float((a - b).mean()), float((a - b).std(ddof=1) / len(a) ** 0.5)
        n = users[f"{split} n"]  # ratings of each user: a user's errors go together
    roots = [(x.sum() / n.sum()) ** 0.5 for x in (a, b)]
    by_user = np.subtract(*((x - r**2 * n) / (2 * r) for x, r in zip((a, b), roots, strict=True)))
    return float(roots[0] - roots[1]), float((by_user**2).sum() ** 0.5 / n.sum())


def tolerance(values: list[float]) -> float:
    """Three standard deviations between seeds, at least .0005: what another CPU may change."""
    spread = 3 * np.std(values, ddof=1) if len(values) > 1 else 0.0
    return round(max(float(spread), 5e-4), 4)


def measure_all(wanted: str, claims: dict[tuple, dict]) -> None:
    """Measure the models whose name contains `wanted` anew, saving the claims about each."""
    users = dict(np.load(USERS)) if USERS.exists() else {}
    for split, load_split in SPLITS["rating"].items():
        users[f"{split} n"] = np.diff(sp.csr_matrix(load_split()[1]).indptr)
    for model in MODELS:
        if wanted not in model.name:
            continue
        for split in SPLITS[model.kind]:
            try:
                both = [measure(model, split, seed) for seed in model.seeds]
            except ImportError as error:
                print(f"{model.name} on {split}: not measured ({error}); kept as it was")
                continue
            found = [figures for figures, _ in both]
            mean = np.mean([by_user for _, by_user in both], axis=0)
            users[f"{split} {model.name}"] = mean.astype(np.float32)
            for metric in found[0]:
                each = [round(figures[metric], 5) for figures in found]
                claim = {
                    "model": model.name, "by": model.by, "split": split, "metric": metric,
                    "value": round(float(np.mean(each)), 4), "tolerance": tolerance(each),
                    "seeds": list(model.seeds), "each": each,
                }  # fmt: skip
                before = claims.get(key(claim), {})
                claims[key(claim)] = claim
                was = before.get("value", "new")
                print(f"{split} {model.name}: {metric} {claim['value']} (was {was})", flush=True)
        save(list(claims.values()))
        np.savez_compressed(USERS, **users)


def save(claims: list[dict]) -> None:
    """Write the file: split by split in the order of `MODELS`, one claim a line."""
    order = [model.name for model in MODELS]
    claims = sorted(claims, key=lambda c: (c["split"], order.index(c["model"])))  # stable
    FILE.write_text("[\n" + ",\n".join(json.dumps(claim) for claim in claims) + "\n]\n")


def load() -> list[dict]:
    """Read the file."""
    return json.loads(FILE.read_text())


def key(claim: dict) -> tuple[str, str, str]:
    return claim["model"], claim["split"], claim["metric"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.claims", description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default="", help="part of a name; all when left out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measure_all(options.model, {key(claim): claim for claim in load()} if FILE.exists() else {})
    tables.write_all()


if __name__ == "__main__":
    main()

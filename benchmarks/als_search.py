"""Choose the settings of ImplicitALS on likes carved from the training part of imp10.

    python -m benchmarks.als_search           40 random settings (two minutes)
    python -m benchmarks.als_search facts     the same with film facts

Three times ten likes of each user with more than ten are held out. Every setting is fitted with one
seed, the five best and the present one with three; figures are mean nDCG@10 and AUC.
"""

from __future__ import annotations

import argparse

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import splits
from nmf_helpers.als import ImplicitALS
from nmf_helpers.data import item_features, leave_n_out, load_movies
from nmf_helpers.metrics import evaluate

CHOICES = {
    "n_factors": (24, 32, 40, 48, 64),
    "l2": (4.0, 5.0, 6.0, 6.5, 7.0, 8.0, 10.0),
    "unobserved_weight": (0.1, 0.15, 0.2, 0.25, 0.3),
    "activity_power": (0.0, 0.2, 0.4, 0.6, 0.8),
    "l2_power": (0.0, 0.15, 0.3, 0.45, 0.6),
    "n_rounds": (6, 10, 15),
}


def figures(settings: dict, facts: np.ndarray | None, seeds: range) -> np.ndarray:
    """Return mean (nDCG@10, AUC) over three carves and some seeds."""
    train, found = splits.imp10()[0], []
    for carve in range(3):
        rest, held_out = leave_n_out(train, 10, seed=carve)
        for seed in seeds:
            model = ImplicitALS(**settings, seed=seed).fit(rest, facts)
            values = evaluate(model, held_out, exclude=rest, metrics=("ndcg@10", "auc"))
            found.append([values["ndcg@10"], values["auc"]])
    return np.mean(found, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.als_search", description=__doc__)
    parser.add_argument("facts", nargs="?", choices=["facts"])
    facts = item_features(load_movies("100k")) if parser.parse_args().facts else None
    rng = np.random.default_rng(0)
    drawn = [{k: rng.choice(v).item() for k, v in CHOICES.items()} for _ in range(40)]
    with threadpool_limits(1):
        first = [(figures(one, facts, range(1))[0], i) for i, one in enumerate(drawn)]
        best = [drawn[i] for _, i in sorted(first, reverse=True)[:5]]
        for settings in ({}, *best):
            ndcg, auc = figures(settings, facts, range(3))
            print(f"{ndcg:.4f}  {auc:.4f}  {settings or 'as it is'}", flush=True)


if __name__ == "__main__":
    main()

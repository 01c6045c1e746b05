"""Small made-up ratings whose truth is known, and small pipelines to train on them."""

import numpy as np
import scipy.sparse as sp
import torch

from nmf_helpers.pipeline import Pipeline

torch.set_num_threads(1)  # faster for tensors as small as these


def ratings(n_users=60, n_items=40, density=0.4, noise=0.2, seed=0):
    """Biases, two tastes and noise: (train, test), CSR, a fifth of the entries in test."""
    rng = np.random.default_rng(seed)
    bias = rng.normal(0, 0.3, (n_users, 1)) + rng.normal(0, 0.3, n_items)
    taste = rng.normal(0, 1, (n_users, 2)) @ rng.normal(0, 0.7, (2, n_items))
    values = (3.5 + bias + taste + rng.normal(0, noise, bias.shape)).clip(0.5, 5)
    part = rng.choice(3, p=[1 - density, 0.8 * density, 0.2 * density], size=values.shape)
    return tuple(sp.csr_matrix(np.where(part == which, values, 0)) for which in (1, 2))


def likes(n_users=60, n_items=40, seed=0, **options):
    """Return (train, test) with ones where a rating of `ratings` is at least 3.5."""
    return tuple(
        (part >= 3.5).astype(float).tocsr()
        for part in ratings(n_users, n_items, seed=seed, **options)
    )


TRAIN, TEST = ratings()
LIKED, LIKED_TEST = likes()
STOPPING = {"patience": 2, "n_epochs": 100, "lr": 0.02, "dropout": 0.0, "validation_fraction": 0.2}


def build(train=TRAIN, holdout=TEST, **changes):
    """A pipeline in which everything random is at work: order, dropout, Adam's moments."""
    settings = {
        "n_factors": 4, "batch_size": 64, "lr": 0.002, "dropout": 0.2, "n_epochs": 6,
        "init_std": 0.1, "metrics": ("rmse",), "seed": 3,
    }  # fmt: skip
    follow = None if holdout is None else {"holdout": holdout}
    return Pipeline(train, **({"evaluate_on": follow} | settings | changes))


def build_ranking(train=LIKED, holdout=LIKED_TEST, **changes):
    """The same of a ranking."""
    return build(train, holdout, **{"loss": "bpr", "metrics": ("auc", "ndcg@5")} | changes)


def numbers(history):
    """The records without the time they took."""
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


def same_run(ours, theirs):
    assert numbers(ours.history) == numbers(theirs.history)
    np.testing.assert_array_equal(ours.score_matrix(), theirs.score_matrix())

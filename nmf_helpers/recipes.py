"""Three named set-ups, tuned on validation data carved from the training part only."""

from __future__ import annotations

from typing import Any

import scipy.sparse as sp

from nmf_helpers.models import MF, BiasedMF, svd_start
from nmf_helpers.pipeline import Pipeline


def explicit(
    train: sp.spmatrix,
    test: sp.spmatrix | None = None,
    *,
    seed: int = 0,
    n_epochs: int | None = None,
    **changes: Any,
) -> Pipeline:
    """Fit a biased matrix factorization to ratings.

    Parameters
    ----------
    train, test : sparse matrix, shape (n_users, n_items)
        Ratings. `test` is only followed.
    seed : int
    n_epochs : int, optional
        The recipe's own number when None.
    **changes
        Any other setting of `nmf_helpers.pipeline.Pipeline`, to change one thing and see.

    Returns
    -------
    Pipeline
        Fitted.
    """
    settings = {
        "model": BiasedMF,
        "n_factors": 100,
        "batch_size": 4096,
        "optimizer": "row_sgd",
        "sparse": True,
        "lr": 0.008,
        "lr_schedule": "linear",
        "weight_decay": 0.16,
        "loss": "mse",
        "metrics": ("rmse",),
        "n_epochs": 36 if n_epochs is None else n_epochs,
        "seed": seed,
    } | changes
    pipeline = Pipeline(train, test, **settings)
    if settings["n_factors"] < min(train.shape) and settings["model"] in (MF, BiasedMF):
        svd_start(pipeline.model, pipeline.fit_part, scale=0.15)
    return pipeline.fit()


def implicit(
    train: sp.spmatrix,
    test: sp.spmatrix | None = None,
    *,
    seed: int = 0,
    n_epochs: int | None = None,
    **changes: Any,
) -> Pipeline:
    """Fit a ranking of items to interactions, by BPR.

    Parameters and result as in `explicit`; the matrices hold ones.
    """
    settings = {
        "model": BiasedMF,
        "n_factors": 64,
        "init_std": 0.1,
        "batch_size": 1024,
        "optimizer": "row_sgd",
        "sparse": True,
        "lr": 0.05,
        "weight_decay": 0.02,
        "loss": "bpr",
        "metrics": ("auc", "precision@5", "ndcg@10"),
        "n_epochs": 60 if n_epochs is None else n_epochs,
        "seed": seed,
    } | changes
    return Pipeline(train, test, **settings).fit()


def hogwild(
    train: sp.spmatrix,
    test: sp.spmatrix | None = None,
    *,
    n_workers: int = 2,
    seed: int = 0,
    n_epochs: int | None = None,
    **changes: Any,
) -> Pipeline:
    """Fit the `implicit` recipe in several processes that share one set of weights."""
    return implicit(train, test, seed=seed, n_epochs=n_epochs, n_workers=n_workers, **changes)


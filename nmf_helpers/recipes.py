"""Three named set-ups, tuned on validation data carved from the training part only."""

from __future__ import annotations

from typing import Any

import scipy.sparse as sp

from nmf_helpers.models import BiasedMF, svd_start
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
    }
    return _fit(Pipeline(train, test, **(settings | changes)), svd_scale=0.15)


def implicit(
    train: sp.spmatrix,
    test: sp.spmatrix | None = None,
    *,
    seed: int = 0,
    n_epochs: int | None = None,
    **changes: Any,
) -> Pipeline:
    """Fit a ranking of items to interactions, by BPR.

    Parameters and result as in `explicit`; the matrices hold ones. The gradient is taken by hand,
    unless a change needs autograd: the same steps, in less than half the time.
    """
    by_hand = {"model", "loss", "dropout", "sparse"}.isdisjoint(changes)
    settings = {
        "model": BiasedMF,
        "n_factors": 128,
        "batch_size": 2048,
        "optimizer": "fused_bpr" if by_hand else "row_sgd",
        "sparse": True,
        "lr": 0.05,
        "lr_schedule": "linear",
        "weight_decay": 0.018,
        "loss": "bpr",
        "metrics": ("auc", "precision@5", "ndcg@10"),
        "n_epochs": 100 if n_epochs is None else n_epochs,
        "seed": seed,
    }
    return _fit(Pipeline(train, test, **(settings | changes)), svd_scale=0.1)


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


def _fit(pipeline: Pipeline, svd_scale: float) -> Pipeline:
    """Start the factors from who rated what, unless the caller chose a start, and train."""
    if not {"init_mean", "init_std"} & set(pipeline.model_options):
        svd_start(pipeline.model, pipeline.fit_part, svd_scale)
    return pipeline.fit()

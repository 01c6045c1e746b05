"""Named set-ups, tuned on validation data carved from the training part only."""

from typing import Any

from nmf_helpers.bayes import BayesianMF
from nmf_helpers.checks import check_matrix
from nmf_helpers.history import History
from nmf_helpers.pipeline import Pipeline

EXPLICIT: dict[str, Any] = {
    "n_factors": 100, "init": "svd", "svd_scale": 0.15, "batch_size": 4096, "sparse": True,
    "optimizer": "row_sgd", "lr": 0.008, "lr_schedule": "linear", "weight_decay": 0.16,
    "loss": "mse", "metrics": ("rmse",), "n_epochs": 36,
}  # fmt: skip
IMPLICIT: dict[str, Any] = {
    "n_factors": 128, "init": "svd", "svd_scale": 0.1, "batch_size": 2048, "sparse": True,
    "optimizer": "row_sgd", "lr": 0.05, "lr_schedule": "linear", "weight_decay": 0.018,
    "loss": "bpr", "n_epochs": 100,
}  # fmt: skip


def explicit(
    train: Any, *, evaluate_on: Any = None, seed: int = 0, n_epochs: int | None = None, **more: Any
) -> Pipeline:
    """Fit a biased matrix factorization to ratings, and return the fitted pipeline.

    `train`, (n_users, n_items), holds ratings on any scale: inside, they are brought to the width
    of one to five stars. All else are settings of `nmf_helpers.pipeline.Pipeline`.
    """
    train = check_matrix("train", train)
    more["n_epochs"] = EXPLICIT["n_epochs"] if n_epochs is None else n_epochs
    unit = (float(train.data.max()) - float(train.data.min())) / 4 or 1.0
    ours = EXPLICIT | {"rating_unit": unit} | more
    return Pipeline(train, evaluate_on=evaluate_on, seed=seed, **ours).fit()


def implicit(
    train: Any, *, evaluate_on: Any = None, seed: int = 0, n_epochs: int | None = None, **more: Any
) -> Pipeline:
    """Fit a ranking of items to interactions, by BPR; otherwise as `explicit`."""
    train = check_matrix("train", train, kind="interactions")
    more["n_epochs"] = IMPLICIT["n_epochs"] if n_epochs is None else n_epochs
    # Unless a change needs autograd, the gradient is taken by hand: the same steps, faster.
    by_hand = {"model", "loss", "dropout", "sparse", "optimizer"}.isdisjoint(more)
    ours = IMPLICIT | {"step": "by_hand" if by_hand else "autograd"}
    if train.shape[1] >= 10:  # a smaller catalogue has no first ten places
        ours["metrics"] = ("auc", "precision@5", "ndcg@10")
    return Pipeline(train, evaluate_on=evaluate_on, seed=seed, **ours | more).fit()


def hogwild(train: Any, *, n_workers: int = 2, **more: Any) -> Pipeline:
    """Fit the `implicit` recipe in several processes that share one set of weights."""
    return implicit(train, n_workers=n_workers, **more)


def bayesian(
    train: Any, *, item_features: Any = None, times: Any = None, evaluate_on: Any = None,
    seed: int = 0,
) -> BayesianMF:  # fmt: skip
    """Fit Bayesian matrix factorization to ratings, with what else is known of them.

    `item_features`, (n_items, f), are as from `nmf_helpers.data.item_features`; `times` holds the
    seconds since 1970 of each rating, where `train`, (n_users, n_items), stores one. The held-out
    ratings in `evaluate_on` are followed: the records are in the model's ``history``.
    """
    model = BayesianMF(seed=seed)
    known = {"item_features": item_features, "times": times, "evaluate_on": evaluate_on}
    model.history = History(model.sweeps(train, **known))
    return model

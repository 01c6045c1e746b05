"""What a student could have installed instead, each as one call, and the values to search.

A ranking peer takes the training matrix, a seed, threads and settings, and returns the score of
every user and item; a rating peer is given pairs as well, and returns their predicted ratings.
`benchmarks.search` chose the settings; the optional dependency group `bench` holds the packages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

Pairs = tuple[np.ndarray, np.ndarray]  # users and items, each (n,)


def implicit_bpr(train: sp.csr_matrix, seed: int, threads: int, **settings: Any) -> np.ndarray:
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(num_threads=threads, random_state=seed, **settings)
    model.fit(train, show_progress=False)
    return model.user_factors @ model.item_factors.T


def implicit_als(train: sp.csr_matrix, seed: int, threads: int, **settings: Any) -> np.ndarray:
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(num_threads=threads, random_state=seed, **settings)
    model.fit(train, show_progress=False)
    return model.user_factors @ model.item_factors.T


def cornac_bpr(train: sp.csr_matrix, seed: int, threads: int, **settings: Any) -> np.ndarray:
    from cornac.models import BPR

    model, data = BPR(num_threads=threads, seed=seed, **settings), _cornac_data(train)
    model.fit(data)
    scores = np.full(train.shape, -np.inf, np.float32)
    known = model.u_factors @ model.i_factors.T + model.i_biases
    scores[np.ix_(list(data.user_ids), list(data.item_ids))] = known
    return scores


def lightfm(
    train: sp.csr_matrix, seed: int, threads: int, alpha: float, epochs: int, **settings: Any
) -> np.ndarray:
    from lightfm import LightFM  # of the package lightfm-next, a fork

    model = LightFM(item_alpha=alpha, user_alpha=alpha, random_state=seed, **settings)
    model.fit(train.tocoo(), epochs=epochs, num_threads=threads)
    return model.user_embeddings @ model.item_embeddings.T + model.item_biases


def surprise_svd(
    train: sp.csr_matrix, pairs: Pairs, seed: int, threads: int, **settings: Any
) -> np.ndarray:
    import pandas as pd
    from surprise import SVD, Dataset, Reader

    entries = train.tocoo()
    table = pd.DataFrame({"user": entries.row, "item": entries.col, "rating": entries.data})
    data = Dataset.load_from_df(table, Reader(rating_scale=(1, 5))).build_full_trainset()
    model = SVD(random_state=seed, **settings)
    model.fit(data)
    users = [data.to_raw_uid(u) for u in data.all_users()]
    items = [data.to_raw_iid(i) for i in data.all_items()]
    predicted = np.full(train.shape, data.global_mean)
    predicted[np.ix_(users, items)] += model.bu[:, None] + model.bi + model.pu @ model.qi.T
    return predicted[pairs]


def cornac_mf(
    train: sp.csr_matrix, pairs: Pairs, seed: int, threads: int, **settings: Any
) -> np.ndarray:
    from cornac.models import MF

    model, data = MF(num_threads=threads, seed=seed, **settings), _cornac_data(train)
    model.fit(data)
    predicted = np.full(train.shape, model.global_mean)
    biases = model.u_biases[:, None] + model.i_biases
    known = biases + model.u_factors @ model.i_factors.T
    predicted[np.ix_(list(data.user_ids), list(data.item_ids))] += known
    return predicted[pairs]


def myfm_ratings(
    train: sp.csr_matrix, pairs: Pairs, seed: int, threads: int, n_iter: int, **settings: Any
) -> np.ndarray:
    from myfm import MyFMRegressor

    def one_hot(users: np.ndarray, items: np.ndarray) -> sp.csr_matrix:
        rows = np.arange(len(users))
        ones = np.ones(len(users))
        return sp.hstack([
            sp.csr_matrix((ones, (rows, users)), (len(users), train.shape[0])),
            sp.csr_matrix((ones, (rows, items)), (len(users), train.shape[1])),
        ]).tocsr()  # fmt: skip

    entries = train.tocoo()
    groups = [0] * train.shape[0] + [1] * train.shape[1]
    model = MyFMRegressor(random_seed=seed, **settings)
    model.fit(
        one_hot(entries.row, entries.col), entries.data.astype(float), n_iter=n_iter,
        n_kept_samples=n_iter - 20, grouping=groups,
    )  # fmt: skip
    return model.predict(one_hot(*pairs))


def _cornac_data(train: sp.csr_matrix):
    from cornac.data import Dataset

    entries = train.tocoo()
    rows = zip(entries.row.tolist(), entries.col.tolist(), entries.data.tolist(), strict=True)
    return Dataset.from_uir(list(rows), seed=0)


Choices = dict[str, tuple]  # the values that a setting is drawn from
LIGHTFM: Choices = {
    "no_components": (32, 64, 100, 128), "learning_rate": (0.01, 0.02, 0.05, 0.1),
    "alpha": (0.0, 1e-6, 1e-5, 1e-4, 3e-4), "epochs": (20, 40, 60, 100),
}  # fmt: skip
RANKING: dict[str, tuple[Callable[..., np.ndarray], Choices]] = {
    "implicit ALS": (implicit_als, {
        "factors": (16, 24, 32, 48, 64), "regularization": (1.0, 3.0, 10.0, 20.0, 30.0),
        "alpha": (1.0, 2.0, 5.0, 10.0, 20.0), "iterations": (10, 15, 30),
    }),
    "implicit BPR": (implicit_bpr, {
        "factors": (32, 64, 100, 128), "learning_rate": (0.005, 0.01, 0.02, 0.05, 0.1),
        "regularization": (0.003, 0.01, 0.02, 0.05, 0.1), "iterations": (50, 100, 200, 300),
    }),
    "LightFM BPR": (lightfm, {"loss": ("bpr",)} | LIGHTFM),
    "LightFM WARP": (lightfm, {"loss": ("warp",)} | LIGHTFM | {"max_sampled": (10, 30)}),
    "cornac BPR": (cornac_bpr, {
        "k": (32, 64, 100, 128), "learning_rate": (0.01, 0.02, 0.05, 0.1),
        "lambda_reg": (0.005, 0.01, 0.02, 0.03, 0.05), "max_iter": (50, 100, 200, 300),
    }),
}  # fmt: skip
RATING: dict[str, tuple[Callable[..., np.ndarray], Choices]] = {
    "Surprise SVD": (surprise_svd, {
        "n_factors": (50, 100, 200), "lr_all": (0.003, 0.005, 0.01, 0.02),
        "reg_all": (0.05, 0.08, 0.1, 0.13), "n_epochs": (20, 40, 80, 120),
        "init_std_dev": (0.02, 0.1),
    }),
    "cornac MF": (cornac_mf, {
        "k": (20, 50, 100, 200), "learning_rate": (0.002, 0.005, 0.01, 0.02),
        "lambda_reg": (0.04, 0.06, 0.08, 0.1, 0.13), "max_iter": (25, 50, 100, 200),
    }),
    "myFM": (myfm_ratings, {
        "rank": (4, 6, 8, 10, 16), "init_stdev": (0.05, 0.1, 0.3), "alpha_0": (0.5, 1.0, 4.0),
        "n_iter": (200, 300, 500),
    }),
}  # fmt: skip
BEFORE: dict[str, dict[str, Any]] = {  # the best of shorter searches by hand
    "implicit ALS": {"factors": 32, "regularization": 10.0, "alpha": 5.0, "iterations": 15},
    "implicit BPR": {
        "factors": 100, "learning_rate": 0.01, "regularization": 0.01, "iterations": 100
    },
    "LightFM BPR": {
        "loss": "bpr", "no_components": 64, "learning_rate": 0.05, "alpha": 1e-4, "epochs": 60
    },
    "LightFM WARP": {
        "loss": "warp", "no_components": 64, "learning_rate": 0.02, "alpha": 0.0, "epochs": 60
    },
    "cornac BPR": {"k": 64, "learning_rate": 0.05, "lambda_reg": 0.02, "max_iter": 200},
    "EASE": {"l2": 500.0},
    "Surprise SVD": {"n_factors": 200, "n_epochs": 80, "lr_all": 0.005, "reg_all": 0.1},
    "cornac MF": {"k": 50, "max_iter": 100, "learning_rate": 0.005, "lambda_reg": 0.08},
    "myFM": {"rank": 10, "n_iter": 300},
    "myFM, film facts, dates": {"rank": 10, "n_iter": 500},
}  # fmt: skip

"""What a student could have installed instead, with settings tuned on a part of train.

Each takes the training matrix and a number of threads, and fits. A ranking peer returns the score
of every user and item; a rating peer is given pairs as well, and returns their predicted ratings.
A peer that is not installed is skipped; the optional dependency group `bench` holds them all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

Pairs = tuple[np.ndarray, np.ndarray]  # users and items, each (n,)


def implicit_bpr(train: sp.csr_matrix, threads: int) -> np.ndarray:
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(
        factors=100, learning_rate=0.01, regularization=0.01, iterations=100,
        num_threads=threads, random_state=0,
    )  # fmt: skip
    model.fit(train, show_progress=False)
    return model.user_factors @ model.item_factors.T


def implicit_als(train: sp.csr_matrix, threads: int) -> np.ndarray:
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors=32, regularization=10, alpha=5, num_threads=threads, random_state=0
    )
    model.fit(train, show_progress=False)
    return model.user_factors @ model.item_factors.T


def cornac_bpr(train: sp.csr_matrix, threads: int) -> np.ndarray:
    from cornac.models import BPR

    model = BPR(
        k=64, max_iter=200, learning_rate=0.05, lambda_reg=0.02, num_threads=threads, seed=0
    )
    data = _cornac_data(train)
    model.fit(data)
    scores = np.full(train.shape, -np.inf, np.float32)
    known = model.u_factors @ model.i_factors.T + model.i_biases
    scores[np.ix_(list(data.user_ids), list(data.item_ids))] = known
    return scores


def lightfm_warp(train: sp.csr_matrix, threads: int) -> np.ndarray:
    return _lightfm("warp", train, threads)


def lightfm_bpr(train: sp.csr_matrix, threads: int) -> np.ndarray:
    return _lightfm("bpr", train, threads)


def surprise_svd(train: sp.csr_matrix, pairs: Pairs, threads: int) -> np.ndarray:
    import pandas as pd
    from surprise import SVD, Dataset, Reader

    entries = train.tocoo()
    table = pd.DataFrame({"user": entries.row, "item": entries.col, "rating": entries.data})
    data = Dataset.load_from_df(table, Reader(rating_scale=(1, 5))).build_full_trainset()
    model = SVD(n_factors=200, n_epochs=80, lr_all=0.005, reg_all=0.1, random_state=0)
    model.fit(data)
    users = [data.to_raw_uid(u) for u in data.all_users()]
    items = [data.to_raw_iid(i) for i in data.all_items()]
    predicted = np.full(train.shape, data.global_mean)
    predicted[np.ix_(users, items)] += model.bu[:, None] + model.bi + model.pu @ model.qi.T
    return predicted[pairs]


def cornac_mf(train: sp.csr_matrix, pairs: Pairs, threads: int) -> np.ndarray:
    from cornac.models import MF

    data = _cornac_data(train)
    model = MF(
        k=50, max_iter=100, learning_rate=0.005, lambda_reg=0.08, num_threads=threads, seed=0
    )
    model.fit(data)
    predicted = np.full(train.shape, model.global_mean)
    biases = model.u_biases[:, None] + model.i_biases
    known = biases + model.u_factors @ model.i_factors.T
    predicted[np.ix_(list(data.user_ids), list(data.item_ids))] += known
    return predicted[pairs]


def myfm_ratings(train: sp.csr_matrix, pairs: Pairs, threads: int) -> np.ndarray:
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
    model = MyFMRegressor(rank=10, random_seed=0)
    model.fit(
        one_hot(entries.row, entries.col), entries.data.astype(float), n_iter=300,
        n_kept_samples=280, grouping=groups,
    )  # fmt: skip
    return model.predict(one_hot(*pairs))


RANKING: dict[str, Callable[[sp.csr_matrix, int], np.ndarray]] = {
    "implicit ALS": implicit_als,
    "implicit BPR": implicit_bpr,
    "LightFM BPR": lightfm_bpr,
    "LightFM WARP": lightfm_warp,
    "cornac BPR": cornac_bpr,
}
RATING: dict[str, Callable[[sp.csr_matrix, Pairs, int], np.ndarray]] = {
    "Surprise SVD": surprise_svd,
    "cornac MF": cornac_mf,
    "myFM": myfm_ratings,
}
EPOCHS = {  # passes over the data in one fit, where that is what a fit does
    "implicit BPR": 100, "LightFM BPR": 60, "LightFM WARP": 60, "cornac BPR": 200,
    "Surprise SVD": 80, "cornac MF": 100,
}  # fmt: skip


def _cornac_data(train: sp.csr_matrix):
    from cornac.data import Dataset

    entries = train.tocoo()
    rows = zip(entries.row.tolist(), entries.col.tolist(), entries.data.tolist(), strict=True)
    return Dataset.from_uir(list(rows), seed=0)


def _lightfm(loss: str, train: sp.csr_matrix, threads: int) -> np.ndarray:
    from lightfm import LightFM  # of the package lightfm-next, a fork

    alpha = 0.0 if loss == "warp" else 1e-4  # weight decay
    model = LightFM(
        no_components=64, loss=loss, learning_rate=0.02 if loss == "warp" else 0.05,
        item_alpha=alpha, user_alpha=alpha, random_state=0,
    )  # fmt: skip
    model.fit(train.tocoo(), epochs=60, num_threads=threads)
    users, items = model.user_embeddings, model.item_embeddings
    return users @ items.T + model.item_biases

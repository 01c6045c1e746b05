"""Right answers to the exercises, other than the solutions.

Beside them, test_exercises tries the solutions' own numbers as lists, tensors and fractions.
"""

import math
from fractions import Fraction
from math import comb

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from nmf_helpers.data import encode_column, encode_ratings
from nmf_helpers.losses import bpr_loss
from nmf_helpers.models import MF, BiasedMF, CollabFNet


def last_by_size(ratings, n):  # it needs a rating in the table
    by_time = ratings.sort_values("timestamp", kind="stable")
    place = by_time.groupby("userId").cumcount()
    counts = by_time.groupby("userId")["rating"].transform("size")
    return (place >= counts - n).reindex(ratings.index)


def last_in_another_order(ratings, n):
    by_time = ratings.sort_values("timestamp", ascending=False)
    return by_time.groupby("userId").cumcount() < n


def coded_one_by_one(train, validation):
    return [encode_ratings(train), encode_ratings(df=validation, train=train).assign(mine=1)]


def coded_with_another_index(train, validation):
    return encode_ratings(train), encode_ratings(validation, train).set_index("timestamp")


def rmse_in_a_loop(predictions, ratings):
    if predictions.shape != ratings.shape:
        raise ValueError("shapes differ")
    squares = [(a - b) ** 2 for a, b in zip(predictions, ratings, strict=True)]
    return math.sqrt(sum(squares) / len(squares))


def ridge_by_descent(item_factors, ratings, strength):
    p = np.zeros(item_factors.shape[1])
    for _ in range(20_000):
        p -= 0.01 * (item_factors.T @ (item_factors @ p - ratings) + strength * p)
    return p.tolist()


def model(base, forward):
    """A class with another forward."""
    return type("Answer", (base,), {"forward": forward})


def trained(model, n_epochs, lr):
    users, items = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1])
    optimizer = torch.optim.SGD(model.parameters(), lr=min(lr, 1e-2))
    for epoch in range(n_epochs + 1):
        loss = F.mse_loss(model(users, items), torch.tensor([5.0, 3.0, 1.0]))
        if epoch < n_epochs:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return loss


def seeded(draw):
    def experiment(seed):
        torch.manual_seed(seed)
        return draw()

    return experiment


def by_autograd(p, q, rating, lr, weight_decay):
    p, q = (torch.tensor(v, requires_grad=True) for v in (p, q))
    ((rating - p @ q) ** 2 + weight_decay * (p @ p + q @ q) / 2).backward()
    return [p - lr * p.grad, q - lr * q.grad]


class Repaired(CollabFNet):
    def __init__(self, n_users, n_items, n_factors=50, n_hidden=10):
        super().__init__(n_users, n_items, n_factors, n_hidden=n_hidden)


def network(m, users, items, bend):
    x = torch.cat([m.user_factors(users), m.item_factors(items)], -1)
    return m.output(bend(m.hidden(x)))


def stopped_by_running_minimum(validation_scores, patience):  # takes an array
    best = np.minimum.accumulate(validation_scores)
    for epoch in range(patience, validation_scores.size):
        if best[epoch] == best[epoch - patience]:
            return validation_scores[: epoch + 1].argmin() + 1
    return validation_scores.argmin() + 1


def precision_on_copies(scores, test, train, k):
    scores[train == 1] = -np.inf
    best = scores.argsort(axis=1)[:, ::-1][:, :k]
    hits = pd.DataFrame(np.take_along_axis(test, best, 1)).mean(axis=1)
    return hits[test.sum(1) > 0].mean()


def listed(scores, train, k):
    lists = []
    for user, row in enumerate(scores.tolist()):
        free = [i for i in range(len(row)) if train[user, i] == 0]
        lists.append(sorted(free, key=lambda i: -row[i])[:k])
    return lists


def dealt(n_samples, n_workers, seed):
    order = np.random.RandomState(seed).permutation(n_samples)
    return tuple(order[rank::n_workers] for rank in range(n_workers))


def chunks(n_samples, n_workers, seed):
    order = torch.randperm(n_samples, generator=torch.Generator().manual_seed(seed))
    return list(order.chunk(n_workers))


def walk(cut):
    """Four workers' ways through 42 entries."""

    def worker(rank, seed=2017):
        return cut(torch.randperm(42, generator=torch.Generator().manual_seed(seed)), rank)

    return worker


RIGHT = {
    "1.1": [lambda r: len(r) / len(set(r.userId)) / len(set(r.movieId))],
    "1.2": [
        lambda c, k: pd.Series(c).map({v: i for i, v in enumerate(dict.fromkeys(k))}).fillna(-1),
        lambda c, k: encode_column(pd.Series(c), train_column=pd.Series(k))[1],
    ],
    "1.3": [last_by_size, last_in_another_order],
    "1.bug1": [coded_one_by_one, coded_with_another_index],
    "2.1": [lambda p, q, u, i: (p @ q.T)[u, i]],
    "2.2": [rmse_in_a_loop],
    "2.3": [lambda mean, n: (mean / n) ** 0.5, lambda mean, n: torch.full((1,), mean / n).sqrt()],
    "2.4": [ridge_by_descent],
    "2.bug1": [
        MF,
        model(MF, lambda m, u, i: MF.forward(m, u, i).unsqueeze(1).squeeze(1)),
    ],
    "2.bug2": [
        trained,
        lambda *a: trained(*a).item(),
    ],
    "3.1": [
        lambda d, s: sum(d) / max(len(d) + s, 1),
        lambda d, s: np.append(d, np.zeros(s)).mean(),
    ],
    "3.2": [by_autograd],
    "3.3": [
        lambda a, b: ((a - b).mean(), stats.sem(a - b)),
        lambda a, b: torch.tensor([np.mean(a - b), pd.Series(a - b).sem()]),
    ],
    "3.bug1": [
        seeded(lambda: BiasedMF(3, 2, 5).user_factors.weight.sum().item()),
        seeded(lambda: {"validation_rmse": torch.rand(3).tolist()}),
    ],
    "3.bug2": [
        BiasedMF,
        model(BiasedMF, lambda m, u, i: BiasedMF.forward(m, u, i)[:, None][:, 0]),
    ],
    "4.1": [lambda u, i, k, h: sum([u * k, i * k, 2 * k * h, h, h, 1])],
    "4.2": [
        lambda p, q, a, b: b(F.gelu(a(torch.hstack([p, q]))))[:, 0],
        lambda p, q, a, b: nn.Sequential(a, nn.GELU(), b)(torch.cat((p, q), 1)).flatten(),
        lambda p, q, a, b: [b(F.gelu(a(torch.cat(v))))[0] for v in zip(p, q, strict=True)],
    ],
    "4.3": [
        lambda a, b, square: sum([square(a + b), -square(a), -square(b)]) / 2,
        lambda a, b, square: square((a + b) / 2) - square((a - b) * 0.5),
    ],
    "4.bug1": [
        Repaired,
        model(Repaired, lambda m, u, i: network(m, u, i, F.gelu)[:, 0]),
        model(Repaired, lambda m, u, i: network(m, u, i, torch.tanh).flatten()),
    ],
    "5.1": [lambda d, n: pd.DataFrame(d)[n:].mean().clip(1, 5)],
    "5.2": [stopped_by_running_minimum],
    "5.3": [lambda v, t: np.mean([b[a.argmin()] - b.min() for a, b in zip(v, t, strict=True)])],
    "5.bug1": [
        lambda v, t: t[v.argmin()],
        lambda v, t: min(zip(v, t, strict=True))[1],
    ],
    "6.1": [lambda p, a, b: [-x / (1 + np.exp(p @ a - p @ b)) for x in a - b]],
    "6.2": [precision_on_copies],
    "6.3": [
        lambda n, above, drawn, k: stats.hypergeom.cdf(k - 1, n, above, drawn),
        lambda n, above, drawn, k: sum(
            Fraction(comb(above, i) * comb(n - above, drawn - i), comb(n, drawn)) for i in range(k)
        ),
    ],
    "6.bug1": [
        lambda u, i, m: m[u, i] == 0,
        lambda u, i, m: not m.toarray()[u, i],
    ],
    "6.bug2": [
        lambda x: F.softplus(-x),
        lambda x: bpr_loss(x, torch.zeros_like(x)),
    ],
    "6.bug3": [
        listed,
        lambda s, train, k: torch.tensor(s - 99 * train.toarray()).topk(k).indices,
    ],
    "7.1": [dealt, chunks],
    "7.2": [
        lambda *three: int("1{:03}{:03}{:03}".format(*three)),
        lambda *three: np.ravel_multi_index(three, (1000,) * 3),
        lambda *three: np.random.SeedSequence(three).generate_state(1, np.uint64)[0],
    ],
    "7.3": [lambda s, a, t: np.floor(s / (a - t)) + 1 if a > t else np.inf],
    "7.bug1": [
        walk(lambda order, rank: np.array_split(order.numpy(), 4)[rank]),
        walk(lambda order, rank: order.tensor_split(4)[rank].tolist()),
    ],
}

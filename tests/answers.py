"""Right answers to the exercises, other than the solutions.

Beside them, test_exercises tries the solutions' own numbers as lists, tensors and columns.
"""

import math
from fractions import Fraction
from math import comb

import numpy as np
import pandas as pd
import torch
from scipy import stats

from nmf_helpers.data import encode_column

# An exercise | a piece of its solution | another way to write that.
REWRITTEN = """
1.bug1 | (validation, train) | (df=validation, train=train).assign(mine=1)
1.bug1 | (validation, train) | (validation, train).set_index("timestamp")
2.bug1 | super().forward(users, items) | MF.forward(self, users, items).unsqueeze(1).squeeze(1)
2.bug1 | super().forward(users, items) | super().forward(users, items)[:, None].sum(1)
2.bug2 | return mean_loss(model, [train_batch]) | return F.mse_loss(model(users, items), ratings)
2.bug2 | return mean_loss(model, [train_batch]) | return np.float64(mean_loss(model, [train_batch]))
3.bug1 | last["train_loss"] | model.user_factors.weight.sum()
3.bug1 | last["train_loss"] | {"validation_rmse": torch.rand(3).tolist()}
3.bug2 | .squeeze(-1) | [:, 0]
3.bug2 | .squeeze(-1) | .flatten()
4.2 | F.gelu(hidden(x)) | nn.GELU()(hidden(x))
4.2 | output(x).squeeze(-1) | [one[0] for one in output(x)]
4.3 | (square(a + b) - square(a - b)) / 4 | sum([square(a + b), -square(a), -square(b)]) / 2
4.3 | (square(a + b) - square(a - b)) / 4 | square((a + b) / 2) - square((a - b) * 0.5)
4.bug1 | F.relu(self.hidden | F.gelu(self.hidden
4.bug1 | F.relu(self.hidden | torch.tanh(self.hidden
5.bug1 | test_curve[np.argmin(validation_curve)] | test_curve[validation_curve.argmin()]
5.bug1 | test_curve[np.argmin(validation_curve)] | min(zip(validation_curve, test_curve))[1]
6.bug1 | item not in matrix.indices[start:end] | matrix[user, item] == 0
6.bug1 | item not in matrix.indices[start:end] | not matrix.toarray()[user, item]
6.bug2 | -F.logsigmoid(difference) | F.softplus(-difference)
6.bug2 | -F.logsigmoid(difference) | -torch.log(torch.sigmoid(difference))
6.bug3 | np.argsort(-candidates, axis=1)[:, :k] | torch.tensor(candidates).topk(k).indices
6.bug3 | np.argsort(-candidates, axis=1)[:, :k] | [row.argsort()[::-1][:k] for row in candidates]
7.1 | default_rng(seed) | RandomState(seed)
7.1 | np.array_split(order, n_workers) | [order[n::n_workers].tolist() for n in range(n_workers)]
7.1 | np.array_split(order, n_workers) | torch.tensor(order).chunk(n_workers)
7.2 | (seed * 1000 + epoch) * 1000 + rank | int(f"1{seed:03}{epoch:03}{rank:03}")
7.2 | (seed * 1000 + epoch) * 1000 + rank | np.ravel_multi_index((seed, epoch, rank), (1000,) * 3)
7.bug1 | .chunk(4)[rank] | [rank::4]
7.bug1 | .chunk(4)[rank] | .tensor_split(4)[rank].tolist()
"""


def last_by_size(ratings, n):  # it needs a rating in the table
    by_time = ratings.sort_values("timestamp", kind="stable")
    place = by_time.groupby("userId").cumcount()
    counts = by_time.groupby("userId")["rating"].transform("size")
    return (place >= counts - n).reindex(ratings.index)


def last_in_another_order(ratings, n):
    by_time = ratings.sort_values("timestamp", ascending=False)
    return by_time.groupby("userId").cumcount() < n


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


def by_autograd(p, q, rating, lr, weight_decay):
    p, q = (torch.tensor(v, requires_grad=True) for v in (p, q))
    ((rating - p @ q) ** 2 + weight_decay * (p @ p + q @ q) / 2).backward()
    return [p - lr * p.grad, q - lr * q.grad]


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


WRITTEN = {
    "1.1": [lambda r: len(r) / len(set(r.userId)) / len(set(r.movieId))],
    "1.2": [
        lambda c, k: pd.Series(c).map({v: i for i, v in enumerate(dict.fromkeys(k))}).fillna(-1),
        lambda c, k: encode_column(pd.Series(c), train_column=pd.Series(k))[1],
    ],
    "1.3": [last_by_size, last_in_another_order],
    "2.1": [lambda p, q, u, i: (p @ q.T)[u, i]],
    "2.2": [rmse_in_a_loop],
    "2.3": [lambda mean, n: (mean / n) ** 0.5, lambda mean, n: torch.full((1,), mean / n).sqrt()],
    "2.4": [ridge_by_descent],
    "3.1": [
        lambda d, s: sum(d) / max(len(d) + s, 1),
        lambda d, s: np.append(d, np.zeros(s)).mean(),
    ],
    "3.2": [by_autograd],
    "3.3": [
        lambda a, b: ((a - b).mean(), stats.sem(a - b)),
        lambda a, b: torch.tensor([np.mean(a - b), pd.Series(a - b).sem()]),
    ],
    "4.1": [lambda u, i, k, h: sum([u * k, i * k, 2 * k * h, h, h, 1])],
    "5.1": [lambda d, n: pd.DataFrame(d)[n:].mean().clip(1, 5)],
    "5.2": [stopped_by_running_minimum],
    "5.3": [lambda v, t: np.mean([b[a.argmin()] - b.min() for a, b in zip(v, t, strict=True)])],
    "6.1": [lambda p, a, b: [-x / (1 + np.exp(p @ a - p @ b)) for x in a - b]],
    "6.2": [precision_on_copies],
    "6.3": [
        lambda n, above, drawn, k: stats.hypergeom.cdf(k - 1, n, above, drawn),
        lambda n, above, drawn, k: sum(
            Fraction(comb(above, i) * comb(n - above, drawn - i), comb(n, drawn)) for i in range(k)
        ),
    ],
    "7.3": [lambda s, a, t: np.floor(s / (a - t)) + 1 if a > t else np.inf],
}

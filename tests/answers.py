"""Answers to the exercises: right ones of many kinds, and mistakes that people make.

A mistake is a function, or a piece of the solution and what somebody wrote in its place.
"""

import math
from functools import reduce

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from nmf_helpers.data import encode_column, encode_ratings
from nmf_helpers.losses import bpr_loss
from nmf_helpers.models import MF, BiasedMF, CollabFNet


def by_loop_over_rows(ratings):
    cells = [[0] * len(set(ratings.movieId)) for _ in set(ratings.userId)]
    return len(ratings) / sum(map(len, cells))


def first_places(column, known):
    order = list(dict.fromkeys(known))
    return [order.index(value) if value in order else -1 for value in column]


def last_by_size(ratings, n):  # the case that was once refused: it needs a rating in the table
    by_time = ratings.sort_values("timestamp", kind="stable")
    place = by_time.groupby("userId").cumcount()
    counts = by_time.groupby("userId")["rating"].transform("size")
    return (place >= counts - n).reindex(ratings.index)


def last_by_key(ratings, n):  # and this one a film
    last = ratings.sort_values("timestamp").groupby("userId").tail(n)
    key = ["userId", "movieId"]
    return ratings.set_index(key).index.isin(last.set_index(key).index)


def last_in_another_order(ratings, n):
    by_time = ratings.sort_values("timestamp", ascending=False)
    return by_time.groupby("userId").cumcount() < n


def last_by_loop(ratings, n):
    rows = list(zip(ratings.userId, ratings.timestamp, strict=True))
    return [sorted((t for v, t in rows if v == u), reverse=True)[:n].count(time) > 0
            for u, time in rows]  # fmt: skip


def coded_by_hand(train, validation):
    users, items = (encode_column(train[c])[0] for c in ("userId", "movieId"))
    known = validation[validation.userId.isin(users) & validation.movieId.isin(items)]
    return encode_ratings(train), known.assign(
        userId=known.userId.map(users), movieId=known.movieId.map(items)
    )


def coded_one_by_one(train, validation):
    return [encode_ratings(train), encode_ratings(df=validation, train=train).assign(mine=1)]


def coded_with_another_index(train, validation):
    return encode_ratings(train), encode_ratings(validation, train).set_index("timestamp")


def dot_by_loop(user_factors, item_factors, users, items):
    products = []
    for u, i in zip(users, items, strict=True):
        products.append(sum(a * b for a, b in zip(user_factors[u], item_factors[i], strict=True)))
    return products


def guarded(body):
    """An answer to 2.2 with another way to the same number."""

    def rms_error(predictions, ratings):
        if predictions.shape != ratings.shape:
            raise ValueError("shapes differ")
        return body(predictions, ratings)

    return rms_error


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
    ((rating - p @ q) ** 2 / 2 + weight_decay * (p @ p + q @ q) / 2).backward()
    return [p - lr * p.grad, q - lr * q.grad]


def step_in_loops(p, q, rating, lr, weight_decay):
    e = rating - sum(p * q)
    both = list(zip(p, q, strict=True))
    return ([a + lr * (e * b - weight_decay * a) for a, b in both],
            [b + lr * (e * a - weight_decay * b) for a, b in both])  # fmt: skip


def second_sees_the_first(p, q, rating, lr, weight_decay):
    error = rating - p @ q
    p = p + lr * (error * q - weight_decay * p)
    return p, q + lr * (error * p - weight_decay * q)


def step_in_place(p, q, rating, lr, weight_decay):
    error = rating - p @ q
    p += lr * (error * q - weight_decay * p)
    q += lr * (error * p - weight_decay * q)
    return p, q


def spread_by_hand(a, b):
    gaps = [float(x) - float(y) for x, y in zip(a, b, strict=True)]
    mean, n = sum(gaps) / len(gaps), len(gaps)
    return [mean, math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (n - 1) / n)]


def counted_by_torch(n_users, n_items, n_factors, n_hidden):
    network = CollabFNet(n_users, n_items, n_factors, n_hidden=n_hidden)
    return sum(p.numel() for p in network.parameters())


def network_by_hand(p, q, hidden, output):
    said = []
    for x in torch.cat([p, q], 1).tolist():
        z = [sum(w * v for w, v in zip(row, x, strict=True)) + b
             for row, b in zip(hidden.weight.tolist(), hidden.bias.tolist(), strict=True)]  # fmt: skip  # noqa: E501
        bent = [v * (1 + math.erf(v / 2**0.5)) / 2 for v in z]
        said.append(sum(w * v for w, v in zip(output.weight[0].tolist(), bent, strict=True)))
    return np.array(said) + output.bias.item()


class Repaired(CollabFNet):
    """The same repair as a class of the package has it, with factors first."""

    def __init__(self, n_users, n_items, n_factors=50, n_hidden=10):
        super().__init__(n_users, n_items, n_factors, n_hidden=n_hidden)


class InOneGo(Repaired):
    def forward(self, users, items):
        x = torch.cat([self.user_factors(users), self.item_factors(items)], -1)
        return self.output(F.gelu(self.hidden(x)))[:, 0]


class Smooth(Repaired):
    def forward(self, users, items):
        x = torch.hstack([self.user_factors(users), self.item_factors(items)])
        return self.output(torch.tanh(self.hidden(x))).flatten()


def bending(bend):
    """Repaired, with an activation on the vectors once more."""

    class Bent(Repaired):
        def forward(self, users, items):
            x = torch.cat([bend(self.user_factors(users)), bend(self.item_factors(items))], 1)
            return self.output(F.gelu(self.hidden(x))).squeeze(-1)

    return Bent


def averaged_in_loops(draws, n_burn_in):
    kept = [list(row) for row in draws][n_burn_in:]
    return [min(5, max(1, sum(column) / len(kept))) for column in zip(*kept, strict=True)]


def stopped(validation_scores, patience):
    scores = list(validation_scores)
    for epoch in range(1, len(scores) + 1):
        best = scores.index(min(scores[:epoch])) + 1
        if epoch - best >= patience:
            return best
    return best


def stopped_by_running_minimum(validation_scores, patience):  # takes an array
    best = np.minimum.accumulate(validation_scores)
    for epoch in range(patience, validation_scores.size):
        if best[epoch] == best[epoch - patience]:
            return validation_scores[: epoch + 1].argmin() + 1
    return validation_scores.argmin() + 1


def stopped_with_a_counter(validation_scores, patience):
    best, kept, waited = math.inf, 0, 0
    for epoch, score in enumerate(validation_scores, 1):
        if score < best:
            best, kept, waited = score, epoch, 0
        else:
            waited += 1
        if waited == patience:
            break
    return kept


def optimism_in_loops(validation, test):
    gaps = [t[list(v).index(min(v))] - min(t) for v, t in zip(validation, test, strict=True)]
    return sum(gaps) / len(gaps)


def gradient_by_torch(p, positive, negative):
    p = torch.tensor(p, requires_grad=True)
    F.softplus(-(p @ torch.tensor(positive - negative))).backward()
    return p.grad


def precision_in_loops(scores, test, train, k):
    each = []
    for row, hidden, seen in zip(scores, test, train, strict=True):
        order = sorted((i for i in range(len(row)) if not seen[i]), key=lambda i: -row[i])
        if sum(hidden):
            each.append(sum(hidden[i] for i in order[:k]) / k)
    return sum(each) / len(each)


def precision_by_torch(scores, test, train, k):
    masked = torch.tensor(scores).masked_fill(torch.tensor(train) > 0, -torch.inf)
    asked = torch.tensor(test)[torch.tensor(test).any(1)]
    best = masked[torch.tensor(test).any(1)].topk(k).indices
    return asked.gather(1, best).double().mean()


def precision_on_copies(scores, test, train, k):
    scores[train == 1] = -np.inf
    best = scores.argsort(axis=1)[:, ::-1][:, :k]
    hits = pd.DataFrame(np.take_along_axis(test, best, 1)).mean(axis=1)
    return hits[test.sum(1) > 0].mean()


def chance_of_exact(n_others, n_above, n_drawn, k):
    draw = stats.hypergeom(n_others, n_above, n_drawn)
    return sum(draw.pmf(range(k)))


def chance_by_steps(n_others, n_above, n_drawn, k):
    odds = {0: 1.0}  # of so many higher films after each draw
    for drawn in range(n_drawn):
        new = {}
        for above, p in odds.items():
            higher = (n_above - above) / (n_others - drawn)
            for found, q in ((above + 1, p * higher), (above, p * (1 - higher))):
                new[found] = new.get(found, 0) + q
        odds = new
    return sum(p for above, p in odds.items() if above < k)


def published_sampler(user, item, matrix):
    start, end = matrix.indptr[user], matrix.indptr[user + 1]
    place = np.searchsorted(matrix.indices[start:end], item, side="right")
    return place < end - start and matrix.indices[place] != item


def searched(user, item, matrix):
    mine = matrix.indices[matrix.indptr[user] : matrix.indptr[user + 1]]
    place = np.searchsorted(mine, item)
    return place == len(mine) or mine[place] != item


def listed(scores, train, k):
    lists = []
    for user, row in enumerate(scores.tolist()):
        free = [i for i in range(len(row)) if train[user, i] == 0]
        lists.append(sorted(free, key=lambda i: -row[i])[:k])
    return lists


def listed_by_torch(scores, train, k):
    rated = torch.tensor(train.toarray()) > 0
    return torch.tensor(scores).masked_fill(rated, -torch.inf).topk(k).indices


def masks_the_scores_it_was_given(scores, train, k):
    scores[train.nonzero()] = -np.inf
    return np.argsort(-scores, axis=1)[:, :k]


def dealt(n_samples, n_workers, seed):
    order = np.random.RandomState(seed).permutation(n_samples)
    return tuple(order[rank::n_workers] for rank in range(n_workers))


def chunks(n_samples, n_workers, seed):
    order = torch.randperm(n_samples, generator=torch.Generator().manual_seed(seed))
    return list(order.chunk(n_workers))


def with_rest_to_the_last(n_samples, n_workers, seed):
    order = np.random.default_rng(seed).permutation(n_samples).tolist()
    size = n_samples // n_workers
    cut = [order[size * rank : size * (rank + 1)] for rank in range(n_workers)]
    return [*cut[:-1], cut[-1] + order[size * n_workers :]]


def pays_by_loop(start_up, alone, together):
    epochs = (n for n in range(1, 1000) if start_up + n * together < n * alone)
    return next(epochs, float("inf"))


def walk(cut):
    """Four workers' ways through 42 entries."""

    def worker(rank, seed=2017):
        return cut(torch.randperm(42, generator=torch.Generator().manual_seed(seed)), rank)

    return worker


RIGHT = {
    "1.1": [
        by_loop_over_rows,
        lambda r: (
            r.pivot(index="userId", columns="movieId", values="rating").notna().to_numpy().mean()
        ),
        lambda r: torch.tensor(len(r) / np.unique(r.userId).size / np.unique(r.movieId).size),
    ],
    "1.2": [
        first_places,
        lambda c, k: pd.Series(c).map({v: i for i, v in enumerate(dict.fromkeys(k))}).fillna(-1),
        lambda c, k: encode_column(pd.Series(c), train_column=pd.Series(k))[1],
    ],
    "1.3": [last_by_size, last_by_key, last_by_loop, last_in_another_order],
    "1.bug1": [coded_by_hand, coded_one_by_one, coded_with_another_index],
    "2.1": [
        dot_by_loop,
        lambda p, q, u, i: np.einsum("nk,nk->n", p[u], q[i]),
        lambda p, q, u, i: torch.tensor((p @ q.T)[u, i]).float(),
    ],
    "2.2": [
        guarded(lambda p, r: math.sqrt(sum((a - b) ** 2 for a, b in zip(p, r)) / len(p))),  # noqa: B905
        guarded(lambda p, r: F.mse_loss(torch.tensor(p), torch.tensor(r)) ** 0.5),
        guarded(lambda p, r: np.linalg.norm(p - r) / len(p) ** 0.5),
    ],
    "2.3": [
        lambda mean, n: (mean / n) ** 0.5,
        lambda mean, n: math.sqrt(mean) / math.sqrt(n),
        lambda mean, n: torch.full((1,), mean / n).sqrt(),
    ],
    "2.bug1": [
        MF,
        model(MF, lambda m, u, i: (m.user_factors(u) * m.item_factors(i)).sum(1)),
        model(MF, lambda m, u, i: MF.forward(m, u, i).unsqueeze(1).squeeze(1)),
    ],
    "2.bug2": [
        trained,
        lambda *a, **k: trained(*a, **k).item(),
        lambda *a, **k: np.float64(trained(*a, **k).item()),
    ],
    "3.1": [
        lambda d, s: sum(d) / max(len(d) + s, 1),
        lambda d, s: np.append(d, np.zeros(s)).mean(),
        lambda d, s: reduce(float.__add__, map(float, d), 0.0) / (d.size + s),
    ],
    "3.2": [by_autograd, step_in_loops, lambda *a: np.array(step_in_loops(*a))],
    "3.3": [
        spread_by_hand,
        lambda a, b: ((a - b).mean(), stats.sem(a - b)),
        lambda a, b: torch.tensor([np.mean(a - b), pd.Series(a - b).sem()]),
    ],
    "3.bug1": [
        seeded(lambda: BiasedMF(3, 2, 5).user_factors.weight.sum().item()),
        seeded(lambda: torch.rand(())),
        seeded(lambda: {"validation_rmse": torch.rand(3).tolist()}),
    ],
    "3.bug2": [
        BiasedMF,
        model(BiasedMF, lambda m, u, i: BiasedMF.forward(m, u, i)[:, None].flatten()),
        model(BiasedMF, lambda m, u, i: BiasedMF.forward(m, u, i)[:, None][:, 0]),
    ],
    "4.1": [
        counted_by_torch,
        lambda u, i, k, h: np.int64(u * k + i * k + (2 * k + 1) * h + h + 1),
        lambda u, i, k, h: sum([u * k, i * k, 2 * k * h, h, h, 1]),
    ],
    "4.2": [
        network_by_hand,
        lambda p, q, a, b: b(F.gelu(a(torch.hstack([p, q]))))[:, 0],
        lambda p, q, a, b: nn.Sequential(a, nn.GELU(), b)(torch.cat((p, q), 1)).flatten().tolist(),
    ],
    "4.3": [
        lambda a, b, square: 0.5 * (square(a + b) - square(a) - square(b)),
        lambda a, b, square: sum([square(a + b), -square(a), -square(b)]) / 2,
        lambda a, b, square: np.float64(0.25) * square(a + b) + -0.25 * square(b - a),
    ],
    "4.bug1": [Repaired, InOneGo, Smooth],
    "5.1": [
        averaged_in_loops,
        lambda d, n: pd.DataFrame(d)[n:].mean().clip(1, 5),
        lambda d, n: torch.tensor(d)[n:].mean(0).clamp(1, 5),
    ],
    "5.2": [stopped, stopped_by_running_minimum, stopped_with_a_counter],
    "5.3": [
        optimism_in_loops,
        lambda v, t: np.mean([b[a.argmin()] - b.min() for a, b in zip(v, t, strict=True)]),
        lambda v, t: (
            torch.tensor(t).gather(1, torch.tensor(v).argmin(1)[:, None])[:, 0].mean()
            - torch.tensor(t).min(1).values.mean()
        ),
    ],
    "5.bug1": [
        lambda v, t: t[v.index(min(v))],
        lambda v, t: t[v.argmin()],
        lambda v, t: min(zip(v, t, strict=True))[1],
    ],
    "6.1": [
        gradient_by_torch,
        lambda p, a, b: -(a - b) / (1 + math.exp(sum(p * (a - b)))),
        lambda p, a, b: [-x / (1 + np.exp(p @ a - p @ b)) for x in a - b],
    ],
    "6.2": [precision_in_loops, precision_by_torch, precision_on_copies],
    "6.3": [
        chance_of_exact,
        chance_by_steps,
        lambda n, above, drawn, k: 1 - stats.hypergeom.sf(k - 1, n, above, drawn),
    ],
    "6.bug1": [
        searched,
        lambda u, i, m: m[u, i] == 0,
        lambda u, i, m: not m.toarray()[u, i],
    ],
    "6.bug2": [
        lambda x: F.softplus(-x),
        lambda x: -torch.log(torch.sigmoid(x)).mean(),
        lambda x: bpr_loss(x, torch.zeros_like(x)),
    ],
    "6.bug3": [listed, listed_by_torch, lambda *a: np.array(listed(*a))],
    "7.1": [dealt, chunks, with_rest_to_the_last],
    "7.2": [
        lambda *three: int("1{:03}{:03}{:03}".format(*three)),
        lambda *three: np.ravel_multi_index(three, (1000,) * 3),
        lambda *three: np.random.SeedSequence(three).generate_state(1, np.uint64)[0],
    ],
    "7.3": [
        pays_by_loop,
        lambda s, a, t: np.floor(s / (a - t)) + 1 if a > t else np.inf,
        lambda s, a, t: torch.tensor(pays_by_loop(s, a, t)),
    ],
    "7.bug1": [
        walk(lambda order, rank: order[rank::4]),
        walk(lambda order, rank: np.array_split(order.numpy(), 4)[rank]),
        walk(lambda order, rank: order.tensor_split(4)[rank].tolist()),
    ],
}

WRONG = {
    "1.1": [("nunique()", "max()"), ('ratings["movieId"].nunique()', "len(ratings)"), len],
    "1.2": [
        ("in known", "in column"),
        ("in known", "in sorted(known)"),
        ("index.get(value, -1)", "index.get(value, 0)"),
    ],
    "1.3": [
        ("ascending=False, ", ""),
        ("<= n", "< n"),
        lambda ratings, n: ratings.index.isin(ratings.groupby("userId").tail(n).index),
    ],
    "1.bug1": [
        (", train)\n", ")\n"),
        lambda train, validation: [encode_ratings(pd.concat([train, validation]))] * 2,
        lambda train, validation: (train, validation),
    ],
    "2.1": [
        ("(p * q).sum(axis=1)", "p @ q.T"),
        ("[users]", "[: len(users)]"),
        ("axis=1", "axis=0"),
    ],
    "2.2": [("np.sqrt", ""), ("!=", "is"), ("** 2", "")],
    "2.3": [
        ("np.sqrt(mean_rating / n_factors)", "mean_rating / n_factors"),
        ("np.sqrt(mean_rating / n_factors)", "np.sqrt(mean_rating) / n_factors"),
        ("mean_rating / n_factors", "mean_rating * n_factors"),
    ],
    "2.bug1": [
        ("(users, items)\n", "(users, items).unsqueeze(1)\n"),
        ("(users, items)\n", "(users, items).unsqueeze(1).squeeze()\n"),
        ("(users, items)\n", "(users, items).mean()\n"),
    ],
    "2.bug2": [
        ("mean_loss(model, [train_batch])", "loss.item()"),
        ("mean_loss(model, [train_batch])", "0.0"),
        ("optimizer.step()\n", "optimizer.step()\n    return loss\n"),
    ],
    "3.1": [
        ("deviations.sum() / n if n else 0.0", "deviations.mean() - strength"),
        ("len(deviations) + strength", "len(deviations) * (1 + strength)"),
        ("len(deviations) + strength", "len(deviations)"),
    ],
    "3.2": [second_sees_the_first, step_in_place, ("- weight_decay", "+ weight_decay")],
    "3.3": [
        (" / np.sqrt(len(gaps))", ""),
        ("ddof=1", "ddof=0"),
        lambda a, b: (a.mean() - b.mean(), np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(a))),
    ],
    "3.bug1": [
        ("torch.manual_seed(seed)", "torch.manual_seed(0)"),
        ("torch.manual_seed(seed)", "pass"),
        lambda seed: [BiasedMF(3, 2, 5).user_factors.weight.sum().item(), torch.manual_seed(seed)],
    ],
    "3.bug2": [("squeeze(-1)", "squeeze()"), (".squeeze(-1)", ""), ("+ match", "")],
    "4.1": [
        ("+ n_hidden\n    return", "\n    return"),
        (" + n_hidden + 1", ""),
        ("2 * n_factors", "n_factors"),
    ],
    "4.2": [
        ("F.gelu(hidden(x))", "hidden(F.gelu(x))"),
        (".squeeze(-1)", ""),
        (".squeeze(-1)", ".squeeze()"),
        ("[p, q]", "[p, F.relu(q)]"),
    ],
    "4.3": [lambda a, b, square: a * b, ("- square(a - b)) / 4", ") / 2"), ("/ 4", "/ 2")],
    "4.bug1": [bending(F.relu), bending(torch.detach), bending(lambda x: x.clamp(min=0))],
    "5.1": [("[n_burn_in:]", ""), (".mean(axis=0).clip(1, 5)", ".clip(1, 5).mean(axis=0)"),
            (".clip(1, 5)", ""), ("axis=0", "axis=1")],
    "5.2": [
        lambda scores, patience: int(np.argmin(scores)) + 1,
        ("return best", "return epoch"),
        ("score < ", "score <= "),
    ],
    "5.3": [
        ("honest = test[np.arange(len(test)), picked]", "honest = validation.min(axis=1)"),
        ("honest - test.min(axis=1)", "test.min(axis=1) - honest"),
        ("argmin(axis=1)", "argmin(axis=0).max()"),
    ],
    "5.bug1": [
        lambda validation, test: min(test),
        lambda validation, test: test[-1],
        lambda validation, test: min(validation),
    ],
    "6.1": [
        ("(sigmoid - 1)", "-2 * sigmoid * (1 - sigmoid) ** 2"),
        ("(sigmoid - 1)", "(1 - sigmoid)"),
        ("(sigmoid - 1) * (positive - negative)", "(sigmoid - 1) * p"),
    ],
    "6.2": [
        ("np.where(train > 0, -np.inf, scores)", "scores"),
        ("[test.any(axis=1)]", ""),
        ("np.argsort(-masked", "np.argsort(masked"),
        ("-np.inf", "0 * scores"),
    ],
    "6.3": [
        ("range(k)", "range(k + 1)"),
        ("range(k)", "range(1, k)"),
        lambda n, above, drawn, k: stats.binom.cdf(k - 1, drawn, above / n),
    ],
    "6.bug1": [published_sampler, ("not in", "in"), ("[start:end]", "[:end]")],
    "6.bug2": [
        lambda x: (1 - torch.sigmoid(x)).square().mean(),
        lambda x: -torch.sigmoid(x).mean(),
        ("-F.log", "F.log"),
    ],
    "6.bug3": [
        masks_the_scores_it_was_given,
        ("np.where(train.toarray() > 0, -np.inf, scores)", "scores"),
        ("-np.inf", "0 * scores"),
    ],
    "7.1": [
        ("np.array_split(order, n_workers)", "[order] * n_workers"),
        ("np.random.default_rng(seed).permutation(n_samples)", "np.arange(n_samples)"),
        ("default_rng(seed)", "default_rng()"),
        ("np.array_split(order, n_workers)", "[order, *[order[:0]] * (n_workers - 1)]"),
    ],
    "7.2": [("(seed * 1000 + epoch) * 1000 + rank", "seed"), (" * 1000", ""), ("1000", "100")],
    "7.3": [
        ("math.floor(start_up / saved) + 1", "math.ceil(start_up / saved)"),
        ("if saved > 0 else math.inf", "if saved else math.inf"),
        ("+ 1", ""),
    ],
    "7.bug1": [
        (".chunk(4)[rank]", ""),
        ("manual_seed(seed)", "manual_seed(seed + rank)"),
        (".chunk(4)[rank]", ".chunk(5)[rank]"),
    ],
}  # fmt: skip

"""What each part of the closing models is worth, on ratings and likes carved from training.

    python -m benchmarks.parts              measure all tables (a quarter of an hour)
    python -m benchmarks.parts rating       one of them
    python -m benchmarks.parts --write      measure nothing, renew the tables in the notebooks

The test parts of notebooks 5 and 6 stay shut. Their training parts are carved three times, the
first time as in the notebooks, and each carve is met by another seed. A gain is against a row
named with it; its standard error is a paired one, users being drawn. Results are in parts.json.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from scipy.stats import hypergeom, zscore
from threadpoolctl import threadpool_limits

from benchmarks import tables
from nmf_helpers.als import ImplicitALS, normal_equations, solve
from nmf_helpers.baselines import EASE, BiasRidge, Popularity
from nmf_helpers.bayes import BayesianMF
from nmf_helpers.bpr import BPRStep
from nmf_helpers.data import (
    interaction_matrix,
    item_features,
    leave_n_out,
    load_movies,
    load_ratings,
)
from nmf_helpers.interactions import PairwiseInteractions, batches
from nmf_helpers.metrics import per_user
from nmf_helpers.models import BiasedMF
from nmf_helpers.recipes import explicit, implicit
from nmf_helpers.training import train as train_model

FILE = Path(__file__).with_name("parts.json")
NOTEBOOKS = [FILE.parents[1] / "notebooks" / f"0{n}.md" for n in ("5-explicit-pipeline", "6-bpr")]
SEEDS = (0, 1, 2)
Array = np.ndarray
Matrix = sp.csr_matrix


@dataclass
class Row:
    """A model, the row it is compared with, and what it knows besides ratings or likes.

    ``fit(seed) -> (values, users)``: squared errors, or each user's figure, and whose they are.
    """

    name: str
    fit: Callable[[int], tuple[Array, Array]]
    against: str = ""
    knows: str = ""


# --- Ratings: notebook 5 --------------------------------------------------------------------------


@dataclass
class Ratings:
    """Train and held-out ratings, and the time of each: in the same places as the ratings."""

    train: Matrix
    train_times: Matrix
    rest: Matrix
    rest_times: Matrix


@cache
def training_part() -> tuple[Matrix, Matrix]:
    """Return the training part of notebook 5, and the times of all ratings."""
    table = load_ratings("100k")
    ratings = interaction_matrix(table)
    ids = table.userId.to_numpy() - 1, table.movieId.to_numpy() - 1
    times = sp.csr_matrix((table.timestamp.to_numpy(float), ids), ratings.shape)
    return leave_n_out(ratings, n=10, seed=2017)[0], times


@cache
def random_carve(seed: int) -> Ratings:
    """Hold out ten ratings of each user, as notebook 5 does for its validation part."""
    part, _ = training_part()
    return dated(*leave_n_out(part, n=10, seed=seed + 1))


@cache
def last_day(_: int) -> Ratings:
    """Hold out the last day of each user with several: no window of time lies on both sides."""
    part, times = training_part()
    users, items = part.nonzero()
    days = np.asarray(times[users, items]).ravel() // 86400  # (n,)
    first, last = np.full(part.shape[0], np.inf), np.zeros(part.shape[0])
    np.minimum.at(first, users, days)
    np.maximum.at(last, users, days)
    out = (days == last[users]) & (first < last)[users]
    halves = (
        sp.csr_matrix((part.data[mask], (users[mask], items[mask])), part.shape)
        for mask in (~out, out)
    )
    return dated(*halves)


def dated(train: Matrix, rest: Matrix) -> Ratings:
    """Look up when the ratings were given."""
    times = training_part()[1]

    def of(part: Matrix) -> Matrix:
        values = np.asarray(times[part.nonzero()]).ravel()
        return sp.csr_matrix((values, part.indices, part.indptr), part.shape)

    return Ratings(train, of(train), rest, of(rest))


def rated(data: Callable[[int], Ratings], predict: Callable[[Ratings, int], Array]) -> Callable:
    """Return a Row's fit: the squared errors of what `predict` says of held-out ratings."""

    def fit(seed: int) -> tuple[Array, Array]:
        part = data(seed)
        predicted = predict(part, seed).clip(1, 5)
        return (predicted - part.rest.data) ** 2, part.rest.nonzero()[0]

    return fit


def scorer(fit: Callable) -> Callable[[Ratings, int], Array]:
    """Return the predictions of a model of the matrix of ratings alone."""
    return lambda part, seed: fit(part.train, seed).predict(*part.rest.nonzero())


def bayes(facts: bool = False, dates: bool = False, **settings: bool) -> Callable:
    """Return the predictions of Bayesian MF that knows film facts, dates or both besides."""

    def predict(part: Ratings, seed: int) -> Array:
        known = item_features(load_movies("100k")) if facts else None
        model = BayesianMF(seed=seed, **settings)
        model.fit(part.train, item_features=known, times=part.train_times if dates else None)
        return model.predict(*part.rest.nonzero(), part.rest_times.data if dates else None)

    return predict


TABLE = scorer(lambda train, seed: BiasRidge().fit(train))
ALONE = bayes(own_noises=False, who_rated_what=False)
FACTS, DATES = "genres and year", "genres, year, and when each rating was given"
at_random, after = partial(rated, random_carve), partial(rated, last_day)
RATING = [
    Row("bias table", at_random(TABLE)),
    Row("explicit()", at_random(scorer(lambda t, seed: explicit(t, seed=seed))), "bias table"),
    Row("Bayesian averaging alone", at_random(ALONE), "explicit()"),
    Row("+ own noises", at_random(bayes(who_rated_what=False)), "Bayesian averaging alone"),
    Row("+ who rated what", at_random(bayes()), "+ own noises"),
    Row("+ film facts", at_random(bayes(facts=True)), "+ who rated what", FACTS),
    Row("+ dates", at_random(bayes(facts=True, dates=True)), "+ film facts", DATES),
]
LAST_DAY = [
    Row("bias table", after(TABLE)),
    Row("Bayesian MF with film facts", after(bayes(facts=True)), "bias table", FACTS),
    Row("+ dates", after(bayes(True, True)), "Bayesian MF with film facts", DATES),
]


# --- Rankings: notebook 6 -------------------------------------------------------------------------


@cache
def likes(seed: int) -> tuple[Matrix, Matrix]:
    """Return likes to learn from and ten hidden ones of each user, as notebook 6 hides them."""
    whole = interaction_matrix(load_ratings("100k"), threshold=4)
    return leave_n_out(leave_n_out(whole, n=10, seed=2017)[0], n=10, seed=seed + 1)


@cache
def dislikes() -> Matrix:
    """Return ones for the ratings below four: none of them can be a hidden like."""
    ratings = interaction_matrix(load_ratings("100k"))
    ratings.data = (ratings.data < 4).astype(np.float32)
    ratings.eliminate_zeros()
    return ratings


def ranked(score: Callable[[Matrix, int], Array], masked_dislikes: bool = False) -> Callable:
    """Return a Row's fit: the nDCG@10 of each user, training films taken out."""

    def fit(seed: int) -> tuple[Array, Array]:
        train, hidden = likes(seed)
        exclude = train + dislikes() if masked_dislikes else train
        found = per_user(np.asarray(score(train, seed)), hidden, exclude, "ndcg@10")
        return found, np.flatnonzero(np.diff(hidden.indptr))

    return fit


@cache
def _scores(name: str, seed: int) -> Array:
    """Fit once what is both a row and a part of a blend."""
    train, _ = likes(seed)
    if name == "BPR":
        return implicit(train, seed=seed).score_matrix()
    facts = item_features(load_movies("100k")) if name == "iALS with film facts" else None
    return ImplicitALS(seed=seed).fit(train, facts).score_matrix()


def alone(name: str) -> Callable[[Matrix, int], Array]:
    return lambda train, seed: _scores(name, seed)


def blend(*names: str) -> Callable[[Matrix, int], Array]:
    """Add scores, each made comparable between users."""
    return lambda train, seed: sum(zscore(_scores(name, seed), axis=1) for name in names)


def with_dislikes(train: Matrix, seed: int, weight: float = 2.0, target: float = 0.3) -> Array:
    """Score by iALS with one more kind of cell: a disliked film should score `target`.

    Both numbers are the best of 16 pairs tried on a fourth carve (seed 99).
    """
    model, bad = ImplicitALS(seed=seed), dislikes()
    n_likes, n_liked = np.diff(train.indptr), np.diff(train.T.tocsr().indptr)
    model._mean_likes, d = n_likes.mean(), model.n_factors
    weights = sp.csr_array(train + weight * bad)
    wanted = sp.csr_array(train + 2.0 * bad)  # 1 for a like, 2 for a dislike
    turned, turned_wanted = weights.T.tocsr(), wanted.T.tocsr()
    y, turned_y = (np.where(part.data == 1, 1.0, target) for part in (wanted, turned_wanted))
    l2_users = model._penalty(n_likes, n_likes.mean(), train.shape[1])[:, None, None]
    l2_items = model._penalty(n_liked, n_liked.mean(), train.shape[0])[:, None, None]
    zero = model._zero_weight(n_likes)[:, None]
    v = np.random.default_rng(seed).normal(0, 0.1 / d**0.5, (train.shape[1], d))
    for _ in range(model.n_rounds):
        precision = zero[:, :, None] * (v.T @ v) + l2_users * np.eye(d)
        u = solve(*normal_equations(weights, y, v, precision, 0.0))
        precision = u.T @ (zero * u) + l2_items * np.eye(d)
        v = solve(*normal_equations(turned, turned_y, u, precision, 0.0))
    return u @ v.T


KNOWN = "films rated below four"
RANKING = [
    Row("popularity", ranked(lambda t, seed: Popularity().fit(t).score_matrix())),
    Row("BPR", ranked(alone("BPR")), "popularity"),
    Row("EASE", ranked(lambda t, seed: EASE().fit(t).score_matrix()), "BPR"),
    Row("iALS", ranked(alone("iALS")), "EASE"),
    Row("iALS + BPR", ranked(blend("iALS", "BPR")), "iALS"),
    Row("iALS with film facts", ranked(alone("iALS with film facts")), "iALS", FACTS),
    Row(
        "iALS with film facts + BPR", ranked(blend("iALS with film facts", "BPR")), "iALS + BPR",
        FACTS,
    ),
    Row("iALS, dislikes learned from", ranked(with_dislikes), "iALS", KNOWN),
    Row("iALS, dislikes masked", ranked(alone("iALS"), masked_dislikes=True), "iALS", KNOWN),
    Row(
        "iALS, dislikes learned from and masked", ranked(with_dislikes, masked_dislikes=True),
        "iALS, dislikes masked", KNOWN,
    ),
]  # fmt: skip


def tutorial(**changes: float | str) -> Callable[[int], tuple[Array, Array]]:
    """Return a fit with the tutorial's settings, its sampler mended, and some of them changed."""
    settings = {
        "n_factors": 20, "init": "normal", "init_std": 1.0, "batch_size": 1024, "lr": 0.2,
        "lr_schedule": "constant", "weight_decay": 0.0, "loss": "squared_sigmoid", "n_epochs": 40,
        "metrics": (),
    } | changes  # fmt: skip
    return ranked(lambda train, seed: implicit(train, seed=seed, **settings).score_matrix())


LOSS = [
    Row("popularity", RANKING[0].fit),
    Row("as published", tutorial(), "popularity"),
    Row("BPR's loss, lr 0.05", tutorial(loss="bpr", lr=0.05), "as published"),
    Row("BPR's loss, lr 0.1", tutorial(loss="bpr", lr=0.1), "as published"),
    Row("small start", tutorial(init_std=0.1), "as published"),
    Row(
        "small start, BPR's loss, lr 0.05",
        tutorial(init_std=0.1, loss="bpr", lr=0.05),
        "small start",
    ),
    Row(
        "small start, BPR's loss, lr 0.1", tutorial(init_std=0.1, loss="bpr", lr=0.1), "small start"
    ),
]


class ByLikes(PairwiseInteractions):
    """Draw negatives in proportion to a power of their likes, until each is free for its user."""

    def __init__(self, train: Matrix, power: float, generator: torch.Generator) -> None:
        super().__init__(train, generator=generator)
        self.weights = torch.from_numpy(np.asarray(train.sum(axis=0)).ravel() ** power)  # (items,)
        self.has = torch.from_numpy(train.toarray() > 0)  # (users, items)

    def sample_negatives(self, users: torch.Tensor) -> torch.Tensor:
        found, open_ = torch.empty_like(users), torch.arange(len(users))
        while len(open_):
            draws = torch.multinomial(self.weights, len(open_), True, generator=self.generator)
            found[open_] = draws
            open_ = open_[self.has[users[open_], draws]]
        return found


def negatives(power: float, lr: float) -> Callable:
    """Return a Row's fit: a small BPR model, negatives drawn by likes to a power (0: evenly)."""

    def score(train: Matrix, seed: int) -> Array:
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        model = BiasedMF(*train.shape, 32, sparse=True, init_std=0.1)
        loader = batches(ByLikes(train, power, generator), 1024, generator)
        step = BPRStep(model, lr=lr, weight_decay=0.02)
        for record in train_model(model, loader, step=step, n_epochs=30):
            assert np.isfinite(record["train_loss"])
        return model.score_matrix()

    return ranked(score)


NEGATIVES = [
    Row("popularity", RANKING[0].fit),
    *(Row(f"drawn evenly, lr {lr}", negatives(0, lr), "popularity") for lr in (0.05, 0.1)),
    *(
        Row(f"drawn by {name}, lr {lr}", negatives(power, lr), f"drawn evenly, lr {lr}")
        for name, power in (("root of likes", 0.5), ("likes", 1.0))
        for lr in (0.05, 0.1)
    ),
]


@cache
def _small_bpr(seed: int) -> Array:
    train, _ = likes(seed)
    small = {"n_factors": 32, "init": "normal", "init_std": 0.1, "n_epochs": 40}
    return implicit(train, seed=seed, **small).score_matrix()


def among(score: Callable[[int], Array], n_drawn: int | None) -> Callable:
    """Return a Row's fit: how often each user's hidden likes are in the first ten of `n_drawn`.

    Drawn are films without an entry, by chance; None takes all. No luck of drawing is in it: with
    a of n films above the like, the chance that at most 9 of those are drawn is hypergeometric.
    """

    def fit(seed: int) -> tuple[Array, Array]:
        train, hidden = likes(seed)
        free = (train + hidden).toarray() == 0  # (users, items)
        scores, (users, items) = score(seed), hidden.nonzero()
        above = ((scores[users] > scores[users, items][:, None]) & free[users]).sum(1)
        hit = hypergeom.cdf(9, free.sum(1)[users], above, n_drawn) if n_drawn else above < 10
        return hit.astype(float), users

    return fit


def _ease(seed: int) -> Array:
    return EASE().fit(likes(seed)[0]).score_matrix()


RULER = [
    row
    for n, drawn_from in (
        (None, "all films"),
        (500, "500 drawn"),
        (100, "100 drawn"),
        (50, "50 drawn"),
    )
    for row in (
        Row(f"EASE, {drawn_from}", among(_ease, n)),
        Row(f"small BPR, {drawn_from}", among(_small_bpr, n), f"EASE, {drawn_from}"),
    )
]


# --- Measuring and printing -----------------------------------------------------------------------

TABLES: dict[str, list[Row]] = {
    "rating": RATING, "last day": LAST_DAY, "ranking": RANKING, "loss": LOSS, "ruler": RULER,
    "negatives": NEGATIVES,
}  # fmt: skip
FIGURES = {"rating": "RMSE", "last day": "RMSE"}  # nDCG@10 in the others


def measure(rows: list[Row], root: bool) -> dict[str, dict]:
    """Fit every row on every carve; of squared errors the figure is the root of their mean."""
    found: dict[str, tuple[Array, Array]] = {}
    results: dict[str, dict] = {}
    for row in rows:
        fitted = [row.fit(seed) for seed in SEEDS]
        values, users = map(np.concatenate, zip(*fitted, strict=True))
        found[row.name] = values, users
        each = [float(v.mean() ** (0.5 if root else 1)) for v, _ in fitted]
        result = {"value": round(float(np.mean(each)), 4), "each": [round(x, 5) for x in each]}
        if row.against:
            gain, error = compared(values, found[row.against][0], users, root)
            result |= {"against": row.against, "gain": round(gain, 4), "error": round(error, 4)}
        results[row.name] = result | {"knows": row.knows}
        print(row.name, results[row.name], flush=True)
    return results


def compared(values: Array, others: Array, users: Array, root: bool) -> tuple[float, float]:
    """Return the difference of two means (or of their roots), and its standard error.

    What belongs to one user goes together, over all carves: users are what could be others.
    """
    difference = values - others
    n_of = np.bincount(users)
    by_user = np.bincount(users, difference) - difference.mean() * n_of
    error = np.sqrt((by_user**2).sum()) / len(users)
    if not root:
        return float(difference.mean()), float(error)
    mean, was = values.mean() ** 0.5, others.mean() ** 0.5
    return float(mean - was), float(error / (2 * was))


def table(rows: dict[str, dict], figure: str) -> str:
    """Return results as a Markdown table; a gain within two standard errors is called a tie."""
    columns = ["model", "knows besides", figure, "difference", "from"]
    lines = []
    for name, row in rows.items():
        gain = f"{row['gain']:+.4f} ± {row['error']:.4f}" + _tie(row) if "gain" in row else ""
        lines.append([name, row["knows"], f"{row['value']:.4f}", gain, row.get("against", "")])
    if not any(row["knows"] for row in rows.values()):
        columns, lines = columns[:1] + columns[2:], [line[:1] + line[2:] for line in lines]
    return tables.markdown(columns, lines)


def rulers(rows: dict[str, dict]) -> str:
    """Return how often two models hit, and the paired difference, for each ruler."""
    lines = []
    for name, row in rows.items():
        if "gain" in row:
            ease = rows[row["against"]]["value"]
            gap = f"{row['gain']:+.4f} ± {row['error']:.4f}" + _tie(row)
            lines.append([name.split(", ")[1], f"{ease:.4f}", f"{row['value']:.4f}", gap])
    return tables.markdown(["in the first ten of", "EASE", "small BPR", "difference"], lines)


def _tie(row: dict) -> str:
    return ", a tie" if abs(row["gain"]) <= 2 * row["error"] else ""


def write(results: dict[str, dict]) -> None:
    """Renew the tables between ``<!-- parts NAME -->`` and ``<!-- end -->`` in the notebooks."""
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        path.write_text(renewed(text, results), encoding="utf-8")


def renewed(text: str, results: dict[str, dict]) -> str:
    """Return a text with its tables made anew."""

    def block(match: re.Match) -> str:
        name, rows = match[2], results[match[2]]
        made = rulers(rows) if name == "ruler" else table(rows, FIGURES.get(name, "nDCG@10"))
        return f"{match[1]}\n{made}\n<!-- end -->"

    return re.sub(r"(<!-- parts ([\w ]+) -->)\n.*?<!-- end -->", block, text, flags=re.DOTALL)


def load() -> dict[str, dict]:
    """Read what was measured."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.parts", description=__doc__.split("\n")[0])
    parser.add_argument("table", nargs="*", help=f"some of {list(TABLES)}; all when left out")
    parser.add_argument("--write", action="store_true", help="measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = load()
    for name in [] if options.write else options.table or TABLES:
        with threadpool_limits(1):
            results[name] = measure(TABLES[name], FIGURES.get(name) == "RMSE")
        results = {name: results[name] for name in TABLES if name in results}
        FILE.write_text(json.dumps(results, indent=1) + "\n")
    write(results)


if __name__ == "__main__":
    main()

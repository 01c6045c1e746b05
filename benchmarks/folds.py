"""The seven public parts of MovieLens 100K, and what is reached on them beside what is published.

    python -m benchmarks.folds               measure what folds.json does not have yet (two hours)
    python -m benchmarks.folds u1 bayesian   on folds and by models whose names contain these words
    python -m benchmarks.folds --table       print what it has

Each result is written as it comes, so that a run that was cut short goes on where it stopped.
GroupLens made u1 to u5 from ``u.data`` in its own order: a fifth after the other. ua and ub hold
out the first and the second ten ratings of each user. Only u1 is clean: settings were chosen inside
u1.base, which holds the test ratings of u2 to u5, and most of those of ua and ub; explicit()'s were
chosen on other splits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from threadpoolctl import threadpool_limits

from benchmarks import tables
from nmf_helpers.baselines import BiasRidge
from nmf_helpers.data import item_features, load_movies, load_ratings
from nmf_helpers.metrics import rmse
from nmf_helpers.moods import window
from nmf_helpers.recipes import bayesian, explicit

FILE = Path(__file__).with_name("folds.json")
SHAPE = 943, 1682
MYFM = {  # values that its settings are drawn from by benchmarks.search
    "windows": ("86400 3600 60", "86400 3600 600 60 1", "3600", "86400"),  # widths in seconds
    "rank": (6, 8, 10, 12, 16), "init_stdev": (0.05, 0.1, 0.3), "alpha_0": (0.5, 1.0, 4.0),
    "n_iter": (200, 300, 500),
}  # fmt: skip
MD5 = {  # of GroupLens's uK.test, ua.test and ub.test
    "u1": "62d5d837e7c8e36550cc956b09c2ecc8", "u2": "1951a71b7e1f4ed254508007fa2f6b70",
    "u3": "cb3e4d0a9152041772285232ca002d4f", "u4": "328acfca94e85d01b1d7e92c7d73df3b",
    "u5": "bec898f7091dba3b7bdf793d1998d2d6", "ua": "52e5d0355092dc1596899855b220508f",
    "ub": "5292d1e388d156aa0c19c384cdf35aca",
}  # fmt: skip
PUBLISHED = [  # on u1; what a model knows besides ratings, and how its figure was chosen
    ("GC-MC (2017)", 0.910, "nothing", ""),
    ("GC-MC (2017)", 0.905, "facts of films and users", ""),
    ("GLocal-K (2021)", 0.8889, "nothing", "best epoch by test"),
    ("GHRS (2021)", 0.887, "facts of users", ""),
    ("myFM (2021)", 0.8833, "facts of films and users, dates", ""),
    ("myFM, ordered probit (2021)", 0.8808, "facts of films and users, dates", ""),
]


@dataclass
class Part:
    """Ratings by users of items at times, each of shape (n,)."""

    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray
    seconds: np.ndarray

    def matrix(self, values: np.ndarray) -> sp.csr_array:
        """Lay values out as users x items."""
        return sp.csr_array((values, (self.users, self.items)), shape=SHAPE)


@cache
def ratings() -> pd.DataFrame:
    """Load MovieLens 100K in the order of its file; rank counts each user's ratings."""
    table = load_ratings("100k")
    return table.assign(rank=table.groupby("userId").cumcount())


def part(table: pd.DataFrame) -> Part:
    """Take the columns of a table apart; ids of MovieLens 100K start at 1."""
    users, items = table.userId.to_numpy() - 1, table.movieId.to_numpy() - 1
    return Part(users, items, table.rating.to_numpy(), table.timestamp.to_numpy())


def split(name: str) -> tuple[Part, Part]:
    """Return (train, test) of u1 … u5, ua or ub, or raise a ValueError if it isn't GroupLens's."""
    table = ratings()
    if name in ("ua", "ub"):
        held_out = table["rank"] // 10 == ("ua", "ub").index(name)
    else:
        held_out = pd.Series(table.index // 20_000 == int(name[1]) - 1, table.index)
    test = table[held_out].sort_values(["userId", "movieId"])
    columns = test[["userId", "movieId", "rating", "timestamp"]].astype(int)
    text = columns.to_csv(sep="\t", header=False, index=False, lineterminator="\n")
    if hashlib.md5(text.encode()).hexdigest() != MD5[name]:
        raise ValueError(f"{name}.test is not GroupLens's: u.data is another, or in another order")
    return part(table[~held_out]), part(test)


def bayes(*known: str) -> Callable:
    """Return a fit of bayesian() that knows film facts, dates or both besides the ratings."""

    def fit(train: Part, test: Part, seed: int) -> np.ndarray:
        facts = item_features(load_movies("100k")) if "film facts" in known else None
        dated = "dates" in known
        times = train.matrix(train.seconds) if dated else None
        model = bayesian(train.matrix(train.ratings), item_features=facts, times=times, seed=seed)
        return model.predict(test.users, test.items, test.seconds if dated else None)

    return fit


def scorer(fit: Callable) -> Callable:
    """Return a fit to nothing but the matrix of ratings."""
    return lambda train, test, seed: fit(train.matrix(train.ratings), seed).predict(
        test.users, test.items
    )


def myfm(
    train: Part,
    test: Part,
    seed: int,
    windows: str = MYFM["windows"][0],
    n_iter: int = 500,
    **settings: float,
) -> np.ndarray:
    """Fit myFM to users, items, who rated what, film facts, and windows of time."""
    from myfm import MyFMRegressor, RelationBlock

    seen = (train.matrix(train.ratings) != 0).astype(float)
    rated = sp.diags_array(np.maximum(seen.sum(1), 1) ** -0.5) @ seen
    rated_by = sp.diags_array(np.maximum(seen.sum(0), 1) ** -0.5) @ seen.T
    facts = sp.csr_array(item_features(load_movies("100k")))
    users, items = [sp.eye_array(SHAPE[0]), rated], [sp.eye_array(SHAPE[1]), rated_by, facts]
    times = [_one_hot(train.seconds // 86400, test.seconds // 86400)]
    for width in map(int, windows.split()):
        times.append(_one_hot(*(window(p.users, p.seconds, width) for p in (train, test))))
    features = []
    for which, p in enumerate((train, test)):
        both = (p.users, users), (p.items, items)
        blocks = [RelationBlock(ids, sp.csr_matrix(sp.hstack(block))) for ids, block in both]
        features.append((sp.csr_matrix(sp.hstack([time[which] for time in times])), blocks))
    widths = [time[0].shape[1] for time in times] + [block.shape[1] for block in users + items]
    model = MyFMRegressor(random_seed=seed, **settings)
    model.fit(
        features[0][0], train.ratings, X_rel=features[0][1], n_iter=n_iter,
        n_kept_samples=n_iter - 20, grouping=np.repeat(np.arange(len(widths)), widths).tolist(),
    )  # fmt: skip
    return model.predict(*features[1])


def chosen_myfm(train: Part, test: Part, seed: int) -> np.ndarray:
    """Fit myFM with what `benchmarks.search` chose inside u1.base."""
    from benchmarks.search import chosen

    return myfm(train, test, seed, **chosen("myFM, film facts, dates", "u1"))


def _one_hot(train: np.ndarray, test: np.ndarray) -> list[sp.csr_array]:
    """Return both as rows with a single one, in a column for each value that train has."""
    values, columns = np.unique(train, return_inverse=True)
    place = np.searchsorted(values, test).clip(max=len(values) - 1)
    return [
        sp.csr_array((ones.astype(float), (np.arange(len(ones)), at)), (len(ones), len(values)))
        for ones, at in ((np.ones(len(train)), columns), (values[place] == test, place))
    ]


MODELS: dict[str, tuple[str, str, Callable]] = {  # name: (by, what it knows, how it is fitted)
    "bias table": ("baseline", "nothing", scorer(lambda train, seed: BiasRidge().fit(train))),
    "explicit()": ("course", "nothing", scorer(lambda train, seed: explicit(train, seed=seed))),
    "bayesian()": ("course", "nothing", bayes()),
    "bayesian(), film facts": ("course", "film facts", bayes("film facts")),
    "bayesian(), film facts, dates": ("course", "film facts, dates", bayes("film facts", "dates")),
    "myFM, film facts, dates": ("peer", "film facts, dates", chosen_myfm),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.folds", description=__doc__.split("\n")[0])
    parser.add_argument("words", nargs="*", help="parts of names of folds and models")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    claims = {(c["model"], c["split"]): c for c in load()}
    folds = [fold for fold in MD5 if fold in options.words] or list(MD5)
    words = [word for word in options.words if word not in MD5]
    for fold in [] if options.table else folds:
        for model, (by, _, fit) in MODELS.items():
            if not all(word in model for word in words):
                continue
            n_seeds = 1 if by == "baseline" else 3
            claim = claims.setdefault((model, fold), {
                "model": model, "by": by, "split": fold, "metric": "rmse", "value": 0.0,
                "tolerance": 0.0, "seeds": [], "each": [],
            })  # fmt: skip
            for seed in sorted(set(range(n_seeds)) - set(claim["seeds"])):
                measure(claim, fit, seed)
                save([c for c in claims.values() if c["each"]])
    print(table(load()), "", published(load()), sep="\n")


def measure(claim: dict, fit: Callable, seed: int) -> None:
    """Fit with one seed more, and add what it reaches to the claim."""
    (train, test), start = split(claim["split"]), time.perf_counter()
    with threadpool_limits(1):
        predicted = fit(train, test, seed)
    claim["each"].append(round(rmse(predicted, test.ratings, clip=(1, 5)), 5))
    claim["seeds"].append(seed)
    each = claim["each"]
    claim["value"] = round(float(np.mean(each)), 4)
    spread = 3 * np.std(each, ddof=1) if len(each) > 1 else 0.003
    claim["tolerance"] = round(max(float(spread), 5e-4), 4)
    seconds = time.perf_counter() - start
    print(f"{claim['split']} {claim['model']}, seed {seed}: {each[-1]} in {seconds:.0f} s")


def load() -> list[dict]:
    """Read what was measured."""
    return json.loads(FILE.read_text()) if FILE.exists() else []


def save(claims: list[dict]) -> None:
    """Write all of it, one claim a line."""
    order = list(MODELS)
    claims = sorted(claims, key=lambda c: (c["split"], order.index(c["model"])))
    FILE.write_text("[\n" + ",\n".join(json.dumps(claim) for claim in claims) + "\n]\n")


def table(claims: list[dict]) -> str:
    """Return RMSE by model and fold as a Markdown table, the mean of u1 to u5 among them."""
    found = {(c["model"], c["split"]): c["value"] for c in claims}
    rows = []
    for model, (by, knows, _) in MODELS.items():
        five = [found.get((model, f"u{k}"), np.nan) for k in range(1, 6)]
        rest = [found.get((model, fold), np.nan) for fold in ("ua", "ub")]
        cells = [f"{x:.4f}" if x == x else "" for x in (*five, np.mean(five), *rest)]
        rows.append([model, by, knows, *cells])
    return tables.markdown(
        ["model", "from", "knows besides ratings", *list(MD5)[:5], "mean", "ua", "ub"], rows
    )


def published(claims: list[dict]) -> str:
    """Return figures of others on u1 beside those measured here, the best last."""
    rows = list(PUBLISHED)
    for claim in claims:
        if claim["split"] == "u1":
            seeds = len(claim["seeds"])
            how = f"measured here, {seeds} seed{'s' * (seeds > 1)}"
            rows.append((claim["model"], claim["value"], MODELS[claim["model"]][1], how))
    rows.sort(key=lambda row: -row[1])
    return tables.markdown(
        ["model", "u1", "knows besides ratings", ""],
        [[name, f"{value:.4f}", knows, how or "published"] for name, value, knows, how in rows],
    )


if __name__ == "__main__":
    main()

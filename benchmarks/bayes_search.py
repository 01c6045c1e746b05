"""Choose the settings of bayesian() inside u1.base, and see what each part of it gives.

    python -m benchmarks.bayes_search              all of it (a quarter of an hour)
    python -m benchmarks.bayes_search own noises   the rows whose names contain these words

Three times 8,000 random ratings of u1.base are held out and predicted by a model of the others.
Each row changes one thing: its mean RMSE, and the difference from the row that changes nothing,
with the standard error of a paired comparison, users being drawn (a user's errors go together).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field, fields
from functools import cache

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.folds import SHAPE, Part, split
from nmf_helpers.bayes import BayesianMF
from nmf_helpers.data import item_features, load_movies


@dataclass
class Row:
    """A change of settings, and what the model is told."""

    name: str
    settings: dict = field(default_factory=dict)
    facts: bool = True
    dates: bool = True


PLAIN = {"own_noises": False, "who_rated_what": False}
ROWS = [
    Row("film facts and dates, as it is"),
    Row("no dates", dates=False),
    Row("no film facts", facts=False),
    Row("neither", facts=False, dates=False),
    Row("neither, nor who rated what", {"who_rated_what": False}, facts=False, dates=False),
    Row("neither, nor own noises", {"own_noises": False}, facts=False, dates=False),
    Row("plain averaging", PLAIN, facts=False, dates=False),
    Row("8 factors", {"n_factors": 8}),
    Row("24 factors", {"n_factors": 24}),
    Row("noises less alike", {"noise_prior_shape": 4.0}),
    Row("noises more alike", {"noise_prior_shape": 16.0}),
    Row("counts count less", {"count_power": 0.2}),
    Row("counts count more", {"count_power": 0.5}),
    Row("3 windows", {"windows": (86400, 3600, 60)}),
    Row("8 windows", {"windows": (604800, 86400, 14400, 3600, 600, 120, 20, 1)}),
    Row("280 sweeps", {"n_sweeps": 280}),
]


@cache
def carves() -> list[tuple[Part, Part]]:
    """Hold out 8,000 ratings of u1.base, three times: (train, held out)."""
    base, result = split("u1")[0], []
    for seed in range(3):
        held_out = np.zeros(len(base.users), bool)
        chosen = np.random.default_rng(seed).permutation(len(held_out))[:8000]
        held_out[chosen] = True
        result.append((_rows(base, ~held_out), _rows(base, held_out)))
    return result


def _rows(part: Part, mask: np.ndarray) -> Part:
    return Part(*(getattr(part, column.name)[mask] for column in fields(part)))


def squared_errors(row: Row) -> np.ndarray:
    """Return those of all held-out ratings, one carve after the other: shape (24,000,)."""
    facts = item_features(load_movies("100k")) if row.facts else None
    errors = []
    for train, rest in carves():
        times = train.matrix(train.seconds) if row.dates else None
        model = BayesianMF(**row.settings)
        model.fit(train.matrix(train.ratings), item_features=facts, times=times)
        predicted = model.predict(rest.users, rest.items, rest.seconds if row.dates else None)
        errors.append((predicted.clip(1, 5) - rest.ratings) ** 2)
    return np.concatenate(errors)


def compared(errors: np.ndarray, reference: np.ndarray) -> str:
    """Return the difference in RMSE ± its standard error, errors of one user going together."""
    users = np.concatenate([rest.users for _, rest in carves()])
    difference = errors - reference
    by_user = np.bincount(users, difference, SHAPE[0])
    by_user -= difference.mean() * np.bincount(users, minlength=SHAPE[0])
    slope = 2 * np.sqrt(reference.mean())  # of the squared error by its root
    error = np.sqrt((by_user**2).sum()) / len(users) / slope
    return f"{np.sqrt(errors.mean()) - np.sqrt(reference.mean()):+.4f} ± {error:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.bayes_search", description=__doc__)
    parser.add_argument("words", nargs="*")
    words = parser.parse_args().words
    reference = None
    for row in ROWS:
        if row is not ROWS[0] and not all(word in row.name for word in words):
            continue
        start = time.perf_counter()
        with threadpool_limits(1):
            errors = squared_errors(row)
        reference = errors if reference is None else reference
        seconds = (time.perf_counter() - start) / len(carves())
        print(
            f"{row.name:32} {np.sqrt(errors.mean()):.4f}  {compared(errors, reference)}"
            f"  {seconds:.0f} s a fit",
            flush=True,
        )


if __name__ == "__main__":
    main()

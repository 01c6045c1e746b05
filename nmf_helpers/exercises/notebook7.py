"""Checks of notebook 7, hogwild; each docstring is three hints, from a nudge to nearly all."""

import math
from collections.abc import Callable

import numpy as np

from nmf_helpers.exercises import Different, call, expect, show


def check_7_1(shards: Callable) -> None:
    """Every sample goes to one worker, and to one only.

    Shuffle all the numbers from 0 to n_samples - 1 first, with a generator made from the seed,
    and then cut.

    numpy's array_split cuts into parts whose sizes differ by one at most.
    """
    for n_samples, n_workers in ((10, 3), (100, 4), (5, 1)):
        given = f"{n_samples} samples, {n_workers} workers and seed 0"
        parts = [np.asarray(p) for p in call(shards, (n_samples, n_workers, 0), given)]
        if len(parts) != n_workers:
            raise Different(f"Given {given}, {len(parts)} parts came back.")
        drawn = np.concatenate(parts)
        if sorted(drawn.tolist()) != list(range(n_samples)):
            twice, missing = len(drawn) - len(set(drawn.tolist())), n_samples - len(set(drawn))
            raise Different(
                f"Given {given}, {twice} samples came up again and {missing} not at all. Expected "
                "each once."
            )
        sizes = [len(part) for part in parts]
        if max(sizes) - min(sizes) > 1:
            raise Different(f"Given {given}, the sizes are {sizes}. Expected nearly equal ones.")
    halves = [set(np.asarray(shards(100, 2, seed)[0]).tolist()) for seed in (0, 0, 1)]
    if halves[0] == set(range(50)):
        raise Different("The first worker got samples 0 to 49. Expected a random half.")
    if halves[0] != halves[1] or halves[0] == halves[2]:
        raise Different("Expected the same parts from the same seed, others from another seed.")


def check_7_2(worker_seed: Callable) -> None:
    """Adding the three numbers is not enough: seed 1, epoch 2 and seed 2, epoch 1 would collide.

    Think of digits: the year, month and day in 20261124 can't collide either.

    Give each of the three its own room, by multiplying before adding. 1,000 epochs and 1,000
    workers are room enough.
    """
    seen: dict[int, tuple] = {}
    for case in np.ndindex(5, 20, 8):
        seed, epoch, rank = case
        name = f"seed {seed}, epoch {epoch}, worker {rank}"
        value = int(call(worker_seed, case, name))
        if value in seen:
            other = "seed {}, epoch {}, worker {}".format(*seen[value])
            raise Different(f"Given {name}, yours returned {value}, and for {other} as well.")
        seen[value] = case
        if value != int(worker_seed(*case)):
            raise Different(f"Given {name} twice, yours returned two numbers. Expected one.")


def check_7_3(break_even: Callable) -> None:
    """With start-up 10, 3 seconds an epoch alone and 1 together, the answer is 6.

    Each epoch saves alone - together seconds, and those savings have to pay for the start-up.

    If nothing is saved per epoch it never pays: math.inf. Otherwise divide, and take the next
    whole number above, also when the division comes out even.
    """
    words = "6: after 6 epochs 16 seconds against 18, after 5 still 15 against 15"
    expect(break_even, (10.0, 3.0, 1.0), 6, words)
    expect(break_even, (2.0, 0.5, 0.6), math.inf, "infinity: it is slower in every epoch")
    expect(break_even, (2.0, 0.5, 0.5), math.inf, "infinity: nothing is saved")
    expect(break_even, (0.25, 1.0, 0.5), 1, "1: the first epoch pays already")
    for start_up, alone, together in ((7.0, 2.5, 1.0), (1.5, 0.25, 0.125), (33.0, 4.0, 3.5)):
        want = next(n for n in range(1, 1000) if start_up + n * together < n * alone)
        expect(break_even, (start_up, alone, together), want, f"{want} epochs")


def check_7_bug1(worker: Callable) -> None:
    """Put the first entries of the four workers side by side. And how many entries has each?

    The same seed gives the same order to all. Each walks all the data; together they should walk
    it once.

    Let the one order be common to all, and let each worker take its own fourth of it, by rank.
    """
    orders = [np.asarray(call(worker, (rank,), f"rank {rank}")) for rank in (0, 1, 2, 3, 0)]
    if not np.array_equal(orders[0], orders[4]):
        raise Different("Rank 0 walked another order the second time. Expected a run to repeat.")
    if np.array_equal(orders[0][:5], orders[1][:5]):
        raise Different(f"Workers 0 and 1 begin alike, with {show(orders[0][:5])}.")
    walked = np.sort(np.concatenate(orders[:4]))
    again = len(walked) - len(np.unique(walked))
    if again:
        raise Different(f"Four workers walk {len(walked):,} entries, {again:,} of them repeats.")
    if not np.array_equal(walked, np.arange(len(walked))):
        raise Different("Some entries are walked by no worker. Expected each of them once.")

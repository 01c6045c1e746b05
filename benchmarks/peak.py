"""Peak memory of one fit in a process of its own: ``python -m benchmarks.peak "cornac BPR"``."""

from __future__ import annotations

import sys

from benchmarks import peers, search, splits
from benchmarks.scale import peak_mib


def per_sample() -> None:
    from benchmarks.per_sample import epochs

    next(epochs(splits.imp10()[0], n_factors=20))


def implicit() -> None:
    from nmf_helpers.recipes import implicit

    implicit(splits.imp10()[0], n_epochs=5)


def explicit() -> None:
    from nmf_helpers.recipes import explicit

    explicit(splits.exp10()[0], n_epochs=5)


def ials() -> None:
    from nmf_helpers.als import ImplicitALS

    ImplicitALS().fit(splits.imp10()[0])


OURS = {
    "per sample": per_sample,
    "ours, implicit()": implicit,
    "ours, iALS": ials,
    "ours, explicit()": explicit,
}


def fit(name: str) -> None:
    """Fit one of `OURS`, or a peer."""
    if name in OURS:
        OURS[name]()
    elif name in peers.RANKING:
        peers.RANKING[name][0](splits.imp10()[0], 0, 1, **search.chosen(name, "imp10"))
    else:
        train, test = splits.exp10()
        settings = search.chosen(name, "exp10")
        peers.RATING[name][0](train, test.nonzero(), 0, 1, **settings)


if __name__ == "__main__":
    fit(sys.argv[1])
    print(peak_mib())

"""Ten items out of a million for one user: a network, a dot product, and nearest neighbours.

    python -m benchmarks.serving      measure on one thread and write serving.json (two minutes)

Items are drawn around 1,000 centres, since learned vectors are not spread evenly. The nearest
neighbours are looked for in the 30 of 1,000 cells whose centres fit the user best; "found" is the
share of the true ten that they contain. All ways run in turn; times are medians of nine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nmf_helpers.models import CollabFNet

FILE = Path(__file__).with_name("serving.json")
N_ITEMS, N_CELLS, N_VISITED, N_FACTORS = 1_000_000, 1_000, 30, 64


def items(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw centres (cells, factors) and items around them (items, factors)."""
    centres = torch.randn(N_CELLS, N_FACTORS, generator=generator)
    cell = torch.randint(N_CELLS, (N_ITEMS,), generator=generator)
    noise = torch.randn(N_ITEMS, N_FACTORS, generator=generator)
    return centres, centres[cell] + 0.7 * noise


class Cells:
    """Items sorted by the centre that each has the largest dot product with."""

    def __init__(self, centres: Tensor, vectors: Tensor) -> None:
        self.centres = centres
        near = torch.cat([(part @ centres.T).argmax(1) for part in vectors.split(50_000)])
        self.order = near.argsort()
        self.vectors = vectors[self.order]  # (items, factors), a cell's items side by side
        ends = torch.bincount(near, minlength=len(centres)).cumsum(0).tolist()
        self.bounds = list(zip([0, *ends[:-1]], ends, strict=True))

    def best(self, user: Tensor) -> Tensor:
        cells = (self.centres @ user).topk(N_VISITED).indices.tolist()
        places = torch.cat([torch.arange(*self.bounds[cell]) for cell in cells])
        scores = torch.cat([self.vectors[slice(*self.bounds[cell])] @ user for cell in cells])
        return self.order[places[scores.topk(10).indices]]


@torch.no_grad()
def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    centres, vectors = items(generator)
    users = centres[:9] + 0.7 * torch.randn(9, N_FACTORS, generator=generator)
    network = CollabFNet(1, N_ITEMS, N_FACTORS, n_hidden=64).eval()
    network.item_factors.weight.copy_(vectors)
    everything = torch.arange(N_ITEMS)

    def by_network(user: Tensor) -> Tensor:
        network.user_factors.weight[0] = user
        nobody = torch.zeros(1, dtype=torch.long)
        scores = torch.cat([network(nobody, part) for part in everything.split(8192)])
        return scores.topk(10).indices

    cells = Cells(centres, vectors)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "network": by_network,
        "matrix product": lambda user: (vectors @ user).topk(10).indices,
        "nearest neighbours": cells.best,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found = []
    for user in users:
        lists = {}
        for name, best in ways.items():
            start = time.perf_counter()
            lists[name] = best(user)
            seconds[name].append(time.perf_counter() - start)
        found.append(
            torch.isin(lists["nearest neighbours"], lists["matrix product"]).float().mean()
        )
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    result = {
        "conditions": f"{N_ITEMS:,} items, {N_FACTORS} factors, one thread",
        "milliseconds": {name: round(1000 * median, 1) for name, median in medians.items()},
        "network over matrix product": round(medians["network"] / medians["matrix product"], 1),
        "matrix product over nearest neighbours": round(
            medians["matrix product"] / medians["nearest neighbours"], 1
        ),
        "found": round(float(np.mean(found)), 3),
    }
    FILE.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

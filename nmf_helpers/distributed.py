"""Training in several processes that share nothing, on PyTorch's own engine.

    torchrun --standalone --nproc-per-node 2 -m nmf_helpers.distributed 100k

The users are dealt out: each process keeps the interactions of its own users and trains on them
with the same `Pipeline` and loop as one process does. After every epoch the processes put their
models together. With ``--nnodes`` and ``--rdzv-endpoint`` the same command runs on several
machines; without ``torchrun``, ``python -m nmf_helpers.distributed 100k`` runs in one process.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import record as report_errors

from nmf_helpers.metrics import evaluate
from nmf_helpers.pipeline import Pipeline
from nmf_helpers.training import Record

SETTINGS = {
    "loss": "bpr", "optimizer": "fused_bpr", "sparse": True, "n_factors": 64, "init_std": 0.1,
    "batch_size": 2048, "lr": 0.05, "lr_schedule": "linear", "weight_decay": 0.02,
}  # fmt: skip


def own_rows(matrix: sp.spmatrix, rank: int, n_processes: int) -> sp.csr_matrix:
    """Return the matrix with only every n-th user's row filled, beginning with `rank`."""
    keep = np.zeros(matrix.shape[0])
    keep[rank::n_processes] = 1
    part = sp.csr_matrix(sp.diags_array(keep).astype(np.float32) @ matrix)
    part.eliminate_zeros()
    return part


@torch.no_grad()
def put_together(model: nn.Module, before: list[torch.Tensor]) -> None:
    """Give every process the same model: what it was, and each row's mean change.

    The mean is over the processes that changed the row: a user's row, which only one of them has
    trained, keeps its whole change. For a film the sum would overshoot once an epoch is long
    enough to settle it (at 5 million interactions the loss then swings up and down), and the mean
    moves it half as far as one process would. `main` makes up for that with a larger lr.
    """
    for weight, old in zip(model.parameters(), before, strict=True):
        change = weight - old  # (rows, factors)
        changed = (change != 0).any(dim=1, keepdim=True).float()  # (rows, 1)
        dist.all_reduce(change)  # the sum over all processes
        dist.all_reduce(changed)
        weight.copy_(old + change / changed.clamp(min=1))


def epochs(pipeline: Pipeline) -> Iterator[Record]:
    """Train a pipeline that was built on this process's rows, yielding its records.

    Every process must build it with the same seed, so that all start from the same model. A
    record also says how many seconds it took to put the models together, waiting included.
    """
    before = [weight.detach().clone() for weight in pipeline.model.parameters()]
    for record in pipeline.epochs():
        start = time.perf_counter()
        if dist.is_initialized():
            put_together(pipeline.model, before)
        for old, weight in zip(before, pipeline.model.parameters(), strict=True):
            old.copy_(weight.detach())
        yield record | {"exchange_seconds": time.perf_counter() - start}


@report_errors  # torchrun then names the process that failed, and prints its traceback
def main() -> None:
    """Train on one data set and let the first process print what it cost and what it reached."""
    import psutil

    from nmf_helpers.data import interaction_matrix, leave_n_out, load_ratings

    parser = argparse.ArgumentParser(prog="nmf_helpers.distributed")
    parser.add_argument("ratings", nargs="?", default="latest-small", help="a name, or a CSV file")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # the processes are the parallelism
    if "RANK" in os.environ:  # started by torchrun
        dist.init_process_group("gloo")
    rank, n_processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    try:
        ratings = load_ratings(options.ratings)
        train, test = leave_n_out(interaction_matrix(ratings, threshold=4))
        rows = own_rows(train, rank, n_processes)
        settings = SETTINGS | {"lr": SETTINGS["lr"] * n_processes**0.5}
        pipeline = Pipeline(rows, n_epochs=options.epochs, seed=options.seed, **settings)
        records = list(epochs(pipeline))
        seconds, exchange = (
            sum(record[name] for record in records) / len(records)
            for name in ("seconds", "exchange_seconds")
        )
        memory = psutil.Process().memory_info().rss / 2**20
        if rank == 0:
            quality = evaluate(pipeline, test, train, metrics=("ndcg@10", "auc"))
            print(
                f"{n_processes} process(es); this one has {rows.nnz:,} of {train.nnz:,} "
                f"interactions, {memory:.0f} MiB\n"
                f"nDCG@10 {quality['ndcg@10']:.4f}  AUC {quality['auc']:.4f}\n"
                f"an epoch: {1e3 * seconds:.1f} ms to train, {1e3 * exchange:.1f} ms to exchange"
            )
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()

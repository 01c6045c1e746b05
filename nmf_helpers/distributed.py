r"""Training in processes that share nothing, on one machine or several, by PyTorch's own engine.

    torchrun --standalone --nproc-per-node 2 -m nmf_helpers.distributed 100k --threshold 4

A user belongs to one process: only that one keeps the user's interactions and row, and trains
them by the same `Pipeline` as one process would. After every epoch the processes average what all
of them have, the items' rows; users' rows are gathered once, at the end. Any CSV or Parquet file
with a header and whole numbers as ids will do (``--help`` lists the options). On two machines
that see one folder, this command is given on both, FIRST being one's name:

    torchrun --nnodes 2 --nproc-per-node 1 --max-restarts 3 --rdzv-id ratings \
        --rdzv-backend c10d --rdzv-endpoint FIRST:29400 \
        -m nmf_helpers.distributed folder/ratings.parquet --checkpoint folder --save folder/model.pt

When a process dies, ``torchrun`` starts all of them again, and they go on from the last epoch
that all have saved. Without ``torchrun``, ``python -m nmf_helpers.distributed`` is one process.
"""

import argparse
import os
import socket
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import scipy.sparse as sp
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.model_averaging.utils import average_parameters

from nmf_helpers.data import load_ratings
from nmf_helpers.metrics import evaluate
from nmf_helpers.pipeline import Pipeline

SETTINGS: dict[str, Any] = {
    "loss": "bpr", "step": "by_hand", "sparse": True, "n_factors": 64, "init_std": 0.1,
    "batch_size": 2048, "lr": 0.05, "lr_schedule": "linear", "weight_decay": 0.02,
}  # fmt: skip
METRICS = "ndcg@10", "auc"
HELD_OUT = 10  # interactions of each user that has more
CHUNK = 1_000_000  # rows of a CSV file that are held at a time


def read_own(source: str, columns: list[str], threshold: float) -> pd.DataFrame:
    """Read users and items of this process's rows: of users whose id modulo n is its rank.

    No process ever holds the whole file: CSV comes in parts, Parquet filtered by pyarrow. Of the
    `columns` (user, item, rating) the last is read for a threshold only.
    """
    rank, n_processes, (user, item, rating) = dist.get_rank(), dist.get_world_size(), columns
    wanted = columns[:2] if threshold == -np.inf else columns
    if not Path(source).is_file():
        parts: Any = [load_ratings(source)]
    elif source.endswith(".parquet"):
        from pyarrow.compute import abs, divide, field

        own = abs(field(user)) - divide(abs(field(user)), n_processes) * n_processes == rank
        parts = [pd.read_parquet(source, columns=wanted, filters=own)]
    else:
        ids = {user: "int64", item: "int64"}
        parts = pd.read_csv(source, usecols=wanted, dtype=ids, chunksize=CHUNK)
    mine = lambda p: (p[user].abs() % n_processes == rank) & (p.get(rating, np.inf) >= threshold)  # noqa: E731
    return pd.concat([part.loc[mine, [user, item]] for part in parts], ignore_index=True)


def own_matrices(table: pd.DataFrame) -> tuple[np.ndarray, sp.csr_array, sp.csr_array]:
    """Return the ids of this process's users and their matrices to train and to test on.

    Items are numbered alike everywhere, in the order of their ids. What is held out depends on
    ids only, so that any number of processes trains on the same interactions.
    """
    users, rows = np.unique(table.iloc[:, 0], return_inverse=True)
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, np.unique(table.iloc[:, 1]))
    items = np.unique(np.concatenate(found))
    columns, shape = items.searchsorted(table.iloc[:, 1]), (len(users), len(items))
    place = pd.util.hash_pandas_object(table, index=False).groupby(rows).rank().to_numpy()
    test = (place <= HELD_OUT) & (np.bincount(rows)[rows] > HELD_OUT)
    train, test = (
        sp.csr_array((np.ones(part.sum(), np.float32), (rows[part], columns[part])), shape)
        for part in (~test, test)
    )
    return users, train, test


def item_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return what all processes have: everything but the users' rows."""
    return [weight for name, weight in model.named_parameters() if not name.startswith("user_")]


def merge_models(model: nn.Module) -> None:
    """Give all processes the mean of their items' rows; a user's row is one process's own.

    The sum of the changes would overshoot once an epoch is long enough to settle a row; the mean
    moves it half as far as one process would, for which `start` makes up by a larger lr.
    """
    average_parameters(iter(item_weights(model)), dist.group.WORLD)  # type: ignore[arg-type]


def start(train: sp.csr_array, n_epochs: int, saved: list[str]) -> Pipeline:
    """Return this process's pipeline as it was after the last epoch that all have saved."""
    done = [Pipeline.load(path, train) for path in saved if os.path.exists(path)]
    by_epoch = {len(pipeline.history): pipeline for pipeline in done}
    newest = torch.tensor(max(by_epoch, default=0))
    dist.all_reduce(newest, dist.ReduceOp.MIN)
    if newest:
        by_epoch[int(newest)].n_epochs = n_epochs
        return by_epoch[int(newest)]
    settings = SETTINGS | {"lr": SETTINGS["lr"] * dist.get_world_size() ** 0.5}
    pipeline = Pipeline(train, n_epochs=n_epochs, seed=dist.get_rank(), **settings)
    for weight in item_weights(pipeline.model):
        dist.broadcast(weight.data, 0)
    return pipeline


def save_whole(pipeline: Pipeline, ids: np.ndarray, path: str) -> None:
    """Let the first process save the model of all users, in the order of their ids."""
    weights = pipeline.model.state_dict()
    own = {name: rows for name, rows in weights.items() if name.startswith("user_")}
    parts: Any = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object((ids, own), parts)
    if parts is None:
        return
    order = np.concatenate([ids for ids, _ in parts]).argsort()
    nothing = sp.csr_array((len(order), pipeline.n_items), dtype=np.float32)
    whole = Pipeline(nothing, model=type(pipeline.model), **pipeline.settings)
    users = {name: torch.cat([rows[name] for _, rows in parts])[order] for name in own}
    whole.model.load_state_dict(weights | users)
    whole.history = pipeline.history
    whole.save(path)


def run(options: argparse.Namespace) -> None:
    """Train, and print what it cost and what it reached."""
    rank, n_processes, exchange = dist.get_rank(), dist.get_world_size(), 0.0
    ids, train, test = own_matrices(read_own(options.ratings, options.columns, options.threshold))
    name = f"{options.checkpoint}/{rank}-of-{n_processes}"
    saved = [f"{name}.{i}.pt" for i in (0, 1)] if options.checkpoint else []
    pipeline = start(train, options.epochs, saved)
    for record in pipeline.epochs():
        began = time.perf_counter()
        merge_models(pipeline.model)
        exchange += time.perf_counter() - began
        if saved:  # in turn, as another process may die before it has saved this epoch
            pipeline.save(saved[record["epoch"] % 2])
    mib = psutil.Process().memory_info().rss / 2**20
    print(f"process {rank}: {train.nnz:,} interactions in {mib:.0f} MiB", flush=True)
    n_users = np.count_nonzero(np.diff(test.indptr))
    found = evaluate(pipeline, test, train, METRICS) if n_users else {}
    figures = [n_users, *(n_users * found.get(name, 0.0) for name in METRICS)]
    dist.all_reduce(sums := torch.tensor(figures, dtype=torch.float64))
    if options.save:
        save_whole(pipeline, ids, options.save)
    if rank == 0:
        _, ndcg, auc = sums / sums[0]
        ms, size = 1e3 / len(pipeline.history), sum(w.nbytes for w in item_weights(pipeline.model))
        exchanged = f"{ms * exchange:.1f} ms to exchange {size / 2**20:.2g} MiB"
        trained = ms * sum(pipeline.history.column("seconds"))
        print(f"nDCG@10 {ndcg:.4f}  AUC {auc:.4f}")
        print(f"an epoch: {trained:.1f} ms to train, {exchanged}")


def join() -> None:
    """Join the other processes that torchrun has started, or be the only one.

    They meet at a store of this start's own: torchrun's outlives a restart, with the addresses of
    the dead in it. Only its port is told there; a port of the dead isn't answered.
    """
    rank, n_processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    store: dist.Store | None = dist.HashStore() if n_processes == 1 else None
    while store is None:
        host, patience = os.environ["MASTER_ADDR"], timedelta(minutes=30)
        board = dist.TCPStore(host, int(os.environ["MASTER_PORT"]), is_master=False)
        with suppress(OSError):
            if port := int(board.get("port")) if rank else 0:  # 0: the first opens any that is free
                socket.create_connection((host, port), timeout=2).close()
            store = dist.TCPStore(host, port, None, rank == 0, patience, wait_for_workers=False)
            board.set("port", str(store.port))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=n_processes)


def main() -> None:
    """Read the command line and train in the processes that torchrun has started, or in one."""
    parser = argparse.ArgumentParser(prog="nmf_helpers.distributed")
    parser.add_argument("ratings", help="100k, latest-small, or a CSV or Parquet file")
    parser.add_argument("--threshold", type=float, default=-np.inf, help="least rating that counts")
    parser.add_argument("--columns", nargs=3, default=["userId", "movieId", "rating"])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--checkpoint", metavar="FOLDER", help="of all machines, to go on from")
    parser.add_argument("--save", metavar="FILE", help="the whole model, for Pipeline.load")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the processes are the parallelism
    join()
    try:
        run(options)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Epochs of BPR on millions of made-up interactions: ours, ours in two workers, implicit's.

    python -m benchmarks scale --millions 2 5 10 20
    python -m benchmarks.scale torchrun 5           # one process against two that share nothing

Users differ in activity and items in fame by power laws, 138,493 users × 26,744 items as in
MovieLens 20M; 64 factors. Each run is a process of its own, so that peak memory is its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

SHAPE = 138_493, 26_744
SETTINGS = {"lr": 0.05, "weight_decay": 0.01, "n_factors": 64}
HOGWILD = "by_hand, 2 workers"
WAYS = ("by_hand", HOGWILD, "autograd", "implicit BPR")


def power_law(n: int, seed: int = 0) -> sp.csr_matrix:
    """Return n different interactions."""
    random = np.random.default_rng(seed)
    activity = np.cumsum(random.lognormal(0, 1.2, SHAPE[0]))
    fame = np.cumsum(random.permutation((np.arange(SHAPE[1]) + 20.0) ** -1.1))
    keys = np.zeros(0, np.int64)
    while len(keys) < n:
        size = int(1.3 * (n - len(keys))) + 1000
        users = activity.searchsorted(activity[-1] * random.random(size))
        items = fame.searchsorted(fame[-1] * random.random(size))
        keys = np.unique(np.concatenate([keys, users * SHAPE[1] + items]))
    users, items = np.divmod(np.sort(random.permutation(keys)[:n]), SHAPE[1])
    return sp.csr_matrix((np.ones(n, np.float32), (users, items)), shape=SHAPE)


def run(millions: list[float], threads: int, rounds: int) -> list[dict]:
    """Measure every way at every size, alternating, and return the rows of a table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in millions:
            path = Path(folder) / f"{size:g}.npz"
            matrix = power_law(int(size * 1e6))
            np.savez(path, indices=matrix.indices, indptr=matrix.indptr)
            del matrix
            results: dict[str, list[dict]] = {way: [] for way in WAYS}
            for _ in range(rounds):
                for way, found in results.items():
                    found.append(_child(way, path, threads))
            for way, found in results.items():
                row = {"interactions": int(size * 1e6), "way": way, "threads": threads}
                if "skipped" in found[0]:
                    row |= found[0]
                else:
                    for name in (name for name in found[0] if name != "mib"):
                        row[name] = round(float(np.median([r[name] for r in found])), 4)
                    if way != HOGWILD:  # whose workers' memory nobody asked
                        row["peak MiB"] = max(r["mib"] for r in found)
                rows.append(row)
                print(row, flush=True)
            path.unlink()
    return rows


def _child(way: str, path: Path, threads: int) -> dict:
    environment = os.environ | {
        name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    command = [sys.executable, "-m", "benchmarks.scale", way, str(path), str(threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"skipped": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def _measure(way: str, path: str, threads: int) -> dict:
    saved = np.load(path)
    indices, indptr = saved["indices"], saved["indptr"]
    train = sp.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=SHAPE)
    figures = _implicit(train, threads) if way == "implicit BPR" else _ours(train, way, threads)
    return figures | {"mib": peak_mib()}


def peak_mib() -> int:
    """Return this process's peak memory (on Linux; ru_maxrss would remember the parent's too)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def _ours(train: sp.csr_matrix, way: str, threads: int) -> dict:
    import torch

    from nmf_helpers import hogwild
    from nmf_helpers.pipeline import Pipeline

    torch.set_num_threads(threads)
    # Of workers, the first start boots the server that the later one finds; spawn has none.
    starts, figures = {"start seconds": hogwild.METHOD}, []
    if way == HOGWILD:
        starts |= {"later start seconds": hogwild.METHOD, "spawn start seconds": "spawn"}
    for method in starts.values():
        hogwild.METHOD = method
        pipeline = Pipeline(
            train, loss="bpr", step=way.split(",")[0], optimizer="row_sgd", sparse=True,
            init_std=0.1, batch_size=4096, n_epochs=3, n_workers=2 if way == HOGWILD else 0,
            **SETTINGS,
        )  # fmt: skip
        ends = [time.perf_counter()]
        for _ in pipeline.epochs():
            ends.append(time.perf_counter())
        figures.append(_figures(np.diff(ends)))
    each = {name: one["start seconds"] for name, one in zip(starts, figures, strict=True)}
    epoch = float(np.median([one["seconds an epoch"] for one in figures]))
    return each | {"seconds an epoch": epoch, "train loss": pipeline.history[-1]["train_loss"]}


def _implicit(train: sp.csr_matrix, threads: int) -> dict:
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(
        factors=SETTINGS["n_factors"], learning_rate=SETTINGS["lr"],
        regularization=SETTINGS["weight_decay"], iterations=3, num_threads=threads,
        random_state=0,
    )  # fmt: skip
    ends = [time.perf_counter()]
    model.fit(train, show_progress=False, callback=lambda *_: ends.append(time.perf_counter()))
    return _figures(np.diff(ends))


def _figures(epochs: np.ndarray) -> dict:
    """Split the first epoch's seconds into an epoch and what it took to get started."""
    later = float(np.median(epochs[1:]))
    return {"seconds an epoch": later, "start seconds": max(float(epochs[0]) - later, 0.0)}


def torchrun(millions: float) -> None:
    """Let one process and two train by turns, and show what they say of themselves."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ratings.csv"
        pairs = np.column_stack(power_law(int(millions * 1e6)).nonzero())
        np.savetxt(path, pairs, "%d", ",", header="userId,movieId", comments="")
        for n_processes in (1, 2, 1, 2):
            start = "-m torch.distributed.run --standalone --nproc-per-node"
            rest = f"-m nmf_helpers.distributed {path} --epochs 6"
            subprocess.run([sys.executable, *f"{start} {n_processes} {rest}".split()], check=True)


if __name__ == "__main__" and sys.argv[1] == "torchrun":
    torchrun(float(sys.argv[2]))
elif __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))

"""Hogwild: the same training loop in several processes, on one set of weights, without locks."""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait

import torch
from torch import nn

from nmf_helpers.interactions import Interactions, batches
from nmf_helpers.training import Record, check_number, make_optimizer, train


class WorkerError(RuntimeError):
    """A worker process raised, died or went silent."""


def train_hogwild(
    model: nn.Module,
    dataset: Interactions,
    *,
    n_workers: int,
    batch_size: int,
    loss: Callable,
    optimizer: str | Callable = "row_sgd",
    lr: float = 0.05,
    weight_decay: float = 0.0,
    n_epochs: int = 10,
    first_epoch: int = 1,
    evaluate: Callable[[nn.Module], dict] | None = None,
    seed: int = 0,
    start_method: str = "spawn",
    timeout: float = 600.0,
) -> Iterator[Record]:
    """Train a model in several processes at once, yielding one record per epoch.

    The model's weights lie in shared memory. Each worker walks its own shard of the data with
    its own random state and writes its updates straight into them. Two workers may overwrite
    each other; when a batch touches few of the rows, they seldom do. One epoch is one pass over
    the data, whatever the number of workers.

    Parameters
    ----------
    model, loss, optimizer, lr, weight_decay, n_epochs, first_epoch, evaluate
        As in `nmf_helpers.training.train`. `evaluate` runs in the parent between epochs.
    dataset : Interactions
    n_workers : int
    batch_size : int
        Samples in one worker's batch.
    seed : int
        Decides the shards and each worker's random state. With more than one worker a run is
        still not repeatable: who writes first is up to the machine.
    start_method : {"spawn", "forkserver", "fork"}
        "spawn" works on every system, and in a notebook.
    timeout : float
        Seconds that an epoch may take before a worker counts as hung.

    Raises
    ------
    WorkerError
        If a worker raises, dies or hangs. The other workers are ended; the model keeps the
        weights it has.

    References
    ----------
    Niu, Recht, Ré and Wright (2011), "HOGWILD!: A Lock-Free Approach to Parallelizing
    Stochastic Gradient Descent", NIPS.
    """
    check_number("n_workers", n_workers, at_least=1, whole=True)
    make_optimizer(optimizer, model, lr, weight_decay)  # refuse what cannot work before starting
    model.share_memory()
    shards = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    settings = {
        "loss": loss, "optimizer": optimizer, "lr": lr, "weight_decay": weight_decay,
        "n_epochs": n_epochs, "first_epoch": first_epoch, "sum_gradients": True,
    }  # fmt: skip
    dataset = copy.copy(dataset)
    dataset.generator = None  # each worker makes its own
    context = torch.multiprocessing.get_context(start_method)
    workers = []
    try:
        for rank, shard in enumerate(shards.chunk(n_workers)):
            ours, theirs = context.Pipe()
            job = (theirs, model, dataset, shard, batch_size, settings, 1000 * seed + rank + 1)
            process = context.Process(target=_work, args=job, daemon=True)
            process.start()
            theirs.close()  # so that the parent notices when the worker's end closes
            workers.append((rank, process, ours))
        for worker in workers:
            _receive(worker, timeout)  # started, data unpacked
        for epoch in range(first_epoch, n_epochs + 1):
            start = time.perf_counter()
            for _, _, connection in workers:
                connection.send("go")
            losses = [_receive(worker, timeout) for worker in workers]
            sizes = [len(shard) for shard in shards.chunk(n_workers)]
            total = sum(size * loss for size, loss in zip(sizes, losses, strict=True))
            record: Record = {"epoch": epoch, "train_loss": total / len(dataset)}
            seconds = time.perf_counter() - start
            if evaluate is not None:
                model.eval()
                record.update(evaluate(model))
            record["seconds"] = seconds
            yield record
    finally:  # also on an interrupt, and when the reader of the records stops early
        for _, process, connection in workers:
            connection.close()  # an idle worker takes this as the end
            process.join(0.5)
            if process.is_alive():
                process.terminate()
                process.join(2)
            if process.is_alive():
                process.kill()
                process.join()


def _work(connection, model, dataset, shard, batch_size, settings, seed) -> None:
    """Run in a worker: train one epoch on the shard each time the parent says so."""
    try:
        torch.set_num_threads(1)  # the processes are the parallelism
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        dataset.generator = generator
        records = train(model, batches(dataset, batch_size, generator, shard), **settings)
        connection.send(("ok", None))
        while connection.recv() == "go":
            connection.send(("ok", next(records)["train_loss"]))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # the parent has gone, or is ending us
    except Exception:
        connection.send(("error", traceback.format_exc()))


def _receive(worker, timeout: float):
    """Wait for a worker's answer, its death or the time limit, whichever comes first."""
    rank, process, connection = worker
    if not wait([connection, process.sentinel], timeout):
        raise WorkerError(f"hogwild worker {rank} did not answer within {timeout:g} seconds")
    try:
        status, answer = connection.recv() if connection.poll() else ("gone", None)
    except EOFError:
        status, answer = "gone", None
    if status == "ok":
        return answer
    if status == "error":
        raise WorkerError(f"hogwild worker {rank} failed:\n{answer}")
    process.join(5)
    raise WorkerError(
        f"hogwild worker {rank} died with exit code {process.exitcode}. A negative code is a "
        "signal (-9: killed, often for lack of memory). In a script, start training under "
        'if __name__ == "__main__":, since each worker imports the script anew'
    )

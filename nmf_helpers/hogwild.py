"""Hogwild: the same training loop in several processes, on one set of weights, without locks."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from itertools import count
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nmf_helpers.checks import check_number
from nmf_helpers.history import Record
from nmf_helpers.interactions import Interactions, batches
from nmf_helpers.training import Diverged, Step, set_rates, train_epoch

MOST_WORKERS = max(64, os.cpu_count() or 1)  # a slip of the keyboard shall not start thousands


class WorkerError(RuntimeError):
    """A worker process raised, died or went silent."""


class _Worker(NamedTuple):
    rank: int
    process: BaseProcess
    connection: Connection


def train_hogwild(
    model: nn.Module,
    dataset: Interactions,
    make_step: Callable[[nn.Module], Step],
    *,
    n_workers: int,
    rates: Callable[[int], Mapping[str, Any]],
    n_epochs: int | None = 10,
    start_epoch: int = 1,
    evaluate: Callable[[nn.Module], Mapping[str, Any]] | None = None,
    seed: int = 0,
    start_method: str = "spawn",
    timeout: float = 600.0,
) -> Generator[Record, None, None]:
    """Train a model in several processes at once, yielding one record per epoch.

    The model's weights lie in shared memory. Each worker walks its own shard of the data with
    its own random state and adds its updates straight to them, in place. One epoch is one pass
    over the data, whatever the number of workers.

    Parameters
    ----------
    model : nn.Module
    dataset : Interactions
    make_step : callable
        ``make_step(model)`` → the step that a worker takes, as in `nmf_helpers.training.train`:
        ``functools.partial(BPRStep, lr=0.05)``. It is sent to the workers.
    n_workers : int
    rates : callable
        ``rates(epoch)`` → the ``lr``, ``weight_decay`` and ``batch_size`` of an epoch; a batch is
        one worker's.
    n_epochs, start_epoch : int
        Epochs `start_epoch` … `n_epochs` are run; None goes on as long as somebody asks.
    evaluate : callable, optional
        As in `nmf_helpers.training.train`; runs in the parent between epochs.
    seed : int
        Decides the shards and each worker's random state. With more than one worker a run is
        still not repeatable: who writes first is up to the machine.
    start_method : {"spawn", "forkserver", "fork"}
        "spawn" works on every system, and in a notebook.
    timeout : float
        Seconds that an epoch may take before a worker counts as hung.

    Raises
    ------
    ValueError
        For settings that cannot work.
    TypeError
        If the model or the step cannot be sent to another process.
    Diverged
        As `nmf_helpers.training.train`.
    WorkerError
        If a worker raises, dies or hangs. The other workers are ended; the model keeps the
        weights it has.

    References
    ----------
    Niu, Recht, Ré and Wright (2011), "HOGWILD!: A Lock-Free Approach to Parallelizing
    Stochastic Gradient Descent", NIPS.
    """
    check_number("n_workers", n_workers, at_least=1, at_most=MOST_WORKERS, whole=True)
    check_number("timeout", timeout, above=0)
    make_step(model)  # refuse what cannot work before starting
    if not len(dataset):
        raise ValueError("there is nothing to train on: the dataset is empty")
    model.share_memory()
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    shards = order.chunk(n_workers)  # fewer than n_workers when there are fewer samples
    dataset = copy.copy(dataset)
    dataset.generator = None  # each worker makes its own
    context: Any = torch.multiprocessing.get_context(start_method)
    workers: list[_Worker] = []
    try:
        for rank, shard in enumerate(shards):
            ours, theirs = context.Pipe()
            worker_seed = 1000 * (1000 * seed + start_epoch) + rank
            job = (theirs, model, dataset, make_step, shard, worker_seed)
            process = context.Process(target=_work, args=job, daemon=True)
            workers.append(_Worker(rank, process, ours))
            _start(process)
            theirs.close()  # so that the parent notices when the worker's end closes
        _answers(workers, timeout)  # started, data unpacked
        for epoch in count(start_epoch) if n_epochs is None else range(start_epoch, n_epochs + 1):
            start = time.perf_counter()
            for worker in workers:
                with suppress(OSError):  # it died since: found out when it doesn't answer
                    worker.connection.send((epoch, dict(rates(epoch))))
            losses = _answers(workers, timeout)
            total = sum(len(shard) * loss for shard, loss in zip(shards, losses, strict=True))
            record: Record = {"epoch": epoch, "train_loss": total / len(dataset)}
            seconds = time.perf_counter() - start
            model.eval()
            if evaluate is not None:
                record.update(evaluate(model))
            yield record | {"seconds": seconds}
    finally:  # also on an interrupt, and when the reader of the records stops early
        _end(workers)


def _work(
    connection: Connection,
    model: nn.Module,
    dataset: Interactions,
    make_step: Callable[[nn.Module], Step],
    shard: Tensor,
    seed: int,
) -> None:
    """Run in a worker: train one epoch on the shard each time the parent says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; it ends us
    try:
        torch.set_num_threads(1)  # the processes are the parallelism
        torch.manual_seed(seed)
        dataset.generator = generator = torch.Generator().manual_seed(seed)
        step, loader = make_step(model), batches(dataset, 1, generator, shard)
        connection.send(("ok", None))
        while told := _told(connection):
            epoch, rates = told
            set_rates(step, loader, **rates)
            connection.send(("ok", train_epoch(model, loader, step, epoch)["train_loss"]))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent has closed its end, or is gone
    except Exception as error:
        diverged = isinstance(error, Diverged)
        answer = ("diverged", str(error)) if diverged else ("error", traceback.format_exc())
        with suppress(OSError):  # another worker failed first, and the parent has stopped listening
            connection.send(answer)


def _told(connection: Connection) -> Any:
    """Wait for the parent's word, or for its death (a forked sibling may keep the pipe open)."""
    parent = parent_process()
    assert parent is not None
    wait([connection, parent.sentinel])
    return connection.recv() if connection.poll() else None


def _start(process: BaseProcess) -> None:
    try:
        process.start()
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"the model, the step or its loss cannot be sent to a worker process ({error}): "
            "define it at the top of a .py file and import it, no lambda and no inner function"
        ) from error


def _answers(workers: list[_Worker], timeout: float) -> list[Any]:
    """Wait until every worker has answered; raise as soon as one fails, or at the time limit."""
    deadline = time.monotonic() + timeout
    answers: dict[int, Any] = {}
    while silent := [worker for worker in workers if worker.rank not in answers]:
        signs = [sign for w in silent for sign in (w.connection, w.process.sentinel)]
        ready = wait(signs, max(0.0, deadline - time.monotonic()))
        if not ready:
            ranks = ", ".join(str(worker.rank) for worker in silent)
            raise WorkerError(f"hogwild worker {ranks} did not answer within {timeout:g} seconds")
        for worker in silent:
            if worker.connection in ready or worker.process.sentinel in ready:
                answers[worker.rank] = _receive(worker)
    return [answers[worker.rank] for worker in workers]


def _receive(worker: _Worker) -> Any:
    try:
        status, answer = worker.connection.recv() if worker.connection.poll() else ("gone", None)
    except (EOFError, ConnectionResetError):
        status, answer = "gone", None
    if status == "ok":
        return answer
    if status == "diverged":
        raise Diverged(answer)
    if status == "error":
        raise WorkerError(f"hogwild worker {worker.rank} failed:\n{answer}")
    patience = time.monotonic() + 5
    while worker.process.exitcode is None and time.monotonic() < patience:
        time.sleep(0.01)  # its pipe closes a moment before it is dead, and join() wouldn't wait
    raise WorkerError(
        f"hogwild worker {worker.rank} died with exit code {worker.process.exitcode}. "
        "A negative code is a signal (-9: killed, often for lack of memory). Code 1 at the start: "
        "a model or loss defined in a notebook cell is unknown to a worker, so import it from a "
        '.py file; and a script must start training under if __name__ == "__main__":, since each '
        "worker imports the script anew"
    )


def _end(workers: list[_Worker]) -> None:
    """Leave no process behind: ask, then terminate, then kill."""
    for worker in workers:
        with suppress(OSError):  # it may be gone already
            worker.connection.send(None)
        worker.connection.close()
    for worker in workers:
        if worker.process.pid is None:
            continue  # it never started
        worker.process.join(0.5)
        for end in (worker.process.terminate, worker.process.kill):
            if worker.process.is_alive():
                end()
                worker.process.join(2)

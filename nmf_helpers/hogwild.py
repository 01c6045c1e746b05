"""Hogwild: the same training loop in several processes, on one set of weights, without locks."""

from __future__ import annotations

import copy
import io
import os
import pickle
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from itertools import count
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from threading import Thread
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from nmf_helpers.checks import check_number
from nmf_helpers.history import Record
from nmf_helpers.interactions import Interactions, batches
from nmf_helpers.training import Diverged, Evaluate, Step, set_rates, train_epoch

MOST_WORKERS = max(64, os.cpu_count() or 1)  # a slip of the keyboard shall not start thousands
Worker = tuple[BaseProcess, Connection]


class WorkerError(RuntimeError):
    """A worker process raised, died or went silent."""


def train_hogwild(
    model: nn.Module, dataset: Interactions, make_step: Callable[[nn.Module], Step], *,
    n_workers: int, rates: Callable[[int], Mapping[str, Any]], n_epochs: int | None = 10,
    start_epoch: int = 1, evaluate: Evaluate | None = None, seed: int = 0,
    start_method: str | None = None, timeout: float = 600.0,
) -> Generator[Record, None, None]:  # fmt: skip
    """Train a model in several processes at once, yielding one record per epoch.

    The weights lie in shared memory. Each worker walks its own shard of the data with its own
    random state and adds its updates straight to them. One epoch is one pass over the data,
    whatever the number of workers. (Niu, Recht, Ré and Wright 2011, "HOGWILD!: A Lock-Free
    Approach to Parallelizing Stochastic Gradient Descent".)

    ``make_step(model)`` returns the step that a worker takes: ``partial(BPRStep, lr=0.05)``;
    ``rates(epoch)`` the ``lr``, ``weight_decay`` and ``batch_size`` (of one worker). With
    ``n_epochs=None`` it goes on as long as somebody asks. `seed` decides shards and random states;
    with two workers a run is still not repeatable: who writes first is up to the machine.

    A ValueError or TypeError says what cannot work, be shared or be sent. If a worker diverges
    (Diverged), raises, dies or takes over `timeout` seconds for an epoch (WorkerError), the others
    are ended; the model keeps what it has.
    """
    check_number("n_workers", n_workers, at_least=1, at_most=MOST_WORKERS, whole=True)
    check_number("timeout", timeout, above=0)
    if not len(dataset):
        raise ValueError("there is nothing to train on: the dataset is empty")
    make_step(model)  # refuse what cannot work before starting
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    shards = order.chunk(n_workers)  # fewer than n_workers when there are fewer samples
    dataset = copy.copy(dataset)
    dataset.generator = None  # each worker makes its own
    context = _context(start_method)
    if context.get_start_method() != "fork":  # which sends nothing
        _check_sendable((model, dataset, make_step, shards))
    model.share_memory()
    workers: list[Worker] = []
    try:
        for rank, shard in enumerate(shards):
            ours, theirs = context.Pipe()
            own_seed = 1000 * (1000 * seed + start_epoch) + rank
            job = (theirs, rank, own_seed, model, dataset, make_step, shard)
            workers.append((context.Process(target=_work, args=job, daemon=True), ours))
            workers[-1][0].start()
            theirs.close()  # so that the parent notices when the worker's end closes
        _answers(workers, timeout)  # started, data unpacked
        for epoch in count(start_epoch) if n_epochs is None else range(start_epoch, n_epochs + 1):
            start, told = time.perf_counter(), (epoch, dict(rates(epoch)))
            for _, connection in workers:
                with suppress(OSError):  # it died since: found out when it doesn't answer
                    connection.send(told)
            losses = _answers(workers, timeout)
            total = sum(len(shard) * loss for shard, loss in zip(shards, losses, strict=True))
            record: Record = {"epoch": epoch, "train_loss": total / len(dataset)}
            seconds = time.perf_counter() - start
            model.eval()
            yield record | dict(evaluate(model) if evaluate else {}) | {"seconds": seconds}
    finally:  # also on an interrupt, and when the reader of the records stops early
        _end(workers)


def _work(
    connection: Connection, rank: int, seed: int, model: nn.Module, dataset: Interactions,
    make_step: Callable[[nn.Module], Step], shard: Tensor,
) -> None:  # fmt: skip
    """Run in a worker: train one epoch on the shard each time the parent says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; it ends us
    Thread(target=_end_with_parent, daemon=True).start()
    answer: float | Exception | None = None  # started, and the data unpacked
    try:
        torch.set_num_threads(1)  # the processes are the parallelism
        torch.manual_seed(seed)
        dataset.generator = generator = torch.Generator().manual_seed(seed)
        step, loader = make_step(model), batches(dataset, 1, generator, shard)
        while True:
            connection.send(answer)
            epoch, rates = connection.recv()
            set_rates(step, loader, **rates)
            answer = train_epoch(model, loader, step, epoch)["train_loss"]
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has closed its end
    except Diverged as error:
        answer = error
    except Exception:
        answer = WorkerError(f"hogwild worker {rank} failed:\n{traceback.format_exc()}")
    with suppress(OSError):  # another worker failed first, and the parent has stopped listening
        connection.send(answer)


def _end_with_parent() -> None:
    """Wait for the parent's death, and follow it, even in the middle of an epoch."""
    wait([parent_process().sentinel])  # type: ignore[union-attr]
    os._exit(1)


def _context(start_method: str | None) -> Any:
    """Return how processes are started.

    Best by "forkserver", where the system has it: the first call starts a server process that
    imports PyTorch, and workers fork from it in a moment. "spawn", a new Python for each worker,
    is for any system; "fork" may hang once PyTorch has used threads.
    """
    has_server = "forkserver" in torch.multiprocessing.get_all_start_methods()
    start_method = start_method or ("forkserver" if has_server else "spawn")
    context = torch.multiprocessing.get_context(start_method)
    if start_method == "forkserver":
        context.set_forkserver_preload([__name__, "nmf_helpers.bpr"])  # torch and NumPy with them
    return context


class _Inventory(ForkingPickler):
    """Looks through what is to be sent as sending it would, but for the tensors' memory."""

    n_bytes: dict[int, int]  # to be put into shared memory, by address

    def reducer_override(self, thing: Any) -> Any:
        """Count a tensor's memory; refuse by name what only this process can know."""
        if isinstance(thing, Tensor):
            memory = thing.untyped_storage()
            if not memory.is_shared():
                self.n_bytes[memory.data_ptr()] = -(-memory.nbytes() // 4096) * 4096  # in pages
            return int, ()
        in_main = isinstance(thing, type | FunctionType) and thing.__module__ == "__main__"
        if in_main and not hasattr(sys.modules["__main__"], "__file__"):  # as in a notebook
            raise pickle.PicklingError(f"{thing.__qualname__} has no file it could be read from")
        return NotImplemented


def _check_sendable(job: Any) -> None:
    """Raise an error if workers could not be sent the job, before anything is changed."""
    inventory = _Inventory(io.BytesIO())
    inventory.n_bytes = {}
    try:
        inventory.dump(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"the model, the step or its loss cannot be sent to a worker process ({error}): define "
            "it at the top of a .py file and import it; no notebook cell, lambda or inner function"
        ) from error
    if not os.path.isdir("/dev/shm"):
        return  # a system that has no limit of this kind
    room, needed, mib = shutil.disk_usage("/dev/shm"), sum(inventory.n_bytes.values()), 2**20
    if needed > room.free:  # both of PyTorch's ways to share memory take it from there
        raise ValueError(
            f"the workers share weights and data of {needed / mib:.1f} MiB by way of /dev/shm, "
            f"where {room.free / mib:.1f} MiB are free: train in one process (n_workers=0), or, "
            f"in Docker, start the container with --shm-size={(room.used + needed) // mib + 16}m"
        )


def _answers(workers: list[Worker], timeout: float) -> list[Any]:
    """Wait until every worker has answered; raise as soon as one fails, or at the time limit."""
    deadline = time.monotonic() + timeout
    answers: dict[int, Any] = {}
    while silent := {rank: w for rank, w in enumerate(workers) if rank not in answers}:
        signs = [sign for process, pipe in silent.values() for sign in (pipe, process.sentinel)]
        ready = wait(signs, max(0.0, deadline - time.monotonic()))
        if not ready:
            ranks = ", ".join(map(str, silent))
            raise WorkerError(f"hogwild worker {ranks} did not answer within {timeout:g} seconds")
        for rank, (process, pipe) in silent.items():
            if pipe in ready or process.sentinel in ready:
                answers[rank] = _receive(rank, process, pipe)
                if isinstance(answers[rank], Exception):
                    raise answers[rank]
    return [answers[rank] for rank in range(len(workers))]


def _receive(rank: int, process: BaseProcess, pipe: Connection) -> Any:
    with suppress(EOFError, ConnectionResetError):
        if pipe.poll():
            return pipe.recv()
    process.join(5)  # its pipe closes a moment before it is dead
    return WorkerError(
        f"hogwild worker {rank} died with exit code {process.exitcode}. A negative code is a "
        "signal (-9: killed, often for lack of memory). Code 1 at the start: a script must start "
        'training under if __name__ == "__main__":, since each worker imports the script anew'
    )


def _end(workers: list[Worker]) -> None:
    """Leave no process behind: terminate, then kill."""
    processes = [process for process, _ in workers if process.pid is not None]
    for end in (BaseProcess.terminate, BaseProcess.kill):
        for process in processes:
            end(process)  # nothing, if it has ended
        for process in processes:
            process.join(2)
    for _, connection in workers:
        connection.close()

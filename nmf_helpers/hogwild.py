"""Hogwild: the same training loop in several processes, on one set of weights, without locks."""

import copy
import io
import os
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from threading import Thread
from types import FunctionType
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.utils.data import Subset

from nmf_helpers.checks import check_number
from nmf_helpers.history import Record
from nmf_helpers.interactions import Interactions, batches
from nmf_helpers.training import Diverged, Evaluate, Step, set_rates, train_epoch

# A server that has imported PyTorch once, from which workers fork in a moment, where the system has
# it; else a new Python for each. ("fork" hangs if PyTorch has used threads.)
METHOD = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"


class WorkerError(RuntimeError):
    """A worker process raised or died."""


def train_hogwild(
    model: nn.Module, dataset: Interactions, make_step: Callable[[nn.Module], Step], *,
    n_workers: int, rates: Callable[[int], Mapping[str, Any]], start_epoch: int = 1,
    evaluate: Evaluate = None, seed: int = 0,
) -> Generator[Record, None, None]:  # fmt: skip
    """Train a model in several processes at once, yielding a record per epoch when asked for one.

    The weights lie in shared memory. Each worker walks its own shard of the data with its own
    random state and adds its updates straight to them: an epoch is one pass. (Niu et al. 2011,
    "HOGWILD!: A Lock-Free Approach to Parallelizing Stochastic Gradient Descent".)

    ``make_step(model)`` returns the step that a worker takes: ``partial(BPRStep, lr=0.05)``;
    ``rates(epoch)`` the ``lr``, ``weight_decay`` and ``batch_size`` (of one worker). `seed`
    decides shards and random states, but with two workers the machine decides who writes first.
    A ValueError or TypeError says what cannot work, be shared or be sent. If a worker diverges
    (Diverged), raises or dies (WorkerError), the others are ended; the model keeps what it has.
    """
    check_number("n_workers", n_workers, at_least=1, at_most=256, whole=True)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    shards = order.chunk(n_workers)  # fewer than n_workers when there are fewer samples
    dataset = copy.copy(dataset)
    dataset.generator = None  # each worker makes its own
    _check_sendable((model, dataset, make_step, order))
    model.share_memory()
    pipes, ends = zip(*(mp.Pipe() for _ in shards), strict=True)
    job = (ends, 1000 * (1000 * seed + start_epoch), model, dataset, make_step, order)
    processes: list[Any] = []
    if METHOD == "forkserver":  # workers import a script again, with what it most likely needs
        is_script = hasattr(sys.modules["__main__"], "__file__")
        more = ["nmf_helpers.data", "nmf_helpers.recipes"] * is_script
        mp.get_context(METHOD).set_forkserver_preload([__name__, "nmf_helpers.bpr", *more])
    try:
        workers = mp.start_processes(_work, job, len(shards), False, True, METHOD)  # daemons
        processes = workers.processes
        _answers(pipes, workers)  # started, data unpacked
        for epoch in count(start_epoch):
            start, told = time.perf_counter(), (epoch, dict(rates(epoch)))
            for pipe in pipes:
                pipe.send(told)
            losses = _answers(pipes, workers)
            total = sum(len(shard) * loss for shard, loss in zip(shards, losses, strict=True))
            record: Record = {"epoch": epoch, "train_loss": total / len(dataset)}
            seconds = time.perf_counter() - start
            model.eval()
            yield record | dict(evaluate(model) if evaluate else {}) | {"seconds": seconds}
    finally:  # also on an interrupt, and when the reader of the records stops early
        for process in processes:
            process.kill()  # nothing, if it has ended
            process.join()
        for pipe in pipes:
            pipe.close()  # and who was only half started ends when he finds it closed


def _work(
    rank: int, pipes: Sequence[Connection], seed: int, model: nn.Module, dataset: Interactions,
    make_step: Callable[[nn.Module], Step], order: Tensor,
) -> None:  # fmt: skip
    """Run in a worker: train one epoch on its shard each time the parent says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; it ends us
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # the processes are the parallelism
    torch.manual_seed(seed + rank)
    dataset.generator = generator = torch.Generator().manual_seed(seed + rank)
    shard: Any = order.chunk(len(pipes))[rank].sort().values  # indices, in user order
    step, loader = make_step(model), batches(Subset(dataset, shard), 1, generator)
    answer: float | Diverged | None = None
    while True:
        pipes[rank].send(answer)
        epoch, rates = pipes[rank].recv()
        set_rates(step, loader, **rates)
        try:
            answer = train_epoch(model, loader, step, epoch)["train_loss"]
        except Diverged as error:
            answer = error


def _end_with_parent() -> None:
    """Wait for the parent's death, and follow it, even in the middle of an epoch."""
    wait([mp.parent_process().sentinel])  # type: ignore[union-attr]
    os._exit(1)


class _Inventory(ForkingPickler):
    """Looks through what is to be sent as sending it would, but for the tensors' memory."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO())
        self.n_bytes: dict[int, int] = {}  # to be put into shared memory, by address

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
    inventory = _Inventory()
    try:
        inventory.dump(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        failed = f"the model, the step or its loss cannot be sent to a worker process ({error})"
        where = "at the top of a .py file and import it; no notebook cell, lambda, inner function"
        raise TypeError(f"{failed}: define it {where}") from error
    needed, mib = sum(inventory.n_bytes.values()), 2**20
    # Where the system has this folder, both of PyTorch's ways to share memory take it from there.
    if os.path.isdir("/dev/shm") and needed > (room := shutil.disk_usage("/dev/shm")).free:
        short = f"share {needed / mib:.1f} MiB by /dev/shm: {room.free / mib:.1f} MiB are free"
        docker = f"start Docker with --shm-size={(room.used + needed) // mib + 16}m"
        raise ValueError(f"the workers {short}: train in one process (n_workers=0), or {docker}")


def _answers(pipes: Sequence[Connection], workers: mp.ProcessContext) -> list[Any]:
    """Wait until every worker has answered; raise as soon as one fails."""
    for pipe in pipes:
        while not pipe.poll():
            wait([pipe, *workers.sentinels])
            try:
                workers.join(0)
                failure = "" if len(workers.sentinels) == len(pipes) else "it left before the end"
            except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
                failure = str(error)
            if failure:
                raise WorkerError(f"a hogwild worker failed (SIGKILL: often no memory): {failure}")
    answers = [pipe.recv() for pipe in pipes]
    for diverged in (answer for answer in answers if isinstance(answer, Diverged)):
        raise diverged
    return answers

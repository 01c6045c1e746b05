"""Several processes on one model: what they do, what they leave behind, how they fail."""

import contextlib
import gc
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import scipy.sparse as sp
import workers
from torch.nn import functional as F
from workers import TRAIN, hogwild, model

from nmf_helpers import hogwild as module
from nmf_helpers.interactions import Interactions, PairwiseInteractions
from nmf_helpers.models import BiasedMF
from nmf_helpers.pipeline import Pipeline
from nmf_helpers.training import Diverged

METHODS = multiprocessing.get_all_start_methods()  # Windows has spawn only


def processes():
    return {process.pid for process in multiprocessing.active_children()}


@pytest.fixture(autouse=True)
def no_process_is_left_behind():
    yield
    deadline = time.monotonic() + 5
    while processes() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes() == set()


# --- What the workers do ----------------------------------------------------------------------


def test_one_worker_learns_the_same_however_it_is_started(monkeypatch):
    scores = []
    for method in METHODS:
        trained = model()
        monkeypatch.setattr(module, "METHOD", method)
        records = list(hogwild(trained, n_workers=1))
        assert [record["epoch"] for record in records] == [1, 2, 3]
        assert records[-1]["train_loss"] < records[0]["train_loss"] < 0.8
        scores.append(trained.score_matrix())
        np.testing.assert_array_equal(scores[-1], scores[0])
    assert not np.array_equal(scores[0], model().score_matrix())


# Each user has one sample, so no update is lost to another worker's; and each sample moves its
# user's bias by exactly lr under a loss whose slope is 1.
ONCE = sp.csr_matrix((np.ones(60), (np.arange(60), np.arange(60) % 40)), shape=TRAIN.shape)


@pytest.mark.parametrize(("n_workers", "n_samples"), [(1, 60), (2, 60), (4, 60), (5, 3)])
def test_an_epoch_is_one_pass_whatever_the_number_of_workers(n_workers, n_samples):
    trained = model()
    list(hogwild(trained, Interactions(ONCE[:n_samples]), n_workers=n_workers, n_epochs=2,
                 loss=workers.slope_of_one, lr=1.0, batch_size=7))  # fmt: skip
    assert (trained.user_bias.weight[:n_samples] == -2).all()


def test_settings_of_a_pipeline_changed_between_epochs_reach_the_workers():
    pipeline = Pipeline(ONCE, loss=workers.slope_of_one, optimizer="row_sgd", sparse=True, lr=1.0,
                        n_workers=2, n_epochs=2)  # fmt: skip
    for _ in pipeline.epochs():
        pipeline.lr, pipeline.weight_decay = 2.0, 0.25
    assert (pipeline.model.user_bias.weight == -1 - 2 * (1 - 0.25)).all()


def test_the_recorded_loss_is_that_of_all_samples():
    values = sp.csr_matrix(np.arange(1.0, 2401).reshape(TRAIN.shape))
    (record,) = hogwild(model(), Interactions(values), n_workers=7, loss=workers.target_itself,
                        lr=1e-9, n_epochs=1)  # fmt: skip
    assert record["train_loss"] == pytest.approx(1200.5)


def states(folder, **changes):
    """Return the set of random states of each worker."""
    folder.mkdir()
    dataset = workers.Telltale(TRAIN)
    dataset.folder = folder
    list(hogwild(model(), dataset, n_epochs=1, n_workers=3, **changes))
    return [frozenset(file.read_text().split()) for file in folder.iterdir()]


def test_each_worker_has_a_random_state_of_its_own(tmp_path):
    three = states(tmp_path / "a")
    assert len(three) == len(set(three)) == 3
    assert set(three) == set(states(tmp_path / "b"))  # the same for the same seed,
    assert not set(three) & set(states(tmp_path / "c", seed=1))
    assert not set(three) & set(states(tmp_path / "d", start_epoch=3))  # or resumed


def test_the_parent_evaluates_between_epochs():
    def evaluate(model):
        return {"mode": model.training, "bias": model.item_bias.weight.abs().sum().item()}

    records = list(hogwild(model(), evaluate=evaluate))
    assert [record["mode"] for record in records] == [False] * 3
    biases = [record["bias"] for record in records]
    assert 0 < biases[0] < biases[1] < biases[2]  # the workers' updates arrive in the parent


# --- How they end -----------------------------------------------------------------------------


def test_who_stops_asking_ends_the_workers():
    records = hogwild(model(), n_epochs=None)
    next(records)
    for pid in processes():  # as a terminal sends it to the whole group: that is the parent's
        os.kill(pid, signal.SIGINT)
    next(records)
    assert len(processes()) == 2
    records.close()
    assert processes() == set()


def test_an_interrupt_ends_the_workers_and_keeps_the_model():
    trained = model()
    with pytest.raises(KeyboardInterrupt):
        for record in hogwild(trained, n_epochs=None):
            if record["epoch"] == 2:
                threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert processes() == set()
    assert np.isfinite(trained.score_matrix()).all()


SCRIPT = f"""
import sys

if __name__ == "__main__":
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from workers import hanging, hogwild, model
    list(hogwild(model(), loss=hanging))
"""


def test_workers_and_their_server_end_when_the_parent_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, tmp_path / "script.py"]
    parent = psutil.Popen(command, stdout=subprocess.PIPE, text=True)
    assert [parent.stdout.readline() for _ in range(2)] == ["in an epoch\n"] * 2
    family = parent.children(recursive=True)
    assert len(family) >= 3  # two workers and what Python starts with them
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while any(is_alive(process) for process in family):
        assert time.monotonic() < deadline, "they outlive their parent"
        time.sleep(0.02)


def is_alive(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE


# --- How they fail ----------------------------------------------------------------------------


@pytest.mark.parametrize("loss, says", [
    (workers.raising, r"(?s)a hogwild worker failed.*raising.*ArithmeticError: out of cheese"),
    (workers.leaving, "a hogwild worker failed.*left before the end"),
    (workers.one_dies_rest_hang, r"memory\): process [01] terminated with signal SIGKILL"),
])  # fmt: skip
def test_a_worker_that_fails_ends_the_run_with_the_reason(loss, says, tmp_path):
    trained = model()
    if loss is workers.one_dies_rest_hang:
        loss = partial(loss, flag=tmp_path / "flag")
    with pytest.raises(module.WorkerError, match=says):
        list(hogwild(trained, loss=loss))
    assert processes() == set()
    assert np.isfinite(trained.score_matrix()).all()
    list(hogwild(trained))  # the parent's model trains on


def test_divergence_in_a_worker_is_called_so_and_says_what_to_do():
    with pytest.raises(Diverged, match=r"in epoch \d+: try a smaller lr"):
        list(hogwild(model(), Interactions(TRAIN), loss=F.mse_loss, lr=1e6, n_epochs=50))


class OfACell(BiasedMF):
    __module__ = "__main__"


def test_what_cannot_be_sent_is_refused_by_name_and_nothing_is_changed(monkeypatch):
    trained = model()
    with pytest.raises(TypeError, match=r"cannot be sent.*<lambda>.*top of a \.py file"):
        list(hogwild(trained, loss=lambda d, t: d.mean()))
    notebook = types.ModuleType("__main__")  # it has no __file__
    notebook.OfACell = OfACell
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    with pytest.raises(TypeError, match=r"cannot be sent.*OfACell has no file"):
        list(hogwild(OfACell(*TRAIN.shape, 4, sparse=True)))
    assert not trained.item_factors.weight.is_shared()


def shared():
    """Return how many bytes of /dev/shm this process holds for PyTorch."""
    maps = Path("/proc/self/maps").read_text()
    parts = re.findall(r"^(\w+)-(\w+) .*/dev/shm/torch", maps, re.MULTILINE)
    return sum(int(end, 16) - int(start, 16) for start, end in parts)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /dev/shm")
def test_too_little_shared_memory_is_noticed_before_it_is_used(monkeypatch):
    def holds(job, free):
        disk = types.SimpleNamespace(used=0, free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
        before, records = shared(), hogwild(*job, n_epochs=None)
        next(records)
        return shared() - before

    gc.collect()  # what earlier tests have left
    first, second = [(model(), PairwiseInteractions(TRAIN)) for _ in range(2)]
    needed = holds(first, 2**30)
    with pytest.raises(ValueError, match=r"n_workers=0.*--shm-size="):
        holds(second, needed - 1)
    assert not second[0].item_factors.weight.is_shared()
    assert holds(second, needed) == needed
    assert 8 * TRAIN.nnz <= holds(second, needed) < needed / 2  # the rest is shared already


@pytest.mark.parametrize("n_workers", [0, 1.5, 10**6, "2"])
def test_a_number_of_workers_that_cannot_be_is_refused(n_workers):
    with pytest.raises(ValueError, match="n_workers must be a whole number, at least 1"):
        next(hogwild(model(), n_workers=n_workers))

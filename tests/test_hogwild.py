"""Several processes on one model: what they do, what they leave behind, how they fail."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import scipy.sparse as sp
import torch
from planted import LIKED as TRAIN
from torch.nn import functional as F

from nmf_helpers.hogwild import WorkerError, train_hogwild
from nmf_helpers.interactions import Interactions, PairwiseInteractions
from nmf_helpers.losses import bpr_loss
from nmf_helpers.models import BiasedMF
from nmf_helpers.pipeline import Pipeline
from nmf_helpers.training import Diverged, GradientStep

METHODS = multiprocessing.get_all_start_methods()  # Windows has spawn only


def model():
    torch.manual_seed(0)
    return BiasedMF(*TRAIN.shape, 4, sparse=True, init_std=0.1)


def hogwild(model, dataset=None, *, loss=bpr_loss, lr=0.05, batch_size=32, step=None, **changes):
    step = {"optimizer": "row_sgd", "reduction": "sum", "loss": loss, "lr": lr} | (step or {})
    rates = {"lr": lr, "weight_decay": 0.0, "batch_size": batch_size}
    changes = {"n_workers": 2, "n_epochs": 3, "timeout": 30, "rates": lambda epoch: rates} | changes
    dataset = PairwiseInteractions(TRAIN) if dataset is None else dataset
    return train_hogwild(model, dataset, partial(GradientStep, **step), **changes)


@pytest.fixture(autouse=True)
def no_process_is_left_behind():
    yield
    deadline = time.monotonic() + 5
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert multiprocessing.active_children() == []


# --- What the workers do ----------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_it_trains_however_processes_are_started(method):
    trained = model()
    records = list(hogwild(trained, start_method=method))
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert records[-1]["train_loss"] < records[0]["train_loss"] < 0.8
    assert not torch.equal(trained.item_bias.weight, model().item_bias.weight)


def test_more_workers_than_samples_are_no_trouble():
    few = sp.csr_matrix(([1.0] * 3, ([0, 1, 2], [0, 1, 2])), shape=TRAIN.shape)
    assert len(list(hogwild(model(), PairwiseInteractions(few), n_workers=5))) == 3


def slope_of_one(prediction, target):
    return prediction.mean()


# Each user has one sample, so no update is lost to another worker's; and each sample moves its
# user's bias by exactly lr under a loss whose slope is 1.
ONCE = sp.csr_matrix((np.ones(60), (np.arange(60), np.arange(60) % 40)), shape=TRAIN.shape)


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_an_epoch_is_one_pass_whatever_the_number_of_workers(n_workers):
    trained = model()
    list(hogwild(trained, Interactions(ONCE), n_workers=n_workers, loss=slope_of_one, lr=1.0,
                 batch_size=7, n_epochs=2))  # fmt: skip
    np.testing.assert_array_equal(trained.user_bias.weight.detach(), np.full((60, 1), -2))


def test_settings_changed_between_epochs_reach_the_workers():
    rates = {
        1: {"lr": 1.0, "weight_decay": 0.0, "batch_size": 10},
        2: {"lr": 2.0, "weight_decay": 0.25, "batch_size": 30},  # all that a worker has
    }
    trained = model()
    list(hogwild(trained, Interactions(ONCE), loss=slope_of_one, n_epochs=2, rates=rates.get,
                 step={"reduction": "mean"}))  # fmt: skip
    first = 0 - 1 / 10
    second = first - 2 * (1 / 30 + first / 4)
    np.testing.assert_allclose(trained.user_bias.weight.detach(), np.full((60, 1), second))


def test_the_recorded_loss_is_that_of_all_samples():
    values = sp.csr_matrix(np.arange(1.0, 2401).reshape(TRAIN.shape))
    (record,) = hogwild(model(), Interactions(values), n_workers=4, loss=target_itself, lr=1e-9,
                        n_epochs=1)  # fmt: skip
    assert record["train_loss"] == pytest.approx(1200.5)


def target_itself(prediction, target):
    return target.mean() + 0 * prediction.sum()


class Telltale(PairwiseInteractions):
    """Writes down which random states its negatives were drawn from."""

    def sample_negatives(self, users):
        with (self.folder / str(os.getpid())).open("a") as file:
            file.write(f"{self.generator.initial_seed()} {torch.initial_seed()}\n")
        return super().sample_negatives(users)


def states(folder, **changes):
    """Return the set of random states of each worker."""
    folder.mkdir()
    dataset = Telltale(TRAIN)
    dataset.folder = folder
    list(hogwild(model(), dataset, **changes))
    return [frozenset(file.read_text().split()) for file in folder.iterdir()]


def test_each_worker_has_a_random_state_of_its_own(tmp_path):
    three = states(tmp_path / "a", n_workers=3)
    assert len(three) == len(set(three)) == 3
    assert set(three) == set(states(tmp_path / "b", n_workers=3))  # the same for the same seed,
    assert not set(three) & set(states(tmp_path / "c", n_workers=3, seed=1))
    assert not set(three) & set(states(tmp_path / "d", n_workers=3, start_epoch=3))  # or resumed


def test_one_worker_repeats_itself_exactly():
    first, second = model(), model()
    for each in (first, second):
        list(hogwild(each, n_workers=1))
    np.testing.assert_array_equal(first.score_matrix(), second.score_matrix())


def test_the_parent_evaluates_between_epochs():
    seen = []

    def evaluate(model):
        seen.append(model.training)
        return {"bias": model.item_bias.weight.abs().sum().item()}

    records = list(hogwild(model(), evaluate=evaluate))
    assert seen == [False] * 3
    biases = [record["bias"] for record in records]
    assert 0 < biases[0] < biases[1] < biases[2]  # the workers' updates arrive in the parent


def test_the_pipeline_trains_hogwild_and_may_change_its_rate_meanwhile():
    settings = {"loss": "bpr", "sparse": True, "step": "by_hand", "lr": 0.05, "n_epochs": 3}
    pipeline = Pipeline(TRAIN, n_workers=2, **settings, batch_size=64, n_factors=4)
    factors = [pipeline.model.item_factors.weight.detach().clone()]
    for _ in pipeline.epochs():
        factors.append(pipeline.model.item_factors.weight.detach().clone())
        pipeline.lr = 1e-12
    assert not torch.allclose(factors[0], factors[1])
    assert torch.allclose(factors[1], factors[3])


# --- How they end -----------------------------------------------------------------------------


def processes():
    return {process.pid for process in multiprocessing.active_children()}


def test_who_stops_asking_ends_the_workers():
    records = hogwild(model(), n_epochs=1000)
    next(records)
    assert len(processes()) == 2
    records.close()
    assert processes() == set()


def test_an_interrupt_ends_the_workers_and_keeps_the_model():
    trained = model()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        for _ in hogwild(trained, n_epochs=10**6):
            pass
    assert processes() == set()
    assert np.isfinite(trained.score_matrix()).all()


def test_workers_leave_ctrl_c_to_the_parent():
    records = hogwild(model(), n_epochs=10)
    next(records)
    for pid in processes():  # a terminal sends it to the whole group
        os.kill(pid, signal.SIGINT)
    assert len(list(records)) == 9


def test_workers_and_their_server_end_when_the_parent_is_killed(tmp_path):
    script = f"""
        import os, sys, time

        def hang(difference, target):  # a function of the script itself
            os.write(1, b"in an epoch\\n")
            time.sleep(600)

        if __name__ == "__main__":
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from test_hogwild import hogwild, model
            list(hogwild(model(), loss=hang, start_method=sys.argv[1]))
    """
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    commands = [[sys.executable, path, method] for method in METHODS if method != "fork"]
    parents = [psutil.Popen(c, stdout=subprocess.PIPE, text=True) for c in commands]
    for parent in parents:
        assert [parent.stdout.readline() for _ in range(2)] == ["in an epoch\n"] * 2
        family = parent.children(recursive=True)
        assert len(family) >= 3  # two workers and what Python starts with them
        parent.kill()
        parent.communicate()
        deadline = time.monotonic() + 30
        while any(is_alive(process) for process in family):
            assert time.monotonic() < deadline, "they outlive their parent"
            time.sleep(0.02)


def is_alive(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE


# --- How they fail ----------------------------------------------------------------------------


def raising(difference, target):
    raise ArithmeticError("out of cheese")


def dying(difference, target):
    os.kill(os.getpid(), 9)


def hanging(difference, target):
    time.sleep(60)


def first_dies_rest_hang(difference, target, flag):
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        time.sleep(60)
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize("loss, says, timeout", [
    (raising, r"(?s)worker [01] failed:.*raising.*ArithmeticError: out of cheese", 30),
    (dying, r"worker [01] died with exit code -9", 30),
    (hanging, r"worker [01](, 1)? did not answer within 0\.5 seconds", 0.5),
    (first_dies_rest_hang, r"worker [01] died with exit code -9", 30),
])  # fmt: skip
def test_a_worker_that_fails_ends_the_run_with_the_reason(loss, says, timeout, tmp_path):
    trained, start = model(), time.monotonic()
    if loss is first_dies_rest_hang:
        loss = partial(loss, flag=tmp_path / "flag")
    with pytest.raises(WorkerError, match=says):
        list(hogwild(trained, loss=loss, timeout=timeout))
    assert time.monotonic() - start < 25  # without waiting for the time limit
    assert processes() == set()
    assert np.isfinite(trained.score_matrix()).all()
    list(hogwild(trained))  # the parent's model trains on


def test_a_worker_killed_between_epochs_is_reported():
    trained = model()
    records = hogwild(trained, n_epochs=10)
    next(records)
    victim = multiprocessing.active_children()[0]
    os.kill(victim.pid, 9)
    victim.join()
    with pytest.raises(WorkerError, match="died with exit code -9"):
        next(records)


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


SMALL = f"""
import subprocess, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_hogwild import PairwiseInteractions, TRAIN, hogwild, model
trained, data = model(), PairwiseInteractions(TRAIN)
tensors = [v for part in (trained.state_dict(), vars(data)) for v in part.values()]
sizes = [v.numel() * v.element_size() for v in tensors if hasattr(v, "numel")] + [8 * len(data)]
pages = sum(-(-size // 4096) for size in sizes)
for n_pages in (pages - 1, pages, pages):
    subprocess.run(["mount", "-o", f"remount,size={{4096 * n_pages}}", "/dev/shm"], check=True)
    try:
        print("trained", len(list(hogwild(trained, data))))
    except ValueError as error:
        print(error, trained.item_factors.weight.is_shared())
"""


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="has to mount a /dev/shm")
def test_too_little_shared_memory_is_noticed_before_it_is_used():
    command = 'mount -t tmpfs tmpfs /dev/shm && exec "$0" -c "$1"'
    ran = subprocess.run(["unshare", "-m", "sh", "-c", command, sys.executable, SMALL], text=True,
                         capture_output=True, timeout=60)  # fmt: skip
    if "unshare failed" in ran.stderr or "permission denied" in ran.stderr:
        pytest.skip(ran.stderr)
    refused, *trained = ran.stdout.splitlines()
    assert "n_workers=0" in refused and "--shm-size=" in refused and refused.endswith("False")
    assert trained == ["trained 3"] * 2  # the second time all but the order is shared already


@pytest.mark.parametrize("changes, says", [
    *(({"n_workers": n}, "n_workers must be a whole number, at") for n in (0, 1.5, 10**6, "2")),
    ({"timeout": 0}, "timeout must be"),
    ({"step": {"optimizer": "adam"}}, "use sparse=False"),
    ({"start_method": "telepathy"}, "telepathy"),
    ({"dataset": Interactions(sp.csr_matrix(TRAIN.shape))}, "nothing to train on"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused_before_a_worker_starts(changes, says):
    with pytest.raises(ValueError, match=says):
        list(hogwild(model(), **changes))

"""Processes that share nothing: who reads what, and what they learn, though one is killed."""

import os
import signal
import sys
from threading import Thread

import numpy as np
import pandas as pd
import pytest
import torch.distributed as dist
from planted import likes
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from nmf_helpers import distributed
from nmf_helpers.metrics import auc, ndcg_at_k
from nmf_helpers.pipeline import Pipeline

TRAIN, TEST = (part[np.flatnonzero(likes(200)[0].sum(axis=1))] for part in likes(200))
TABLE = pd.DataFrame(np.argwhere(TRAIN.toarray()) * 7 + 5, columns=["reader", "book"])  # raw ids
SMALL = distributed.SETTINGS | {"n_factors": 4, "batch_size": 64, "lr": 0.2}
ITEM_LAYERS = "item_factors", "item_bias"
COMMAND = "distributed ratings.csv --columns reader book - --save whole.model --epochs "


@pytest.fixture
def process(monkeypatch):
    """Let the code believe that it runs in a process of this rank."""

    def process(rank, n_processes):
        monkeypatch.setattr(dist, "get_rank", lambda: rank)
        monkeypatch.setattr(dist, "get_world_size", lambda: n_processes)
        items = np.unique(TABLE["book"])  # of which each process knows some
        give = lambda found, own: found.__setitem__(slice(None), [items] * n_processes)  # noqa: E731
        monkeypatch.setattr(dist, "all_gather_object", give)

    return process


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("threshold", [-np.inf, 4])
def test_each_interaction_is_read_by_the_one_process_of_its_user(
    kind, threshold, process, tmp_path, monkeypatch
):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(distributed, "CHUNK", 100)
    path, table = str(tmp_path / f"ratings.{kind}"), TABLE.assign(stars=np.arange(len(TABLE)) % 6)
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    parts = []
    for rank in range(3):
        process(rank, 3)
        parts.append(distributed.read_own(path, ["reader", "book", "stars"], threshold))
        assert set(parts[-1]["reader"] % 3) == {rank}
    together = pd.concat(parts).sort_values(["reader", "book"], ignore_index=True)
    wanted = TABLE[table["stars"] >= threshold].reset_index(drop=True)
    pd.testing.assert_frame_equal(together, wanted)


def test_what_is_held_out_does_not_depend_on_the_number_of_processes(process):
    held_out = []
    for n_processes in (1, 2):
        pairs = set()
        for rank in range(n_processes):
            process(rank, n_processes)
            own = TABLE[TABLE["reader"] % n_processes == rank].sample(frac=1, random_state=rank)
            ids, train, test = distributed.own_matrices(own)
            assert set(test.sum(axis=1)) == {0, 10} and train.sum(axis=1).min() > 0
            rows, columns = test.nonzero()
            pairs |= set(zip(ids[rows], columns, strict=True))
        held_out.append(pairs)
    assert held_out[0] == held_out[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with ratings, as the current one."""
    TABLE.to_csv(tmp_path / "ratings.csv", index=False)
    monkeypatch.chdir(tmp_path)


def test_one_process_trains_as_the_pipeline_does_and_prints_what_it_reached(
    folder, monkeypatch, capfd
):
    monkeypatch.setattr(distributed, "HELD_OUT", 5)
    split, matrices = [], distributed.own_matrices
    monkeypatch.setattr(
        distributed, "own_matrices", lambda table: split.extend(matrices(table)) or split
    )
    monkeypatch.setattr(sys, "argv", f"{COMMAND} 2".split())
    distributed.main()
    _, train, test = split
    whole = Pipeline.load("whole.model")
    assert f"AUC {auc(whole, test, train):.4f}" in (said := capfd.readouterr().out)
    assert f"nDCG@10 {ndcg_at_k(whole, test, train, k=10):.4f}" in said
    alone = Pipeline(train, **distributed.SETTINGS | {"n_epochs": 2}).fit()
    np.testing.assert_array_equal(whole.score_matrix(), alone.score_matrix())


def two_by_hand(n_epochs):
    """What two processes should learn, in this one: items are averaged after each epoch."""
    own = [np.flatnonzero(TABLE["reader"].unique() % 2 == rank) for rank in (0, 1)]
    settings = SMALL | {"lr": SMALL["lr"] * 2**0.5, "n_epochs": n_epochs}
    first, second = (Pipeline(TRAIN[own[rank]], seed=rank, **settings) for rank in (0, 1))
    layers = [(getattr(first.model, n), getattr(second.model, n)) for n in ITEM_LAYERS]
    for one, other in layers:
        other.weight.data = one.weight.data.clone()
    for _ in zip(first.epochs(), second.epochs(), strict=True):
        for one, other in layers:
            one.weight.data = (one.weight.data + other.weight.data) / 2
            other.weight.data = one.weight.data.clone()
    scores = np.zeros(TRAIN.shape, np.float32)
    scores[own[0]], scores[own[1]] = first.score_matrix(), second.score_matrix()
    return scores


def die_once():
    """What each process runs: the one of rank 1 is killed after its fifth epoch. Count epochs."""
    merge, merged = distributed.merge_models, []

    def dying(model):
        merged.append(merge(model))
        if (
            len(merged) == 5
            and os.environ["RANK"] + os.environ["TORCHELASTIC_RESTART_COUNT"] == "10"
        ):
            os.kill(os.getpid(), signal.SIGKILL)  # the other one may save this epoch

    distributed.merge_models, distributed.HELD_OUT, distributed.SETTINGS = dying, 40, SMALL
    distributed.main()
    return len(merged)


def test_two_processes_learn_what_one_does_though_one_is_killed(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", f"{COMMAND} 20 --checkpoint .".split())
    method = "fork" if sys.platform == "linux" else "spawn"
    where = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "test"}
    config = LaunchConfig(1, 1, 2, max_restarts=1, start_method=method, **where)
    merged = {}
    torchrun = Thread(target=lambda: merged.update(elastic_launch(config, die_once)()))
    torchrun.start()  # not in the main thread, where it takes all signals for itself
    torchrun.join()
    assert merged == {0: 16, 1: 16}  # epochs 5 … 20: the others were not trained again
    whole = Pipeline.load("whole.model")
    np.testing.assert_allclose(whole.score_matrix(), two_by_hand(20), atol=1e-5)
    alone = Pipeline(TRAIN, **SMALL | {"n_epochs": 20}).fit()
    assert auc(whole, TEST, TRAIN) > 0.98 * auc(alone, TEST, TRAIN)

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

LIKES = likes(200, density=0.9)[0]
TABLE = pd.DataFrame(np.argwhere(LIKES.toarray()) * 7 - 99, columns=["reader", "book"])  # raw ids
SMALL = distributed.SETTINGS | {"n_factors": 4, "batch_size": 64, "lr": 0.1}
ITEM_LAYERS = "item_factors", "item_bias"
COMMAND = "distributed ratings.csv --columns reader book - --save whole.model --epochs "


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("threshold", [-np.inf, 4])
def test_each_interaction_is_read_by_the_one_process_of_its_user(
    kind, threshold, tmp_path, monkeypatch
):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    path, table = str(tmp_path / f"ratings.{kind}"), TABLE.assign(stars=np.arange(len(TABLE)) % 6)
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    parts = []
    monkeypatch.setattr(distributed, "CHUNK", 100)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        parts.append(distributed.read_own(path, ["reader", "book", "stars"], threshold))
        assert set(parts[-1]["reader"].abs() % 3) == {rank}
    together = pd.concat(parts).sort_values(["reader", "book"], ignore_index=True)
    wanted = TABLE[table["stars"] >= threshold].reset_index(drop=True)
    pd.testing.assert_frame_equal(together, wanted)


@pytest.fixture
def split(tmp_path, monkeypatch):
    """What one process trains and tests on, of ratings in the current folder."""
    TABLE.to_csv(tmp_path / "ratings.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(distributed, "HELD_OUT", 3)
    distributed.join()
    _, *matrices = distributed.own_matrices(TABLE)
    dist.destroy_process_group()
    return matrices


def test_one_process_trains_as_the_pipeline_does(split, monkeypatch):
    monkeypatch.setattr(sys, "argv", f"{COMMAND} 2".split())
    distributed.main()
    alone = Pipeline(split[0], **distributed.SETTINGS | {"n_epochs": 2}).fit()
    whole = Pipeline.load("whole.model")
    np.testing.assert_array_equal(whole.score_matrix(), alone.score_matrix())


def two_by_hand(train, n_epochs):
    """What two processes should learn, in this one: items are averaged after each epoch."""
    own = [np.flatnonzero(TABLE["reader"].abs().unique() % 2 == rank) for rank in (0, 1)]
    settings = SMALL | {"lr": SMALL["lr"] * 2**0.5, "n_epochs": n_epochs}
    first, second = (Pipeline(train[own[rank]], seed=rank, **settings) for rank in (0, 1))
    layers = [(getattr(first.model, n), getattr(second.model, n)) for n in ITEM_LAYERS]
    for one, other in layers:
        other.weight.data = one.weight.data.clone()
    for _ in zip(first.epochs(), second.epochs(), strict=True):
        for one, other in layers:
            one.weight.data = (one.weight.data + other.weight.data) / 2
            other.weight.data = one.weight.data.clone()
    scores = np.zeros(train.shape, np.float32)
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

    distributed.merge_models, distributed.HELD_OUT, distributed.SETTINGS = dying, 3, SMALL
    distributed.main()
    return len(merged)


def test_two_processes_learn_what_one_does_though_one_is_killed(split, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", f"{COMMAND} 20 --checkpoint .".split())
    method = "fork" if sys.platform == "linux" else "spawn"
    where = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "test"}
    config = LaunchConfig(1, 1, 2, max_restarts=1, start_method=method, **where)
    merged = {}
    torchrun = Thread(target=lambda: merged.update(elastic_launch(config, die_once)()))
    torchrun.start()  # not in the main thread, where it takes all signals for itself
    torchrun.join()
    assert merged == {0: 16, 1: 16}  # epochs 5 … 20: the others were not trained again
    train, test = split
    whole = Pipeline.load("whole.model")
    np.testing.assert_allclose(whole.score_matrix(), two_by_hand(train, 20), atol=1e-5)
    reached = auc(whole, test, train)
    assert reached > 0.98 * auc(Pipeline(train, **SMALL | {"n_epochs": 20}).fit(), test, train)
    said = f"nDCG@10 {ndcg_at_k(whole, test, train):.4f}  AUC {reached:.4f}"
    assert said in capfd.readouterr().out  # tested on the same, though in two parts

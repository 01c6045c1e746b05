"""Processes that share nothing: who reads what, and what they learn, though one is killed."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch.distributed as dist
from planted import likes

from nmf_helpers import distributed
from nmf_helpers.metrics import auc, ndcg_at_k
from nmf_helpers.pipeline import Pipeline

TRAIN, TEST = (part[np.flatnonzero(likes(400)[0].sum(axis=1))] for part in likes(400))
TABLE = pd.DataFrame(np.argwhere(TRAIN.toarray()) * 7 + 5, columns=["reader", "book"])  # raw ids
SETTINGS = distributed.SETTINGS | {"n_factors": 4, "batch_size": 64, "n_epochs": 80}
ITEM_LAYERS = "item_factors", "item_bias"
SCRIPT = """
import os, signal
from nmf_helpers import distributed

merge, n_merged = distributed.merge_models, 0

def dying(model):
    global n_merged
    n_merged += 1
    merge(model)
    if n_merged == 10 and os.environ["RANK"] + os.environ["TORCHELASTIC_RESTART_COUNT"] == "10":
        os.kill(os.getpid(), signal.SIGKILL)  # the other one may save this epoch

distributed.merge_models, distributed.HELD_OUT = dying, 40
distributed.SETTINGS |= {"n_factors": 4, "batch_size": 64}
distributed.main()
os.write(1, b"merged %d\\n" % n_merged)  # at once: two processes write
"""


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
    pd.testing.assert_frame_equal(
        together, TABLE[table["stars"] >= threshold].reset_index(drop=True)
    )


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


def test_one_process_trains_as_the_pipeline_does_and_prints_what_it_reached(
    tmp_path, monkeypatch, capfd
):
    TABLE.to_csv(tmp_path / "ratings.csv", index=False)
    monkeypatch.setattr(distributed, "HELD_OUT", 5)
    split, matrices = [], distributed.own_matrices
    monkeypatch.setattr(
        distributed, "own_matrices", lambda table: split.extend(matrices(table)) or split
    )
    monkeypatch.chdir(tmp_path)
    command = "distributed ratings.csv --columns reader book - --epochs 2 --seed 3 --save model.pt"
    monkeypatch.setattr(sys, "argv", command.split())
    distributed.main()
    _, train, test = split
    whole = Pipeline.load("model.pt")
    assert f"AUC {auc(whole, test, train):.4f}" in (said := capfd.readouterr().out)
    assert f"nDCG@10 {ndcg_at_k(whole, test, train, k=10):.4f}" in said
    alone = Pipeline(train, **distributed.SETTINGS | {"n_epochs": 2, "seed": 3}).fit()
    np.testing.assert_array_equal(whole.score_matrix(), alone.score_matrix())


def test_a_process_that_fails_says_why_to_torchrun(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setattr(sys, "argv", ["distributed", "no-such-file.csv"])
    with pytest.raises(FileNotFoundError):
        distributed.main()
    assert "no-such-file.csv" in (tmp_path / "error.json").read_text()
    assert not dist.is_initialized()


def two_by_hand():
    """What two processes should learn, in this one: items are averaged after each epoch."""
    own = [np.flatnonzero(TABLE["reader"].unique() % 2 == rank) for rank in (0, 1)]
    settings = SETTINGS | {"lr": SETTINGS["lr"] * 2**0.5}
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


def test_two_processes_learn_what_one_does_though_one_is_killed(tmp_path):
    TABLE.to_csv(tmp_path / "ratings.csv", index=False)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = (
        "-m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 1 script.py "
        "ratings.csv --columns reader book - --epochs 80 --checkpoint . --save whole.model"
    )
    job = subprocess.Popen([sys.executable, *command.split()], cwd=tmp_path, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    try:
        alone, expected = Pipeline(TRAIN, **SETTINGS).fit(), two_by_hand()  # meanwhile
        output, errors = job.communicate(timeout=90)
    finally:
        job.terminate()  # nothing, if it has ended
    assert job.returncode == 0, errors
    assert output.count("merged 71") == 2  # epochs 10 … 80: the others were not trained again
    whole = Pipeline.load(tmp_path / "whole.model")
    np.testing.assert_allclose(whole.score_matrix(), expected, atol=1e-5)
    assert auc(whole, TEST, TRAIN) == pytest.approx(auc(alone, TEST, TRAIN), rel=0.02)

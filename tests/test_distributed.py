"""Processes that share nothing: what one alone learns, and a failure that ends them all."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from planted import likes

from nmf_helpers import distributed
from nmf_helpers.metrics import auc
from nmf_helpers.pipeline import Pipeline

SETTINGS = distributed.SETTINGS | {"n_factors": 4, "batch_size": 64, "n_epochs": 100, "seed": 0}

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch, torch.distributed as dist
from planted import likes
from test_distributed import SETTINGS
from nmf_helpers.distributed import epochs, own_rows, report_errors
from nmf_helpers.pipeline import Pipeline

@report_errors
def main():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    train, _ = likes(n_users=400)
    mine = own_rows(train, rank, dist.get_world_size())
    pipeline = Pipeline(mine, **SETTINGS | {{"lr": SETTINGS["lr"] * 2**0.5}})
    for record in epochs(pipeline):
        if rank == 1 and record["epoch"] == {dies_in}:
            raise MemoryError("no room for epoch {dies_in}")
    torch.save(pipeline.model.state_dict(), {folder!r} + f"/{{rank}}.pt")
    dist.destroy_process_group()

if __name__ == "__main__":
    main()
"""


def torchrun(folder, dies_in=None):
    script = folder / "script.py"
    script.write_text(
        SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder), dies_in=dies_in)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, "--nproc-per-node=2", str(script)],
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip


def test_the_rows_are_dealt_out_whole():
    train, _ = likes()
    parts = [distributed.own_rows(train, rank, 3) for rank in range(3)]
    np.testing.assert_array_equal(sum(parts).toarray(), train.toarray())
    for rank, part in enumerate(parts):
        users = np.flatnonzero(np.diff(part.indptr))
        assert set(users % 3) == {rank}
        assert part.nnz == part.count_nonzero()  # no zeros are stored for the others


def test_two_processes_end_with_one_model_as_good_as_one_processs(tmp_path):
    import torch

    done = torchrun(tmp_path)
    assert done.returncode == 0, done.stderr
    train, test = likes(n_users=400)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), f"{name} differs between the processes"
    both, neither, alone, half = (
        Pipeline(matrix, **SETTINGS)
        for matrix in (train, train, train, distributed.own_rows(train, 0, 2))
    )
    both.model.load_state_dict(first)
    for pipeline in (alone, half):
        list(distributed.epochs(pipeline))
    expected = auc(alone, test, train)
    assert auc(both, test, train) == pytest.approx(expected, rel=0.02)
    for worse in (neither, half):  # the other's users were needed
        assert auc(worse, test, train) < 0.95 * expected


def test_a_process_that_fails_ends_the_job_with_its_reason(tmp_path):
    done = torchrun(tmp_path, dies_in=2)
    assert done.returncode != 0
    assert "MemoryError: no room for epoch 2" in done.stderr
    assert not list(tmp_path.glob("*.pt"))  # the other did not go on alone

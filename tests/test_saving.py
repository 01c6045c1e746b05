"""Saved runs: all of it or nothing, and nothing that runs as code."""

import os
import pickle
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import TEST, TRAIN, build, build_ranking, same_run
from torch import nn

from nmf_helpers import saving
from nmf_helpers.losses import bpr_loss
from nmf_helpers.models import MF, BiasedMF, CollabFNet
from nmf_helpers.pipeline import Pipeline


@pytest.fixture
def path(tmp_path):
    """Where an older run is saved, alone in its folder."""
    build().save(tmp_path / "run.pt")
    return tmp_path / "run.pt"


@contextmanager
def nothing_changes_at(path):
    before = path.read_bytes()
    yield
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_numbers_of_numpy_are_numbers_wherever_they_stand(path):
    running = build(
        lr=np.logspace(-3, -1, 3)[1], n_factors=np.int64(3), seed=np.int32(2), n_epochs=np.int8(2),
        weight_decay=np.float32(0.1), init_std=np.float64(0.1), metrics=np.array(["rmse"]),
        evaluate_on={np.str_("hidden"): TEST},
    ).fit()  # fmt: skip
    running.history[-1]["mine"] = np.array([1.5, 2.5])
    running.save(path)
    loaded = Pipeline.load(path)
    assert loaded.history[-1].pop("mine").tolist() == running.history[-1].pop("mine").tolist()
    same_run(loaded, running)


@pytest.mark.parametrize("model", [MF, BiasedMF, CollabFNet])
def test_a_loaded_pipeline_predicts_the_same_without_its_data(model, path):
    fitted = build(model=model, dropout=None, n_epochs=2).fit()
    fitted.save(path)
    loaded = Pipeline.load(path)
    same_run(loaded, fitted)
    assert loaded.rmse(TEST) == fitted.rmse(TEST)  # clipped to the scale it was trained on
    assert loaded.fit() is loaded  # there is nothing left to do
    loaded.n_epochs += 1
    with pytest.raises(ValueError, match=r"give Pipeline\.load the matrix"):
        loaded.fit()


def test_a_tilde_is_the_home_folder(path, monkeypatch):
    monkeypatch.setenv("HOME", str(path.parent))
    monkeypatch.setenv("USERPROFILE", str(path.parent))
    build(n_factors=7).save("~/run.pt")
    assert Pipeline.load(path).n_factors == Pipeline.load("~/run.pt").n_factors == 7


def test_classes_and_functions_that_have_a_name_are_saved_by_it(path):
    build_ranking(optimizer=torch.optim.Adam, loss=bpr_loss).save(path)
    loaded = Pipeline.load(path)
    assert (loaded.optimizer, loaded.loss) == ("adam", "bpr")


OWN = type("BiasedMF", (BiasedMF,), {})  # as a reader of a notebook may call hers


@pytest.mark.parametrize(
    ("setting", "value"),
    [("model", OWN), ("loss", nn.L1Loss()), ("optimizer", torch.optim.RMSprop)],
)
def test_what_has_no_name_cannot_be_saved_and_the_older_file_stays(setting, value, path):
    with nothing_changes_at(path):
        says = rf"\['settings'\]\['{setting}'\] is .* no name .*: save the weights alone"
        with pytest.raises(TypeError, match=says):
            build(**{setting: value}).save(path)


class Payload(str):
    """Unpickled, it would write a file."""

    def __reduce__(self):
        return Path.touch, (Path(self),)


@pytest.mark.parametrize(
    "write",
    [
        lambda payload, path: torch.save({"format": saving.FORMAT, "x": payload}, path),
        lambda payload, path: path.write_bytes(pickle.dumps(payload, protocol=2)),
    ],
)
def test_loading_never_runs_what_a_file_holds(write, tmp_path):
    write(Payload(tmp_path / "pwned"), tmp_path / "run.pt")
    with pytest.raises(ValueError, match="not a saved pipeline, or it is damaged") as caught:
        Pipeline.load(tmp_path / "run.pt")
    assert not (tmp_path / "pwned").exists()
    assert "weights_only" not in str(caught.value)  # no advice to switch the protection off
    pickle.loads(pickle.dumps(Payload(tmp_path / "pwned")))
    assert (tmp_path / "pwned").exists()  # the payload does work


@pytest.mark.parametrize("keep", [0, 1, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_reported(keep, path):
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"run\.pt is not a saved pipeline, or it is damaged"):
        Pipeline.load(path)


@pytest.mark.parametrize(
    ("changes", "train", "says"),
    [
        (b"<html>404</html>", None, "not a saved pipeline"),
        ([1, 2], None, "not a saved pipeline"),
        ([("format", 2)], None, "holds no pipeline"),
        ({"format": 99}, None, "of format 99, not 2: update nmf_helpers"),
        ({"format": 1}, None, "of format 1, not 2: train and save"),
        ({"shape": [60, 41]}, None, "fits this train"),
        ({}, TRAIN[:5], r"run\.pt holds no pipeline that fits this train: .*60.*5"),
    ],
)
def test_other_files_are_reported(changes, train, says, path):
    if isinstance(changes, bytes):
        path.write_bytes(changes)
    elif isinstance(changes, dict):
        torch.save(torch.load(path, weights_only=True) | changes, path)
    else:
        torch.save(changes, path)
    with pytest.raises(ValueError, match=f"(?s){says}"):
        Pipeline.load(path, train)


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("where", "name", "fault", "error"),
    [
        (torch, "save", lambda _, file: file.write(b"half"), ValueError),  # what can't be read back
        (saving, "read", interrupted, KeyboardInterrupt),
        (os, "replace", interrupted, KeyboardInterrupt),
    ],
)
def test_a_save_that_fails_leaves_the_old_file_whole(where, name, fault, error, path, monkeypatch):
    monkeypatch.setattr(where, name, fault)
    with nothing_changes_at(path), pytest.raises(error):
        build().save(path)


def test_a_file_that_may_not_grow_leaves_the_old_one_whole(path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with nothing_changes_at(path), pytest.raises(OSError, match="File too large"):
            build(n_factors=400).save(path)  # 160 kB
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)

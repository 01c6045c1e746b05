"""Saved runs: all of it or nothing, and nothing that runs as code."""

import os
import pickle
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import TEST, TRAIN, build, build_ranking, same_run
from torch import nn

from nmf_helpers import models, saving
from nmf_helpers.losses import bpr_loss
from nmf_helpers.models import MF, BiasedMF, CollabFNet
from nmf_helpers.pipeline import Pipeline


def test_numbers_of_numpy_are_numbers_wherever_they_stand(tmp_path):
    """Settings, metric names, history and what an optimizer remembers."""
    running = build(
        lr=np.logspace(-3, -1, 3)[1], n_factors=np.int64(3), seed=np.int32(2), n_epochs=np.int8(2),
        weight_decay=np.float32(0.1), init_std=np.float64(0.1), metrics=np.array(["rmse"]),
        evaluate_on={np.str_("hidden"): TEST},
    ).fit()  # fmt: skip
    running.history[-1]["mine"] = np.array([1.5, 2.5])
    running.save(tmp_path / "run.pt")
    loaded = Pipeline.load(tmp_path / "run.pt")
    assert loaded.history[-1].pop("mine").tolist() == running.history[-1].pop("mine").tolist()
    same_run(loaded, running)


def test_what_cannot_be_saved_is_named_and_the_older_file_stays(tmp_path):
    saving.write(tmp_path / "x.pt", {"a": 1})
    with pytest.raises(TypeError, match=r"the file\['b'\]\[1\] is a set, which cannot be saved"):
        saving.write(tmp_path / "x.pt", {"b": [1, {2}]})
    assert saving.read(tmp_path / "x.pt")["a"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_a_file_that_cannot_be_read_back_does_not_replace_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    build().save(path)
    before, save = path.read_bytes(), torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: save({**content, "x": Path}, file))
    with pytest.raises(ValueError, match="not a saved pipeline"):
        build().save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    build().save("~/run.pt")
    assert (tmp_path / "run.pt").exists()
    assert Pipeline.load("~/run.pt").n_factors == 4


@pytest.mark.parametrize("model", [MF, BiasedMF, CollabFNet])
def test_a_loaded_pipeline_predicts_the_same_without_its_data(model, tmp_path):
    fitted = build(model=model, dropout=None).fit()
    fitted.save(tmp_path / "run.pt")
    loaded = Pipeline.load(tmp_path / "run.pt")
    same_run(loaded, fitted)
    assert loaded.rmse(TEST) == fitted.rmse(TEST)  # clipped to the scale it was trained on
    assert loaded.fit() is loaded  # there is nothing left to do
    loaded.n_epochs += 1
    with pytest.raises(ValueError, match=r"give Pipeline\.load the matrix"):
        loaded.fit()


def test_classes_and_functions_that_have_a_name_are_saved_by_it(tmp_path):
    build_ranking(optimizer=torch.optim.Adam, loss=bpr_loss).save(tmp_path / "run.pt")
    loaded = Pipeline.load(tmp_path / "run.pt")
    assert (loaded.optimizer, loaded.loss) == ("adam", "bpr")


def test_what_has_no_name_cannot_be_saved(tmp_path):
    class BiasedMF(models.BiasedMF):  # as a reader of a notebook may call hers
        pass

    nameless = {"model": BiasedMF, "loss": nn.L1Loss(), "optimizer": torch.optim.RMSprop}
    for what, value in nameless.items():
        with pytest.raises(ValueError, match=f"its {what} by name .* has none: save the weights"):
            build(**{what: value}).save(tmp_path / "run.pt")
    assert list(tmp_path.iterdir()) == []


class Payload:
    """Unpickled, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


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
def test_a_truncated_file_is_reported(keep, tmp_path):
    path = tmp_path / "run.pt"
    build().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"run\.pt is not a saved pipeline, or it is damaged"):
        Pipeline.load(path)


def rewrite(path, **changes):
    content = torch.load(path, weights_only=True)
    torch.save({**content, **changes}, path)


@pytest.mark.parametrize("content", ["<html>404</html>", [1, 2], {"format": saving.FORMAT}])
def test_other_files_are_reported(content, tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(FileNotFoundError):
        Pipeline.load(path)
    path.write_text(content) if isinstance(content, str) else torch.save(content, path)
    with pytest.raises(ValueError, match="not a saved pipeline"):
        Pipeline.load(path)


@pytest.mark.parametrize(
    ("version", "says"), [(99, "a newer .*update nmf_helpers"), (1, "an older .*train and save")]
)
def test_a_file_of_another_version_is_reported(version, says, tmp_path):
    build().save(tmp_path / "run.pt")
    rewrite(tmp_path / "run.pt", format=version)
    with pytest.raises(ValueError, match=f"{says}"):
        Pipeline.load(tmp_path / "run.pt")


def test_a_file_of_another_size_is_reported(tmp_path):
    build().save(tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"trained on shape \(60, 40\), not \(5, 40\)"):
        Pipeline.load(tmp_path / "run.pt", TRAIN[:5])
    rewrite(tmp_path / "run.pt", shape=[60, 41])
    with pytest.raises(ValueError, match=r"no model of shape \(60, 41\)"):
        Pipeline.load(tmp_path / "run.pt")


def test_a_save_that_is_cut_short_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    build().save(path)
    before = path.read_bytes()

    def stopped(content, file):
        file.write(b"half of ")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        build().save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def grown_too_large_for(path, write_fails, n_bytes):
    """Save a small run, then a larger one that does not fit: the first must survive."""
    build().save(path)
    before = path.read_bytes()
    assert len(before) < n_bytes
    larger = build(
        n_factors=n_bytes // 200, n_epochs=3
    ).fit()  # 100 rows of floats: twice too large
    with pytest.raises(OSError, match=write_fails):
        larger.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert len(larger.history) == 3  # and the run in memory is unhurt


def test_a_full_disk_leaves_the_old_file_whole(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        grown_too_large_for(tmp_path / "run.pt", "No space left on device", 2**16)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_file_that_may_not_grow_leaves_the_old_one_whole(tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        grown_too_large_for(tmp_path / "run.pt", "File too large", 2**16)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_reported(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        build().save(tmp_path / "run.pt")

"""The pipeline: the same seed, the same numbers, whatever stops it on the way."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from planted import likes, ratings
from torch import nn

from nmf_helpers import metrics, pipeline
from nmf_helpers.baselines import BiasRidge
from nmf_helpers.losses import bpr_loss
from nmf_helpers.metrics import rmse
from nmf_helpers.models import MF, BiasedMF, CollabFNet
from nmf_helpers.pipeline import Pipeline
from nmf_helpers.training import Diverged

TRAIN, TEST = ratings()
LIKED, LIKED_TEST = likes()


def build(train=TRAIN, test=TEST, **changes):
    """A pipeline in which everything random is at work: order, dropout, Adam's moments."""
    settings = {
        "n_factors": 4, "batch_size": 64, "lr": 0.002, "dropout": 0.2, "n_epochs": 6,
        "init_std": 0.1, "metrics": ("rmse",), "seed": 3,
    }  # fmt: skip
    return Pipeline(train, test, **(settings | changes))


def build_ranking(**changes):
    settings = {"loss": "bpr", "metrics": ("auc", "ndcg@5")} | changes
    return build(LIKED, LIKED_TEST, **settings)


def numbers(history):
    """The records without the time they took."""
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


def same_run(ours, theirs):
    assert numbers(ours.history) == numbers(theirs.history)
    np.testing.assert_array_equal(ours.score_matrix(), theirs.score_matrix())


# --- Training ---------------------------------------------------------------------------------


def test_fitting_beats_a_table_of_biases_where_there_is_more_to_know():
    fitted = build(dropout=0, n_epochs=40, lr=0.005).fit()
    assert fitted.history[-1]["test_rmse"] < 0.8 * rmse(BiasRidge().fit(TRAIN), TEST)


def test_each_epoch_is_recorded():
    frame = build().fit().history.to_frame()
    assert frame.index.tolist() == [1, 2, 3, 4, 5, 6]
    assert list(frame.columns) == ["train_loss", "test_loss", "test_rmse", "seconds"]
    assert frame["test_rmse"].iloc[-1] < frame["test_rmse"].iloc[0]


def test_what_is_recorded_is_what_the_metrics_say():
    fitted = build().fit()
    predictions = fitted.score_matrix()[TEST.nonzero()]
    last = fitted.history[-1]
    assert last["test_loss"] == pytest.approx(rmse(predictions, TEST.data) ** 2, rel=1e-5)
    clipped = predictions.clip(TRAIN.data.min(), TRAIN.data.max())
    assert last["test_rmse"] == pytest.approx(rmse(clipped, TEST.data), rel=1e-5)

    ranked = build_ranking().fit()
    expected = metrics.evaluate(ranked, LIKED_TEST, train=LIKED, metrics=["auc", "ndcg@5"])
    for name in ("auc", "ndcg@5"):
        assert ranked.history[-1][f"test_{name}"] == expected[name]


def test_the_global_mean_is_that_of_the_training_ratings():
    assert build().model.global_mean.item() == pytest.approx(TRAIN.data.mean())
    assert build_ranking().model.global_mean.item() == 0  # a pair has no rating
    assert build(global_mean=2.5).model.global_mean.item() == 2.5


@pytest.mark.parametrize("make", [build, build_ranking])
def test_the_same_seed_gives_the_same_run_and_another_does_not(make):
    ours = make().fit()
    torch.manual_seed(99)  # what the caller does with torch's own state makes no difference
    same_run(ours, make().fit())
    assert not np.array_equal(ours.score_matrix(), make(seed=4).fit().score_matrix())


def test_the_seed_decides_the_weights_before_training_too():
    np.testing.assert_array_equal(build().score_matrix(), build().score_matrix())
    assert not np.array_equal(build().score_matrix(), build(seed=4).score_matrix())


def test_torchs_and_numpys_own_random_states_are_left_alone():
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    build(patience=2).fit()
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_two_pipelines_in_two_threads_are_as_repeatable_as_one():
    with ThreadPoolExecutor() as threads:
        both = list(threads.map(lambda seed: build(seed=seed, n_epochs=20).fit(), (3, 4)))
    for fitted in both:
        same_run(fitted, build(seed=fitted.seed, n_epochs=20).fit())


def test_dropout_draws_anew_in_each_epoch():
    seen = []
    running = build(batch_size=10**6, lr=1e-12, n_epochs=2)
    running.model.dropout.register_forward_hook(
        lambda module, _, output: seen.append(output == 0) if module.training else None
    )
    running.fit()
    (first, _), (second, _) = seen[:2], seen[2:]
    assert not torch.equal(first, second)


def test_the_same_loss_whatever_its_reduction():
    by_name = build().fit()
    for reduction in ("sum", "mean"):
        other = build(loss=nn.MSELoss(reduction=reduction)).fit()
        for name in ("train_loss", "test_loss"):
            assert other.history.column(name) == pytest.approx(by_name.history.column(name))


def test_a_pairwise_loss_may_be_given_as_a_function():
    same_run(build_ranking().fit(), build_ranking(loss=bpr_loss).fit())

    def my_own(difference, target=None):
        return torch.log1p(torch.exp(-difference)).mean()

    my_own.pairwise = True
    ours, theirs = build_ranking().fit().history, build_ranking(loss=my_own).fit().history
    assert ours.column("test_loss") == pytest.approx(theirs.column("test_loss"), rel=1e-4)


def test_a_model_of_ones_own_gets_the_options_that_it_passes_on():
    class Louder(BiasedMF):
        def __init__(self, *sizes, volume=1.0, **options):
            super().__init__(*sizes, **options)
            self.volume = volume

    model = build(model=Louder, volume=11).model
    assert (model.volume, model.dropout.p) == (11, 0.2)
    assert model.global_mean.item() == pytest.approx(TRAIN.data.mean())
    with pytest.raises(ValueError, match="option of Pipeline or Louder 'volum': did you mean 'vol"):
        build(model=Louder, volum=11)


def test_dropout_0_reaches_a_model_with_a_default_of_its_own():
    assert build(model=CollabFNet, dropout=None).model.dropout.p == 0.1
    assert build(model=CollabFNet, dropout=0.0).model.dropout.p == 0


# --- Early stopping ---------------------------------------------------------------------------

STOPPING = {"patience": 2, "n_epochs": 100, "lr": 0.02, "dropout": 0.0, "valid_fraction": 0.2}


def test_early_stopping_waits_and_goes_back_to_the_best_epoch():
    fitted = build(**STOPPING).fit()
    valid = fitted.history.column("valid_rmse")
    best = int(np.argmin(valid))
    assert len(valid) == best + 1 + 2 < 100
    held_out = fitted._carve_validation()[1]
    assert fitted.rmse(held_out) == valid[best] < valid[-1]
    assert len(fitted.fit().history) == len(valid)  # it is done


def test_the_best_epoch_is_restored_when_the_epochs_run_out_first():
    fitted = build(**STOPPING | {"patience": 50, "n_epochs": 12}).fit()
    assert len(fitted.history) == 12
    held_out = fitted._carve_validation()[1]
    assert fitted.rmse(held_out) == min(fitted.history.column("valid_rmse"))


def test_a_higher_score_is_better_for_a_ranking():
    fitted = build_ranking(**STOPPING).fit()
    best = int(np.argmax(fitted.history.column("valid_auc")))
    assert len(fitted.history) == best + 3


def test_the_test_part_decides_nothing():
    other = TEST.copy()
    other.data = np.random.default_rng(0).permutation(other.data)
    ours, theirs = build(**STOPPING).fit(), build(test=other, **STOPPING).fit()
    np.testing.assert_array_equal(ours.score_matrix(), theirs.score_matrix())
    without = build(test=None, **STOPPING).fit()
    np.testing.assert_array_equal(ours.score_matrix(), without.score_matrix())


def test_validation_is_carved_from_train_and_nothing_is_lost():
    fit_part, valid = build(**STOPPING)._carve_validation()
    assert fit_part.multiply(valid).nnz == 0
    np.testing.assert_array_equal((fit_part + valid).toarray(), TRAIN.toarray())
    assert 0.15 < valid.nnz / TRAIN.nnz < 0.25
    for share in (0, 1, -1, float("nan")):
        with pytest.raises(ValueError, match="valid_fraction"):
            build(**STOPPING | {"valid_fraction": share}).fit()


# --- Interrupts and checkpoints ---------------------------------------------------------------


def interrupt_after(running, n_calls):
    """Press Stop in the middle of an epoch."""
    calls = []

    def press(*_):
        calls.append(1)
        if len(calls) == n_calls:
            raise KeyboardInterrupt

    return running.model.register_forward_hook(press)


def test_an_interrupt_keeps_model_and_history_and_fit_goes_on(capsys):
    running = build()
    hook = interrupt_after(running, 30)
    assert running.fit() is running
    assert "Interrupted after" in capsys.readouterr().out
    done = len(running.history)
    assert 0 < done < 6
    assert not running.model.training
    assert np.isfinite(running.score_matrix()).all()
    hook.remove()
    assert len(running.fit().history) == 6
    assert numbers(running.history)[:done] == numbers(build().fit().history)[:done]


def test_an_interrupt_of_the_evaluation_loses_nothing_either(monkeypatch):
    running = build_ranking()
    evaluate, calls = metrics.evaluate, []

    def press(*arguments, **named):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*arguments, **named)

    monkeypatch.setattr(metrics, "evaluate", press)
    assert len(running.fit().history) == 2
    assert len(running.fit().history) == 6


def test_an_interrupt_between_epochs_changes_nothing():
    running, epochs = build(), []
    for record in running.epochs():
        epochs.append(record)
        if len(epochs) == 3:
            break
    assert len(running.history) == 3
    same_run(running.fit(), build().fit())


CASES = {
    "adam and dropout": build,
    "sparse row_sgd": partial(build, sparse=True, optimizer="row_sgd", weight_decay=0.05),
    "linear schedule": partial(build, optimizer="sgd", lr_schedule="linear"),
    "bpr": build_ranking,
    "early stopping": partial(build, **STOPPING),
    "net": partial(build, model=CollabFNet, n_hidden=5, hidden_dropout=0.1),
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_a_run_that_was_stopped_and_loaded_is_the_run_that_was_not(make, tmp_path):
    whole = make().fit()
    path = tmp_path / "run.pt"
    n_epochs = len(whole.history)
    assert n_epochs >= 4
    for stop in (1, n_epochs - 1):  # the latter while early stopping is waiting
        running = make()
        for record in running.epochs():
            if record["epoch"] == stop:
                running.save(path)
                break
        loaded = Pipeline.load(path, running.train, running.test)
        assert len(loaded.history) == stop
        same_run(loaded.fit(), whole)


@pytest.mark.parametrize("every", [1, 4])
def test_checkpoints_are_written_every_few_epochs_and_at_the_end(every, tmp_path, monkeypatch):
    saved, save = [], Pipeline.save
    monkeypatch.setattr(
        Pipeline, "save", lambda self, path: (saved.append(len(self.history)), save(self, path))
    )
    fitted = build().fit(tmp_path / "run.pt", every=every)
    assert saved == [0, *range(every, 7, every), 6]
    same_run(Pipeline.load(tmp_path / "run.pt"), fitted)
    with pytest.raises(ValueError, match="every must be"):
        build().fit(tmp_path / "run.pt", every=0)


def test_a_place_that_cannot_be_written_is_known_before_training(tmp_path):
    running = build()
    with pytest.raises(FileNotFoundError):
        running.fit(tmp_path / "no such folder" / "run.pt")
    assert running.history == []


def test_a_process_that_is_killed_resumes_to_the_same_numbers(tmp_path):
    path = tmp_path / "Größe ü" / "run.pt"
    path.parent.mkdir()
    script = f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_pipeline import STOPPING, build
        running = build(**STOPPING)
        running.model.register_forward_hook(lambda *_: time.sleep(0.01))
        running.fit({str(path)!r})
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    try:
        deadline = time.monotonic() + 60
        while not (path.exists() and Pipeline.load(path).history):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()  # kill -9: nothing of it can clean up
        process.wait()
    resumed = Pipeline.load(path, TRAIN, TEST)
    whole = build(**STOPPING).fit()
    assert 0 < len(resumed.history) < len(whole.history)
    same_run(resumed.fit(), whole)


def test_a_run_that_diverges_says_so_and_keeps_its_history():
    running = build(lr=50.0, optimizer="sgd")
    with pytest.raises(Diverged, match="try a smaller lr"):
        running.fit()
    assert all(np.isfinite(record["train_loss"]) for record in running.history)


def test_weights_too_large_to_predict_with_are_a_divergence_too():
    with pytest.raises(Diverged, match=r"test loss became (inf|nan): try a smaller lr"):
        build(lr=1e30, batch_size=10**6, n_epochs=1, metrics=()).fit()


def test_a_run_that_diverges_goes_back_to_its_best_epoch_if_it_has_one():
    running = build(patience=5)
    records = running.epochs()
    next(records), next(records)
    for group in running._optimizer.param_groups:
        group["lr"] = 1e30
    with pytest.raises(Diverged):
        list(records)
    assert np.isfinite(running.score_matrix()).all()
    assert len(running.history) == 2


# --- Predicting -------------------------------------------------------------------------------


def test_predictions_are_entries_of_the_score_matrix():
    fitted = build().fit()
    users, items = np.array([0, 5, 5, 59]), np.array([39, 0, 0, 7])
    predicted = fitted.predict(users, items)
    assert predicted.shape == (4,) and predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, fitted.score_matrix()[users, items], rtol=1e-5)
    assert fitted.predict([3], [3]).shape == (1,)
    assert fitted.predict([], []).shape == (0,)
    some = fitted.score_matrix(np.array([7, 2]))
    assert some.shape == (2, 40) and some.dtype == np.float32
    np.testing.assert_allclose(some, fitted.score_matrix()[[7, 2]], rtol=1e-5)


@pytest.mark.parametrize(
    ("users", "items", "error", "says"),
    [
        ([60], [0], IndexError, "users must lie between 0 and 59: 60"),
        ([0], [-1], IndexError, "items must lie between 0 and 39: -1"),
        ([0.0], [1], ValueError, "users must be whole numbers"),
        ([[0]], [[1]], ValueError, "users must be one-dimensional"),
        (0, 1, ValueError, "users must be one-dimensional"),
        ([0, 1], [1], ValueError, "2 users but 1 items"),
        (["a"], [1], ValueError, "whole numbers"),
    ],
)
def test_ids_that_cannot_be_are_refused(users, items, error, says):
    with pytest.raises(error, match=says):
        build().predict(users, items)


# --- Files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [MF, BiasedMF, CollabFNet])
def test_a_loaded_pipeline_predicts_the_same_without_its_data(model, tmp_path):
    options = {"dropout": None} if model is MF else {}
    fitted = build(model=model, **options).fit()
    fitted.save(tmp_path / "run.pt")
    loaded = Pipeline.load(tmp_path / "run.pt")
    same_run(loaded, fitted)
    assert loaded.rmse(TEST) == fitted.rmse(TEST)  # clipped to the scale it was trained on
    assert loaded.fit() is loaded  # there is nothing left to do
    loaded.n_epochs = 7
    with pytest.raises(ValueError, match=r"give Pipeline\.load the matrix"):
        loaded.fit()


def test_settings_from_numpy_can_be_saved(tmp_path):
    running = build(
        lr=np.float32(0.01), n_factors=np.int64(3), seed=np.int32(2), init_std=np.float64(0.1)
    )
    running.save(tmp_path / "run.pt")
    np.testing.assert_array_equal(
        Pipeline.load(tmp_path / "run.pt").score_matrix(), running.score_matrix()
    )


def test_classes_and_functions_that_have_a_name_are_saved_by_it(tmp_path):
    build_ranking(optimizer=torch.optim.Adam, loss=bpr_loss).save(tmp_path / "run.pt")
    loaded = Pipeline.load(tmp_path / "run.pt")
    assert (loaded.optimizer, loaded.loss) == ("adam", "bpr")


def test_what_has_no_name_cannot_be_saved(tmp_path):
    class BiasedMF(pipeline.models.BiasedMF):  # as a reader of a notebook may call hers
        pass

    for what, value in (
        ("model", BiasedMF),
        ("loss", nn.L1Loss()),
        ("optimizer", torch.optim.RMSprop),
    ):
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
        lambda payload, path: torch.save({"format": 1, "x": payload}, path),
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


def test_other_files_are_reported(tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(FileNotFoundError):
        Pipeline.load(path)
    path.write_text("<html>404</html>")
    with pytest.raises(ValueError, match="not a saved pipeline"):
        Pipeline.load(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="not a saved pipeline"):
        Pipeline.load(path)
    torch.save({"format": 1}, path)
    with pytest.raises(ValueError, match="not a saved pipeline"):
        Pipeline.load(path)


def test_a_file_of_a_newer_version_is_reported(tmp_path):
    build().save(tmp_path / "run.pt")
    rewrite(tmp_path / "run.pt", format=99)
    with pytest.raises(ValueError, match=r"newer version .format 99.*update nmf_helpers"):
        Pipeline.load(tmp_path / "run.pt")


def test_a_file_of_another_size_is_reported(tmp_path):
    build().save(tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"trained on shape \(60, 40\), not \(5, 40\)"):
        Pipeline.load(tmp_path / "run.pt", TRAIN[:5])
    rewrite(tmp_path / "run.pt", shape=[60, 41])
    with pytest.raises(ValueError, match=r"does not hold a model of shape \(60, 41\)"):
        Pipeline.load(tmp_path / "run.pt")


def grown_too_large_for(path, write_fails, n_bytes):
    """Save a small run, then a larger one that does not fit: the first must survive."""
    build().save(path)
    before = path.read_bytes()
    assert len(before) < n_bytes
    larger = build(n_factors=n_bytes // 200).fit()  # 100 rows, 4 bytes a number: twice too large
    with pytest.raises(OSError, match=write_fails):
        larger.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert len(larger.history) == 6  # and the run in memory is unhurt


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
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_reported(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        build().save(tmp_path / "run.pt")


# --- What cannot work is refused --------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sparse": True}, 'use sparse=False, or optimizer="row_sgd"'),
        ({"sparse": True, "optimizer": "sgd", "weight_decay": 0.1}, 'use optimizer="row_sgd"'),
        ({"optimizer": "sparse_adam"}, "use sparse=True"),
        ({"optimizer": "adams"}, "did you mean 'adam'"),
        ({"loss": "mze"}, "did you mean 'mse'"),
        ({"lr_schedule": "lin"}, "did you mean 'linear'"),
        ({"metrics": ("ndgc@10",)}, "did you mean 'ndcg@10'"),
        ({"metrics": "rsme"}, "did you mean 'rmse'"),
        ({"metrics": ("ndcg@0",)}, "k"),
        ({"metrics": ("ndcg@41",)}, "'ndcg@41' asks for more than the 40 items"),
        ({"loss": "bpr"}, '"rmse" compares with ratings'),
        ({"n_epoch": 3}, "did you mean 'n_epochs'"),
        ({"init_sd": 3}, "did you mean 'init_std'"),
        ({"n_users": 3}, "unknown option"),
        ({"model": MF, "dropout": 0.1}, "MF has no dropout"),
        ({"model": CollabFNet, "sparse": True}, "CollabFNet has no sparse"),
        ({"device": "gpu"}, 'unknown device .gpu.: use "auto"'),
        ({"n_factors": 0}, "n_factors must be a whole number, at least 1"),
        ({"n_factors": 10**18}, "use a smaller n_factors"),
        ({"n_epochs": -1}, "n_epochs must be"),
        ({"n_epochs": 2.0}, "n_epochs must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"n_workers": -1}, "n_workers must be"),
        ({"lr": -0.1}, "lr must be a number, above 0"),
        ({"lr": float("nan")}, "lr must be"),
        ({"weight_decay": -0.1}, "weight_decay must be a number, at least 0"),
        ({"dropout": 1.5}, "dropout must be a number, at least 0 and at most 1"),
        ({"dropout": float("nan")}, "dropout must be"),
        ({"dropout": "0.5"}, "dropout must be"),
        ({"patience": 1, "valid_fraction": "0.1"}, "valid_fraction must be"),
        ({"patience": 0}, "patience must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**40}, "seed must be"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_with_the_way_out(settings, says):
    with pytest.raises(ValueError, match=says):
        build(**settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_reported():
    with pytest.raises(ValueError, match=r'device="cuda", but PyTorch sees no GPU: use "auto"'):
        build(device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("make", [build, build_ranking])
def test_a_gpu_trains_as_well(make, tmp_path):
    fitted, again = make(device="cuda").fit(), make(device="cuda").fit()
    assert next(fitted.model.parameters()).device.type == "cuda"
    # Sums on a GPU are made in no fixed order, so the last digits may differ.
    np.testing.assert_allclose(fitted.score_matrix(), again.score_matrix(), atol=1e-3)
    fitted.save(tmp_path / "run.pt")
    loaded = Pipeline.load(tmp_path / "run.pt")
    np.testing.assert_array_equal(loaded.score_matrix(), fitted.score_matrix())
    with pytest.raises(ValueError, match='use device="cpu"'):
        make(device="cuda", n_workers=2)


def test_data_that_cannot_work_is_refused():
    with pytest.raises(TypeError, match="expected a scipy"):
        build(TRAIN.toarray())
    with pytest.raises(TypeError, match="expected a scipy"):
        build(test=TEST.toarray())
    with pytest.raises(ValueError, match=r"train has shape \(60, 40\) but test \(59, 40\)"):
        build(test=TEST[:59])
    with pytest.raises(ValueError, match="entries of test are in train as well"):
        build(test=TRAIN)
    with pytest.raises(ValueError, match="test holds no entries"):
        build(test=sp.csr_matrix(TRAIN.shape))
    with pytest.raises(ValueError, match="there are no training entries"):
        build(sp.csr_matrix(TRAIN.shape), None).fit()
    with pytest.raises(ValueError, match="n_users must be"):
        build(sp.csr_matrix((0, 5)), None)
    with pytest.raises(ValueError, match="user 0 has interacted with all 40 items"):
        build(sp.csr_matrix(np.ones((1, 40))), None, loss="bpr", metrics=()).fit()


@pytest.mark.parametrize("form", [sp.coo_matrix, sp.lil_matrix, sp.csc_array])
def test_any_sparse_format_gives_the_same_run(form):
    same_run(build(form(TRAIN), form(TEST)).fit(), build().fit())


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_one_user_or_one_item_will_do(shape):
    fitted = build(sp.csr_matrix(np.full(shape, 4.0)), None).fit()
    np.testing.assert_allclose(fitted.score_matrix(), 4, atol=0.5)


def test_a_batch_larger_than_the_data_is_the_data():
    same_run(build(batch_size=10**12).fit(), build(batch_size=TRAIN.nnz).fit())


def test_no_epochs_leave_the_model_as_it_was_built():
    assert build(n_epochs=0).fit().history == []


def test_progress_is_shown_when_asked(capsys):
    build(verbose=True, n_epochs=2).fit()
    assert "2/2" in capsys.readouterr().err
    build(n_epochs=2).fit()
    assert capsys.readouterr().err == ""

"""The pipeline: the same seed, the same numbers, whatever stops it on the way."""

import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from planted import likes, ratings
from torch import nn

from nmf_helpers import metrics
from nmf_helpers.baselines import BiasRidge
from nmf_helpers.data import leave_n_out
from nmf_helpers.losses import bpr_loss
from nmf_helpers.metrics import rmse
from nmf_helpers.models import MF, BiasedMF, CollabFNet, svd_init
from nmf_helpers.pipeline import Pipeline
from nmf_helpers.training import Diverged

TRAIN, TEST = ratings()
LIKED, LIKED_TEST = likes()


def build(train=TRAIN, holdout=TEST, **changes):
    """A pipeline in which everything random is at work: order, dropout, Adam's moments."""
    settings = {
        "n_factors": 4, "batch_size": 64, "lr": 0.002, "dropout": 0.2, "n_epochs": 6,
        "init_std": 0.1, "metrics": ("rmse",), "seed": 3,
    }  # fmt: skip
    follow = None if holdout is None else {"holdout": holdout}
    return Pipeline(train, **({"evaluate_on": follow} | settings | changes))


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
    assert fitted.history[-1]["holdout_rmse"] < 0.8 * rmse(BiasRidge().fit(TRAIN), TEST)


def test_each_epoch_is_recorded():
    frame = build().fit().history.to_frame()
    assert frame.index.tolist() == [1, 2, 3, 4, 5, 6]
    assert list(frame.columns) == ["train_loss", "holdout_loss", "holdout_rmse", "seconds"]
    assert frame["holdout_rmse"].iloc[-1] < frame["holdout_rmse"].iloc[0]


def test_what_is_recorded_is_what_the_metrics_say():
    fitted = build().fit()
    predictions = fitted.score_matrix()[TEST.nonzero()]
    last = fitted.history[-1]
    assert last["holdout_loss"] == pytest.approx(rmse(predictions, TEST.data) ** 2, rel=1e-5)
    clipped = predictions.clip(TRAIN.data.min(), TRAIN.data.max())
    assert last["holdout_rmse"] == pytest.approx(rmse(clipped, TEST.data), rel=1e-5)

    ranked = build_ranking().fit()
    expected = metrics.evaluate(ranked, LIKED_TEST, exclude=LIKED, metrics=["auc", "ndcg@5"])
    for name in ("auc", "ndcg@5"):
        assert ranked.history[-1][f"holdout_{name}"] == expected[name]


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
        for name in ("train_loss", "holdout_loss"):
            assert other.history.column(name) == pytest.approx(by_name.history.column(name))


def test_a_pairwise_loss_may_be_given_as_a_function():
    same_run(build_ranking().fit(), build_ranking(loss=bpr_loss).fit())

    def my_own(difference, target=None):
        return torch.log1p(torch.exp(-difference)).mean()

    my_own.pairwise = True
    ours, theirs = build_ranking().fit().history, build_ranking(loss=my_own).fit().history
    assert ours.column("holdout_loss") == pytest.approx(theirs.column("holdout_loss"), rel=1e-4)


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

STOPPING = {"patience": 2, "n_epochs": 100, "lr": 0.02, "dropout": 0.0, "validation_fraction": 0.2}


def test_early_stopping_waits_and_goes_back_to_the_best_epoch():
    fitted = build(**STOPPING).fit()
    valid = fitted.history.column("validation_rmse")
    best = int(np.argmin(valid))
    assert len(valid) == best + 1 + 2 < 100
    assert fitted.rmse(fitted.validation) == valid[best] < valid[-1]
    assert len(fitted.fit().history) == len(valid)  # it is done


def test_the_best_epoch_is_restored_when_the_epochs_run_out_first():
    fitted = build(**STOPPING | {"patience": 50, "n_epochs": 12}).fit()
    assert len(fitted.history) == 12
    assert fitted.rmse(fitted.validation) == min(fitted.history.column("validation_rmse"))


def test_a_higher_score_is_better_for_a_ranking():
    fitted = build_ranking(**STOPPING).fit()
    best = int(np.argmax(fitted.history.column("validation_auc")))
    assert len(fitted.history) == best + 3


def test_a_part_that_is_followed_decides_nothing():
    other = TEST.copy()
    other.data = np.random.default_rng(0).permutation(other.data)
    ours, theirs = build(**STOPPING).fit(), build(holdout=other, **STOPPING).fit()
    np.testing.assert_array_equal(ours.score_matrix(), theirs.score_matrix())
    without = build(holdout=None, **STOPPING).fit()
    np.testing.assert_array_equal(ours.score_matrix(), without.score_matrix())


def test_validation_is_carved_from_train_and_nothing_is_lost():
    built = build(**STOPPING)
    train_part, validation = built.train_part, built.validation
    assert train_part.multiply(validation).nnz == 0
    np.testing.assert_array_equal((train_part + validation).toarray(), TRAIN.toarray())
    assert 0.15 < validation.nnz / TRAIN.nnz < 0.25
    for share in (0, 1, -1, float("nan")):
        with pytest.raises(ValueError, match="validation_fraction"):
            build(**STOPPING | {"validation_fraction": share}).fit()


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
        loaded = Pipeline.load(path, running.train, running.evaluate_on)
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
    resumed = Pipeline.load(path, TRAIN, {"holdout": TEST})
    whole = build(**STOPPING).fit()
    assert 0 < len(resumed.history) < len(whole.history)
    same_run(resumed.fit(), whole)


def test_a_run_that_diverges_says_so_and_keeps_its_history():
    running = build(lr=50.0, optimizer="sgd")
    with pytest.raises(Diverged, match="try a smaller lr"):
        running.fit()
    assert all(np.isfinite(record["train_loss"]) for record in running.history)


def test_weights_too_large_to_predict_with_are_a_divergence_too():
    with pytest.raises(Diverged, match=r"holdout loss became (inf|nan) in epoch 1: try"):
        build(lr=1e30, batch_size=10**6, n_epochs=1, metrics=()).fit()


def test_a_run_that_diverges_goes_back_to_its_best_epoch_if_it_has_one():
    running = build(patience=5)
    records = running.epochs()
    next(records), next(records)
    running.lr = 1e30
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
        ([0.0], [1], TypeError, "users must be whole numbers"),
        ([[0]], [[1]], ValueError, "users must be one-dimensional"),
        (0, 1, ValueError, "users must be one-dimensional"),
        ([0, 1], [1], ValueError, "2 users but 1 items"),
        (["a"], [1], TypeError, "whole numbers"),
    ],
)
def test_ids_that_cannot_be_are_refused(users, items, error, says):
    with pytest.raises(error, match=says):
        build().predict(users, items)


def test_nan_leaves_a_pipeline_by_no_door():
    broken = build().fit()
    broken.model.user_bias.weight.data[3] = float("nan")
    for ask in (broken.score_matrix, lambda: broken.predict([0, 3], [1, 1])):
        with pytest.raises(ValueError, match="scores of user 3 contain NaN"):
            ask()
    assert np.isfinite(broken.score_matrix([0, 1])).all()


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
        ({"patience": 1, "validation_fraction": "0.1"}, "validation_fraction must be"),
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
    table = pd.DataFrame({"userId": [1], "movieId": [2], "rating": [3]})
    for wrong in ({"train": table}, {"holdout": table}):
        with pytest.raises(TypeError, match=f"{next(iter(wrong))} is a table .*interaction_matrix"):
            build(**wrong)
    with pytest.raises(ValueError, match=r"holdout has shape \(59, 40\), train \(60, 40\)"):
        build(holdout=TEST[:59])
    with pytest.raises(ValueError, match="entries of holdout are in train as well"):
        build(holdout=TRAIN)
    with pytest.raises(TypeError, match="takes parts by name"):
        Pipeline(TRAIN, evaluate_on=TEST)
    with pytest.raises(ValueError, match="holdout is empty"):
        build(holdout=sp.csr_matrix(TRAIN.shape))
    with pytest.raises(ValueError, match="there are no training entries"):
        build(sp.csr_matrix(TRAIN.shape), None).fit()
    with pytest.raises(ValueError, match="n_users must be"):
        build(sp.csr_matrix((0, 5)), None)
    with pytest.raises(ValueError, match="user 0 has interacted with all 40 items"):
        build(sp.csr_matrix(np.ones((1, 40))), None, loss="bpr", metrics=()).fit()
    with pytest.raises(ValueError, match="train holds -1 at user 0, item 1"):
        build(np.array([[1, -1, 0]]), None, loss="bpr", metrics=())


def test_a_followed_user_without_a_negative_is_left_out_as_the_metrics_do():
    likes = np.ones((3, 4))
    likes[1, 3] = likes[2, 2] = 0  # users 1 and 2 have an item left, user 0 has none
    train, holdout = leave_n_out(sp.csr_matrix(likes), n=1)
    fitted = build(train, holdout, loss="bpr", metrics=()).fit()
    assert np.isfinite(fitted.history[-1]["holdout_loss"])


@pytest.mark.parametrize("form", [sp.coo_matrix, sp.csc_array, sp.csr_matrix.toarray])
def test_any_sparse_format_gives_the_same_run(form):
    same_run(build(form(TRAIN), form(TEST)).fit(), build().fit())


# --- Settings ---------------------------------------------------------------------------------


def test_settings_are_attributes_of_their_own_names_and_are_printed_where_they_are_not_usual():
    built = build(lr=np.float32(0.25))
    assert built.settings["lr"] == 0.25 and type(built.lr) is float
    assert built.settings.keys() == set(Pipeline.defaults) - {"model"} | {"init_std", "global_mean"}
    assert "Pipeline(BiasedMF, n_factors=4, batch_size=64, dropout=0.2, lr=0.25" in repr(built)
    assert "lr_schedule" not in repr(built)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_setting_changed_between_epochs_counts_from_the_next(optimizer, n_workers):
    running = build(n_epochs=1, n_workers=n_workers, optimizer=optimizer, dropout=0).fit()
    before = running.score_matrix()
    running.lr, running.weight_decay, running.n_epochs, running.batch_size = 1e-12, 0.0, 2, 7
    np.testing.assert_allclose(running.fit().score_matrix(), before, atol=1e-6)
    running.lr, running.n_epochs = 0.01, 3
    assert abs(running.fit().score_matrix() - before).max() > 0.01


def test_what_was_decided_when_the_pipeline_was_built_cannot_be_changed():
    running = build()
    for name, value in (("seed", 4), ("n_factors", 9), ("init", "svd"), ("loss", "bpr")):
        with pytest.raises(AttributeError, match=f"{name} decides how .*you may set lr, weight_de"):
            setattr(running, name, value)
    with pytest.raises(ValueError, match="lr must be a number, above 0"):
        running.lr = -1
    same_run(running.fit(), build().fit())


def test_the_start_is_said_aloud():
    noise, svd = build(), Pipeline(TRAIN, n_factors=4, init="svd", svd_scale=0.2)
    expected = BiasedMF(*TRAIN.shape, 4)
    svd_init(expected, TRAIN, 0.2)
    assert torch.equal(svd.model.user_factors.weight, expected.user_factors.weight)
    assert noise.model.user_factors.weight.std().item() == pytest.approx(0.1, rel=0.2)


def test_a_part_named_validation_decides_when_to_stop_and_nothing_is_carved():
    named = build(holdout=None, evaluate_on={"validation": TEST}, **STOPPING).fit()
    assert named.validation is None and named.train_part is named.train
    errors = named.history.column("validation_rmse")
    assert len(errors) == int(np.argmin(errors)) + 3


def test_ratings_in_another_unit_are_learned_and_predicted_alike():
    stars = Pipeline(TRAIN, n_factors=4, lr=0.002, init_std=0.1).fit()
    tenths = Pipeline(TRAIN * 10, n_factors=4, lr=0.002, init_std=0.1, rating_unit=10.0).fit()
    np.testing.assert_allclose(tenths.score_matrix(), 10 * stars.score_matrix(), rtol=1e-3)
    np.testing.assert_allclose(tenths.predict([3], [4]), 10 * stars.predict([3], [4]), rtol=1e-3)


# --- Odd sizes --------------------------------------------------------------------------------


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

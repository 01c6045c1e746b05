"""The pipeline: the same seed, the same numbers, whatever stops it on the way."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
import torch.multiprocessing as mp
from planted import (
    LIKED,
    LIKED_TEST,
    STOPPING,
    TEST,
    TRAIN,
    build,
    build_ranking,
    numbers,
    same_run,
)
from scorers import ScorerContract

from nmf_helpers import metrics
from nmf_helpers.baselines import BiasRidge
from nmf_helpers.data import leave_n_out
from nmf_helpers.metrics import rmse
from nmf_helpers.models import MF, BiasedMF, CollabFNet, svd_init
from nmf_helpers.pipeline import Pipeline
from nmf_helpers.training import Diverged

NAN, METHODS = float("nan"), mp.get_all_start_methods()


class TestOfRatings(ScorerContract):
    build = staticmethod(build)
    test_scoring_before_fitting_is_refused = test_fitting_again_starts_anew = None  # it may score

    def fit(self, matrix):
        options = {"metrics": ()} if self.kind == "interactions" else {}
        return self.build(matrix, None, **options).fit()


class TestOfLikes(TestOfRatings):
    kind, build = "interactions", staticmethod(build_ranking)


def test_fitting_beats_a_table_of_biases_where_there_is_more_to_know():
    fitted = build(dropout=0, n_epochs=40, lr=0.005).fit()
    assert fitted.history[-1]["holdout_rmse"] < 0.8 * rmse(BiasRidge().fit(TRAIN), TEST)


def test_each_epoch_is_recorded_and_what_is_recorded_is_what_the_metrics_say():
    fitted = build(init_std=1.0).fit()  # so that some predictions leave the scale
    frame, predictions = fitted.history.to_frame(), fitted.score_matrix()[TEST.nonzero()]
    assert list(frame.columns) == ["train_loss", "holdout_loss", "holdout_rmse", "seconds"]
    last = dict(frame.loc[6])
    assert last["holdout_loss"] == pytest.approx(rmse(predictions, TEST.data) ** 2, rel=1e-5)
    clipped = predictions.clip(TRAIN.data.min(), TRAIN.data.max())
    assert last["holdout_rmse"] == pytest.approx(rmse(clipped, TEST.data), rel=1e-5)
    assert last["holdout_rmse"] < last["holdout_loss"] ** 0.5 - 0.01

    ranked = build_ranking().fit()
    expected = metrics.evaluate(ranked, LIKED_TEST, exclude=LIKED, metrics=ranked.metrics)
    for name in ranked.metrics:
        assert ranked.history[-1][f"holdout_{name}"] == expected[name]


def test_a_model_is_built_with_its_options_and_those_that_it_passes_on():
    class Louder(BiasedMF):
        def __init__(self, *sizes, volume=1.0, **options):
            super().__init__(*sizes, **options)
            self.volume = volume

    model = build(model=Louder, volume=11).model
    assert (model.volume, model.dropout.p) == (11, 0.2)
    assert model.global_mean.item() == pytest.approx(TRAIN.data.mean())
    assert build_ranking().model.global_mean.item() == 0  # a pair has no rating
    assert build(global_mean=2.5).model.global_mean.item() == 2.5
    assert [build(model=CollabFNet, dropout=p).model.dropout.p for p in (None, 0)] == [0.1, 0]
    with pytest.raises(ValueError, match="option of Pipeline or Louder 'volum': did you mean 'vol"):
        build(model=Louder, volum=11)


@pytest.mark.parametrize("make", [build, build_ranking])
def test_the_same_seed_gives_the_same_run_whatever_the_callers_random_state_which_stays(make):
    ours = make(patience=5).fit()
    torch.manual_seed(99)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    same_run(ours, make(patience=5).fit())
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_the_seed_decides_the_weights_before_training_too():
    same_run(build(), build())
    assert not np.array_equal(build().score_matrix(), build(seed=4).score_matrix())


def test_two_pipelines_in_two_threads_are_as_repeatable_as_one():
    with ThreadPoolExecutor() as threads:
        both = list(threads.map(lambda seed: build(seed=seed).fit(), (3, 4)))
    for fitted in both:
        same_run(fitted, build(seed=fitted.seed).fit())


def test_dropout_draws_anew_in_each_epoch():
    seen = []
    running = build(batch_size=10**6, lr=1e-12, n_epochs=2)
    running.model.dropout.register_forward_hook(
        lambda module, _, output: seen.append(output == 0) if module.training else None
    )
    running.fit()
    (first, _), (second, _) = seen[:2], seen[2:]
    assert not torch.equal(first, second)


def test_a_pairwise_loss_may_be_given_as_a_function():
    def my_own(difference, target=None):
        return torch.log1p(torch.exp(-difference)).mean()

    my_own.pairwise = True
    ours, theirs = build_ranking().fit().history, build_ranking(loss=my_own).fit().history
    assert ours.column("holdout_loss") == pytest.approx(theirs.column("holdout_loss"), rel=1e-4)


@pytest.mark.parametrize(
    ("make", "metric", "best_of"), [(build, "rmse", np.argmin), (build_ranking, "auc", np.argmax)]
)
def test_early_stopping_waits_and_goes_back_to_the_best_epoch(make, metric, best_of):
    fitted = make(**STOPPING).fit()
    curve = fitted.history.column(f"validation_{metric}")
    best = int(best_of(curve))
    assert len(curve) == best + 1 + 2 < 100
    stopped = make(**STOPPING | {"n_epochs": best + 1}).fit()  # the epochs run out first
    np.testing.assert_array_equal(fitted.score_matrix(), stopped.score_matrix())
    assert len(fitted.fit().history) == len(curve)  # it is done


def test_a_part_that_is_followed_decides_nothing_unless_it_is_named_validation():
    ours, alone = build(**STOPPING), build(holdout=None, **STOPPING)
    np.testing.assert_array_equal(ours.fit().score_matrix(), alone.fit().score_matrix())
    named = build(evaluate_on={"validation": TEST}, **STOPPING).fit()
    assert named.validation is None and named.train_part is named.train
    errors = named.history.column("validation_rmse")
    assert len(errors) == int(np.argmin(errors)) + 3


def test_validation_is_carved_from_train_and_nothing_is_lost():
    built = build(**STOPPING)
    train_part, validation = built.train_part, built.validation
    assert train_part.multiply(validation).nnz == 0
    np.testing.assert_array_equal((train_part + validation).toarray(), TRAIN.toarray())
    assert 0.15 < validation.nnz / TRAIN.nnz < 0.25
    with pytest.raises(ValueError, match="validation_fraction is empty"):
        build(**STOPPING | {"validation_fraction": 1e-9})


@pytest.mark.parametrize("n_calls", [20, 29, 30])  # the last two in the evaluation
def test_an_interrupt_keeps_model_and_history_and_fit_goes_on(n_calls, capsys):
    calls, running = [], build()

    def press_stop(*_):
        calls.append(1)
        if len(calls) == n_calls:
            raise KeyboardInterrupt

    running.model.register_forward_hook(press_stop)
    assert running.fit() is running
    assert "Interrupted after" in capsys.readouterr().out
    done = len(running.history)
    assert 0 < done < 6
    assert not running.model.training and np.isfinite(running.score_matrix()).all()
    assert len(running.fit().history) == 6
    assert numbers(running.history)[:done] == numbers(build().fit().history)[:done]


def stopped_after(n_epochs, running):
    records = running.epochs()
    for _ in range(n_epochs):
        next(records)
    records.close()
    assert len(running.history) == n_epochs
    return running


CASES = {
    "adam and dropout": build,
    "row_sgd, linear": partial(build, sparse=True, optimizer="row_sgd", lr_schedule="linear"),
    "bpr": build_ranking,
    "early stopping": partial(build, **STOPPING),
    "net": partial(build, model=CollabFNet, n_hidden=5, hidden_dropout=0.1),
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_a_run_that_was_stopped_and_loaded_is_the_run_that_was_not(make, tmp_path):
    whole = make().fit()
    n_epochs = len(whole.history)
    assert n_epochs >= 4
    running = stopped_after(n_epochs - 1, make())  # while early stopping is waiting
    running.save(tmp_path / "run.pt")
    same_run(Pipeline.load(tmp_path / "run.pt", running.train, running.evaluate_on).fit(), whole)
    same_run(running.fit(), whole)  # the one that was not loaded goes on as well


@pytest.mark.parametrize("every", [1, 4])
def test_checkpoints_are_written_every_few_epochs_and_at_the_end(every, monkeypatch):
    saved = []
    monkeypatch.setattr(Pipeline, "save", lambda self, path: saved.append(len(self.history)))
    build().fit("run.pt", every=every)
    assert saved == [0, *range(every, 7, every), 6]


def test_a_checkpoint_that_cannot_be_written_is_known_before_training(tmp_path):
    running = build()
    with pytest.raises(FileNotFoundError):
        running.fit(tmp_path / "no such folder" / "run.pt")
    with pytest.raises(ValueError, match="every must be"):
        running.fit(tmp_path / "run.pt", every=0)
    assert running.history == []


@pytest.mark.skipif("fork" not in METHODS, reason="forks, so that nothing has to be imported again")
def test_a_process_that_is_killed_resumes_to_the_same_numbers(tmp_path):
    path, running = tmp_path / "Größe ü.pt", build(**STOPPING)
    hook = running.model.register_forward_hook(lambda *_: time.sleep(0.01))
    process = mp.get_context("fork").Process(target=running.fit, args=(path,))
    process.start()
    deadline = time.monotonic() + 60
    while not (path.exists() and Pipeline.load(path).history):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()  # kill -9: nothing of it can clean up
    process.join()
    hook.remove()
    resumed, whole = Pipeline.load(path, TRAIN, {"holdout": TEST}), running.fit()
    assert 0 < len(resumed.history) < len(whole.history)
    same_run(resumed.fit(), whole)


def test_a_run_that_diverges_says_so_and_goes_back_to_its_best_epoch_if_it_has_one():
    running = stopped_after(2, build(patience=5))
    running.lr = 1e30
    with pytest.raises(Diverged, match="in epoch 3: try a smaller lr"):
        running.fit()
    assert np.isfinite(running.score_matrix()).all() and len(running.history) == 2
    with pytest.raises(Diverged, match=r"holdout loss became (inf|nan) in epoch 1: try"):
        build(lr=1e30, batch_size=10**6, n_epochs=1, metrics=()).fit()  # too large to predict with


def test_nan_leaves_a_pipeline_by_no_door():
    broken = build(n_epochs=0)
    broken.model.user_bias.weight.data[3] = float("nan")
    for ask in (broken.score_matrix, lambda: broken.predict([0, 3], [1, 1])):
        with pytest.raises(ValueError, match="scores of user 3 contain NaN"):
            ask()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sparse": True}, 'use sparse=False, or optimizer="row_sgd"'),
        ({"optimizer": "adams"}, "did you mean 'adam'"),
        ({"loss": "mze"}, "did you mean 'mse'"),
        ({"lr_schedule": "lin"}, "did you mean 'linear'"),
        ({"init": "svg"}, "did you mean 'svd'"),
        ({"step": "by_hand"}, 'loss="bpr" only'),
        ({"metrics": ("ndgc@10",)}, "did you mean 'ndcg@10'"),
        ({"metrics": "rsme"}, "did you mean 'rmse'"),
        ({"metrics": ("ndcg@0",)}, "'ndcg@0'"),
        ({"metrics": ("ndcg@41",)}, "'ndcg@41' asks for more than the 40 items"),
        ({"loss": "bpr"}, '"rmse" compares with ratings'),
        ({"n_epoch": 3}, "did you mean 'n_epochs'"),
        ({"init_sd": 3}, "did you mean 'init_std'"),
        ({"device": "cude"}, "did you mean 'cuda'"),
        ({"device": "cuda", "n_workers": 1}, "needs a GPU and n_workers=0"),
        ({"n_factors": 10**18}, "use a smaller n_factors"),
        ({"model": MF}, "MF.* 'dropout'"),
        ({"model": CollabFNet, "sparse": True}, "CollabFNet.* 'sparse'"),
        *(
            ({name: value}, f"{name} must be")
            for name, *values in (
                ("n_factors", None, 0), ("n_epochs", -1, 2.0), ("batch_size", 0), ("lr", NAN, -1),
                ("n_workers", -1), ("weight_decay", -0.1), ("dropout", NAN, "0.5", 1.5),
                ("svd_scale", 0), ("rating_unit", 0),
                ("validation_fraction", 0, 1, "0.1"), ("patience", 0), ("seed", -1, 2**40),
            )
            for value in values
        ),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_with_the_way_out(settings, says):
    with pytest.raises((ValueError, TypeError), match=says):
        build(**settings)


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


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        ({"holdout": pd.DataFrame([1])}, TypeError, "holdout is a table .*interaction_matrix"),
        ({"holdout": TEST[:59]}, ValueError, r"holdout has shape \(59, 40\), train \(60, 40\)"),
        ({"holdout": TRAIN}, ValueError, "entries of holdout are in train as well"),
        ({"evaluate_on": TEST}, TypeError, "takes parts by name"),
        ({"evaluate_on": {"train": TEST}}, TypeError, 'not "train"'),
        ({"holdout": sp.csr_matrix(TRAIN.shape)}, ValueError, "holdout is empty"),
        ({"train": sp.csr_matrix((0, 5)), "holdout": None}, ValueError, "n_users must be"),
    ],
)
def test_data_that_cannot_work_is_refused(data, error, says):
    with pytest.raises(error, match=says):
        build(**data)


def test_a_user_with_everything_in_train_and_the_part_that_is_followed_is_left_out_there():
    likes = np.ones((3, 4))
    likes[1, 3] = likes[2, 2] = 0  # users 1 and 2 have an item left, user 0 has none
    fitted = build_ranking(*leave_n_out(sp.csr_matrix(likes), n=1), metrics=()).fit()
    assert np.isfinite(fitted.history[-1]["holdout_loss"])


def test_settings_are_attributes_of_their_own_names_and_are_printed_where_they_are_not_usual():
    built = build(lr=np.float32(0.25))
    assert built.settings["lr"] == 0.25 and type(built.lr) is float
    own = Pipeline.defaults.keys() - {"model", "evaluate_on"}
    assert built.settings.keys() == own | {"init_std", "global_mean"}
    assert "Pipeline(BiasedMF, n_factors=4, batch_size=64, dropout=0.2, lr=0.25" in repr(built)
    assert "lr_schedule" not in repr(built)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_setting_changed_between_epochs_counts_from_the_next(optimizer):
    running = build(n_epochs=1, optimizer=optimizer, dropout=0).fit()
    before = running.score_matrix()
    running.lr, running.weight_decay, running.n_epochs, running.batch_size = 1e-12, 0.0, 2, 7
    np.testing.assert_allclose(running.fit().score_matrix(), before, atol=1e-6)
    running.lr, running.n_epochs = 0.01, 3
    assert abs(running.fit().score_matrix() - before).max() > 0.01


def test_a_linear_schedule_falls_in_equal_steps():
    running = build(lr=0.004, lr_schedule="linear", n_epochs=4)
    rates = [running._step.optimizer.param_groups[0]["lr"] for _ in running.epochs()]
    assert rates == pytest.approx([0.004, 0.003, 0.002, 0.001])


def test_what_was_decided_when_the_pipeline_was_built_cannot_be_changed():
    running = build()
    late = ("seed", "n_factors", "init", "init_std", "loss", "model", "evaluate_on", "train")
    for name in (*late, "learning_rate", "weight_decya"):
        first = f"new one with {name}=…" if name in late else "no such setting"
        says = f"{name} cannot change .* {first}; .*set lr, we"
        with pytest.raises(AttributeError, match=says):
            setattr(running, name, 4)
    with pytest.raises(ValueError, match="lr must be a number, above 0"):
        running.lr = -1
    with pytest.raises(ValueError, match="does not take sparse gradients"):
        build(sparse=True, optimizer="sgd", weight_decay=0.0).weight_decay = 0.1
    same_run(running.fit(), build().fit())


def test_the_start_is_said_aloud():
    svd = Pipeline(TRAIN, n_factors=4, init="svd", svd_scale=0.2)
    expected = BiasedMF(*TRAIN.shape, 4)
    svd_init(expected, TRAIN, 0.2)
    assert torch.equal(svd.model.user_factors.weight, expected.user_factors.weight)


def test_ratings_in_another_unit_are_learned_and_predicted_alike():
    stars, tenths = build(holdout=None), build(TRAIN * 10, None, rating_unit=10.0)
    expected = 10 * stars.fit().score_matrix()
    np.testing.assert_allclose(tenths.fit().score_matrix(), expected, rtol=1e-3)
    np.testing.assert_allclose(tenths.predict([3], [4]), expected[[3], [4]], rtol=1e-3)


def test_progress_is_shown_when_asked(capsys):
    build(verbose=True, n_epochs=2).fit()
    assert "2/2" in capsys.readouterr().err
    build(n_epochs=2).fit()
    assert capsys.readouterr().err == ""

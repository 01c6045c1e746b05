"""Every widget of the training lab, driven through its traits and buttons, without a browser."""

import math
import re
import threading
import time
from types import SimpleNamespace

import ipywidgets as widgets
import pytest

from nmf_helpers.lab import TrainingLab, controls, training_lab
from nmf_helpers.lab.controls import control, spread
from nmf_helpers.lab.curves import LossCurves

PATIENCE = 20  # seconds that a run may take before a test gives up on it


@pytest.fixture
def drawn():
    """Real pictures, which most tests don't look at."""


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    monkeypatch.setattr(training_lab, "import_module", lambda name: None)  # of torch, for a second
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(LossCurves, "png", lambda chart, anew=True: chart.alt.encode())


class Notebook:
    """The notebook's side of a lab: a `make` that remembers its calls and can be held up."""

    def __init__(self, valid=lambda epoch, lr: 1 / epoch + lr, gated=False):
        self.calls, self.valid, self.closed = [], valid, 0
        self.may_go_on = threading.Semaphore(0 if gated else 10**6)
        self.at_once = self.most_at_once = 0

    def make(self, **settings):
        self.calls.append(settings)
        self.own = self.records(settings)  # held by the notebook too
        return f"model {len(self.calls)}", self.own

    def records(self, settings):
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            for epoch in range(1, settings["n_epochs"] + 1):
                self.may_go_on.acquire(timeout=PATIENCE)
                valid = self.valid(epoch, settings.get("lr", 0.0))
                yield {"epoch": epoch, "train_loss": 0.5 / epoch, "validation_loss": valid}
        finally:
            self.at_once -= 1
            self.closed += 1


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


@pytest.fixture
def gated():
    """A notebook whose epochs wait, and a lab on it that is stopped at the end."""
    notebook = Notebook(gated=True)
    lab = TrainingLab(notebook.make, n_epochs=50)
    yield notebook, lab
    notebook.may_go_on.release(10**6)
    lab.stop().wait(PATIENCE)


# -- training -------------------------------------------------------------------------------------


def test_every_control_reaches_the_next_run_and_is_put_back():
    notebook = Notebook()
    spec = {"dropout": (0.0, 0.5, 1.0), "bias": False, "loss": ["mse", "mae"], "k": (1, 20, 64)}
    lab = TrainingLab(notebook.make, lr=(1e-4, 0.02, 1.0), seed=7, controls=spec)
    before = lab.settings
    assert before == {
        "lr": 0.02, "weight_decay": 1e-5, "n_epochs": 30, "seed": 7, "dropout": 0.5, "bias": False,
        "loss": "mse", "k": 20,
    }  # fmt: skip
    changed = {"lr": 0.1, "weight_decay": 0.0123, "n_epochs": 3, "seed": 5, "dropout": 0.25}
    changed |= {"bias": True, "loss": "mae", "k": 2}
    for name, value in changed.items():
        lab.controls[name].value = value
    lab.train_button.click()
    lab.wait(PATIENCE)
    between = {"lr": 0.0321, "dropout": 0.12345, "k": 3}  # the steps of the sliders
    lab.start(**between).wait(PATIENCE)
    assert notebook.calls == [changed, changed | between]
    lab.reset_button.click()  # puts every control back, and keeps the runs
    assert lab.settings == before and len(lab.runs) == 2
    bare = TrainingLab(notebook.make, lr=None, weight_decay=None, n_epochs=2).start()
    assert set(bare.wait(PATIENCE).runs[0].settings) == {"n_epochs", "seed"}


def test_a_run_keeps_model_settings_history_and_a_picture_with_its_alt_text(drawn):
    lab = TrainingLab(Notebook().make, n_epochs=5, baseline=("table", 0.3))
    assert bytes(empty := lab.picture.value).startswith(b"\x89PNG")
    (run,) = lab.start(lr=0.01).wait(PATIENCE).runs
    assert run.model == "model 1" and run.state == "finished" and run.settings["lr"] == 0.01
    assert [r["epoch"] for r in run.history] == [1, 2, 3, 4, 5]
    assert lab.history.loc[5, "validation_loss"] == pytest.approx(0.21)
    assert "Finished after 5 epochs" in lab.status.value
    assert "best 0.210 at epoch 5" in lab.status.value and "aria-label" in lab.progress.value
    assert lab.figure().png() == lab.picture.value != empty
    assert lab.picture.tooltip == lab.figure().alt
    assert "Validation loss falls from 1.010 to 0.210" in lab.picture.tooltip
    assert "table 0.300" in lab.picture.tooltip


@pytest.mark.parametrize(
    ("metric", "settings", "best"),
    [("validation_loss", {}, 0.1), ("auc", {}, 0.3), ("surprise", {"lower_is_better": True}, 0.1)],
)
def test_the_best_run_has_the_best_score(metric, settings, best):
    def make(lr, **_):
        return f"model {lr}", [{"epoch": 1, metric: lr, "note": "any"}, {"epoch": 2, metric: lr}]

    lab = TrainingLab(make, **settings)
    with pytest.raises(ValueError, match="press Train"):
        _ = lab.best
    assert lab.history.empty and lab.runs == [] and "No epoch" in lab.figure().alt
    for lr in (0.3, 0.1, 0.2):
        lab.start(lr=lr).wait(PATIENCE)
    assert lab.best.settings["lr"] == best and lab.best.model == f"model {best}"
    rows = re.findall(r"<tr><td>\d: lr (.*?)</td>", lab.table.value)
    assert rows == [f"{lr}" for lr in sorted((0.1, 0.2, 0.3), reverse=metric == "auc")]
    assert lab.metric == metric and lab.history.loc[1, "note"] == "any"


def test_a_control_is_set_to_exactly_what_is_asked_or_nothing_changes():
    notebook = Notebook()
    spec = {"p": (0.0, 0.1, 1.0), "bias": True, "loss": ["mse", "mae"]}
    lab = TrainingLab(notebook.make, n_epochs=10, controls=spec)
    before = lab.settings
    for name, value, said in [
        ("n_epochs", 500, "takes 50"), ("n_epochs", 0, "takes 1"), ("n_epochs", 2.5, "takes 2"),
        ("lr", -1, "takes 0.0001"), ("lr", math.nan, "instead"), ("lr", "a", "not the str"),
        ("weight_decay", 1e10, "takes 1.0"), ("seed", -1, "takes 0"), ("bias", "yes", "boolean"),
        ("loss", "maee", "did you mean 'mae'"), ("weightdecay", 1, "did you mean 'weight_decay'"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=f"{name} can't be {value!r}.*{said}"):
            lab.start(**{"p": 0.5, name: value})
        assert lab.settings == before and not lab.training and notebook.calls == []


# -- stopping -------------------------------------------------------------------------------------


def test_stop_keeps_model_and_history(gated):
    notebook, lab = gated
    lab.start()
    notebook.may_go_on.release(3)
    until(lambda: lab.runs and len(lab.runs[0].history) == 3)
    stopper = threading.Thread(target=lab.stop_button.click)
    stopper.start()
    notebook.may_go_on.release(1)  # the epoch under way may end
    lab.wait(PATIENCE)
    stopper.join()
    (run,) = lab.runs
    assert run.state == "stopped" and run.model == "model 1" and 3 <= len(run.history) <= 4
    assert "Stopped after" in lab.status.value
    assert notebook.closed == 1


@pytest.mark.parametrize("n_before", [0, 1])
def test_stop_interrupts_an_epoch_that_takes_long(n_before):
    begun = threading.Event()

    def make(**_):
        def records():
            yield from [{"epoch": 1, "validation_loss": 1.0}] * n_before
            begun.set()
            until(lambda: False)

        return "model", records()

    lab = TrainingLab(make)
    for _ in range(2):  # and it can train again
        begun.clear()
        assert lab.start().training and begun.wait(PATIENCE)
        lab.stop().wait(PATIENCE / 2)
    assert [(run.state, run.model) for run in lab.runs] == [("stopped", "model")] * 2 * n_before
    assert ("before the first epoch" in lab.status.value) == (n_before == 0)


def test_a_second_press_never_starts_two_runs_and_the_sliders_stay_alive(gated):
    notebook, lab = gated
    lab.train_button.click()
    until(lambda: "starting…" in lab.progress.value)
    lab.controls["lr"].value = 1.0
    lab.train_button.click()
    assert "Already training" in lab.progress.value
    with pytest.raises(TimeoutError, match=r"lab\.stop"):
        lab.wait(0.05)
    notebook.may_go_on.release(1)
    until(lambda: "epoch 1 of 50" in lab.progress.value)
    assert "Training with" in lab.status.value
    notebook.may_go_on.release(10**6)
    lab.wait(PATIENCE)
    assert [call["lr"] for call in notebook.calls] == [0.01] and len(lab.runs) == 1


def test_interrupting_an_idle_kernel_stops_every_lab(gated, monkeypatch):
    kernel, (notebook, lab) = SimpleNamespace(saved_sigint_handler=None), gated
    monkeypatch.setattr(training_lab, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    TrainingLab(Notebook().make)
    lab.start()
    until(lambda: lab.runs)
    kernel.saved_sigint_handler(2, None)
    notebook.may_go_on.release(9)  # should it wait already
    assert lab.wait(PATIENCE).runs == [] and "Stopped" in lab.status.value


def test_fifty_presses_from_many_threads_never_train_twice_at_once(drawn):
    notebook = Notebook()
    lab = TrainingLab(notebook.make, n_epochs=5)
    names = ("train", "stop", "clear", "reset", "sweep") * 10
    presses = [threading.Thread(target=getattr(lab, f"{name}_button").click) for name in names]
    for press in presses:
        press.start()
    for press in presses:
        press.join()
    lab.stop().wait(PATIENCE)
    assert notebook.most_at_once <= 1 and notebook.at_once == 0
    assert all(run.state in ("finished", "stopped") for run in lab.runs)
    assert lab.start().wait(PATIENCE).runs[-1].state == "finished"


def test_two_labs_train_at_once_and_running_a_cell_again_stops_only_its_own(monkeypatch):
    def unhurried(epoch, lr):
        return time.sleep(0.005) or 1 / epoch + lr

    def build(cell):
        shell = SimpleNamespace(get_parent=lambda: {"metadata": {"cellId": cell}})
        monkeypatch.setattr(training_lab, "get_ipython", lambda: shell)
        return TrainingLab(Notebook(unhurried).make, n_epochs=(1, 10**5, 10**5))

    lab, other = build("a").start(lr=0.1), build("b").start(lr=0.2)
    until(lambda: all(each.runs and each.runs[0].history for each in (lab, other)))
    build("a")
    assert lab.wait(PATIENCE).runs[0].state == "stopped" and other.training
    (run,) = other.stop().wait(PATIENCE).runs
    assert run.history[0]["validation_loss"] == 1.2


# -- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_divergence_ends_with_a_sentence_and_advice_and_a_sweep_goes_on(bad):
    def valid(epoch, lr):
        if bad is None and lr == 0.5:
            raise FloatingPointError("validation_loss is what the loop itself complains of")
        return bad if epoch == 2 and lr == 0.5 else 1.0

    lab = TrainingLab(Notebook(valid=valid).make, n_epochs=3, lr=0.5)
    said = []
    lab.status.observe(lambda change: said.append(change.new), "value")
    lab.sweep("lr").wait(PATIENCE)
    (alert,) = [text for text in said if 'role="alert"' in text]
    assert "Training diverged: validation_loss is " in alert
    assert bad is None or f"{bad} at epoch 2. Try a smaller lr, say 0.05" in alert
    ended = [(run.settings["lr"], run.state) for run in lab.runs]
    assert ended[:2] + ended[-1:] == [(lr, "finished") for lr in (0.05, 0.17, 1.5)]
    assert ended[2:-1] == [(0.5, "diverged")] * (bad is not None)
    assert 'role="status"' in lab.status.value


@pytest.mark.parametrize(
    ("fault", "early"), [(ValueError, False), (SystemExit, True), (GeneratorExit, False)]
)
def test_an_error_is_shown_raised_by_wait_and_forgotten_by_the_next_run(fault, early):
    faults = [fault("no <such> film")]

    def make(**_):
        def records():
            yield {"epoch": 1, "validation_loss": 1.0}
            if faults:
                raise faults.pop()

        return "model", [*records()] if early else records()

    lab = TrainingLab(make).start()
    with pytest.raises(fault, match="no <such> film"):
        lab.wait(PATIENCE)
    assert f"failed. {fault.__name__}: no &lt;such&gt; film" in lab.status.value
    assert [run.state for run in lab.runs] == ([] if early else ["failed"])
    assert lab.start().wait(PATIENCE).runs[-1].state == "finished"


@pytest.mark.parametrize(
    ("settings", "records", "said"),
    [
        ({}, [{"validation_loss": 1.0}], "no 'epoch' in a record"),
        ({"metric": "test_loss"}, [{"epoch": 1, "val_loss": 1.0}], "'test_loss'.*'val_loss'"),
        ({}, [{"epoch": 1, "loss": 1.0}, {"epoch": 2}], "no 'loss' in a record"),
        ({}, [1, 2], "ValueError|TypeError"),
        ({}, None, "not iterable"),
        ({"digits": "three"}, [{"epoch": 1, "loss": 1.0}], "Format spec"),
    ],
)
def test_whatever_goes_wrong_ends_with_its_reason_on_screen(settings, records, said):
    lab = TrainingLab(lambda **_: (None, records), **settings)
    with pytest.raises(Exception):  # noqa: B017
        lab.start().wait(PATIENCE)
    shown = lab.status.value.replace("&#x27;", "'")
    assert "Training failed" in shown and re.search(said, shown) and 'role="alert"' in shown
    assert not lab.training


# -- clear, sweep ---------------------------------------------------------------------------------


def test_clear_forgets_ghosts_and_table_but_not_the_run_under_way():
    notebook = Notebook()
    lab = TrainingLab(notebook.make, n_epochs=3)
    for lr in (0.1, 0.2):
        lab.start(lr=lr).wait(PATIENCE)
    notebook.may_go_on = threading.Semaphore(0)
    lab.start(lr=0.3)
    until(lambda: len(lab._chart.ghosts) == 2)
    assert "<table" in lab.table.value
    for n_kept in (1, 0):
        lab.clear_button.click()
        assert lab.picture.tooltip.startswith("No epoch") and lab.table.value == ""
        notebook.may_go_on.release(10**6)
        assert [run.state for run in lab.wait(PATIENCE).runs] == ["finished"] * n_kept
        assert "earlier run" not in lab.picture.tooltip


def test_a_sweep_trains_once_for_each_value_until_it_is_stopped():
    notebook = Notebook()
    lab = TrainingLab(notebook.make, lr=0.03, n_epochs=2, controls={"bias": True})
    lab.sweep_choice.value = "lr"
    lab.sweep_button.click()
    lab.wait(PATIENCE)
    assert [call["lr"] for call in notebook.calls] == [0.003, 0.01, 0.03, 0.09]
    assert "Best of all" in lab.status.value and "lr 0.003" in lab.status.value
    lab.sweep("bias").wait(PATIENCE)
    assert [call["bias"] for call in notebook.calls[4:]] == [False, True]
    notebook.valid = lambda epoch, lr: lab.stop() and 1.0
    assert len(lab.sweep("lr").wait(PATIENCE).runs) == 7 and not lab.training
    assert "Stopped after 1 epoch " in lab.status.value


# -- what is shown --------------------------------------------------------------------------------


def test_the_curve_draws_while_it_trains(gated, drawn):
    notebook, lab = gated
    pictures = []
    lab.picture.observe(lambda change: pictures.append(change.new), "value")
    lab.start()
    for epoch in range(1, 41):  # epochs that follow one another closely share a picture
        notebook.may_go_on.release(1)
        until(lambda n=epoch: lab.runs and len(lab.runs[0].history) >= n)
        time.sleep(0.05)
        if len(pictures) >= 3:
            break
    assert len(pictures) >= 3 and lab.training
    assert re.search(r"epoch [1-9]\d* of 50", lab.progress.value)


def test_runs_have_a_number_and_say_only_what_differs():
    lab = TrainingLab(Notebook().make, n_epochs=2, controls={"bias": True})
    legends = []
    for lr in (0.1, 0.10001, 0.2):  # two that read alike are alike
        lab.start(lr=lr).wait(PATIENCE)
        legends.append([t.get_text() for t in lab.figure().legends[0].get_texts()][3:])
    assert legends == [[], ["run 1"], ["run 1: lr 0.1", "run 2: lr 0.1"]]
    assert lab.figure().ax.get_title(loc="left") == "run 3: lr 0.2"
    assert re.findall(r"<tr><td>(.*?)</td>", lab.table.value)[-1] == "3: lr 0.2"


def test_a_lab_leaves_the_same_picture_each_time_where_it_cannot_be_drawn(monkeypatch, drawn):
    published = []
    monkeypatch.setattr(controls, "publish_display_data", published.append)
    for _ in range(2):
        lab = TrainingLab(Notebook().make, baseline=("<table>", 0.9), controls={"bias": True})
        lab._ipython_display_()
    widget, picture, _, again = published
    assert set(widget) == {"application/vnd.jupyter.widget-view+json", "text/plain"}
    assert widget["text/plain"] == "TrainingLab(lr, weight_decay, n_epochs, seed, bias)"
    assert picture == again and picture["text/plain"] == lab.picture.tooltip
    assert 'alt="No epoch of loss to draw yet; &lt;table&gt; 0.900."' in picture["text/html"]
    assert "run this cell" in picture["text/html"] and 'src="data:image/png' in picture["text/html"]


# -- controls -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "kind", "swept"),
    [
        (True, widgets.Checkbox, [False, True]),
        ([*"abcde"], widgets.Dropdown, [*"abcd"]),
        ((1, 8, 64), widgets.IntSlider, [1, 4, 16, 64]),
        ((0.0, 0.1, 0.6), widgets.FloatSlider, [0.0, 0.2, 0.4, 0.6]),
        ((0.001, 0.1, 1.0), widgets.FloatLogSlider, [0.01, 0.033, 0.1, 0.3]),
        (widgets.BoundedIntText(5, max=9999), widgets.BoundedIntText, [1, 22, 464, 9999]),
    ],
)
def test_controls_are_made_from_plain_values_and_swept_over_their_range(spec, kind, swept):
    made = control("k", spec)
    assert isinstance(made, kind) and made.description == "k" and spread(made) == swept


def test_a_bad_control_names_itself():
    for spec in [(3, 2, 1), (1, 2), (0, 0, 0), "adam", 3, []]:
        with pytest.raises((TypeError, ValueError), match="n_factors"):
            control("n_factors", spec)

"""Every widget of the training lab, driven through its traits and buttons, without a browser."""

import math
import re
import threading
import time
from types import SimpleNamespace

import ipywidgets as widgets
import pytest

from nmf_helpers.lab import TrainingLab, controls, training_lab
from nmf_helpers.lab.controls import LogSlider, check_value, control, literal, spread

PATIENCE = 20  # seconds that a run may take before a test gives up on it


class Notebook:
    """The notebook's side of a lab: a `make` that remembers its calls and can be held up."""

    def __init__(self, valid=lambda epoch, lr: 1 / epoch + lr, gated=False):
        self.calls, self.valid, self.closed = [], valid, 0
        self.may_go_on = threading.Semaphore(0 if gated else 10**6)
        self.at_once = self.most_at_once = 0

    def make(self, **settings):
        self.calls.append(settings)
        return f"model {len(self.calls)}", self.records(settings)

    def records(self, settings):
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            for epoch in range(1, settings["n_epochs"] + 1):
                self.may_go_on.acquire(timeout=PATIENCE)
                valid = self.valid(epoch, settings.get("lr", 0.0))
                yield {"epoch": epoch, "train_loss": 0.5 / epoch, "valid_loss": valid}
        finally:
            self.at_once -= 1
            self.closed += 1


def unhurried(epoch, lr):
    time.sleep(0.005)
    return 1 / epoch


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


def test_every_control_reaches_the_next_run():
    notebook = Notebook()
    spec = {"dropout": (0.0, 0.5, 1.0), "bias": False, "loss": ["mse", "mae"], "k": (1, 20, 64)}
    lab = TrainingLab(notebook.make, lr=(1e-4, 0.02, 1.0), seed=7, controls=spec)
    assert lab.settings == {
        "lr": 0.02, "weight_decay": 1e-5, "n_epochs": 30, "seed": 7, "dropout": 0.5, "bias": False,
        "loss": "mse", "k": 20,
    }  # fmt: skip
    lab.controls["lr"].slider.value = 0.1
    lab.controls["weight_decay"].box.value = 0.0123
    changed = {"n_epochs": 3, "seed": 5, "dropout": 0.25, "bias": True, "loss": "mae", "k": 2}
    for name, value in changed.items():
        lab.controls[name].value = value
    lab.train_button.click()
    lab.wait(PATIENCE)
    assert notebook.calls == [{"lr": 0.1, "weight_decay": 0.0123} | changed]
    bare = TrainingLab(notebook.make, lr=None, weight_decay=None, n_epochs=2).start()
    assert set(bare.wait(PATIENCE).runs[0].settings) == {"n_epochs", "seed"}


def test_a_run_keeps_model_settings_and_history():
    lab = TrainingLab(Notebook().make, n_epochs=5).start(lr=0.01).wait(PATIENCE)
    (run,) = lab.runs
    assert run.model == "model 1" and run.state == "finished" and run.settings["lr"] == 0.01
    assert [r["epoch"] for r in run.history] == [1, 2, 3, 4, 5]
    assert lab.history.loc[5, "valid_loss"] == pytest.approx(0.21)
    assert "Finished after 5 epochs" in lab.status.value
    assert "best 0.210 at epoch 5" in lab.status.value


@pytest.mark.parametrize(
    ("metric", "settings", "best"),
    [("valid_loss", {}, 0.1), ("auc", {}, 0.3), ("surprise", {"lower_is_better": True}, 0.1)],
)
def test_the_best_run_has_the_best_score(metric, settings, best):
    def make(lr, **_):
        return f"model {lr}", [{"epoch": 1, metric: lr, "note": "any"}, {"epoch": 2, metric: lr}]

    lab = TrainingLab(make, **settings)
    for lr in (0.3, 0.1, 0.2):
        lab.start(lr=lr).wait(PATIENCE)
    assert lab.best.settings["lr"] == best and lab.best.model == f"model {best}"
    rows = re.findall(r"<tr><td>\d: lr (.*?)</td>", lab.table.value)
    assert rows == [f"{lr}" for lr in sorted((0.1, 0.2, 0.3), reverse=metric == "auc")]
    assert lab.history.loc[1, "note"] == "any"


def test_no_run_yet_is_said_plainly():
    lab = TrainingLab(Notebook().make)
    with pytest.raises(ValueError, match="press Train"):
        _ = lab.best
    assert lab.history.empty and lab.runs == [] and "No epoch" in lab.figure().alt


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_epochs", 500), ("n_epochs", 0), ("n_epochs", 2.5), ("lr", -1), ("lr", math.nan),
        ("lr", "0.1"), ("weight_decay", 1e10), ("seed", -1), ("bias", "yes"), ("loss", "hinge"),
        ("p", 1.5), ("own", 99), ("weightdecay", 1),
    ],
)  # fmt: skip
def test_a_control_is_set_to_exactly_what_is_asked_or_nothing_changes(name, value):
    spec = {"bias": True, "loss": ["mse", "mae"], "p": (0.0, 0.1, 1.0)}
    spec["own"] = widgets.BoundedIntText(1, max=9)
    notebook = Notebook()
    lab = TrainingLab(notebook.make, n_epochs=10, controls=spec)
    before = lab.settings
    with pytest.raises(ValueError, match=f"{name}|did you mean 'weight_decay'"):
        lab.start(**{"p": 0.5, name: value} if name != "p" else {"loss": "mae", "p": value})
    assert lab.settings == before and not lab.training and notebook.calls == []


def test_what_lies_between_the_steps_of_a_slider_is_trained_with_too():
    notebook = Notebook()
    lab = TrainingLab(notebook.make, n_epochs=10, controls={"p": (0.0, 0.1, 1.0)})
    asked = {"lr": 0.0321, "weight_decay": 0, "n_epochs": 7, "p": 0.12345}
    lab.start(**asked).wait(PATIENCE)
    assert notebook.calls[0] == asked | {"seed": 0} and lab.settings == notebook.calls[0]
    with pytest.raises(ValueError, match="no values of lr"):
        lab.sweep("lr", [])


@pytest.mark.parametrize(
    ("settings", "followed"),
    [({}, "val_loss"), ({"metric": "val_rmse"}, "val_rmse"), ({"train_metric": "val_loss"}, "fit")],
)
def test_the_lab_follows_the_loss_that_is_not_the_trainings(settings, followed):
    record = {"epoch": 1, "seconds": 0.1, "fit": 3.0, "val_rmse": 0.9, "val_loss": 0.8}
    lab = TrainingLab(lambda **_: (None, [record]), **settings).start().wait(PATIENCE)
    assert lab.metric == followed and lab.best.score == record[followed]


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


class Endless:
    """An epoch that says when it has begun, and does not end by itself."""

    def __init__(self):
        self.begun = threading.Event()

    def __call__(self):
        self.begun.set()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            pass


def test_stop_interrupts_an_epoch_that_takes_long():
    endless = Endless()

    def make(**_):
        def records():
            yield {"epoch": 1, "valid_loss": 1.0}
            endless()

        return "model", records()

    lab = TrainingLab(make).start()
    assert endless.begun.wait(PATIENCE)
    lab.stop().wait(PATIENCE / 2)
    assert lab.runs[0].state == "stopped" and lab.runs[0].model == "model"
    assert lab.start().training  # and it can train again
    lab.stop().wait(PATIENCE / 2)


def test_stop_before_the_first_epoch_leaves_no_run():
    endless = Endless()
    lab = TrainingLab(lambda **_: endless()).start()
    assert endless.begun.wait(PATIENCE)
    lab.stop().wait(PATIENCE / 2)
    assert lab.runs == [] and "before the first epoch" in lab.status.value


def test_a_second_press_never_starts_two_runs(gated):
    notebook, lab = gated
    lab.train_button.click()
    until(lambda: "starting…" in lab.progress.value)
    lab.train_button.click()
    assert "Already training" in lab.progress.value
    notebook.may_go_on.release(1)
    until(lambda: "epoch 1 of 50" in lab.progress.value)
    assert "Training with" in lab.status.value
    notebook.may_go_on.release(10**6)
    lab.wait(PATIENCE)
    assert len(notebook.calls) == len(lab.runs) == 1


def test_interrupting_an_idle_kernel_stops_every_lab(gated, monkeypatch):
    kernel = SimpleNamespace(saved_sigint_handler=None)
    monkeypatch.setattr(training_lab, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    TrainingLab(Notebook().make)
    _, lab = gated
    lab.start()
    until(lambda: lab.runs)
    kernel.saved_sigint_handler(2, None)
    assert lab.wait(PATIENCE).runs == [] and "Stopped" in lab.status.value


def test_fifty_presses_from_many_threads_never_train_twice_at_once():
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


def test_the_sliders_stay_alive_while_it_trains_and_waiting_has_a_limit(gated):
    _, lab = gated
    lab.start(lr=0.01)
    until(lambda: lab.runs)
    lab.controls["lr"].slider.value = 1.0
    assert lab.settings["lr"] == 1.0 and lab.runs[0].settings["lr"] == 0.01
    with pytest.raises(TimeoutError, match=r"lab\.stop"):
        lab.wait(0.05)


def test_two_labs_train_at_once_without_mixing():
    first, second = Notebook(), Notebook()
    labs = [TrainingLab(n.make, n_epochs=20) for n in (first, second)]
    for lab, lr in zip(labs, (0.1, 0.2), strict=True):
        lab.start(lr=lr)
    for lab, lr in zip(labs, (0.1, 0.2), strict=True):
        lab.wait(PATIENCE)
        assert [run.settings["lr"] for run in lab.runs] == [lr]
        assert lab.runs[0].score == pytest.approx(1 / 20 + lr)


def test_running_the_cell_again_stops_its_earlier_lab(monkeypatch):
    class Shell:
        def __init__(self, cell, execution):
            self.parent = {"metadata": {"cellId": cell}, "header": {"msg_id": execution}}

        def get_parent(self):
            return self.parent

    def build(cell, execution, notebook):
        monkeypatch.setattr(training_lab, "get_ipython", lambda: Shell(cell, execution))
        return TrainingLab(notebook.make, n_epochs=10**5)

    notebooks = [Notebook(valid=unhurried) for _ in range(3)]
    old, beside = build("a", "1", notebooks[0]), build("a", "1", notebooks[1])
    other = build("b", "2", notebooks[2])
    for lab in (old, beside, other):
        lab.start()
    until(lambda: all(lab.runs and lab.runs[0].history for lab in (old, beside, other)))
    build("a", "3", Notebook())
    old.wait(PATIENCE)
    beside.wait(PATIENCE)
    assert old.runs[0].state == beside.runs[0].state == "stopped"
    assert other.training
    other.stop().wait(PATIENCE)


# -- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_divergence_ends_with_a_sentence_and_advice_and_a_sweep_goes_on(bad):
    def valid(epoch, lr):
        if bad is None and lr > 0.1:
            raise FloatingPointError("valid_loss is what the loop itself complains of")
        return bad if epoch == 2 and lr > 0.1 else 1.0

    lab = TrainingLab(Notebook(valid=valid).make, n_epochs=3, lr=0.5)
    said = []
    lab.status.observe(lambda change: said.append(change.new), "value")
    lab.sweep("lr", [0.5, 0.05]).wait(PATIENCE)
    (alert,) = [text for text in said if 'role="alert"' in text]
    assert "Training diverged: valid_loss is " in alert
    assert bad is None or f"{bad} at epoch 2. Try a smaller lr, say 0.05" in alert
    assert [run.state for run in lab.runs] == ["diverged", "finished"][bad is None :]
    assert 'role="status"' in lab.status.value


@pytest.mark.parametrize("early", [True, False])
def test_an_error_is_shown_raised_by_wait_and_forgotten_by_the_next_run(early):
    faults = ["no <such> film"]

    def make(**_):
        def records():
            yield {"epoch": 1, "valid_loss": 1.0}
            if faults:
                raise ValueError(faults.pop())

        return "model", [*records()] if early else records()

    lab = TrainingLab(make).start()
    with pytest.raises(ValueError, match="no <such> film"):
        lab.wait(PATIENCE)
    assert "failed. ValueError: no &lt;such&gt; film" in lab.status.value
    assert [run.state for run in lab.runs] == ([] if early else ["failed"])
    assert lab.start().wait(PATIENCE).runs[-1].state == "finished"


@pytest.mark.parametrize("exit_", [SystemExit, GeneratorExit])
def test_an_exit_in_the_notebooks_code_is_shown_too(exit_):
    def make(**_):
        raise exit_("enough")

    lab = TrainingLab(make).start()
    with pytest.raises(exit_):
        lab.wait(PATIENCE)
    assert "Training failed" in lab.status.value and "enough" in lab.status.value


@pytest.mark.parametrize(
    ("settings", "records", "said"),
    [
        ({}, [{"valid_loss": 1.0}], "no 'epoch' in a record"),
        ({}, [{"epoch": 1, "note": "hi"}], "no metric in a record"),
        ({"metric": "valid_loss"}, [{"epoch": 1, "val_loss": 1.0}], "'valid_loss'.*'val_loss'"),
        ({}, [{"epoch": 1, "loss": 1.0}, {"epoch": 2}], "metric 'loss' in a record"),
        ({}, [1, 2], "ValueError|TypeError"),
        ({}, None, "not iterable"),
        ({"digits": "three"}, [{"epoch": 1, "loss": 1.0}], "Training failed"),
    ],
)
def test_whatever_goes_wrong_ends_with_its_reason_on_screen(settings, records, said):
    digits = settings.pop("digits", 3)
    lab = TrainingLab(lambda **_: (None, records), **settings)
    lab._plot["digits"] = digits  # as if the lab itself had a fault
    with pytest.raises(Exception):  # noqa: B017
        lab.start().wait(PATIENCE)
    shown = lab.status.value.replace("&#x27;", "'")
    assert "Training failed" in shown and re.search(said, shown) and 'role="alert"' in shown
    assert not lab.training and lab.train_button.button_style == "primary"


# -- reset, clear, sweep, predict -----------------------------------------------------------------


def test_reset_puts_every_control_back_and_keeps_the_runs():
    lab = TrainingLab(Notebook().make, n_epochs=3, controls={"bias": True, "loss": ["mse", "mae"]})
    before = lab.settings
    lab.start(lr=0.5, weight_decay=0.0, n_epochs=2, seed=3, bias=False, loss="mae").wait(PATIENCE)
    lab.reset_button.click()
    assert lab.settings == before and len(lab.runs) == 1


@pytest.mark.parametrize("training", [False, True])
def test_clear_forgets_ghosts_and_table_but_not_the_run_under_way(training):
    notebook = Notebook()
    lab = TrainingLab(notebook.make, n_epochs=3)
    for lr in (0.1, 0.2):
        lab.start(lr=lr).wait(PATIENCE)
    if training:
        notebook.may_go_on = threading.Semaphore(0)
        lab.start(lr=0.3)
        until(lambda: len(lab._chart.ghosts) == 2)
    assert "earlier run" in lab.picture.tooltip or training
    assert "<table" in lab.table.value
    lab.clear_button.click()
    assert lab.picture.tooltip.startswith("No epoch") and lab.table.value == ""
    notebook.may_go_on.release(10**6)
    lab.wait(PATIENCE)
    assert [run.state for run in lab.runs] == ["finished"] * training
    assert "earlier run" not in lab.picture.tooltip


def test_a_sweep_trains_once_for_each_value():
    notebook = Notebook()
    lab = TrainingLab(notebook.make, lr=0.03, n_epochs=2, controls={"bias": True})
    lab.sweep_choice.value = "lr"
    lab.sweep_button.click()
    lab.wait(PATIENCE)
    assert [call["lr"] for call in notebook.calls] == [0.003, 0.01, 0.03, 0.09]
    assert "Best of all" in lab.status.value and "lr 0.003" in lab.status.value
    lab.sweep("bias").wait(PATIENCE)
    assert [call["bias"] for call in notebook.calls[4:]] == [False, True]


@pytest.mark.parametrize("end", [TrainingLab.stop, TrainingLab.close])
def test_stop_and_closing_the_lab_end_a_whole_sweep(end):
    lab = TrainingLab(Notebook().make, n_epochs=10**6).sweep("lr")
    until(lambda: lab.runs and lab.runs[0].history)
    end(lab)
    assert len(lab.wait(PATIENCE).runs) == 1 and not lab.training


# -- what is shown --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lr", "guess", "answer"),
    [
        (0.05, "better", "You were right: it came out better, 0.300 after 0.350"),
        (0.5, "better", "You said better: it came out worse"),
        (0.1, "the same", "You were right: it came out the same"),
    ],
)
def test_a_prediction_is_answered(lr, guess, answer):
    lab = TrainingLab(Notebook().make, n_epochs=4)
    lab.guess.value = "better"
    assert "no earlier run" in lab.start(lr=0.1).wait(PATIENCE).status.value
    lab.guess.value = guess
    lab.start(lr=lr).wait(PATIENCE)
    assert answer in lab.status.value and lab.guess.value == "no guess"


def test_the_picture_is_a_png_whose_tooltip_is_the_alt_text():
    lab = TrainingLab(Notebook().make, n_epochs=4, baseline=("table", 0.3), ylim=(0, 2))
    assert bytes(lab.picture.value).startswith(b"\x89PNG")
    empty = lab.picture.value
    lab.start(lr=0.01).wait(PATIENCE)
    assert lab.figure().png() == lab.picture.value != empty
    assert lab.picture.tooltip == lab.figure().alt
    assert "Validation loss falls from 1.010 to 0.260" in lab.picture.tooltip
    assert "table 0.300" in lab.picture.tooltip and "aria-label" in lab.progress.value


def test_the_curve_draws_while_it_trains(gated):
    notebook, lab = gated
    pictures = []
    lab.picture.observe(lambda change: pictures.append(change.new), "value")
    lab.start()
    for _ in range(40):  # epochs that follow one another closely share a picture
        notebook.may_go_on.release(1)
        time.sleep(0.1)
        if len(pictures) >= 3:
            break
    assert len(pictures) >= 3 and lab.training
    assert re.search(r"epoch [1-9]\d* of 50", lab.progress.value)


def test_runs_have_a_number_and_say_only_what_differs():
    lab = TrainingLab(Notebook().make, n_epochs=2, controls={"bias": True})
    for lr in (0.1, 0.1, 0.2):
        lab.start(lr=lr).wait(PATIENCE)
    legend = [t.get_text() for t in lab.figure().legends[0].get_texts()]
    assert legend[-2:] == ["run 1: lr 0.1", "run 2: lr 0.1"]
    assert lab.figure().ax.get_title(loc="left") == "run 3: lr 0.2"
    assert re.findall(r"<tr><td>(.*?)</td>", lab.table.value)[-1] == "3: lr 0.2"


def test_the_plain_text_of_a_lab_is_the_same_every_time():
    labs = [TrainingLab(Notebook().make, controls={"bias": True}) for _ in range(2)]
    assert repr(labs[0]) == repr(labs[1]) == "TrainingLab(lr, weight_decay, n_epochs, seed, bias)"
    assert labs[0].still() == labs[1].still()


def test_a_lab_leaves_a_picture_with_alt_text_where_it_cannot_be_drawn(monkeypatch):
    published = []
    monkeypatch.setattr(controls, "publish_display_data", published.append)
    lab = TrainingLab(Notebook().make, baseline=("<table>", 0.9))
    lab._ipython_display_()
    widget, picture = published
    assert set(widget) == {"application/vnd.jupyter.widget-view+json", "text/plain"}
    assert picture["text/plain"] == lab.picture.tooltip
    assert 'alt="No epoch of loss to draw yet; &lt;table&gt; 0.900."' in picture["text/html"]
    assert "run this cell" in picture["text/html"] and 'src="data:image/png' in picture["text/html"]


# -- controls -------------------------------------------------------------------------------------


def test_slider_and_box_agree_and_both_have_a_name():
    lr = control("lr", (1e-4, 0.01, 1.0))
    names = [lr.slider.label, lr.slider.description, lr.box.description]
    assert names == ["0.01", "lr", "exact lr"]
    lr.slider.value = 0.13
    assert lr.value == lr.box.value == 0.13
    for exact, step in ((0.0321, 0.032), (0.0, 1e-4), (1e-9, 1e-4), (50.0, 1.0)):
        lr.box.value = exact
        lr.slider.value = step  # what the front end may send back is no move
        assert (lr.value, lr.box.value, lr.slider.value) == (exact, exact, step)
    lr.slider.value = 0.04  # a real move
    assert lr.value == lr.box.value == 0.04
    lr.box.value = -1.0
    assert lr.value == 0.0
    widget = widgets.IntText(3)
    assert control("batch_size", widget) is widget and widget.description == "batch_size"


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (True, widgets.Checkbox),
        (["a", "b"], widgets.Dropdown),
        ((1, 2, 3), widgets.IntSlider),
        ((0.0, 0.2, 0.5), widgets.FloatSlider),
        ((0.001, 0.1, 1.0), LogSlider),
    ],
)
def test_controls_are_made_from_plain_values(spec, kind):
    assert isinstance(control("name", spec), kind)


@pytest.mark.parametrize("spec", [(3, 2, 1), (1, 2), (0, 0, 0), "adam", 3, []])
def test_a_bad_control_names_itself(spec):
    with pytest.raises((TypeError, ValueError), match="n_factors"):
        control("n_factors", spec)


def test_a_spread_covers_the_control():
    assert spread(control("k", (1, 8, 64))) == [1, 4, 16, 64]
    assert spread(control("p", (0.0, 0.1, 0.6))) == [0.0, 0.2, 0.4, 0.6]
    assert spread(control("loss", ["a", "b", "c", "d", "e"])) == ["a", "b", "c", "d"]
    assert spread(LogSlider(1e-6, 0.0, 1e-2)) == [0.0, 3.3e-5, 1e-4, 3e-4]
    assert spread(widgets.BoundedIntText(5)) == [5, 6, 7, 8]


def test_text_is_shown_as_it_is():
    shown = literal('<b>"$5 & $10"')
    assert "&lt;b&gt;&quot;$5 &amp; $10&quot;" in shown and "mathjax_ignore" in shown
    with pytest.raises(ValueError, match="can't be"):
        check_value("name", widgets.Text("a"), 3)

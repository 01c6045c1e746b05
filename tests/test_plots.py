"""Figures say what they show: alt text, labels and lines against the data they were made from."""

import base64
import html
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from IPython.core.formatters import DisplayFormatter

from nmf_helpers.lab import plots
from nmf_helpers.lab.curves import COLOURS, FAINT, Chart, best_record, is_lower_better, shorten
from nmf_helpers.lab.plots import loss_curves


def records(valid, train=None):
    train = valid if train is None else train
    return [
        {"epoch": epoch, "train_loss": t, "validation_loss": v}
        for epoch, (v, t) in enumerate(zip(valid, train, strict=True), 1)
    ]


DIPPING = records([1.12, 0.95, 0.91, 0.93], [1.2, 0.9, 0.7, 0.6])


# -- learning curves ------------------------------------------------------------------------------


def test_the_alt_text_tells_the_course_of_the_curve():
    chart = loss_curves(DIPPING, baseline=("bias table", 0.96), ylabel="RMSE (stars)", digits=2)
    assert chart.alt == (
        "Validation RMSE falls from 1.12 to 0.93 over epochs 1 to 4, lowest 0.91 at epoch 3; "
        "training RMSE ends at 0.60; bias table 0.96."
    )
    assert "lowest" not in loss_curves(records([1.12, 0.931, 0.934]), digits=2).alt  # the last
    rising = [{"epoch": e, "ndcg@10": v} for e, v in enumerate([0.1, 0.3, 0.2], 1)]
    chart = loss_curves(rising, metric="ndcg@10", train_metric=None, ylabel="nDCG@10")
    assert "rises from 0.100 to 0.200" in chart.alt
    assert "highest 0.300 at epoch 2" in chart.alt
    assert "training" not in chart.alt + chart.legends[0].get_texts()[0].get_text()
    assert "lowest 0.100" in loss_curves(rising, metric="ndcg@10", lower_is_better=True).alt


def test_training_and_validation_differ_in_style_as_well_as_colour():
    chart = loss_curves(DIPPING)
    train, validation, best = chart.train, chart.validation, chart.best
    assert train.get_linestyle() != validation.get_linestyle()
    assert train.get_color() != validation.get_color()
    assert validation.get_ydata().tolist() == [1.12, 0.95, 0.91, 0.93]
    assert train.get_ydata().tolist() == [1.2, 0.9, 0.7, 0.6]
    assert best.get_xydata().tolist() == [[3, 0.91]]


def test_a_number_nobody_recorded_is_named_with_those_that_are_and_may_be_missing_in_some_epochs():
    for settings, history, said in [
        ({"metric": "test_loss"}, [{"epoch": 1, "val_loss": 1.0}], "'test_loss'.*'val_loss'"),
        ({}, [{"validation_loss": 1.0}], "'epoch'.*'validation_loss'"),
        ({}, [{"epoch": 1, "seconds": 2.0, "train_loss": 1.0}], "no 'metric'.*'train_loss'"),
    ]:
        with pytest.raises(ValueError, match=said):
            loss_curves(history, **settings)
    chart = loss_curves([{"epoch": 1, "auc": 0.5}, {"epoch": 2}, {"epoch": 3, "auc": None}])
    assert chart.metric == "auc"
    assert chart.alt == "Validation loss stays at 0.500 over epochs 1 to 1."
    assert loss_curves([{"epoch": 1}, *DIPPING[1:]]).metric == "validation_loss"


def test_baselines_and_earlier_runs_are_labelled_lines_and_the_best_value_lies_over_them():
    ghosts = {"lr 0.1": DIPPING, "lr 0.2": DIPPING[:2]}
    chart = loss_curves(DIPPING, baseline={"bias table": 0.88, "mean": 1.05}, ghosts=ghosts)
    heights = [line.get_ydata()[0] for line in chart.ax.lines if len(set(line.get_ydata())) == 1]
    assert {0.88, 1.05} <= set(heights)
    legend = [t.get_text() for t in chart.legends[0].get_texts()]
    assert legend[-4:] == ["bias table 0.880", "mean 1.050", "lr 0.1", "lr 0.2"]
    assert chart.alt.endswith("bias table 0.880; mean 1.050; 2 earlier runs drawn thin.")
    assert len({line.get_linestyle() for line in chart.ax.lines[-2:]}) == 2
    assert chart.note.get_bbox_patch().get_facecolor()[:3] == (1, 1, 1)


def test_an_enormous_first_epoch_does_not_flatten_the_rest():
    chart = loss_curves(records([13.0, 2.0, 0.95, 0.9]), baseline=("bias table", 0.88))
    low, high = chart.ax.get_ylim()
    assert high < 3 and low < 0.88
    chart = loss_curves(records([13.0]))  # without a baseline, once the others are there
    assert chart.show(records([13.0, 5.0, 1.2, 0.9, 0.8])).ax.get_ylim()[1] < 3


@pytest.mark.parametrize("fall", [1.0, 0.02, 0.002])
def test_the_numbers_of_the_axis_leave_room_for_its_name(fall):
    records = [{"epoch": n, "validation_loss": 0.975 + fall / n} for n in range(1, 9)]
    chart = loss_curves(records, ylabel="RMSE (stars)")
    chart.canvas.draw()
    assert chart.ax.yaxis.label.get_window_extent().x0 >= 0


def test_axes_hardly_move_while_a_run_is_drawn():
    losses = 0.9 + 0.3 * np.exp(-np.arange(60) / 10)
    run = records(losses, losses - np.linspace(0.1, 0.6, 60))
    chart = loss_curves(metric="validation_loss", n_epochs=60, baseline=("bias table", 0.88))
    seen = [chart.show(run[:n]).ax.get_ylim() for n in range(1, 61)]
    assert len(set(seen)) <= 6
    low, high = seen[-1]
    assert low < min(r["train_loss"] for r in run) and high > losses.max()


def test_no_epoch_yet_or_nan_alone_is_a_picture_too():
    for run in ([], records([np.nan, np.inf])):
        chart = loss_curves(run, baseline=("bias table", 0.9))
        assert chart.alt == "No epoch of loss to draw yet; bias table 0.900."
        assert chart.png(anew=False).startswith(b"\x89PNG")


def test_a_quick_frame_shows_what_a_full_drawing_shows():
    chart = loss_curves([], n_epochs=4, metric="validation_loss", baseline=("top", 1.3))
    for n in range(1, 5):
        chart.show(DIPPING[:n])
        quick = chart.png(anew=False)
    assert quick == chart.png()


def test_the_best_record_is_the_earliest_of_equals_and_skips_nan():
    run = records([np.nan, 0.9, 0.8, 0.8])
    assert best_record(run, "validation_loss", True)["epoch"] == 3
    assert best_record(run, "validation_loss", False)["epoch"] == 2
    assert best_record(records([np.nan, np.inf]), "validation_loss", True) is None
    assert all(map(is_lower_better, ("validation_loss", "RMSE (stars)", "MAE", "test error")))
    assert not any(map(is_lower_better, ("ndcg@10", "auc")))


# -- how a chart reaches a notebook ---------------------------------------------------------------


def test_a_notebook_gets_a_picture_whose_alt_text_a_screen_reader_finds():
    chart = loss_curves(DIPPING, baseline=('"<b>"', 1.0))
    data, metadata = DisplayFormatter().format(chart)
    assert data["text/plain"] == chart.alt == metadata["image/png"]["alt"]
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert f'alt="{html.escape(chart.alt)}"' in data["text/html"]
    assert f'src="data:image/png;base64,{data["image/png"]}"' in data["text/html"]
    assert 'data-jp-theme-light="false"' in data["text/html"]  # and is inverted in a dark theme


def contrast(colour):
    """Contrast with white, after WCAG 2."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)


def test_every_line_and_marker_stands_out():
    assert min(map(contrast, [*COLOURS, FAINT])) >= 3


ODD_STYLE = {"text.usetex": True, "font.family": "No Such Font", "text.color": "white"}
ODD_STYLE |= {"axes.formatter.use_mathtext": True, "path.sketch": (1, 100, 2), "axes.grid": False}
ODD_STYLE |= {"axes.facecolor": "black", "figure.facecolor": "black", "figure.autolayout": True}


def test_pictures_are_the_same_whatever_style_the_reader_has_switched_on():
    def draw():
        own = Chart()
        own.subplots().text(0, 0, "$$", color="black")  # no formula
        curves = loss_curves(DIPPING, baseline=("$", 1.0), ghosts={"$1": DIPPING}, title="a $b$")
        scores = plots.score_chart({"$a$": 0.1, "b": 0.2}, xlabel="$x$")
        return curves.png(), scores.png(), own.png().startswith(b"\x89PNG")

    plain = draw()
    with matplotlib.rc_context(ODD_STYLE):
        assert draw() == plain


def test_any_text_comes_on_one_short_line():
    given = "a\n b\tc", "x" * 30, "a\x00\u202eb", 1917
    assert [shorten(text, 10) for text in given] == ["a b c", "x" * 9 + "…", "a b", "1917"]


def test_drawing_never_imports_pyplot():
    code = (
        "import sys; from nmf_helpers.lab.plots import loss_curves;"
        "loss_curves([{'epoch': 1, 'validation_loss': 1.0}]).png();"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# -- the other figures ----------------------------------------------------------------------------


def test_sparsity_counts_what_the_matrix_holds():
    matrix = sp.csr_array(np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]]))
    assert plots.sparsity(matrix).alt == (
        "3 users by 4 films, 41.67% filled; the most rated film has 3 ratings; "
        "half of all 5 ratings went to 1 film; 2 films got a single one."
    )


def test_learned_biases_name_the_extremes_by_place():
    titles = pd.Series(["Zorro $", "Alien", "Heat", "Big"]).sort_values()  # Alien, Big, Heat, Zorro
    chart = plots.learned_biases(np.array([0.5, -1.0, 0.0, 2.0]), titles, n=1)
    assert chart.alt == "bias (stars), best first: Zorro $ 2.00; Big -1.00."
    with pytest.raises(ValueError, match="zip"):
        plots.learned_biases([0.5], titles)


def test_scores_are_ordered_best_first_with_the_spread_of_seeds():
    scores = {"table": 0.88, "MF": [0.92, 0.90], "best": 0.86}
    chart = plots.score_chart(scores, xlabel="RMSE (stars)", baselines=["table"])
    assert chart.alt == (
        "RMSE (stars), best first: best 0.860; table 0.880; MF 0.910 [0.900 to 0.920]."
    )
    scored = plots.score_chart({"a": 0.1, "b": 0.3}, xlabel="nDCG@10")
    assert scored.alt == "nDCG@10, best first: b 0.300; a 0.100."


def test_by_popularity_reports_both_ends():
    table = pd.DataFrame({"EASE": [0.1, 0.2]}, index=pd.Index(["rare", "popular"], name="films"))
    chart = plots.by_popularity(table, ylabel="recall@10")
    assert chart.alt == "recall@10, from rare to popular films: EASE 0.100 to 0.200."

"""Checks of notebook 5, the pipeline; each docstring is three hints, from a nudge to nearly all."""

import math
from collections.abc import Callable

import numpy as np

from nmf_helpers.exercises import Different, call, expect


def check_5_1(average: Callable) -> None:
    """Three decisions: which rows count, along which axis to average, when to clip.

    Rows are sweeps, columns are ratings. The first n_burn_in rows don't count.

    Average first and clip the average. Clipping each draw would pull the average inwards.
    """
    draws = np.array([[9.0, 9.0], [3.0, 6.0], [4.0, 3.0]])
    words = "[3.5 4.5]: the mean of the last two rows, which needs no clipping"
    expect(average, (draws, 1), [3.5, 4.5], words)
    words = "[5 3]: a mean of 6 lies off the scale of 1 to 5"
    expect(average, (np.array([[6.0, 3.0], [6.0, 3.0]]), 0), [5.0, 3.0], words)
    rng = np.random.default_rng(5)
    draws = rng.normal(3, 2, size=(30, 4))
    want = [min(5.0, max(1.0, math.fsum(column) / 20)) for column in draws[10:].T.tolist()]
    expect(average, (draws, 10), want, "one number per rating", "30 sweeps over 4 ratings and 10")


def check_5_2(best_epoch: Callable) -> None:
    """Go through the scores as they come in, as if the later ones did not exist yet.

    Remember the best epoch so far. Stop once `patience` epochs in a row have not beaten it.

    The answer is the epoch that was remembered when you stopped, not the one you stopped in.
    Epochs count from 1.
    """
    words = "epoch 2: two epochs later nothing was better, and nobody saw the 0.1"
    expect(best_epoch, ([0.9, 0.8, 0.85, 0.84, 0.1], 2), 2, words)
    expect(best_epoch, ([0.9, 0.8, 0.85, 0.7], 2), 4, "epoch 4: it came in time")
    expect(best_epoch, ([0.9, 0.9, 0.9, 0.5], 2), 1, "epoch 1: an equal score is no improvement")
    expect(best_epoch, ([3.0, 2.0, 1.0], 5), 3, "epoch 3: it never stopped improving")


def check_5_3(optimism: Callable) -> None:
    """Per experiment there are two ways to pick a column, and each ends in one test score.

    The honest way picks the column with the lowest validation score, and reports its *test*
    score. The other picks the column with the lowest test score.

    argmin(axis=1) gives one column per row. Index with row numbers and those columns together,
    and take the mean of honest minus dishonest.
    """
    valid = np.array([[0.90, 0.92, 0.95], [0.93, 0.90, 0.91]])
    test = np.array([[0.93, 0.91, 0.97], [0.92, 0.94, 0.90]])
    words = "0.03: validation picks .93 and .94, peeking picks .91 and .90, 0.03 lower on average"
    expect(optimism, (valid, test), 0.03, words)
    rng = np.random.default_rng(6)
    valid, test = rng.normal(size=(2, 50, 6))
    gaps = []
    for v, t in zip(valid.tolist(), test.tolist(), strict=True):
        gaps.append(t[v.index(min(v))] - min(t))
    expect(optimism, (valid, test), sum(gaps) / 50, f"{sum(gaps) / 50:.4f}", "50 experiments")


def check_5_bug1(reported: Callable) -> None:
    """Which of the two curves decided when to stop?

    Stopping is a choice, and a choice made on test data makes the test score too good.

    Let the validation curve say which epoch, and read the test curve at that epoch only.
    """
    valid, test = [1.0, 0.9, 0.8, 0.85], [1.1, 0.7, 0.9, 0.6]
    given = f"validation {valid} and test {test}"
    got = call(lambda: reported(valid, test), (), given)
    if abs(float(got) - 0.9) > 1e-9:
        raise Different(
            f"Given {given}, yours reported {float(got):.2f}. Expected the test score of the epoch "
            "that validation picks, the third."
        )

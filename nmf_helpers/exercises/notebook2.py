"""Checks of notebook 2, dot products; each docstring is three hints, from a nudge to nearly all."""

from collections.abc import Callable

import numpy as np
import torch

from nmf_helpers.exercises import Different, call, expect, show
from nmf_helpers.models import MF


def check_2_1(predict: Callable) -> None:
    """Three pairs in, three numbers out. Which two rows does the first number need?

    An array indexed with an array of row numbers gives those rows, one under the other. That
    makes two arrays of shape (batch, factors).

    Multiply them element by element and add up along the axis of the factors. A matrix product
    would pair every user of the batch with every film of the batch.
    """
    p = np.array([[1.0, 2.0], [0.0, 1.0], [3.0, 1.0]])
    q = np.array([[2.0, 1.0], [1.0, 1.0]])
    expect(
        predict,
        (p, q, np.array([0, 2, 2]), np.array([0, 1, 0])),
        [4.0, 4.0, 7.0],
        "three numbers, of which the first is 1·2 + 2·1 = 4",
        "users 0, 2, 2 with vectors [1 2], [3 1], [3 1] and items 0, 1, 0 with vectors [2 1], "
        "[1 1], [2 1]",
    )
    rng = np.random.default_rng(1)
    p, q = rng.normal(size=(6, 4)), rng.normal(size=(9, 4))
    users, items = rng.integers(0, 6, 20), rng.integers(0, 9, 20)
    want = [
        sum(a * b for a, b in zip(p[user], q[item], strict=True))
        for user, item in zip(users, items, strict=True)
    ]
    expect(predict, (p, q, users, items), want, "one dot product per pair", "20 random pairs")


def check_2_2(rms_error: Callable) -> None:
    """Read the name backwards: error, squared, mean, root.

    How far apart are the two? Square that before you average, so that +1 and -1 don't cancel.

    Subtracting arrays of shapes (3, 1) and (3,) gives nine numbers, not three. Compare the shapes
    first and raise a ValueError when they differ.
    """
    words = "√((0² + 1² + 2²) / 3) = 1.291 stars"
    expect(rms_error, (np.array([4.0, 3.0, 1.0]), np.array([4.0, 4.0, 3.0])), (5 / 3) ** 0.5, words)
    rng = np.random.default_rng(2)
    guesses, ratings = rng.normal(size=50), rng.normal(size=50)
    want = (sum((g - r) ** 2 for g, r in zip(guesses, ratings, strict=True)) / 50) ** 0.5
    expect(rms_error, (guesses, ratings), want, f"{want:.4g}", "50 random pairs")
    try:
        got = rms_error(guesses[:, None], ratings)
    except ValueError:
        return
    raise Different(
        f"Given predictions of shape (50, 1) and ratings of shape (50,), yours returned "
        f"{show(got)}. Expected a ValueError: 50 × 50 differences are not the ratings' errors."
    )


def check_2_3(start_value: Callable) -> None:
    """For a mean of 3.5 and 100 factors the answer is 0.187.

    When all entries of both vectors are the same number s, what is their dot product? It has one
    term per factor.

    Each of n_factors terms is s·s, and together they should make the mean rating. Solve for s.
    """
    expect(start_value, (4.0, 1), 2.0, "2, since 2·2 = 4")
    expect(start_value, (3.0, 12), 0.5, "0.5, since twelve times 0.5·0.5 is 3")
    expect(start_value, (3.5, 100), 0.18708287, "0.1871")


def check_2_bug1(model_class: Callable) -> None:
    """Print the shape of what the model returns beside the shape of the ratings.

    A column of 1,000 predictions against a row of 1,000 ratings: every one meets every other.

    MF's forward already returns what the loss needs. What does her line add to it?
    """
    users, items = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = call(model_class, (4, 5), "4 users and 5 films")
    for n in (3, 1):
        given = f"a batch of {n}"
        shape = tuple(call(model, (users[:n], items[:n]), given).shape)
        if shape != (n,):
            raise Different(f"Given {given}, predictions have shape {shape}. Expected ({n},).")
    want = MF.forward(model, users, items)
    expect(model, (users, items), want, "the same predictions as MF's", "a batch of 3")


def check_2_bug2(train_epochs: Callable) -> None:
    """Which model does the number belong to: the one before the last step, or the one after?

    The loss was computed, and then the weights moved. Nothing computed it again.

    After the loop, measure once more with the weights as they are now, and return that.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MF(1000, 10_000, 10)  # rows enough for the notebook's data
    reported = _returned(train_epochs, model, n_epochs=2, lr=0.1)
    # A step too small to matter: whatever is returned now is the loss of the model as it stands.
    stands = _returned(train_epochs, model, n_epochs=1, lr=1e-9)
    if abs(reported - stands) > 1e-4 * stands:
        raise Different(
            f"After two epochs yours returned {reported:.3f}, but the model it leaves behind has a "
            f"loss of {stands:.3f}. Expected the loss of the model that is handed in."
        )


def _returned(train_epochs: Callable, model: MF, n_epochs: int, lr: float) -> float:
    given = f"n_epochs = {n_epochs}"
    return float(call(lambda: train_epochs(model, n_epochs, lr), (), given))

"""Checks of notebook 3, biases; each docstring is three hints, from a nudge to nearly all."""

from collections.abc import Callable

import numpy as np
import torch

from nmf_helpers.exercises import Different, NotAttempted, call, expect


def check_3_1(shrunk_bias: Callable) -> None:
    """With strength 0 it is the plain mean. With a strength of ten, ten more ratings are imagined.

    The imagined ratings lie exactly at the mean: they add nothing to the sum, but they count.

    Divide the sum of the deviations by the number of ratings plus the strength. No ratings and
    no strength at all: say 0.
    """
    expect(shrunk_bias, (np.array([1.0]), 4), 0.2, "0.2: one rating and four imagined zeros")
    expect(shrunk_bias, (np.array([1.0, 0.5, 1.5]), 0), 1.0, "the plain mean, 1")
    many = np.ones(96)
    expect(shrunk_bias, (many, 4), 0.96, "0.96: many ratings resist the pull", "96 ones and 4")
    expect(shrunk_bias, (np.array([]), 5), 0.0, "0: nothing is known", "no ratings and strength 5")


def check_3_2(step: Callable) -> None:
    """The error is the rating minus p · q. Both gradients use it, and both use the old vectors.

    Of ½·error² + ½·weight_decay·(p·p + q·q), the derivative by p is -error·q + weight_decay·p;
    by q it is the same with p and q exchanged. A step goes against it.

    Work out both new vectors before you replace either: the second must not see the first's
    new value.
    """
    numbers = {"rating": 5.0, "lr": 0.1, "weight_decay": 0.5}
    _expect_step(step, np.array([1.0, 2.0]), np.array([1.0, 0.0]), *numbers.values())
    rng = np.random.default_rng(3)
    for decay in (0.0, 0.3):
        _expect_step(step, rng.normal(size=4), rng.normal(size=4), 3.5, 0.05, decay)


def _expect_step(step, p, q, rating, lr, weight_decay) -> None:
    vectors = [torch.tensor(vector, requires_grad=True) for vector in (p, q)]
    p_, q_ = vectors
    loss = (rating - p_ @ q_) ** 2 / 2 + weight_decay * (p_ @ p_ + q_ @ q_) / 2
    loss.backward()
    want = tuple((v - lr * v.grad).detach().numpy() for v in vectors)
    words = "a step against PyTorch's gradient of the loss, for p and for q, each from old values"
    expect(step, (p, q, rating, lr, weight_decay), want, words)


def check_3_3(difference: Callable) -> None:
    """The two lists belong together: entry 0 of both was trained with seed 0. Subtract first.

    The standard error of a mean is the standard deviation of the numbers divided by the root of
    how many there are.

    numpy's std divides by n. With few seeds the estimate needs n - 1: look up ddof.
    """
    a, b = np.array([0.90, 0.94, 0.98]), np.array([0.89, 0.92, 0.95])
    words = "mean 0.02 and standard error 0.01/√3 = 0.00577, of the differences .01, .02, .03"
    expect(difference, (a, b), (0.02, 0.01 / 3**0.5), words)
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 8))
    gaps = [x - y for x, y in zip(a, b, strict=True)]
    mean = sum(gaps) / 8
    error = (sum((gap - mean) ** 2 for gap in gaps) / 7 / 8) ** 0.5
    words = "the mean of the paired differences and its standard error"
    expect(difference, (a, b), (mean, error), words, "eight random pairs")


def check_3_bug1(experiment: Callable) -> None:
    """Which random numbers are drawn before the seed is set?

    The vectors' first values are random numbers as well.

    They are drawn when the model is built. Which line has to come first?
    """
    results = []
    with torch.random.fork_rng(devices=[]):
        for noise, seed in ((1, 2017), (2, 2017), (1, 2018)):
            torch.manual_seed(noise)  # what some earlier cell may have done
            results.append(call(lambda seed=seed: experiment(seed), (), f"seed {seed}"))
    first, again, other = results
    if first != again:
        raise Different("Two runs with seed 2017 gave two results. Expected the same one twice.")
    if first == other:
        raise Different("Seeds 2017 and 2018 gave the same result. Expected the seed to matter.")


def check_3_bug2(model_class: Callable) -> None:
    """Which axes have length one when a single request comes?

    squeeze() removes every axis of length one, and a batch of one is such an axis.

    squeeze takes the number of the axis that you mean; -1 is the last.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(4, 5, n_factors=3)
    if model is None:
        raise NotAttempted
    users, items = torch.tensor([0, 1]), torch.tensor([2, 0])
    with torch.no_grad():
        model.user_bias.weight.copy_(torch.arange(4.0)[:, None])
        match = (model.user_factors(users) * model.item_factors(items)).sum(1)
        want = model.user_bias(users)[:, 0] + match
        for n in (2, 1):
            got = call(model, (users[:n], items[:n]), f"a batch of {n}")
            if tuple(got.shape) != (n,):
                raise Different(
                    f"Given a batch of {n}, predictions have shape {tuple(got.shape)}. "
                    f"Expected ({n},)."
                )
        expect(model, (users, items), want, "biases plus dot product, as before", "a batch of 2")

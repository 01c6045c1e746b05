"""Checks of notebook 6, ranking; each docstring is three hints, from a nudge to nearly all."""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch

from nmf_helpers.exercises import Different, call, expect


def check_6_1(bpr_gradient: Callable) -> None:
    """Chain rule: the loss by the difference x, times x by p.

    The derivative of -log σ(x) is σ(x) - 1. It is close to -1 when x is very negative, and that
    is what teaches.

    x = p · (positive - negative), so x by p is the difference of the two vectors.
    """
    rng = np.random.default_rng(7)
    easy, hard = np.array([2.0, 0.0]), np.array([-2.0, 0.0])
    cases = [(easy, np.array([1.0, 1.0]), np.zeros(2)), (hard, np.array([1.0, 1.0]), np.zeros(2))]
    cases.append(tuple(rng.normal(size=(3, 5))))
    for case in cases:
        p, positive, negative = (torch.tensor(vector) for vector in case)
        p.requires_grad_()
        torch.nn.functional.softplus(-(p @ (positive - negative))).backward()
        want = p.grad.numpy()
        size = np.linalg.norm(want)
        expect(bpr_gradient, case, want, f"PyTorch's gradient, a vector of length {size:.3f}")


def check_6_2(rth_free_item: Callable) -> None:
    """Each of the user's items that lies before the answer pushes it one place further.

    Start with r itself. Go through the user's items in order; whenever one is at or below the
    present value, add one.

    In code: a loop over the sorted items with one comparison and one addition.
    """
    items = np.array([1, 2, 5])
    words = "[0 3 4 6 7]: the items 0 to 7 without 1, 2 and 5"
    given = "a user's items [1 2 5] and r = 0, 1, 2, 3, 4"
    got = [call(rth_free_item, (items, r), f"items [1 2 5] and r = {r}") for r in range(5)]
    expect(lambda: got, (), [0, 3, 4, 6, 7], words, given)
    rng = np.random.default_rng(8)
    for n_rated in (0, 1, 9, 19):
        items = np.sort(rng.choice(20, n_rated, replace=False))
        want = sorted(set(range(20)) - set(items.tolist()))
        got = [
            call(rth_free_item, (items, r), f"items {items} and r = {r}") for r in range(len(want))
        ]
        words = "each item that the user has not rated, once"
        expect(lambda got=got: got, (), want, words, given)


def check_6_3(ease: Callable) -> None:
    """Count which items meet: train.T @ train. Add l2 to the diagonal, and invert.

    With P the inverse, the weight from item i to item j is -P[i, j] / P[j, j]. An item may not
    predict itself.

    Divide the columns of -P by P's diagonal, set the diagonal to zero, and multiply train by the
    result.
    """
    rng = np.random.default_rng(9)
    train = (rng.random((12, 5)) < 0.5).astype(float)
    want = np.zeros_like(train)
    for j in range(5):  # EASE is one ridge regression per item, on all the others
        others = np.delete(train, j, axis=1)
        penalty = 3.0 * np.eye(4)
        weights = np.linalg.solve(others.T @ others + penalty, others.T @ train[:, j])
        want[:, j] = others @ weights
    words = "each item's column to be a ridge regression on the other items' columns"
    expect(ease, (train, 3.0), want, words, "twelve users, five items and l2 = 3")


def check_6_bug1(is_free: Callable) -> None:
    """Take one user with the items 1 and 3, and ask about every item from 0 to 5.

    A position found within a user's part of `indices` counts from the start of that part, not
    from the start of the array. And what is stored there has to be compared with the item itself.

    If the search ends behind the user's last item, the item is not among hers.
    """
    dense = np.array([[0, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]])
    matrix = sp.csr_matrix(dense)
    for user in range(3):
        mine = np.flatnonzero(dense[user]).tolist()
        for item in range(6):
            given = f"a user with the items {mine}"
            got = bool(call(lambda u=user, i=item: is_free(matrix, u, i), (), given))
            if got != (item not in mine):
                verdict = "free" if got else "taken"
                raise Different(f"Given {given}, yours says that item {item} is {verdict}.")


def check_6_bug2(loss: Callable) -> None:
    """Draw the loss against the difference, from -5 to 5. How steep is it where the pair is worst?

    A loss that is flat at -5 gives the worst pairs no gradient. BPR is the negative logarithm of
    a probability.

    The probability that the pair is the right way round is σ(difference).
    """
    x = torch.tensor([-5.0, 0.0, 5.0], requires_grad=True)
    value = call(lambda: loss(x), (), "the differences -5, 0 and 5")
    (slope,) = torch.autograd.grad(value.mean(), x)
    slope = 3 * slope[0].item()
    if abs(slope + 0.9933) > 1e-3:
        raise Different(
            f"At a difference of -5 yours has a slope of {slope:.3f}. Expected -0.993: the pairs "
            "that are ranked worst teach most."
        )
    want = np.mean([np.log1p(np.exp(-v)) for v in (-5.0, 0.0, 5.0)])
    expect(lambda: loss(x.detach()).mean(), (), want, f"a mean of {want:.4f}", "-5, 0 and 5")


def check_6_bug3(top_k: Callable) -> None:
    """Compare the list with what the user has rated already.

    A film she has rated can't be a recommendation. What should its score be, so that it never
    gets into the list?

    Minus infinity. Work on a copy, as the scores are somebody else's.
    """
    scores = np.array([[0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.4]])
    train = np.array([[1, 0, 0, 0], [0, 0, 1, 1]])
    before = scores.copy()
    given = (
        "scores [.9 .8 .7 .1] and [.1 .2 .3 .4], rated already: item 0, and items 2 and 3; k = 2"
    )
    got = call(lambda: top_k(scores, sp.csr_matrix(train), 2), (), given)
    if not np.array_equal(scores, before):
        raise Different("The scores have changed. Expected them to be left alone.")
    words = "the two best items of each that are not rated yet, [1 2] and [1 0]"
    expect(lambda: got, (), np.array([[1, 2], [1, 0]]), words, given)

"""Checks of notebook 6, ranking; each docstring is three hints, from a nudge to nearly all."""

import math
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


def check_6_2(masked_precision: Callable) -> None:
    """What a user liked in training can't be a hit. Take it out before you sort.

    Minus infinity puts a film last. Then take the k best of each row, and see which are in test.

    argsort of the negated scores gives each row's columns, best first; np.take_along_axis looks
    up test at those columns. Users without any test film are in no average.
    """
    scores = np.array([[0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    train = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]])
    test = np.array([[0, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    expect(
        lambda: masked_precision(scores, test, train, 2),
        (),
        0.75,
        "0.75: two of two, one of two, and nobody asks about the third",
        "scores [.9 .8 .7 .1], [.1 .2 .3 .4], [.4 .3 .2 .1], liked in training: films 0, 3 and 1, "
        "hidden: films 1 and 2, films 0 and 2, none; k = 2",
    )
    rng = np.random.default_rng(8)
    scores, kind = rng.random((20, 12)), rng.integers(0, 4, (20, 12))
    train, test = (kind == 1).astype(int), (kind == 2).astype(int)
    each = []
    for row, seen, hidden in zip(scores, train, test, strict=True):
        if hidden.any():
            order = sorted((i for i in range(12) if not seen[i]), key=lambda i: -row[i])
            each.append(sum(hidden[i] for i in order[:3]) / 3)
    want = sum(each) / len(each)
    inputs = (scores, test, train, 3)
    expect(masked_precision, inputs, want, f"{want:.4f}", "20 random users, 12 films and k = 3")


def check_6_3(chance: Callable) -> None:
    """Of 1,682 films 100 score higher; 50 are drawn, and the first ten count: the answer is 0.9993.

    Drawing without putting back, from films of two sorts: those that score higher and the
    others. The film is among the first k if fewer than k of the higher sort are drawn.

    That is the hypergeometric distribution: scipy.stats.hypergeom has a cdf. Fewer than k means
    at most k - 1.
    """
    for n_others, n_above, n_drawn, k in ((10, 4, 3, 1), (10, 4, 3, 2), (1682, 100, 50, 10)):
        ways = [
            math.comb(n_above, hits) * math.comb(n_others - n_above, n_drawn - hits)
            for hits in range(k)
        ]
        want = sum(ways) / math.comb(n_others, n_drawn)
        given = f"{n_above} of {n_others} films above, {n_drawn} drawn, k = {k}"
        expect(chance, (n_others, n_above, n_drawn, k), want, f"{want:.4f}", given)


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
            got = bool(call(lambda u=user, i=item: is_free(u, i, matrix), (), given))
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

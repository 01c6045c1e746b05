"""Checks of notebook 4, CollabFNet; each docstring is three hints, from a nudge to nearly all."""

import math
from collections.abc import Callable

import numpy as np
import torch

from nmf_helpers.exercises import Different, call, expect
from nmf_helpers.models import CollabFNet


def check_4_1(n_parameters: Callable) -> None:
    """For 671 users, 8,442 films, 100 factors and 10 hidden units the answer is 913,321.

    Two tables of vectors and two linear layers. What goes into the hidden layer is a user's and
    a film's vector, end to end.

    A linear layer from a to b numbers holds a·b weights and b biases. The last one ends in 1.
    """
    for sizes in ((3, 4, 2, 5), (671, 8442, 100, 10)):
        with torch.random.fork_rng(devices=[]):
            model = CollabFNet(*sizes[:3], n_hidden=sizes[3])
        want = sum(parameter.numel() for parameter in model.parameters())
        n_users, n_items, n_factors, n_hidden = sizes
        given = f"{n_users} users, {n_items} films, {n_factors} factors and {n_hidden} hidden units"
        expect(n_parameters, sizes, want, f"{want:,}, as PyTorch counts them", given)


def check_4_2(forward: Callable) -> None:
    """Four things in a row: lay end to end, first layer, bend, second layer.

    torch.cat needs to know the axis: a batch stays a batch, the vectors get longer. Only the
    hidden layer's output is bent, with torch.nn.functional.gelu.

    The second layer returns shape (batch, 1), and (batch,) is wanted: drop the last axis, by name.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hidden, output = torch.nn.Linear(5, 4), torch.nn.Linear(4, 1)
    w1, b1, w2, b2 = (
        t.detach().double().numpy() for t in (*hidden.parameters(), *output.parameters())
    )
    for n in (3, 1):
        p = torch.randn(n, 2, generator=generator)
        q = torch.randn(n, 3, generator=generator)
        want = []
        for row in range(n):
            x = [*p[row].tolist(), *q[row].tolist()]
            z = [sum(w * v for w, v in zip(w1[j], x, strict=True)) + b1[j] for j in range(4)]
            bent = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in z]
            want.append(sum(w * v for w, v in zip(w2[0], bent, strict=True)) + b2[0])
        words = f"shape ({n},), and negative entries of the vectors to count"
        given = f"{n} user vectors of length 2 and {n} film vectors of length 3"
        expect(lambda p, q: forward(p, q, hidden, output), (p, q), np.array(want), words, given)


class _Plain:
    """A number that can be added, subtracted, scaled and squared, as in a network's units."""

    def __init__(self, value: float):
        self.value = value

    def __add__(self, other):
        return _Plain(self.value + other.value)

    def __sub__(self, other):
        return _Plain(self.value - other.value)

    def __neg__(self):
        return _Plain(-self.value)

    def __mul__(self, number):
        if isinstance(number, _Plain):
            raise TypeError("two inputs may not be multiplied, only added, scaled and squared")
        return _Plain(self.value * number)

    __rmul__ = __mul__

    def __truediv__(self, number):
        return self * (1 / number)


def check_4_3(product: Callable) -> None:
    """Write out the square of a + b. The product is in there, among things you don't want.

    The square of a - b has the same things you don't want.

    Subtract the two squares. What is left is a multiple of the product.
    """

    def square(x):
        return _Plain(x.value**2)

    for a, b in ((2.0, 3.0), (-1.5, 4.0), (0.0, 7.0)):
        given = f"a = {a:g} and b = {b:g}"
        got = call(lambda a=a, b=b: product(_Plain(a), _Plain(b), square), (), given)
        value = getattr(got, "value", got)
        expect(lambda value=value: value, (), a * b, f"{a * b:g}", given)


def check_4_bug1(model_class: Callable) -> None:
    """Change an entry of a user's vector from -1 to -2. Does any prediction change?

    A ReLU turns every negative entry into 0, and its gradient there is 0 as well.

    An embedding is a weight and needs no activation. Where does one belong: before the hidden
    layer, or after it?
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(4, 5, n_factors=3)
        users, items = torch.arange(4), torch.arange(4)
        model.eval()
        got = call(lambda: model(users, items), (), "four pairs")
        got.sum().backward()
    grads = [model.user_factors.weight.grad, model.item_factors.weight.grad[:4]]
    dead = sum(int((grad == 0).sum()) for grad in grads)
    total = sum(grad.numel() for grad in grads)
    if dead:
        raise Different(
            f"Of {total} entries of the vectors, {dead} get a gradient of exactly 0: they can't "
            "learn. Expected every entry to count, negative ones too."
        )
    if tuple(got.shape) != (4,):
        raise Different(f"Given four pairs, predictions have shape {tuple(got.shape)}.")

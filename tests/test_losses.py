"""The losses against their formulas, their derivatives against formulas and finite differences."""

import math

import pytest
import torch

from nmf_helpers.losses import bpr_loss, squared_sigmoid_loss

X = [-100.0, -5.0, -0.5, 0.0, 2.0, 40.0]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def value_and_gradient(loss, x):
    x = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    value = loss(x)
    value.backward()
    return value.item(), x.grad.item()


@pytest.mark.parametrize("x", X)
def test_bpr_is_minus_log_sigma(x):
    expected = math.log1p(math.exp(-x))
    assert value_and_gradient(bpr_loss, x)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("x", X)
def test_the_gradient_of_bpr_is_minus_sigma_of_minus_x(x):
    expected = -sigmoid(-x)  # so the worst pairs teach most
    assert value_and_gradient(bpr_loss, x)[1] == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("x", X)
def test_the_squared_sigmoid_is_what_it_says_and_the_worst_pairs_teach_nothing(x):
    value, slope = value_and_gradient(squared_sigmoid_loss, x)
    assert value == pytest.approx((1 - sigmoid(x)) ** 2, rel=1e-9, abs=1e-30)
    assert slope == pytest.approx(-2 * sigmoid(x) * sigmoid(-x) ** 2, rel=1e-9, abs=1e-30)


@pytest.mark.parametrize("loss", [bpr_loss, squared_sigmoid_loss])
def test_a_loss_is_a_mean_over_the_batch_and_pays_no_heed_to_the_target(loss):
    x = torch.tensor([-2.0, 0.0, 3.0])
    assert loss(x).item() == pytest.approx(sum(loss(one).item() for one in x) / 3)
    assert loss(x, torch.tensor([9.0, 9.0, 9.0])) == loss(x)


def test_bpr_is_finite_in_single_precision_for_a_hopeless_pair():
    assert bpr_loss(torch.tensor([-1000.0])).item() == 1000

"""The losses against their formulas, their derivatives against autograd."""

import math

import pytest
import torch

from nmf_helpers.losses import bpr_loss, squared_sigmoid_loss

X = [-100.0, -5.0, -0.5, 0.0, 2.0, 40.0]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def value(loss, x):
    return loss(torch.tensor([x], dtype=torch.float64)).item()


def gradient(loss, x):
    x = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    loss(x).backward()
    return x.grad.item()


@pytest.mark.parametrize("x", X)
def test_bpr_is_minus_log_sigma(x):
    assert value(bpr_loss, x) == pytest.approx(math.log1p(math.exp(-x)), rel=1e-12)
    expected = (1 - sigmoid(x)) ** 2  # and the other one what it says
    assert value(squared_sigmoid_loss, x) == pytest.approx(expected, rel=1e-9, abs=1e-30)


@pytest.mark.parametrize("x", X)
def test_the_gradient_of_bpr_is_minus_sigma_of_minus_x(x):
    assert gradient(bpr_loss, x) == pytest.approx(-sigmoid(-x), rel=1e-9, abs=1e-15)


def test_the_gradient_of_bpr_agrees_with_finite_differences():
    x = torch.tensor([-3.0, 0.2, 4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bpr_loss, (x,))


def test_the_worst_pairs_teach_most_under_bpr_and_nothing_under_the_squared_sigmoid():
    assert gradient(bpr_loss, -5.0) == pytest.approx(-0.993, abs=1e-3)
    assert gradient(squared_sigmoid_loss, -5.0) == pytest.approx(-0.013, abs=1e-3)
    assert abs(gradient(squared_sigmoid_loss, -50.0)) < 1e-20
    assert gradient(bpr_loss, -50.0) == pytest.approx(-1)


@pytest.mark.parametrize("loss", [bpr_loss, squared_sigmoid_loss])
def test_a_loss_is_a_mean_over_the_batch_and_pays_no_heed_to_the_target(loss):
    x = torch.tensor([-2.0, 0.0, 3.0])
    alone = [loss(x[i : i + 1]).item() for i in range(3)]
    assert loss(x).item() == pytest.approx(sum(alone) / 3)
    assert loss(x, torch.tensor([9.0, 9.0, 9.0])) == loss(x)


def test_bpr_is_finite_in_single_precision_for_a_hopeless_pair():
    assert bpr_loss(torch.tensor([-1000.0])).item() == 1000

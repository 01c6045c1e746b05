"""Loss functions: predictions in, one number out, the mean over the batch."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def bpr_loss(difference: Tensor, target: Tensor | None = None) -> Tensor:
    """Bayesian Personalized Ranking loss, ``-log σ(difference)``, averaged.

    `difference`, (batch,), is the score of an item the user chose minus that of one she did not;
    `target` is ignored. The gradient is ``σ(difference) - 1``: the pairs ranked worst teach most.
    (Rendle et al. 2009, "BPR: Bayesian Personalized Ranking from Implicit Feedback".)
    """
    return -F.logsigmoid(difference).mean()  # log σ in one step: no log(0) at difference = -100


def squared_sigmoid_loss(difference: Tensor, target: Tensor | None = None) -> Tensor:
    """``(1 - σ(difference))²``, averaged: often called BPR in tutorials, and not BPR.

    Its gradient ``-2 σ (1 - σ)²`` vanishes at both ends: the pairs ranked worst teach nothing.
    """
    return (1 - torch.sigmoid(difference)).square().mean()


# A loss that says `pairwise = True` is given differences of scores, not predicted ratings.
bpr_loss.pairwise = squared_sigmoid_loss.pairwise = True  # type: ignore[attr-defined]
LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": F.mse_loss, "bpr": bpr_loss, "squared_sigmoid": squared_sigmoid_loss,
}  # fmt: skip

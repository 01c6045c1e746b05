"""The BPR step with its gradient taken by hand."""

from typing import Any

import torch
from torch import Tensor, nn

from nmf_helpers.interactions import Batch
from nmf_helpers.losses import bpr_loss
from nmf_helpers.models import BiasedMF
from nmf_helpers.training import RowSGD


class BPRStep:
    """One step of `RowSGD` on the summed BPR loss of a `BiasedMF`, without autograd.

    With x the score of a positive i less that of a negative j, the loss is ``-log σ(x)`` and its
    derivative ``-g`` with ``g = σ(-x)``. Going downhill, user u and the two items move by lr times

        g (q_i - q_j)  for p_u,     g p_u  for q_i,     -g p_u  for q_j,     ±g  for their biases,

    less lr times weight_decay times what they were (Rendle et al. 2009); a user's bias is part of
    both scores and stays. The steps are autograd's, in about half the time.
    """

    def __init__(self, model: nn.Module, lr: float = 0.05, weight_decay: float = 0.0) -> None:
        if not (isinstance(model, BiasedMF) and model.user_factors.sparse and not model.dropout.p):
            known = "the gradient of BiasedMF only, with sparse=True and dropout=0"
            raise ValueError(f'step="by_hand" knows {known}: use step="autograd" for other models')
        self.optimizer = RowSGD(model.parameters(), lr, weight_decay)

    @torch.no_grad()
    def __call__(self, model: Any, batch: Batch) -> Tensor:
        """Take a step on one batch, and return its mean loss before the step."""
        (users, (i, j)), _ = batch
        user_factors, item_factors = model.user_factors.weight, model.item_factors.weight
        item_bias = model.item_bias.weight[:, 0]  # (items,)
        group = self.optimizer.param_groups[0]
        lr, decay = group["lr"], group["lr"] * group["weight_decay"]
        p = user_factors.index_select(0, users)  # (batch, factors), as the next three
        q_i, q_j = item_factors.index_select(0, i), item_factors.index_select(0, j)
        difference = q_i - q_j
        b_i, b_j = item_bias[i], item_bias[j]  # (batch,)
        x = torch.linalg.vecdot(p, difference) + b_i - b_j  # (batch,)
        g = torch.sigmoid(-x) * lr
        move = g[:, None] * p  # (batch, factors)
        user_factors.index_add_(0, users, difference.mul_(g[:, None]).sub_(p, alpha=decay))
        item_factors.index_add_(0, i, move.sub(q_i, alpha=decay))
        item_factors.index_add_(0, j, move.add_(q_j, alpha=decay).neg_())
        item_bias.index_add_(0, i, g - decay * b_i)
        item_bias.index_add_(0, j, -g - decay * b_j)
        return bpr_loss(x)

"""Ranking by a softmax over the whole catalogue: a linear denoising autoencoder.

A user is nothing but what she chose: her row of ones is squeezed through a narrow layer and has to
come out again. While training, most of the ones are hidden, so that each choice must be predicted
from the others. Where BPR compares a choice with *one* other item, the softmax compares it with all
of them at once. There is no user table; a new user is a new row.

The scores of all users and items are kept: this is for MovieLens 100K or 1M, not for 20M.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from nmf_helpers.baselines import Baseline
from nmf_helpers.checks import check_number


@dataclass(eq=False)
class SoftmaxAutoencoder(Baseline):
    """``scores = dropout(x / n^¾) · encoder · decoderᵀ + bias``, for a row x with n ones.

    The loss of a user is ``-Σ log softmax(scores)[i]`` over her items (Liang et al. 2018,
    "Variational Autoencoders for Collaborative Filtering", Mult-DAE, without a bend in the hidden
    layer). A row of encoder or decoder decays with the square root of its item's count.

    Parameters
    ----------
    n_factors : int
    n_epochs : int
        Steps of Adam, each on all users.
    lr, weight_decay : float
    dropout : float
        Share of a user's ones that are hidden in a step.
    seed : int
    """

    n_factors: int = 64
    n_epochs: int = 60
    lr: float = 0.01
    weight_decay: float = 10.0
    dropout: float = 0.6
    seed: int = 0

    def _fit(self, train: sparse.csr_array) -> None:
        check_number("n_factors", self.n_factors, at_least=1, whole=True)
        check_number("n_epochs", self.n_epochs, at_least=0, whole=True)
        check_number("lr", self.lr, above=0)
        check_number("weight_decay", self.weight_decay, at_least=0)
        check_number("dropout", self.dropout, at_least=0, at_most=0.99)
        generator = torch.Generator().manual_seed(self.seed)
        x = torch.from_numpy((train.toarray() != 0).astype(np.float32))  # (users, items)
        count = x.sum(0)  # (items,)
        self._mean_length = x.sum(1).clamp(min=1).mean()
        decay = self.weight_decay * (count.clamp(min=1) / count.mean()).sqrt()[:, None]
        shape = (len(count), self.n_factors)
        self.encoder_ = (0.02 * torch.randn(shape, generator=generator)).requires_grad_()
        self.decoder_ = (0.02 * torch.randn(shape, generator=generator)).requires_grad_()
        self.bias_ = torch.log((count + 1) / count.sum()).requires_grad_()
        weights = [self.encoder_, self.decoder_, self.bias_]
        optimizer = torch.optim.Adam(weights, lr=self.lr)
        for _ in range(self.n_epochs):
            shown = torch.rand(x.shape, generator=generator) >= self.dropout
            scores = self.forward(x, shown / (1 - self.dropout))  # (users, items)
            loss = -(x * F.log_softmax(scores, 1)).sum()
            for rows in (self.encoder_, self.decoder_):
                loss = loss + 0.5 * (decay * rows.square()).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for weight in weights:
            weight.requires_grad_(False)
        self._rows = x

    def forward(self, x: Tensor, mask: Tensor | float = 1.0) -> Tensor:
        """Return the scores of all items, shape (users, items), for rows of zeros and ones."""
        length = x.sum(1, keepdim=True).clamp(min=1) / self._mean_length  # (users, 1)
        hidden = (mask * x * length**-0.75 / self._mean_length**0.5) @ self.encoder_
        return hidden @ self.decoder_.T + self.bias_  # hidden: (users, factors)

    def _scores(self, users: np.ndarray) -> np.ndarray:
        return self.forward(self._rows[torch.from_numpy(users)]).numpy()


def z_scores(scores: np.ndarray) -> np.ndarray:
    """Bring each user's scores to mean 0 and spread 1, so that two models' can be added.

    Parameters
    ----------
    scores : ndarray, shape (n_users, n_items)
    """
    spread = scores.std(1, keepdims=True)
    return (scores - scores.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)

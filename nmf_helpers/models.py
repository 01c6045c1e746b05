"""The three models of the course: each turns (user, item) pairs into scores, and nothing else."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from nmf_helpers.checks import Scorer, check_matrix, check_memory, check_number, pattern


class MF(Scorer, nn.Module):
    """Matrix factorization: a rating is the dot product of a user's and an item's vector.

    ``forward(users, items)`` takes integer tensors, and returns scores of the shape to which they
    broadcast. The vectors start from a normal distribution of mean `init_mean`, positive because
    nothing but the dot product can make an average rating of 3.5, and deviation `init_std`. With
    `sparse`, gradients hold only the rows of the batch.
    """

    def __init__(
        self, n_users: int, n_items: int, n_factors: int = 100, *,
        init_mean: float = 0.025, init_std: float = 0.015, sparse: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        for name, size in {"n_users": n_users, "n_items": n_items, "n_factors": n_factors}.items():
            check_number(name, size, at_least=1, whole=True)
        self.shape_ = self.n_users, self.n_items = int(n_users), int(n_items)
        self.user_factors = _normal(n_users, n_factors, init_mean, init_std, sparse)
        self.item_factors = _normal(n_items, n_factors, init_mean, init_std, sparse)

    def add_biases(self, global_mean: float, sparse: bool = False) -> None:
        """Give every user and item a bias, which starts at zero, and keep a fixed mean."""
        self.user_bias = _normal(self.n_users, 1, 0.0, 0.0, sparse)
        self.item_bias = _normal(self.n_items, 1, 0.0, 0.0, sparse)
        self.register_buffer("global_mean", torch.tensor(float(global_mean)))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the score of each pair, shape (batch,)."""
        p = self.user_factors(users)  # (batch, factors)
        q = self.item_factors(items)  # (batch, factors)
        return (p * q).sum(-1)  # (batch,)

    def _score_rows(self, users: Tensor) -> Tensor:
        return self.user_factors(users) @ self.item_factors.weight.T  # (users, items)

    def _scores(self, users: np.ndarray) -> np.ndarray:
        return ask(self, self._score_rows, users)

    def _pairs(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        return ask(self, self, users, items)


@torch.no_grad()
def ask(model: nn.Module, function: Callable[..., Tensor], *ids: np.ndarray) -> np.ndarray:
    """Return what a function of the model makes of ids, without dropout: float32."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:  # a million at a time, so that what is in between stays small
        parts = zip(*(torch.from_numpy(i).to(device).split(10**6) for i in ids), strict=True)
        found = [function(*part) for part in parts]
        return (torch.cat(found) if len(found) > 1 else found[0]).float().numpy(force=True)
    finally:
        model.train(training)


class BiasedMF(MF):
    """Matrix factorization with a bias for each user and item, around a mean that is given.

    ``score = global_mean + user_bias + item_bias + user_factors · item_factors`` (Koren, Bell and
    Volinsky 2009, "Matrix Factorization Techniques for Recommender Systems").
    """

    def __init__(
        self, n_users: int, n_items: int, n_factors: int = 100, *, global_mean: float = 0.0,
        dropout: float = 0.0, init_mean: float = 0.0, init_std: float = 0.01, sparse: bool = False,
    ) -> None:  # fmt: skip
        start: Any = {"init_mean": init_mean, "init_std": init_std, "sparse": sparse}
        super().__init__(n_users, n_items, n_factors, **start)
        self.add_biases(global_mean, sparse)
        self.dropout = nn.Dropout(dropout)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the score of each pair, shape (batch,)."""
        p = self.dropout(self.user_factors(users))  # (batch, factors)
        q = self.dropout(self.item_factors(items))  # (batch, factors)
        bias = self.user_bias(users) + self.item_bias(items)  # (batch, 1)
        # Squeeze the last axis by name: a bare squeeze() would also swallow a batch of one.
        return self.global_mean + bias.squeeze(-1) + (p * q).sum(-1)  # (batch,)

    def _score_rows(self, users: Tensor) -> Tensor:
        match = super()._score_rows(users)  # (users, items)
        return (self.global_mean + self.user_bias(users) + self.item_bias.weight.T).add_(match)


class CollabFNet(MF):
    """A small neural network in place of the dot product.

    The user's and the item's vector are laid end to end and passed through one hidden layer. With
    `biases`, `global_mean` and a bias for each user and item are added, and the network's output
    starts at zero: it learns only what the biases leave over. (He et al. 2017, "Neural
    Collaborative Filtering"; Rendle et al. 2020, "… vs. Matrix Factorization Revisited".)
    """

    def __init__(
        self, n_users: int, n_items: int, n_factors: int = 100, *,
        n_hidden: int = 10, dropout: float = 0.1, hidden_dropout: float = 0.0,
        biases: bool = False, global_mean: float = 0.0, init_std: float = 0.05,
    ) -> None:  # fmt: skip
        super().__init__(n_users, n_items, n_factors, init_mean=0.0, init_std=init_std)
        self.dropout, self.hidden_dropout = nn.Dropout(dropout), nn.Dropout(hidden_dropout)
        self.hidden, self.output = nn.Linear(2 * n_factors, n_hidden), nn.Linear(n_hidden, 1)
        self.biases = biases
        if biases:
            self.add_biases(global_mean)
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the score of each pair, shape (batch,)."""
        users, items = torch.broadcast_tensors(users, items)
        # No activation here: a ReLU on embeddings would throw away their negative half.
        x = torch.cat([self.user_factors(users), self.item_factors(items)], dim=-1)
        x = self.dropout(x)  # (batch, 2 × factors)
        x = nn.functional.gelu(self.hidden(x))  # (batch, hidden)
        x = self.output(self.hidden_dropout(x)).squeeze(-1)  # (batch,)
        if self.biases:
            bias = self.user_bias(users) + self.item_bias(items)  # (batch, 1)
            x = x + self.global_mean + bias.squeeze(-1)
        return x

    def _score_rows(self, users: Tensor) -> Tensor:
        items = torch.arange(self.n_items, device=users.device)
        # A few users at a time, so that the hidden layer stays small.
        return torch.cat([self(chunk[:, None], items) for chunk in users.split(16)])


@torch.no_grad()
def svd_init(model: MF, train: Any, scale: float = 0.1, seed: int = 0) -> None:
    """Start the factors from *who rated what* instead of from noise.

    The 0/1 matrix of which cells are filled, each entry divided by the square roots of its row's
    and its column's counts, is split into singular vectors: directions in which users who watch
    the same films lie together. The ratings themselves are not used. `scale` is about the size of
    the leading factors' entries; `seed` is the solver's.
    """
    from scipy.sparse.linalg import svds  # here, because the models do without

    filled = pattern(check_matrix("train", train, model.shape_, like_name="the model"))
    by_user, by_item = (sp.diags_array(np.maximum(filled.sum(axis=a), 1) ** -0.5) for a in (1, 0))
    k = min(*filled.shape, model.user_factors.embedding_dim + 1) - 1
    if not k:
        return  # a single user or item has no directions
    start = np.random.default_rng(seed).standard_normal(min(filled.shape))
    u, s, vt = svds(by_user @ filled @ by_item, k=k, v0=start)
    # The sign of a pair of vectors is a matter of chance: turn each user's leading entry positive.
    signs = np.sign(u[np.abs(u).argmax(0), np.arange(k)])  # (k,)
    for table, vectors in ((model.user_factors, u * signs), (model.item_factors, vt.T * signs)):
        # Singular vectors have length 1: bring their entries to size 1, leading ones larger.
        table.weight[:, :k] = torch.from_numpy(scale * np.sqrt(len(vectors)) * vectors * s)


def _normal(n: int, k: int, mean: float, std: float, sparse: bool) -> nn.Embedding:
    """Return n rows of k that start from a normal distribution (PyTorch's own is N(0, 1))."""
    check_number("init_std", std, at_least=0)
    check_memory(f"a table of {n} × {k} numbers", 4 * n * k, "use a smaller n_factors")
    embedding = nn.Embedding(n, k, sparse=sparse)
    nn.init.normal_(embedding.weight, mean, std)
    return embedding

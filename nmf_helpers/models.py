"""The three models of the course: each turns (user, item) pairs into scores, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from nmf_helpers.checks import check_ids, check_matrix, check_memory, check_number


class Scorer(nn.Module):
    """What the models share: sizes that are checked, and a score for every user and item.

    ``forward(users, items)`` takes two integer tensors of shapes that broadcast against each
    other and returns a float tensor of the broadcast shape: ``(batch,)`` and ``(batch,)`` give
    ``(batch,)``, a batch of one included.
    """

    user_factors: nn.Embedding
    item_factors: nn.Embedding
    dropout: nn.Dropout

    def __init__(self, n_users: int, n_items: int, **sizes: int) -> None:
        super().__init__()
        for name, value in {"n_users": n_users, "n_items": n_items, **sizes}.items():
            check_number(name, value, at_least=1, whole=True)
        self.n_users = int(n_users)
        self.n_items = int(n_items)

    @torch.no_grad()
    def score_matrix(self, users: Any = None) -> np.ndarray:
        """Score every item for the given users (all users when None).

        Returns
        -------
        ndarray of float32, shape (len(users), n_items)

        Raises
        ------
        ValueError, TypeError, IndexError
            As `nmf_helpers.checks.check_ids`; or if so many scores don't fit in memory.
        """
        users = np.arange(self.n_users) if users is None else users
        rows = torch.from_numpy(check_ids("users", users, self.n_users))
        way_out = "score some of the users at a time"
        check_memory(f"{len(rows)} × {self.n_items} scores", 8 * len(rows) * self.n_items, way_out)
        training = self.training
        self.eval()
        try:
            scores = self._score_rows(rows.to(next(self.parameters()).device))  # (users, items)
        finally:
            self.train(training)
        return scores.float().cpu().numpy()

    def _score_rows(self, users: Tensor) -> Tensor:
        items = torch.arange(self.n_items, device=users.device)
        # A few users at a time, so that the intermediate layers stay small.
        return torch.cat([self(chunk[:, None], items) for chunk in users.split(16)])


class MF(Scorer):
    """Matrix factorization: a rating is the dot product of a user's and an item's vector.

    Parameters
    ----------
    n_users, n_items : int
    n_factors : int
        Length of each vector.
    init_mean, init_std : float
        Mean and standard deviation of the normal distribution that vectors start from. The mean
        is positive because nothing but the dot product can produce an average rating of 3.5.

    References
    ----------
    Koren, Bell and Volinsky (2009), "Matrix Factorization Techniques for Recommender Systems",
    Computer 42(8).
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_factors: int = 100,
        *,
        init_mean: float = 0.025,
        init_std: float = 0.015,
    ) -> None:
        super().__init__(n_users, n_items, n_factors=n_factors)
        self.user_factors = _normal(n_users, n_factors, init_mean, init_std)
        self.item_factors = _normal(n_items, n_factors, init_mean, init_std)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the score of each pair, shape (batch,)."""
        p = self.user_factors(users)  # (batch, factors)
        q = self.item_factors(items)  # (batch, factors)
        return (p * q).sum(-1)  # (batch,)

    def _score_rows(self, users: Tensor) -> Tensor:
        return self.user_factors(users) @ self.item_factors.weight.T  # (users, items)


class BiasedMF(Scorer):
    """Matrix factorization with a bias for each user and each item.

    ``score = global_mean + user_bias + item_bias + user_factors · item_factors``
    (Koren, Bell and Volinsky 2009, equation 4).

    Parameters
    ----------
    n_users, n_items : int
    n_factors : int
    global_mean : float
        A fixed number, usually the mean training rating; it is not learned.
    dropout : float
        Probability of zeroing a factor while training.
    sparse : bool
        Gradients hold only the rows that a batch touched. Needs an optimizer that takes
        sparse gradients.
    init_mean, init_std : float
        Mean and standard deviation of the normal distribution that factors start from. Biases
        start at zero. Without a global mean, a positive `init_mean` helps as in `MF`.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_factors: int = 100,
        *,
        global_mean: float = 0.0,
        dropout: float = 0.0,
        sparse: bool = False,
        init_mean: float = 0.0,
        init_std: float = 0.01,
    ) -> None:
        super().__init__(n_users, n_items, n_factors=n_factors)
        self.user_factors = _normal(n_users, n_factors, init_mean, init_std, sparse)
        self.item_factors = _normal(n_items, n_factors, init_mean, init_std, sparse)
        self.user_bias = _normal(n_users, 1, 0.0, 0.0, sparse)
        self.item_bias = _normal(n_items, 1, 0.0, 0.0, sparse)
        self.dropout = _dropout("dropout", dropout)
        self.register_buffer("global_mean", torch.tensor(float(global_mean)))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the score of each pair, shape (batch,)."""
        p = self.dropout(self.user_factors(users))  # (batch, factors)
        q = self.dropout(self.item_factors(items))  # (batch, factors)
        bias = self.user_bias(users) + self.item_bias(items)  # (batch, 1)
        # Squeeze the last axis by name: a bare squeeze() would also swallow a batch of one.
        return self.global_mean + bias.squeeze(-1) + (p * q).sum(-1)  # (batch,)

    def _score_rows(self, users: Tensor) -> Tensor:
        match = self.user_factors(users) @ self.item_factors.weight.T  # (users, items)
        return self.global_mean + self.user_bias(users) + self.item_bias.weight.T + match


class CollabFNet(Scorer):
    """A small neural network in place of the dot product.

    The user's and the item's vector are laid end to end and passed through one hidden layer, so
    the two vectors may differ in length.

    Parameters
    ----------
    n_users, n_items : int
    n_factors : int
        Length of a user's vector, and of an item's unless `n_item_factors` says otherwise.
    n_item_factors : int, optional
    n_hidden : int
        Width of the hidden layer.
    dropout : float
        Probability of zeroing an embedding value while training.
    hidden_dropout : float
        Probability of zeroing a hidden unit while training.
    biases : bool
        Add `global_mean` and a bias for each user and item, and start the network's output at
        zero, so that it learns only what the biases leave over.
    global_mean : float
        Used when `biases` is true.
    init_std : float
        Standard deviation that the embeddings start from.

    References
    ----------
    He et al. (2017), "Neural Collaborative Filtering", section 3.3, for the idea of an MLP on
    concatenated embeddings; Rendle et al. (2020), "Neural Collaborative Filtering vs. Matrix
    Factorization Revisited", for what it is worth.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_factors: int = 100,
        *,
        n_item_factors: int | None = None,
        n_hidden: int = 10,
        dropout: float = 0.1,
        hidden_dropout: float = 0.0,
        biases: bool = False,
        global_mean: float = 0.0,
        init_std: float = 0.05,
    ) -> None:
        n_item_factors = n_factors if n_item_factors is None else n_item_factors
        super().__init__(
            n_users, n_items, n_factors=n_factors, n_item_factors=n_item_factors, n_hidden=n_hidden
        )
        self.user_factors = _normal(n_users, n_factors, 0.0, init_std)
        self.item_factors = _normal(n_items, n_item_factors, 0.0, init_std)
        self.dropout = _dropout("dropout", dropout)
        self.hidden = nn.Linear(n_factors + n_item_factors, n_hidden)
        self.hidden_dropout = _dropout("hidden_dropout", hidden_dropout)
        self.output = nn.Linear(n_hidden, 1)
        self.biases = biases
        if biases:
            self.user_bias = _normal(n_users, 1, 0.0, 0.0)
            self.item_bias = _normal(n_items, 1, 0.0, 0.0)
            self.register_buffer("global_mean", torch.tensor(float(global_mean)))
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the score of each pair, shape (batch,)."""
        users, items = torch.broadcast_tensors(users, items)
        # No activation here: a ReLU on embeddings would throw away their negative half.
        x = torch.cat([self.user_factors(users), self.item_factors(items)], dim=-1)
        x = self.dropout(x)  # (batch, user factors + item factors)
        x = nn.functional.gelu(self.hidden(x))  # (batch, hidden)
        x = self.output(self.hidden_dropout(x)).squeeze(-1)  # (batch,)
        if self.biases:
            bias = self.user_bias(users) + self.item_bias(items)  # (batch, 1)
            x = x + self.global_mean + bias.squeeze(-1)
        return x


@torch.no_grad()
def svd_init(model: Scorer, train: Any, scale: float = 0.1, seed: int = 0) -> None:
    """Start the factors from *who rated what* instead of from noise.

    The 0/1 matrix of which cells are filled, each entry divided by the square roots of its row's
    and its column's counts, is split into singular vectors: directions in which users who
    watch the same films lie together. A gradient step can only strengthen directions that are
    there, so this start decides much of what is learned. The ratings themselves are not used.

    Parameters
    ----------
    model : MF, BiasedMF or CollabFNet
        Its first factors are overwritten: all, if there are more users and items than factors.
    train : sparse matrix or array, shape (n_users, n_items)
    scale : float
        Size of the leading factors' entries, about.
    seed : int
        Of the solver's random start.
    """
    from scipy.sparse.linalg import svds  # here, because the models do without

    check_number("svd_scale", scale, above=0)
    tables: Any = (model.user_factors.weight, model.item_factors.weight)
    like = (model.n_users, model.n_items)
    filled = check_matrix("train", train, like, like_name="the model").astype(np.float64)
    filled.data[:] = 1
    weight_users, weight_items = (
        sp.diags_array(np.maximum(filled.sum(axis=axis), 1) ** -0.5) for axis in (1, 0)
    )
    k = min(*filled.shape, *(table.shape[1] + 1 for table in tables)) - 1
    if k < 1:
        return  # a single user or item has no directions
    start = np.random.default_rng(seed).standard_normal(min(filled.shape))
    u, s, vt = svds(weight_users @ filled @ weight_items, k=k, v0=start)
    # The sign of a pair of vectors is a matter of chance: turn each user's leading entry positive.
    signs = np.sign(u[np.abs(u).argmax(0), np.arange(k)])  # (k,)
    for table, directions in zip(tables, (u * signs, vt.T * signs), strict=True):  # (rows, k)
        # Singular vectors have length 1: bring their entries to size 1, leading ones larger.
        entries = scale * np.sqrt(len(directions)) * directions * s
        table[:, :k] = torch.from_numpy(entries)


def _dropout(name: str, p: float) -> nn.Dropout:
    check_number(name, p, at_least=0, at_most=1)
    return nn.Dropout(p)


def _normal(
    n_rows: int, n_columns: int, mean: float, std: float, sparse: bool = False
) -> nn.Embedding:
    """Return an embedding that starts from a normal distribution (PyTorch's own is N(0, 1))."""
    check_number("init_std", std, at_least=0)
    size = f"a table of {n_rows} × {n_columns} numbers"
    check_memory(size, 4 * n_rows * n_columns, "use a smaller n_factors")
    embedding = nn.Embedding(n_rows, n_columns, sparse=sparse)
    nn.init.normal_(embedding.weight, mean, std)
    return embedding

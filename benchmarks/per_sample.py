"""What our loop is measured against: training sample by sample, evaluating user by user.

This is how tutorials are often written: a Dataset that returns one sample, PyTorch's default
collation of a thousand of them, one embedding for each quantity, `torch.optim.SGD` on sparse
gradients, and scikit-learn's `roc_auc_score` in a loop over users.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


class PairSamples(Dataset):
    """One (user, (positive, negative)) at a time, the negative by trial and error."""

    def __init__(self, matrix: sp.csr_matrix) -> None:
        self.entries = matrix.tocoo()
        self.rows = matrix.tocsr()

    def __len__(self) -> int:
        return self.entries.nnz

    def __getitem__(self, index: int):
        user = self.entries.row[index]
        while True:
            negative = np.random.randint(self.rows.shape[1])
            if not self.is_positive(user, negative):
                break
        return (user, (self.entries.col[index], negative)), self.entries.data[index]

    def is_positive(self, user: int, item: int) -> bool:
        start, end = self.rows.indptr[user], self.rows.indptr[user + 1]
        place = start + np.searchsorted(self.rows.indices[start:end], item)
        return place < end and self.rows.indices[place] == item


class PairScorer(nn.Module):
    """Biased matrix factorization, called once for the positives and once for the negatives."""

    def __init__(self, n_users: int, n_items: int, n_factors: int) -> None:
        super().__init__()
        self.user_factors = nn.Embedding(n_users, n_factors, sparse=True)
        self.item_factors = nn.Embedding(n_items, n_factors, sparse=True)
        self.user_bias = nn.Embedding(n_users, 1, sparse=True)
        self.item_bias = nn.Embedding(n_items, 1, sparse=True)
        self.dropout = nn.Dropout(0.0)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        p, q = self.dropout(self.user_factors(users)), self.dropout(self.item_factors(items))
        bias = self.user_bias(users) + self.item_bias(items)
        return (bias + (p * q).sum(dim=1, keepdim=True)).squeeze(1)

    def forward(self, users: Tensor, items: list[Tensor]) -> Tensor:
        return self.score(users, items[0]) - self.score(users, items[1])


def epochs(train: sp.csr_matrix, n_factors: int, batch_size: int = 1024) -> Iterator[float]:
    """Train without end, yielding the mean loss of each epoch."""
    np.random.seed(2017)
    torch.manual_seed(2017)
    loader = DataLoader(PairSamples(train), batch_size=batch_size, shuffle=True)
    model = PairScorer(*train.shape, n_factors)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    while True:
        total = 0.0
        for (users, items), _ in loader:
            optimizer.zero_grad()
            loss = -F.logsigmoid(model(users.long(), [i.long() for i in items])).sum()
            loss.backward()
            optimizer.step()
            total += loss.item()
        yield total / train.nnz


def evaluate(model, test: sp.csr_matrix, train: sp.csr_matrix, k: int = 5) -> tuple[float, float]:
    """Return AUC and precision at k, training items left out, one user after another."""
    items = torch.arange(test.shape[1])
    aucs, precisions = [], []
    for user in range(test.shape[0]):
        held_out = test.indices[test.indptr[user] : test.indptr[user + 1]]
        if not len(held_out):
            continue
        with torch.no_grad():
            scores = model(torch.full_like(items, user), items).numpy()
        relevant = np.zeros(test.shape[1])
        relevant[held_out] = 1
        candidates = np.ones(test.shape[1], bool)
        candidates[train.indices[train.indptr[user] : train.indptr[user + 1]]] = False
        aucs.append(roc_auc_score(relevant[candidates], scores[candidates]))
        top = np.argpartition(-np.where(candidates, scores, -np.inf), k)[:k]
        precisions.append(len(set(top) & set(held_out)) / k)
    return float(np.mean(aucs)), float(np.mean(precisions))

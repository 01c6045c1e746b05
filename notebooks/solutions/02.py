"""Solutions of notebook 2. In the notebook, what stands between `# <<<` and `# >>>` is `...`."""

import numpy as np
import torch
from torch.nn import functional as F

from nmf_helpers.models import MF
from nmf_helpers.training import mean_loss

# A small stand-in for the notebook's training rows.
train_batch = (torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1])), torch.tensor([5.0, 3.0, 1.0])


# --- 2.1
def predict(user_factors, item_factors, users, items):
    """Return the dot product for each pair users[n], items[n]: arrays in, shape (batch,) out."""
    # <<<
    p = user_factors[users]  # (batch, factors)
    q = item_factors[items]  # (batch, factors)
    return (p * q).sum(axis=1)
    # >>>


# --- 2.2
def rms_error(predictions, ratings):
    """Return the root mean squared error in stars; raise a ValueError if shapes differ."""
    # <<<
    if predictions.shape != ratings.shape:
        raise ValueError(f"shapes {predictions.shape} and {ratings.shape} differ")
    return np.sqrt(((predictions - ratings) ** 2).mean())
    # >>>


# --- 2.3
def start_value(mean_rating, n_factors):
    """Return the number s that makes two vectors full of s have the dot product mean_rating."""
    # <<<
    return np.sqrt(mean_rating / n_factors)
    # >>>


# --- 2.bug1
class Column(MF):
    def forward(self, users, items):
        return super().forward(users, items)


# --- 2.bug2
def train_epochs(model, n_epochs, lr, weight_decay=0.0):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)
    (users, items), ratings = train_batch
    for _ in range(n_epochs):
        loss = F.mse_loss(model(users, items), ratings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return mean_loss(model, [train_batch])

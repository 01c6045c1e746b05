"""Solutions of notebook 4. In the notebook, what stands between `# <<<` and `# >>>` is `...`."""

import torch
from torch import nn
from torch.nn import functional as F


# --- 4.1
def n_parameters(n_users, n_items, n_factors, n_hidden):
    """Return how many numbers the network learns: two tables, hidden layer, output layer."""
    # <<<
    tables = (n_users + n_items) * n_factors
    hidden = 2 * n_factors * n_hidden + n_hidden
    return tables + hidden + n_hidden + 1
    # >>>


# --- 4.2
def forward(p, q, hidden, output):
    """Return predictions of shape (batch,).

    p: (batch, user factors), q: (batch, film factors); hidden and output are nn.Linear layers,
    with a GELU in between.
    """
    # <<<
    x = torch.cat([p, q], dim=-1)
    x = F.gelu(hidden(x))
    return output(x).squeeze(-1)
    # >>>


# --- 4.3
def product(a, b, square):
    """Return a · b, made only by adding, subtracting, scaling by a number, and square(x)."""
    # <<<
    return (square(a + b) - square(a - b)) / 4
    # >>>


# --- 4.bug1
class Published(nn.Module):
    def __init__(self, n_users, n_items, n_factors=100, n_hidden=10):
        super().__init__()
        self.user_factors = nn.Embedding(n_users, n_factors)
        self.item_factors = nn.Embedding(n_items, n_factors)
        self.hidden = nn.Linear(2 * n_factors, n_hidden)
        self.output = nn.Linear(n_hidden, 1)
        self.dropout = nn.Dropout(0.1)

    def units(self, users, items):
        x = torch.cat([self.user_factors(users), self.item_factors(items)], dim=1)
        return F.relu(self.hidden(self.dropout(x)))

    def forward(self, users, items):
        return self.output(self.units(users, items)).squeeze(-1)

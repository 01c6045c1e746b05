"""Solutions of notebook 6. In the notebook, what stands between `# <<<` and `# >>>` is `...`."""

import numpy as np
from torch.nn import functional as F


# --- 6.1
def bpr_gradient(p, positive, negative):
    """Return the gradient of -log σ(p·positive - p·negative) by p, an array like p."""
    # <<<
    difference = p @ (positive - negative)
    sigmoid = 1 / (1 + np.exp(-difference))
    return (sigmoid - 1) * (positive - negative)
    # >>>


# --- 6.2
def rth_free_item(items, r):
    """Return the r-th item (from 0) that is not in `items`, a sorted array of a user's items."""
    # <<<
    free = r
    for item in items:
        if item <= free:
            free += 1
    return free
    # >>>


# --- 6.3
def ease(train, l2):
    """Return EASE's scores, shape (users, items), for a 0/1 array of that shape."""
    # <<<
    inverse = np.linalg.inv(train.T @ train + l2 * np.eye(train.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return train @ weights
    # >>>


# --- 6.bug1
def is_free(matrix, user, item):
    return item not in matrix.indices[matrix.indptr[user] : matrix.indptr[user + 1]]


# --- 6.bug2
def pair_loss(difference):
    return -F.logsigmoid(difference).mean()


# --- 6.bug3
def top_k(scores, train, k):
    candidates = np.where(train.toarray() > 0, -np.inf, scores)
    return np.argsort(-candidates, axis=1)[:, :k]

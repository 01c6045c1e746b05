"""Solutions of notebook 6. In the notebook, what stands between `# <<<` and `# >>>` is `...`."""

import numpy as np
from scipy.stats import hypergeom
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
def masked_precision(scores, test, train, k):
    """Return the mean share of hidden likes among each user's k best films.

    All three are arrays of shape (users, films); test and train hold 0 and 1. Films liked in
    training are not ranked; users without hidden likes don't count.
    """
    # <<<
    masked = np.where(train > 0, -np.inf, scores)
    best = np.argsort(-masked, axis=1)[:, :k]
    hits = np.take_along_axis(test, best, axis=1).mean(axis=1)
    return hits[test.any(axis=1)].mean()
    # >>>


# --- 6.3
def chance(n_others, n_above, n_drawn, k):
    """Return the chance that a film is among the first k of itself and n_drawn others.

    The others are drawn from n_others films, of which n_above score higher than the film.
    """
    # <<<
    return hypergeom.cdf(k - 1, n_others, n_above, n_drawn)
    # >>>


# --- 6.bug1
def published_is_free(user, film, matrix):
    start, end = matrix.indptr[user], matrix.indptr[user + 1]
    return film not in matrix.indices[start:end]


# --- 6.bug2
def pair_loss(difference):
    return -F.logsigmoid(difference).mean()


# --- 6.bug3
def top_k(scores, train, k):
    candidates = np.where(train.toarray() > 0, -np.inf, scores)
    return np.argsort(-candidates, axis=1)[:, :k]

"""Small made-up ratings whose truth is known: biases, two tastes and a little noise."""

import numpy as np
import scipy.sparse as sp
import torch

torch.set_num_threads(1)  # faster for tensors as small as these


def ratings(n_users=60, n_items=40, density=0.4, noise=0.2, seed=0):
    """Return (train, test), CSR of shape (n_users, n_items), a fifth of the entries in test."""
    rng = np.random.default_rng(seed)
    bias = rng.normal(0, 0.3, (n_users, 1)) + rng.normal(0, 0.3, n_items)
    taste = rng.normal(0, 1, (n_users, 2)) @ rng.normal(0, 0.7, (2, n_items))
    values = (3.5 + bias + taste + rng.normal(0, noise, bias.shape)).clip(0.5, 5)
    part = rng.choice(3, p=[1 - density, 0.8 * density, 0.2 * density], size=values.shape)
    return tuple(sp.csr_matrix(np.where(part == which, values, 0)) for which in (1, 2))


def likes(n_users=60, n_items=40, seed=0, **options):
    """Return (train, test) with ones where a rating of `ratings` is at least 3.5."""
    return tuple(
        (part >= 3.5).astype(float).tocsr()
        for part in ratings(n_users, n_items, seed=seed, **options)
    )

"""Solutions of notebook 7. In the notebook, what stands between `# <<<` and `# >>>` is `...`."""

import math

import numpy as np
import torch
from scipy.sparse import csr_matrix

train = csr_matrix(np.ones((6, 7)))  # a small stand-in for the notebook's


# --- 7.1
def shards(n_samples, n_workers, seed):
    """Return a list of n_workers arrays that share out 0 … n_samples - 1 at random."""
    # <<<
    order = np.random.default_rng(seed).permutation(n_samples)
    return np.array_split(order, n_workers)
    # >>>


# --- 7.2
def worker_seed(seed, epoch, rank):
    """Return a whole number of its own for each seed, epoch and worker (below 1,000 each)."""
    # <<<
    return (seed * 1000 + epoch) * 1000 + rank
    # >>>


# --- 7.3
def break_even(start_up, alone, together):
    """Return the first number of epochs after which several workers are ahead, or math.inf.

    alone and together are seconds per epoch, start_up is paid once by the several.
    """
    # <<<
    saved = alone - together
    if saved <= 0:
        return math.inf
    return math.floor(start_up / saved) + 1
    # >>>


# --- 7.bug1
def worker(rank, seed=2017):
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(train.nnz, generator=generator)
    return order.chunk(4)[rank]

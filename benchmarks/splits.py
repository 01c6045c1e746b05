"""The splits of MovieLens 100K that every figure of the course is measured on."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from nmf_helpers.data import interaction_matrix, load_ratings


def exp10() -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Ratings; ten of every user with more than ten are held out."""
    return _hold_out_ten(interaction_matrix(load_ratings("100k")))


def exp8020() -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Ratings; a random fifth of them is held out."""
    ratings = interaction_matrix(load_ratings("100k"))
    return _part(ratings, np.random.RandomState(0).rand(ratings.nnz) >= 0.8)


def imp10() -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Ones for ratings of four and five stars; ten of every user with more than ten held out."""
    return _hold_out_ten(interaction_matrix(load_ratings("100k"), threshold=4))


def _hold_out_ten(matrix: sp.csr_matrix) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    # Written out here, not leave_n_out: as in the first version of the tutorial, users in turn
    # draw from NumPy's global generator with seed 2017.
    random = np.random.RandomState(2017)
    held_out = np.zeros(matrix.nnz, bool)
    for start, end in zip(matrix.indptr, matrix.indptr[1:], strict=False):
        if end - start > 10:
            chosen = random.choice(matrix.indices[start:end], size=10, replace=False)
            held_out[start:end] = np.isin(matrix.indices[start:end], chosen)
    return _part(matrix, held_out)


def _part(matrix: sp.csr_matrix, held_out: np.ndarray) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    entries = matrix.tocoo()
    return tuple(
        sp.csr_matrix((entries.data[mask], (entries.row[mask], entries.col[mask])), matrix.shape)
        for mask in (~held_out, held_out)
    )

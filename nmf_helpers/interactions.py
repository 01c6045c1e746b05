"""A matrix of interactions as torch Datasets that hand out whole batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from nmf_helpers.checks import check_number

SORT_ABOVE = 2_000_000  # samples; below, everything fits the processor's cache anyway


Batch = tuple[tuple[Tensor, Tensor], Tensor]  # ((users, items), values), each (batch,)


def full_batch(df: pd.DataFrame) -> Batch:
    """Return all rows of an encoded table of ratings as one batch."""
    users = torch.tensor(df["userId"].to_numpy(), dtype=torch.long)  # (rows,)
    items = torch.tensor(df["movieId"].to_numpy(), dtype=torch.long)  # (rows,)
    return (users, items), torch.tensor(df["rating"].to_numpy(), dtype=torch.float32)


class Interactions(Dataset):
    """The stored entries of a matrix: ``dataset[index] -> ((users, items), values)``.

    `index` is a whole number or, much faster, a tensor of them: indexing once for a thousand
    entries costs about as much as for one.

    Parameters
    ----------
    matrix : sparse matrix, shape (n_users, n_items)
        Ratings, or ones for "has interacted".
    """

    def __init__(self, matrix: sp.spmatrix | sp.sparray) -> None:
        csr = checked_csr(matrix)
        self.n_users, self.n_items = csr.shape
        # int32 halves the memory at 20 million interactions; batches are widened as they leave.
        counts = np.diff(csr.indptr)
        self.users = torch.from_numpy(np.repeat(np.arange(self.n_users, dtype=np.int32), counts))
        self.items = torch.from_numpy(csr.indices.astype(np.int32))
        self.values = torch.from_numpy(csr.data.astype(np.float32))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int | Tensor) -> Batch:
        index = torch.as_tensor(index)
        return (self.users[index].long(), self.items[index].long()), self.values[index]


class PairwiseInteractions(Interactions):
    """Each stored entry beside an item the user has *not* interacted with.

    ``dataset[index] -> ((users, (positives, negatives)), values)``. Negatives are drawn anew at
    each look, uniformly over all items that the user has no entry for, without trial and error:
    for a user with d entries, a whole number r below n_items - d is drawn, and the negative is
    the r-th free item. The free items before position a_j, the user's j-th entry, number a_j - j,
    so the r-th free item is r plus the count of entries with a_j - j <= r: one binary search.

    Parameters
    ----------
    matrix : sparse matrix, shape (n_users, n_items)
        The positives.
    avoid : sparse matrix of the same shape, optional
        More entries that must not be drawn as negatives: the training matrix when `matrix`
        holds the test items.
    generator : torch.Generator, optional
        Source of the draws; a fresh one seeded with 0 when None.

    Raises
    ------
    ValueError
        If a user with positives has no item left to serve as a negative.
    """

    def __init__(
        self,
        matrix: sp.spmatrix | sp.sparray,
        avoid: sp.spmatrix | sp.sparray | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(matrix)
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        taken = checked_csr(matrix)
        if avoid is not None:
            if avoid.shape != taken.shape:
                raise ValueError(f"avoid has shape {avoid.shape}, the positives {taken.shape}")
            taken = checked_csr(_pattern(taken) + _pattern(checked_csr(avoid)))
        degree = np.diff(taken.indptr)
        positives = np.bincount(self.users.numpy(), minlength=self.n_users)
        full = np.flatnonzero((degree == self.n_items) & (positives > 0))
        if len(full):
            raise ValueError(
                f"user {full[0]} has interacted with all {self.n_items} items, so there is no "
                f"negative to draw ({len(full)} such user(s)): remove those rows from the matrix"
            )
        self._start = torch.from_numpy(taken.indptr.astype(np.int64))
        rank = np.arange(taken.nnz) - np.repeat(taken.indptr[:-1], degree)
        row = np.repeat(np.arange(self.n_users, dtype=np.int64), degree)
        # One sorted array for all users: the user's number times n_items, plus a_j - j.
        self._keys = torch.from_numpy(row * self.n_items + (taken.indices - rank))

    def __getitem__(self, index: int | Tensor):
        (users, positives), values = super().__getitem__(index)
        return (users, (positives, self.sample_negatives(users))), values

    def sample_negatives(self, users: Tensor) -> Tensor:
        """Draw one item for each user, uniform over the items that the user has no entry for."""
        start = self._start[users]
        free = self.n_items - (self._start[users + 1] - start)
        # Doubles: in single precision the product could round up to `free` itself.
        draw = torch.rand(users.shape, generator=self.generator, dtype=torch.float64)
        r = (draw * free).long()
        before = torch.searchsorted(self._keys, users * self.n_items + r, right=True) - start
        return r + before


class BatchIndices(Sampler[Tensor]):
    """Index tensors that together visit each of `indices` once, in a new order each time.

    Parameters
    ----------
    indices : int or Tensor
        How many samples there are, or which of them to visit (a shard).
    batch_size : int
    generator : torch.Generator
        Source of the order.
    """

    def __init__(self, indices: int | Tensor, batch_size: int, generator: torch.Generator) -> None:
        check_number("batch_size", batch_size, at_least=1, whole=True)
        self.indices = indices
        self.n_samples = indices if isinstance(indices, int) else len(indices)
        self.batch_size = int(batch_size)
        self.generator = generator
        # Many samples are cut into sixteen random parts, each walked in user order: rows that are
        # used together lie together, and memory is read once instead of fetched a thousand times.
        self.sort = self.n_samples > SORT_ABOVE
        self.part_size = max(1, -(-self.n_samples // 16) if self.sort else self.n_samples)

    def __len__(self) -> int:
        whole_parts, rest = divmod(self.n_samples, self.part_size)
        return whole_parts * -(-self.part_size // self.batch_size) + -(-rest // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(self.n_samples, generator=self.generator)
        if not isinstance(self.indices, int):
            order = self.indices[order]
        for part in order.split(self.part_size):
            if len(part):  # splitting nothing gives one part of nothing
                part = part.sort().values if self.sort else part
                yield from part.split(self.batch_size)


def batches(
    dataset: Interactions,
    batch_size: int,
    generator: torch.Generator,
    indices: Tensor | None = None,
) -> DataLoader:
    """Return an ordinary DataLoader over shuffled batches of a dataset (or of some `indices`).

    With ``batch_size=None`` the loader passes each index *tensor* straight to the dataset,
    instead of a Python list of a thousand numbers to be looked up one by one.
    """
    sampler = BatchIndices(len(dataset) if indices is None else indices, batch_size, generator)
    return DataLoader(
        dataset, sampler=sampler, batch_size=None, collate_fn=_as_is, generator=generator
    )


def _pattern(csr: sp.csr_matrix) -> sp.csr_matrix:
    """Return ones where the matrix stores an entry, whatever its value."""
    return sp.csr_matrix((np.ones(csr.nnz, np.float32), csr.indices, csr.indptr), csr.shape)


def _as_is(batch):
    return batch


def checked_csr(matrix) -> sp.csr_matrix:
    """Return the matrix as CSR with sorted rows, refusing what is no table of numbers."""
    if not sp.issparse(matrix):
        raise TypeError(
            f"expected a scipy.sparse matrix, not {type(matrix).__name__}: "
            "interaction_matrix(df) makes one from a table of ratings"
        )
    csr = matrix.tocsr()
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    if not np.isfinite(csr.data).all():
        raise ValueError("the matrix holds NaN or infinite values: remove those ratings first")
    return csr

"""A matrix of interactions as torch Datasets that hand out whole batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from nmf_helpers.checks import check_matrix, check_number, pattern

if TYPE_CHECKING:
    import pandas as pd

PARTS_ABOVE = 500_000  # samples; fewer go with so few rows that the cache holds them all
N_PARTS = 8
WHAT, COLUMNS = "the matrix of interactions", ("userId", "movieId", "rating")

Pair = tuple[Tensor, Tensor]
Batch = tuple[tuple[Tensor, Tensor | Pair], Tensor]  # ((users, items), values), each (batch,)


def full_batch(df: pd.DataFrame) -> Batch:
    """Return all rows of an encoded table of ratings as one batch; no rows are a ValueError."""
    if df.empty:
        raise ValueError(
            "the table of ratings is empty: were all its rows dropped as unknown to training? "
            "See df.attrs['dropped']"
        )
    users, items, values = (torch.tensor(df[name].to_numpy()) for name in COLUMNS)  # (rows,)
    return (users.long(), items.long()), values.float()


class Interactions(Dataset[Batch]):
    """The stored entries of a matrix: ``dataset[index] -> ((users, items), values)``.

    `index` is a whole number or, much faster, a tensor of them: indexing once for a thousand
    entries costs about as much as for one.

    Parameters
    ----------
    matrix : sparse matrix or array, shape (n_users, n_items)
        Ratings, or ones for "has interacted". A 0 that a sparse matrix stores is a rating of 0.
    """

    generator: torch.Generator | None = None  # of what is drawn while reading; nothing is, here

    def __init__(self, matrix: Any) -> None:
        csr = check_matrix(WHAT, matrix, may_be_empty=True)
        self.n_users, self.n_items = csr.shape
        # Items and values are the matrix's own memory, if they have these types there. int32 is
        # enough and takes half of it; batches are widened as they leave.
        self.items = torch.from_numpy(csr.indices.astype(np.int32, copy=False))
        self.values = torch.from_numpy(csr.data.astype(np.float32, copy=False))
        self._row_start = torch.from_numpy(csr.indptr.astype(np.int64))  # (n_users + 1,)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int | Tensor) -> Batch:
        index = torch.as_tensor(index)
        # Whose entry is it? The last user's whose row starts here or before.
        users = torch.searchsorted(self._row_start, index, right=True) - 1
        return (users, self.items[index].long()), self.values[index]


class PairwiseInteractions(Interactions):
    """Each stored entry beside an item the user has *not* interacted with.

    ``dataset[index] -> ((users, (positives, negatives)), values)``. Negatives are drawn anew at
    each look, uniformly over all items that the user has no entry for, without trial and error:
    for a user with d entries, a whole number r below n_items - d is drawn, and the negative is
    the r-th free item. The free items before position a_j, the user's j-th entry, number a_j - j,
    so the r-th free item is r plus the count of entries with a_j - j <= r: one binary search.

    Parameters
    ----------
    matrix : sparse matrix or array, shape (n_users, n_items)
        The positives. A 0 that is stored is none.
    exclude : sparse matrix or array of the same shape, optional
        More entries that must not be drawn as negatives, whatever is stored there: the training
        matrix when `matrix` holds the held-out items.
    generator : torch.Generator, optional
        Source of the draws; a fresh one seeded with 0 when None.
    skip_full : bool
        Leave out the positives of users who have no item left to serve as a negative, as the
        metrics do, instead of refusing them.

    Raises
    ------
    ValueError
        If a user with positives has no item left to serve as a negative; if an entry is below 0.
    """

    def __init__(
        self,
        matrix: Any,
        exclude: Any = None,
        generator: torch.Generator | None = None,
        *,
        skip_full: bool = False,
    ) -> None:
        csr = taken = check_matrix(WHAT, matrix, kind="interactions", may_be_empty=True)
        if exclude is not None:
            exclude = check_matrix("exclude", exclude, csr, like_name=WHAT, may_be_empty=True)
            taken = pattern(csr, True) + pattern(exclude, True)  # in which nothing cancels out
            taken.sort_indices()
        degree = np.diff(taken.indptr)
        is_full = (degree == taken.shape[1]) & (np.diff(csr.indptr) > 0)  # (n_users,)
        if is_full.any() and not skip_full:
            raise ValueError(
                f"user {is_full.argmax()} has interacted with all {csr.shape[1]} items, so there "
                f"is no negative to draw ({is_full.sum()} such user(s)): remove those rows from "
                "the matrix"
            )
        if is_full.any():
            csr = sp.diags_array(~is_full, dtype=csr.dtype) @ csr
            csr.eliminate_zeros()
        super().__init__(csr)
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        self._free = torch.from_numpy(self.n_items - degree.astype(np.int64))  # (n_users,)
        self._start = torch.from_numpy(taken.indptr.astype(np.int64))  # (n_users + 1,)
        # One sorted array for all users: the user's number times n_items, plus a_j - j, where j
        # is the entry's place in the array less the place where the user's entries start.
        # Summed in place, because at 20 million entries each temporary array is 160 MB.
        keys = np.repeat(np.arange(self.n_users) * self.n_items + taken.indptr[:-1], degree)
        keys += taken.indices
        keys -= np.arange(taken.nnz, dtype=taken.indptr.dtype)
        self._keys = torch.from_numpy(keys)  # (entries,)

    def __getitem__(self, index: int | Tensor) -> Batch:
        (users, positives), values = super().__getitem__(index)
        return (users, (positives, self.sample_negatives(users))), values  # type: ignore

    def sample_negatives(self, users: Tensor) -> Tensor:
        """Draw one item for each user, uniform over the items that the user has no entry for."""
        if not users.numel():
            return users
        # Doubles: in single precision the product could round up to the number of free items.
        draw = torch.rand(users.shape, generator=self.generator, dtype=torch.float64)
        r = (draw * self._free[users]).long()
        # Users come in order, so all their keys lie in one stretch, short enough for the cache.
        first, last = self._start[users.min()], self._start[users.max() + 1]
        found = torch.searchsorted(self._keys[first:last], users * self.n_items + r, right=True)
        return r + found + first - self._start[users]


class BatchIndices(Sampler[Tensor]):
    """Index tensors that together visit each of `indices` once, in a new order each time.

    Chance decides which samples share a batch. Within it they are sorted, so in user order:
    their gradients are added up in any case, and rows that are used together lie together.

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
        self.shard = None if isinstance(indices, int) else indices.sort().values
        n = self.n_samples = indices if isinstance(indices, int) else len(indices)
        self.batch_size, self.generator = int(batch_size), generator
        n_parts = N_PARTS if n > PARTS_ABOVE else 1
        self.sizes = [len(range(part, n, n_parts)) for part in range(n_parts)]

    def __len__(self) -> int:
        return sum(-(-size // self.batch_size) for size in self.sizes)

    def __iter__(self) -> Iterator[Tensor]:
        walk = self._parts() if len(self.sizes) > 1 else self._shuffled()
        for batch in walk:
            yield batch if self.shard is None else self.shard[batch]

    def _shuffled(self) -> Iterator[Tensor]:
        order = torch.randperm(self.n_samples, generator=self.generator)
        for batch in order.split(self.batch_size) if len(order) else ():
            yield torch.from_numpy(np.sort(batch.numpy()))  # ten times as fast as torch's sort

    def _parts(self) -> Iterator[Tensor]:
        """Deal many samples into eight parts, and walk each part in user order.

        Of each eight samples in a row every part gets one, and chance says which. A batch then
        touches few users, whose rows are read from memory once instead of fetched a thousand
        times, and nothing as long as the data is shuffled.
        """
        starts = torch.arange(0, self.n_samples, N_PARTS)
        turn = torch.randint(N_PARTS, starts.shape, generator=self.generator, dtype=torch.uint8)
        turn[-1] = 0  # the last row may be short: its samples go to the first parts
        for part, size in enumerate(self.sizes):
            yield from (starts + (turn + part) % N_PARTS)[:size].split(self.batch_size)


def batches(
    dataset: Interactions,
    batch_size: int,
    generator: torch.Generator,
    indices: Tensor | None = None,
) -> DataLoader[Batch]:
    """Return an ordinary DataLoader over shuffled batches of a dataset (or of some `indices`).

    With ``batch_size=None`` the loader passes each index *tensor* straight to the dataset,
    instead of a Python list of a thousand numbers to be looked up one by one.
    """
    walk = BatchIndices(len(dataset) if indices is None else indices, batch_size, generator)
    return DataLoader(
        dataset, sampler=walk, batch_size=None, collate_fn=_as_is, generator=generator
    )


def _as_is(batch: Any) -> Any:
    return batch


def on_device(loader: Iterable[Batch], device: torch.device) -> Iterable[Batch]:
    """Yield the batches, moved to a device."""
    return loader if device.type == "cpu" else (_moved(batch, device) for batch in loader)


def _moved(part: Any, device: torch.device) -> Any:
    if isinstance(part, Tensor):
        return part.to(device)
    return tuple(_moved(one, device) for one in part)

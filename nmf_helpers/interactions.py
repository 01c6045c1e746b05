"""A matrix of interactions as torch Datasets that hand out whole batches."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from nmf_helpers.checks import check_matrix, check_number, pattern

N_PARTS, PARTS_ABOVE = 8, 500_000  # samples; fewer have so few rows that the cache holds them all
WHAT, COLUMNS = "the matrix of interactions", ("userId", "movieId", "rating")

Pair = tuple[Tensor, Tensor]
Batch = tuple[tuple[Tensor, Tensor | Pair], Tensor]  # ((users, items), values), each (batch,)


def full_batch(df: Any) -> Batch:
    """Return all rows of an encoded DataFrame of ratings as one batch; none are a ValueError."""
    if df.empty:
        raise ValueError("the table of ratings is empty: see df.attrs['dropped'] for why")
    users, items, values = (torch.tensor(df[name].to_numpy()) for name in COLUMNS)  # (rows,)
    return (users.long(), items.long()), values.float()


class Interactions(Dataset[Batch]):
    """The stored entries of a matrix: ``dataset[index] -> ((users, items), values)``.

    The matrix, sparse or array, of shape (n_users, n_items), holds ratings, or ones for "has
    interacted"; a 0 that a sparse matrix stores is a rating of 0. `index` is a whole number or,
    much faster, a tensor of them: a thousand entries cost about as much as one.
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

    A 0 that `matrix` stores is no positive, a number below 0 a ValueError. No entry of `exclude`,
    whatever its value, is drawn either: the training matrix when `matrix` is held out. The
    `generator` draws; by default it is a fresh one, seeded with 0. A user with positives but no
    item left for a negative is a ValueError or, with `skip_full`, left out as in the metrics.
    """

    def __init__(
        self, matrix: Any, exclude: Any = None, generator: Any = None, *, skip_full: bool = False
    ) -> None:
        csr = taken = check_matrix(WHAT, matrix, kind="interactions", may_be_empty=True)
        if exclude is not None:
            exclude = check_matrix("exclude", exclude, csr, like_name=WHAT, may_be_empty=True)
            taken = pattern(csr, True) + pattern(exclude, True)  # in which nothing cancels out
            taken.sort_indices()
        degree = np.diff(taken.indptr)
        is_full = (degree == taken.shape[1]) & (np.diff(csr.indptr) > 0)  # (n_users,)
        if is_full.any() and not skip_full:
            none = f"there is no negative to draw ({is_full.sum()} such users): remove those rows"
            user = f"user {is_full.argmax()} has interacted with all {csr.shape[1]} items"
            raise ValueError(f"{user}, so {none}")
        if is_full.any():
            csr = sp.diags_array(~is_full, dtype=csr.dtype) @ csr
            csr.eliminate_zeros()
        super().__init__(csr)
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        self._free = torch.from_numpy(self.n_items - degree.astype(np.int64))  # (n_users,)
        self._start = torch.from_numpy(taken.indptr.astype(np.int64))  # (n_users + 1,)
        # One sorted array for all users: the user's number times n_items, plus a_j - j, with j
        # counted from the user's first entry. In place: 20 million entries are 160 MB each time.
        keys = np.repeat(np.arange(self.n_users) * self.n_items + taken.indptr[:-1], degree)
        keys += taken.indices
        keys -= np.arange(taken.nnz, dtype=taken.indptr.dtype)
        self._keys = torch.from_numpy(keys)  # (entries,)

    def __getitem__(self, index: int | Tensor) -> Batch:
        (users, positives), values = super().__getitem__(index)
        return (users, (positives, self.sample_negatives(users))), values  # type: ignore

    def sample_negatives(self, users: Tensor) -> Tensor:
        """Draw one item for each user, uniform over the items that the user has no entry for."""
        # Doubles: in single precision the product could round up to the number of free items.
        draw = torch.rand(users.shape, generator=self.generator, dtype=torch.float64)
        r = (draw * self._free[users]).long()
        # Users come in order, so all their keys lie in one stretch, short enough for the cache.
        first, last = self._start[users.min()], self._start[users.max() + 1]
        found = torch.searchsorted(self._keys[first:last], users * self.n_items + r, right=True)
        return r + found + first - self._start[users]


class BatchIndices(Sampler[Tensor]):
    """Index tensors that together visit each of `n_samples` once, in a new order each time.

    Chance decides which samples share a batch. Within it they are sorted, so in user order:
    their gradients are added up in any case, and rows that are used together lie together.
    """

    def __init__(self, n_samples: int, batch_size: int, generator: torch.Generator) -> None:
        check_number("batch_size", batch_size, at_least=1, whole=True)
        self.batch_size, self.generator = int(batch_size), generator
        n_parts = N_PARTS if n_samples > PARTS_ABOVE else 1
        self.sizes = [len(range(part, n_samples, n_parts)) for part in range(n_parts)]

    def __len__(self) -> int:
        return sum(-(-size // self.batch_size) for size in self.sizes)

    def __iter__(self) -> Iterator[Tensor]:
        if len(self.sizes) == 1:
            order = torch.randperm(self.sizes[0], generator=self.generator)
            for batch in order.split(self.batch_size) if len(order) else ():
                yield torch.from_numpy(np.sort(batch.numpy()))  # ten times as fast as torch's sort
            return
        # Of each eight samples in a row every part gets one, chance says which, and each part is
        # walked in user order. A batch then touches few users, whose rows are read from memory
        # once instead of fetched a thousand times; nothing as long as the data is shuffled.
        starts = torch.arange(0, sum(self.sizes), N_PARTS)
        turn = torch.randint(N_PARTS, starts.shape, generator=self.generator, dtype=torch.uint8)
        turn[-1] = 0  # the last row may be short: its samples go to the first parts
        for part, size in enumerate(self.sizes):
            yield from (starts + (turn + part) % N_PARTS)[:size].split(self.batch_size)


def batches(
    dataset: Any, batch_size: int, generator: torch.Generator, device: str | torch.device = "cpu"
) -> DataLoader[Batch]:
    """Return an ordinary DataLoader over shuffled batches of a dataset above, or a part of one."""
    walk, move = BatchIndices(len(dataset), batch_size, generator), partial(_to, device)
    # Its batch_size is None: each index tensor goes to the dataset whole, not number by number.
    return DataLoader(dataset, None, sampler=walk, collate_fn=move, generator=generator)


def _to(device: str | torch.device, part: Any) -> Any:
    """Return a batch, or a part of it, on a device."""
    if isinstance(part, Tensor):
        return part.to(device)
    return tuple(_to(device, one) for one in part)

"""The datasets and the sampler against set membership, a χ² test and plain loops."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from planted import likes, ratings
from scipy.stats import chisquare

from nmf_helpers import interactions
from nmf_helpers.interactions import (
    BatchIndices,
    Interactions,
    PairwiseInteractions,
    batches,
    full_batch,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(sample, matrix, n=400):
    """Return n negatives for every user with a positive: {user: array of n items}."""
    users = np.flatnonzero(np.diff(matrix.indptr))
    drawn = np.asarray(sample(torch.from_numpy(np.repeat(users, n)).long()))
    return dict(zip(users.tolist(), drawn.reshape(len(users), n), strict=True))


# --- Negatives --------------------------------------------------------------------------------


@given(arrays(bool, st.tuples(st.integers(1, 6), st.integers(2, 9))), st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_the_sampler_draws_every_free_item_and_never_a_positive(liked, seed):
    liked[liked.all(axis=1)] = False
    assume(liked.any())
    matrix = sp.csr_matrix(liked, dtype=float)
    dataset = PairwiseInteractions(matrix, generator=generator(seed))
    for user, items in draws(dataset.sample_negatives, matrix).items():
        assert set(items.tolist()) == set(np.flatnonzero(~liked[user]))


def test_the_sampler_is_uniform_over_the_items_the_user_has_not_rated():
    train, _ = likes()
    counts, expected = [], []
    for user, items in draws(PairwiseInteractions(train).sample_negatives, train).items():
        free = np.setdiff1d(np.arange(train.shape[1]), train[user].indices)
        assert np.isin(items, free).all(), f"user {user} was given a positive"
        counts.append(np.bincount(items, minlength=train.shape[1])[free])
        expected.append(np.full(len(free), len(items) / len(free)))
    # Each user's total is fixed, which takes one degree of freedom a user.
    fit = chisquare(np.concatenate(counts), np.concatenate(expected), ddof=len(counts) - 1)
    assert fit.pvalue > 1e-3


def test_a_user_without_a_negative_is_reported_or_left_out():
    with pytest.raises(ValueError, match="user 1 has interacted with all 3 items"):
        PairwiseInteractions(sp.csr_matrix([[1.0, 0, 0], [1, 1, 1]]))
    args = sp.csr_matrix([[1.0, 1, 0], [1, 0, 0]]), [[0, 0, 1], [0, 0, 1]]
    with pytest.raises(ValueError, match="user 0 has interacted with all 3"):
        PairwiseInteractions(*args)
    dataset = PairwiseInteractions(*args, skip_full=True)
    (users, (positives, negatives)), _ = dataset[torch.arange(len(dataset))]
    assert (users.tolist(), positives.tolist(), negatives.tolist()) == ([1], [0], [1])


def test_a_stored_zero_is_a_rating_and_excludes_but_is_no_positive():
    matrix = sp.csr_matrix(([1.0, 0, 0], ([0, 0, 0], [0, 1, 2])), shape=(1, 5))
    exclude = sp.csr_matrix(([-1.0, 0, 3], ([0, 0, 0], [0, 3, 4])), shape=(1, 5))  # whatever it is
    dataset = PairwiseInteractions(matrix, exclude=exclude)
    (_, (positives, negatives)), _ = dataset[torch.zeros(50, dtype=torch.long)]
    assert len(dataset) == 1 and matrix.nnz == exclude.nnz == 3
    assert set(positives.tolist()) == {0} and set(negatives.tolist()) == {1, 2}
    assert len(Interactions(matrix)) == 3


# --- Positives and batches --------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 10**12])
def test_an_epoch_of_batches_is_the_matrix_entry_by_entry(batch_size):
    train, _ = ratings(12, 8)
    users, items, values = [], [], []
    for batch in batches(Interactions(train), batch_size, generator()):
        for part, seen in zip((*batch[0], batch[1]), (users, items, values), strict=True):
            seen += part.tolist()
    assert len(values) == train.nnz
    rebuilt = sp.csr_matrix((values, (users, items)), shape=train.shape)
    np.testing.assert_allclose(rebuilt.toarray(), train.toarray(), rtol=1e-6)
    with pytest.raises(ValueError, match="batch_size must be a whole number, at least 1"):
        batches(Interactions(train), 0, generator())


def test_one_entry_or_several_can_be_looked_up():
    dataset = Interactions([[0.0, 0], [3, 4]])
    (users, items), values = dataset[torch.tensor([1, 0])]
    assert (users.tolist(), items.tolist(), values.tolist()) == ([1, 1], [1, 0], [4, 3])
    assert (users.dtype, items.dtype, values.dtype) == (torch.int64, torch.int64, torch.float32)
    (user, item), value = dataset[0]
    assert (user.item(), item.item(), value.item()) == (1, 0, 3)


def test_what_is_no_matrix_of_numbers_or_of_likes_is_refused():
    with pytest.raises(TypeError, match=r"the matrix of interactions .*interaction_matrix"):
        Interactions(pd.DataFrame(np.eye(3)))
    with pytest.raises(ValueError, match=r"holds -1 at user 1, item 0 .*matrix > 0"):
        PairwiseInteractions([[1, 0], [-1, 0]])
    with pytest.raises(ValueError, match="exclude has shape"):
        PairwiseInteractions([[1, 0]], exclude=[[1]])


@given(st.integers(0, 200), st.integers(1, 70), st.sampled_from([10, 500_000]))
@settings(deadline=None)
def test_a_walk_visits_each_index_once_and_each_time_in_another_order(n, batch_size, parts_above):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interactions, "PARTS_ABOVE", parts_above)
        walk = BatchIndices(n, batch_size, generator())
    first, second = list(walk), list(walk)
    assert len(walk) == len(first) and all(1 <= len(batch) <= batch_size for batch in first)
    first, second = (torch.cat([torch.empty(0).long(), *batches]) for batches in (first, second))
    assert first.sort().values.tolist() == list(range(n))
    assert n < 100 or not torch.equal(first, second)


def test_a_batch_is_in_user_order_and_from_all_over():
    for batch in BatchIndices(1600, 100, generator()):
        assert torch.equal(batch, batch.sort().values)
        assert batch.max() - batch.min() > 1000


def test_a_large_walk_goes_part_by_part_in_user_order(monkeypatch):
    monkeypatch.setattr(interactions, "PARTS_ABOVE", 10)
    walk = torch.cat(list(BatchIndices(16_003, 100, generator())))
    starts = (walk.diff() < 0).nonzero().view(-1) + 1  # where the order falls back
    assert [len(part) for part in walk.tensor_split(starts)] == [2001, 2001, 2001] + 5 * [2000]


def test_a_large_walk_deals_each_sample_to_any_part(monkeypatch):
    monkeypatch.setattr(interactions, "PARTS_ABOVE", 10)
    walk = BatchIndices(800, 100, generator())
    counts = np.zeros((800, 8))
    for _ in range(100):
        for part, batch in enumerate(walk):
            counts[batch, part] += 1
    counts = counts[:-8:8]  # where one of eight goes, all go; the last eight are dealt in turn
    assert chisquare(counts, axis=None, ddof=len(counts) - 1).pvalue > 1e-3


def test_batches_repeat_with_the_generator_and_leave_torchs_own_alone():
    def first_two(seed):
        dataset = PairwiseInteractions(likes()[0], generator=generator(seed))
        loader = batches(dataset, 10**9, generator(seed))
        return [next(iter(loader))[0] for _ in range(2)]

    before = torch.get_rng_state()
    (_, (positives, negatives)), (_, (again, others)) = first_two(1)
    assert torch.equal(positives, again) and not torch.equal(negatives, others)  # each time new
    assert torch.equal(negatives, first_two(1)[0][1][1])
    assert not torch.equal(negatives, first_two(2)[0][1][1])
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_are_moved_to_the_device():
    dataset = PairwiseInteractions(likes()[0])
    (users, (positives, negatives)), values = next(iter(batches(dataset, 5, generator(), "meta")))
    assert all(part.is_meta for part in (users, positives, negatives, values))


def test_a_table_as_one_batch():
    df = pd.DataFrame({"userId": [0, 1], "movieId": [3, 2], "rating": [4.5, 1.0]})
    (users, items), values = full_batch(df)
    assert (users.tolist(), items.tolist(), values.tolist()) == ([0, 1], [3, 2], [4.5, 1.0])
    assert (users.dtype, values.dtype) == (torch.int64, torch.float32)
    with pytest.raises(ValueError, match="the table of ratings is empty"):
        full_batch(df[:0])

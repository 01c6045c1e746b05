"""The datasets and the sampler against set membership, a χ² test and plain loops."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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


# --- Two checks that any sampler must pass, here and in test_planted_bugs ----------------------


def draws(sample, matrix, n=400):
    """Return n negatives for every user with a positive: {user: array of n items}."""
    users = np.flatnonzero(np.diff(matrix.indptr))
    drawn = np.asarray(sample(torch.from_numpy(np.repeat(users, n)).long()))
    return dict(zip(users.tolist(), drawn.reshape(len(users), n), strict=True))


def check_never_a_positive(sample, matrix):
    taken = {user: set(matrix[user].indices) for user in range(matrix.shape[0])}
    for user, items in draws(sample, matrix).items():
        assert not taken[user] & set(items.tolist()), f"user {user} was given a positive"


def check_uniform_over_the_free_items(sample, matrix):
    counts, expected = [], []
    for user, items in draws(sample, matrix).items():
        free = np.setdiff1d(np.arange(matrix.shape[1]), matrix[user].indices)
        counts.append(np.bincount(items, minlength=matrix.shape[1])[free])
        expected.append(np.full(len(free), len(items) / len(free)))
    counts, expected = np.concatenate(counts), np.concatenate(expected)
    assert counts.sum() == expected.sum().round(), "some draws are not free items"
    # Each user's total is fixed, which takes one degree of freedom a user.
    assert chisquare(counts, expected, ddof=len(draws(sample, matrix)) - 1).pvalue > 1e-3


# --- Negatives --------------------------------------------------------------------------------


@st.composite
def matrices(draw):
    """Odd shapes; users with nothing, with item 0 only, with all but one item."""
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(2, 9))
    rows = []
    for _ in range(n_users):
        liked = draw(st.sets(st.integers(0, n_items - 1), max_size=n_items - 1))
        rows.append([float(item in liked) for item in range(n_items)])
    return sp.csr_matrix(rows)


@given(matrices(), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_the_sampler_draws_every_free_item_and_never_a_positive(matrix, seed):
    dataset = PairwiseInteractions(matrix, generator=generator(seed))
    for user, items in draws(dataset.sample_negatives, matrix).items():
        assert set(items.tolist()) == set(range(matrix.shape[1])) - set(matrix[user].indices)


def test_the_sampler_never_returns_a_positive():
    train, _ = likes()
    check_never_a_positive(PairwiseInteractions(train).sample_negatives, train)


@pytest.mark.parametrize("seed", range(3))
def test_the_sampler_is_uniform_over_the_items_the_user_has_not_rated(seed):
    train, _ = likes()
    sample = PairwiseInteractions(train, generator=generator(seed)).sample_negatives
    check_uniform_over_the_free_items(sample, train)


def test_the_last_item_can_be_drawn():
    matrix = sp.csr_matrix([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    drawn = draws(PairwiseInteractions(matrix).sample_negatives, matrix)
    assert 3 in drawn[0] and 3 in drawn[1]


def test_a_user_with_item_0_alone_gets_the_others():
    matrix = sp.csr_matrix([[1.0, 0.0, 0.0]])
    assert set(draws(PairwiseInteractions(matrix).sample_negatives, matrix)[0]) == {1, 2}


def test_rows_given_out_of_order_make_no_difference():
    unsorted = sp.csr_matrix((np.ones(3), np.array([4, 0, 2]), np.array([0, 3])), shape=(1, 6))
    drawn = draws(PairwiseInteractions(unsorted).sample_negatives, unsorted)
    assert set(drawn[0]) == {1, 3, 5}
    assert unsorted.indices.tolist() == [4, 0, 2]  # and the caller's matrix is left as it was


def test_a_user_without_a_negative_is_reported_or_left_out():
    with pytest.raises(ValueError, match="user 1 has interacted with all 3 items"):
        PairwiseInteractions(sp.csr_matrix([[1.0, 0, 0], [1, 1, 1]]))
    args = sp.csr_matrix([[1.0, 1, 0], [1, 0, 0]]), [[0, 0, 1], [0, 0, 1]]
    with pytest.raises(ValueError, match="user 0 has interacted with all 3"):
        PairwiseInteractions(*args)
    dataset = PairwiseInteractions(*args, skip_full=True)
    (users, (positives, negatives)), _ = dataset[torch.arange(len(dataset))]
    assert (users.tolist(), positives.tolist(), negatives.tolist()) == ([1], [0], [1])


def test_items_to_exclude_are_excluded():
    train, test = likes()
    dataset = PairwiseInteractions(test, exclude=train)
    both = (train + test).tocsr()
    for user, items in draws(dataset.sample_negatives, test).items():
        assert not set(items) & set(both[user].indices)
    with pytest.raises(ValueError, match="exclude has shape"):
        PairwiseInteractions(test, exclude=train[:5])


def test_a_stored_zero_is_a_rating_and_excludes_but_is_no_positive():
    matrix = sp.csr_matrix(([1.0, 0, 0], ([0, 0, 0], [0, 1, 2])), shape=(1, 5))
    exclude = sp.csr_matrix(([-1.0, 0, 3], ([0, 0, 0], [0, 3, 4])), shape=(1, 5))  # whatever it is
    dataset = PairwiseInteractions(matrix, exclude=exclude)
    (_, (positives, negatives)), _ = dataset[torch.zeros(50, dtype=torch.long)]
    assert len(dataset) == 1 and matrix.nnz == exclude.nnz == 3
    assert set(positives.tolist()) == {0} and set(negatives.tolist()) == {1, 2}
    assert len(Interactions(matrix)) == 3


def test_negatives_are_new_at_each_look_and_the_same_for_the_same_seed():
    train, _ = likes()
    index = torch.arange(train.nnz)
    (_, (_, first)), _ = PairwiseInteractions(train, generator=generator(5))[index]
    again = PairwiseInteractions(train, generator=generator(5))
    assert torch.equal(first, again[index][0][1][1])
    assert not torch.equal(first, again[index][0][1][1])


# --- Positives and batches --------------------------------------------------------------------


def test_the_dataset_holds_the_matrix_entry_by_entry():
    train, _ = ratings()
    dataset = Interactions(train)
    assert len(dataset) == train.nnz
    (users, items), values = dataset[torch.arange(len(dataset))]
    assert (users.dtype, items.dtype, values.dtype) == (torch.int64, torch.int64, torch.float32)
    rebuilt = sp.csr_matrix((values, (users, items)), shape=train.shape)
    np.testing.assert_allclose(rebuilt.toarray(), train.toarray(), rtol=1e-6)
    (user, item), value = Interactions(sp.csr_matrix([[0.0, 0], [0, 4]]))[0]
    assert (user.item(), item.item(), value.item()) == (1, 1, 4)


@pytest.mark.parametrize("form", [sp.coo_matrix, sp.csc_matrix, sp.lil_matrix, sp.csr_array, list])
def test_any_form_of_a_matrix_will_do(form):
    dataset = Interactions(form(np.array([[0, 3], [2, 0]])))
    assert dataset.items.tolist() == [1, 0]


@pytest.mark.parametrize("dataset", [Interactions, PairwiseInteractions])
def test_what_is_no_matrix_of_numbers_is_refused(dataset):
    for wrong in (pd.DataFrame(np.eye(3)), [1, 2], None, [["a"]]):
        with pytest.raises(TypeError, match=r"the matrix of interactions .*interaction_matrix"):
            dataset(wrong)
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"(nan|inf) at user 0, item 1 .1 such"):
            dataset(sp.csr_matrix([[1.0, value, 0]]))
    if dataset is PairwiseInteractions:
        with pytest.raises(ValueError, match=r"holds -1 at user 1, item 0 .*matrix > 0"):
            dataset(np.array([[1, 0], [-1, 0]]))


@given(st.integers(0, 200), st.integers(1, 70), st.booleans())
@settings(deadline=None)
def test_a_walk_visits_each_index_once(n, batch_size, as_a_large_one):
    with pytest.MonkeyPatch.context() as patch:
        if as_a_large_one:
            patch.setattr(interactions, "PARTS_ABOVE", 10)
        walk = BatchIndices(n, batch_size, generator())
    parts = list(walk)
    assert len(walk) == len(parts)
    assert sorted(index for part in parts for index in part.tolist()) == list(range(n))
    assert all(1 <= len(part) <= batch_size for part in parts)


@pytest.mark.parametrize("as_a_large_one", [False, True])
def test_each_walk_takes_another_order(monkeypatch, as_a_large_one):
    if as_a_large_one:
        monkeypatch.setattr(interactions, "PARTS_ABOVE", 10)
    walk = BatchIndices(100, 20, generator())
    (first, *_), (second, *_) = list(walk), list(walk)
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.arange(20))


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
    walk = BatchIndices(1600, 200, generator())
    counts = np.zeros((1600, 8))
    for _ in range(200):
        for part, batch in enumerate(walk):
            counts[batch, part] += 1
    counts = counts[:-8]  # the last few are dealt in turn
    assert chisquare(counts, axis=None, ddof=len(counts) - 1).pvalue > 1e-3


def test_a_walk_over_a_shard_stays_in_it(monkeypatch):
    shard = torch.tensor([5, 3, 11, 40])
    for limit in (2, 100):
        monkeypatch.setattr(interactions, "PARTS_ABOVE", limit)
        walk = BatchIndices(shard, 3, generator())
        assert sorted(torch.cat(list(walk)).tolist()) == [3, 5, 11, 40]


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "32", None])
def test_an_impossible_batch_size_is_refused(batch_size):
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        BatchIndices(10, batch_size, generator())


@pytest.mark.parametrize("batch_size", [1, 7, 10**12])
def test_an_epoch_of_batches_is_the_whole_dataset(batch_size):
    train, _ = ratings(12, 8)
    loader = batches(Interactions(train), batch_size, generator())
    seen = np.zeros(train.shape)
    for (users, items), values in loader:
        assert users.shape == items.shape == values.shape
        np.add.at(seen, (users.numpy(), items.numpy()), values.numpy())
    np.testing.assert_allclose(seen, train.toarray(), rtol=1e-6)


def test_batches_repeat_with_the_generator_and_leave_torchs_own_alone():
    train, _ = likes()

    def first_batch(seed):
        source = generator(seed)
        return next(iter(batches(PairwiseInteractions(train, generator=source), 50, source)))

    before = torch.get_rng_state()
    (users, (positives, negatives)), _ = first_batch(1)
    (users_again, (_, negatives_again)), _ = first_batch(1)
    (users_other, _), _ = first_batch(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(users, users_again) and torch.equal(negatives, negatives_again)
    assert not torch.equal(users, users_other)
    assert users.shape == positives.shape == negatives.shape == (50,)


def test_a_table_as_one_batch():
    df = pd.DataFrame({"userId": [0, 1], "movieId": [3, 2], "rating": [4.5, 1.0]})
    (users, items), values = full_batch(df)
    assert (users.tolist(), items.tolist(), values.tolist()) == ([0, 1], [3, 2], [4.5, 1.0])
    assert (users.dtype, values.dtype) == (torch.int64, torch.float32)

"""Loading, encoding, splitting and laying out ratings, against independent oracles."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import matrices, ratings, tables
from scipy import sparse

from nmf_helpers.data import (
    EMBEDDED,
    encode_column,
    encode_ratings,
    interaction_matrix,
    item_features,
    leave_n_out,
    load_movies,
    load_ratings,
    split_ratings,
)


def entries(matrix):
    """Return the stored entries as {(user, item): value}."""
    coo = sparse.coo_matrix(matrix)
    pairs = zip(coo.row.tolist(), coo.col.tolist(), strict=True)
    return dict(zip(pairs, coo.data.tolist(), strict=True))


# The datasets


def test_latest_small_is_the_2016_edition():
    df = load_ratings("latest-small")
    assert list(df.columns) == ["userId", "movieId", "rating", "timestamp"]
    assert df.dtypes.astype(str).tolist() == ["int64", "int64", "float64", "int64"]
    assert (len(df), df["userId"].nunique(), df["movieId"].nunique()) == (100_004, 671, 9_066)
    assert df.iloc[0].tolist() == [1, 31, 2.5, 1260759144]
    assert df["rating"].mean() == pytest.approx(3.543608, abs=1e-6)
    assert df.equals(df.sort_values(["userId", "movieId"]))
    assert load_ratings().equals(df)


def test_every_rated_movie_of_latest_small_has_its_row():
    movies = load_movies("latest-small")
    assert list(movies.columns) == ["movieId", "title", "year", "genres"]
    assert movies["movieId"].tolist() == sorted(load_ratings()["movieId"].unique())
    toy_story = ["Toy Story", 1995, "Adventure|Animation|Children|Comedy|Fantasy"]
    assert movies.iloc[0, 1:].tolist() == toy_story
    assert str(movies["year"].dtype) == "Int64"
    assert (movies["title"] == "").sum() == movies["year"].isna().sum() == 5


def test_the_data_travel_with_the_conditions_of_grouplens():
    text = (EMBEDDED / "latest-small" / "README.txt").read_text(encoding="utf-8")
    for needed in ("10.1145/2827872", "Harper", "Konstan", "endorse", "same conditions"):
        assert needed in text


def test_ml_100k_has_its_known_counts():
    df = load_ratings("100k")
    assert (len(df), df["userId"].nunique(), df["movieId"].nunique()) == (100_000, 943, 1_682)
    assert df.iloc[0].tolist() == [196, 242, 3, 881250949]
    assert df.dtypes.astype(str).tolist() == ["int64", "int64", "float64", "int64"]
    movies = load_movies("100k").set_index("movieId")
    assert movies.index.tolist() == list(range(1, 1_683))
    assert movies.loc[1].tolist() == ["Toy Story", 1995, "Animation|Children's|Comedy"]
    assert movies.loc[543, "title"] == "Misérables, Les"
    assert movies.loc[1412, "year"] == 1995
    assert movies.loc[267, ["title", "genres"]].tolist() == ["unknown", "unknown"]
    assert movies["year"].isna().sum() == 1


def test_ml_100k_splits_as_in_the_reference_protocol():
    positives = interaction_matrix(load_ratings("100k"), threshold=4)
    assert positives.shape == (943, 1_682)
    train, test = leave_n_out(positives, n=10, seed=2017)
    assert (train.nnz, test.nnz, (test.getnnz(axis=1) > 0).sum()) == (46_615, 8_760, 876)


@pytest.mark.parametrize(
    ("name", "near"),
    [("latest-smal", "latest-small"), ("ml-latest-small", "latest-small"), ("ML-100K", "100k")],
)
def test_an_unknown_dataset_suggests_the_nearest(name, near):
    for load in (load_ratings, load_movies):
        with pytest.raises(ValueError, match=f"unknown dataset.* '{name}': did you mean '{near}'"):
            load(name)


# Encoding


@given(st.lists(st.integers() | st.sampled_from([1, 2, 3])), st.lists(st.integers(-5, 5)))
def test_encoding_numbers_values_by_first_appearance(column, train):
    for source in (None, train):
        index, codes, n = encode_column(column, source)
        expected = {}
        for value in column if source is None else source:
            expected.setdefault(value, len(expected))
        assert index == expected
        assert n == len(expected)
        assert codes.dtype == np.int64
        assert codes.tolist() == [expected.get(value, -1) for value in column]


def test_encoding_takes_text_as_well():
    index, codes, n = encode_column(pd.Series(["b", "a", "b"]), pd.Series(["a", "c"]))
    assert (index, codes.tolist(), n) == ({"a": 0, "c": 1}, [-1, 0, -1], 2)


@given(tables(min_size=0), tables() | st.none())
@pytest.mark.filterwarnings("ignore:train knows none")
def test_encoding_keeps_and_counts_exactly_what_train_knows(df, train):
    before, encoded = df.copy(), encode_ratings(df, train)
    assert df.equals(before)
    train = df if train is None else train
    users = {u: i for i, u in enumerate(dict.fromkeys(train["userId"]))}
    items = {m: i for i, m in enumerate(dict.fromkeys(train["movieId"]))}
    rows = list(df.itertuples(index=False, name=None))
    kept = [(users[u], items[m], r) for u, m, r in rows if u in users and m in items]
    assert list(encoded.itertuples(index=False, name=None)) == kept
    assert encoded.attrs == {
        "n_users": len(users),
        "n_items": len(items),
        "dropped": {
            "rows": len(rows) - len(kept),
            "unknown_user": sum(u not in users for u, _, _ in rows),
            "unknown_movie": sum(m not in items for _, m, _ in rows),
        },
    }


def test_ids_of_which_train_knows_none_are_noticed():
    df = ratings([(5, 7, 3.0)])
    with pytest.warns(UserWarning, match="train knows none of these 1 rows"):
        assert encode_ratings(df, ratings([(6, 7, 3.0)])).empty


def test_the_tutorials_split_and_encoding_leave_the_known_counts():
    train, valid = split_ratings(load_ratings("latest-small"))
    assert (len(train), len(valid)) == (79_799, 20_205)
    encoded = encode_ratings(valid, train)
    assert len(encoded) == 19_507
    assert (encoded.attrs["n_users"], encoded.attrs["n_items"]) == (671, 8_442)
    assert encoded.attrs["dropped"] == {"rows": 698, "unknown_user": 0, "unknown_movie": 698}


# Splitting


@given(tables(min_size=0), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
def test_the_split_is_the_one_of_numpys_global_generator(df, fraction, seed):
    state = np.random.get_state()
    train, valid = split_ratings(df, fraction, seed)
    assert np.array_equal(np.random.get_state()[1], state[1])
    np.random.seed(seed)
    mask = np.random.rand(len(df)) < fraction
    np.random.set_state(state)
    assert train.equals(df[mask])
    assert valid.equals(df[~mask])


# The matrix


@given(tables(), st.sampled_from([None, 0.5, 3.5, 5.0]))
@pytest.mark.filterwarnings("ignore:these ids count from 0, with gaps")
def test_the_matrix_numbers_original_ids_in_ascending_order(df, threshold):
    rows = list(df.itertuples(index=False, name=None))
    users, items = sorted({u for u, _, _ in rows}), sorted({m for _, m, _ in rows})
    expected = {
        (users.index(u), items.index(m)): r if threshold is None else 1.0
        for u, m, r in rows
        if threshold is None or r >= threshold
    }
    if not expected:
        with pytest.raises(ValueError, match=f"no rating reaches threshold={threshold}"):
            interaction_matrix(df, threshold)
        return
    matrix = interaction_matrix(df, threshold)
    assert matrix.shape == (len(users), len(items))
    assert (matrix.format, matrix.dtype) == ("csr", np.float32)
    assert entries(matrix) == expected


def test_encoded_ids_are_the_positions_in_the_matrix_and_codes_without_attrs_are_noticed():
    train = ratings([(9, 50, 1.0), (3, 40, 2.0), (9, 40, 3.0)])
    valid = encode_ratings(ratings([(3, 50, 5.0), (4, 50, 1.0)]), train)
    assert entries(interaction_matrix(valid)) == {(1, 0): 5.0}
    assert interaction_matrix(valid).shape == (2, 2)
    assert interaction_matrix(valid, shape=(5, 6)).shape == (5, 6)
    with pytest.warns(UserWarning, match=r"numbered anew.*shape=\(n_users, n_items\)"):
        assert interaction_matrix(ratings([(0, 0, 1.0), (2, 1, 1.0)])).shape == (2, 2)


# Holding out


@given(matrices(), st.integers(1, 4), st.integers(0, 99))
def test_n_entries_of_each_user_with_more_are_held_out(matrix, n, seed):
    before = matrix.copy()
    counts = np.diff(matrix.indptr)
    if counts.max() <= n:
        with pytest.raises(ValueError, match=f"than n={n} entries; the most is {counts.max()}"):
            leave_n_out(matrix, n, seed)
        return
    train, test = leave_n_out(matrix, n, seed)
    assert train.shape == test.shape == matrix.shape
    assert train.dtype == test.dtype == matrix.dtype
    assert np.diff(test.indptr).tolist() == [n if count > n else 0 for count in counts]
    assert not set(entries(train)) & set(entries(test))
    assert {**entries(train), **entries(test)} == entries(matrix)
    assert (matrix != before).nnz == 0
    assert (leave_n_out(sparse.coo_matrix(matrix), n, seed)[1] != test).nnz == 0


def test_every_entry_is_as_likely_to_be_held_out_as_any_other():
    matrix = sparse.csr_matrix(np.ones((5000, 6)))
    _, test = leave_n_out(matrix, n=2, seed=0)
    held_out = np.asarray(test.sum(axis=0)).ravel()  # 5000 * 2 / 6 expected each
    expected = 5000 * 2 / 6
    chi2 = ((held_out - expected) ** 2 / (expected * (1 - 2 / 6))).sum() * 5 / 6
    assert chi2 < 20.5  # 0.999 quantile of chi-squared with 5 degrees of freedom


def test_item_features_are_shares_of_genres_and_of_years():
    movies = pd.DataFrame({"movieId": [7, 1, 3], "genres": ["A|B", "B", ""]})
    movies["year"] = pd.array([1950, 1990, None], dtype="Int64")  # the last counts as 1970
    features = item_features(movies, items=[7, 1, 3])
    half = 0.5**0.5
    np.testing.assert_allclose(features[:, :2], [[half, half], [0, 1], [0, 0]])
    np.testing.assert_allclose(features[:, 2:].sum(axis=1), 1)
    np.testing.assert_array_equal(item_features(movies), features[[1, 2, 0]])  # by movieId
    with pytest.raises(ValueError, match="movies has no row for 1 of the items, 9 first"):
        item_features(movies, items=[1, 9])


# What is refused


ONE = ratings([(1, 1, 3.0)])
REFUSED = [
    *((lambda f=f: split_ratings(ONE, f), "train_fraction must be a number, above 0 and below 1")
      for f in (0, 1, 80, None)),
    (lambda: split_ratings(ONE, seed=-1), "seed must be a whole number, at least 0"),
    (lambda: interaction_matrix(ONE, "4"), "threshold must be a number, not"),
    (lambda: interaction_matrix(ratings([(0, 0, np.nan)])), "finite number"),
    *((lambda r=r: interaction_matrix(ratings([(0, 0, 1.0), r]), shape=(2, 3)),
       r"Id must lie between 0 and \d.*encode_ratings")
      for r in ((-1, 0, 3.0), (2, 0, 3.0), (0, -1, 3.0), (0, 3, 3.0))),
    (lambda: interaction_matrix(pd.concat([ONE, ONE])), "user 1 rates movie 1 more than.*drop_dup"),
    (lambda: leave_n_out(sparse.csr_matrix(np.ones((2, 5))), 0), "n must be a whole number"),
    (lambda: encode_column(pd.Series([1, None], name="userId")), "'userId' has missing values"),
    (lambda: encode_ratings(ONE, train=encode_ratings(ONE)), "encoded already"),
    (lambda: encode_ratings(ONE, train=ONE.astype({"userId": str})), "userId is text in one table"),
    (lambda: encode_ratings(ONE, train=ONE[["userId"]]), "no column 'movieId'"),
    (lambda: load_ratings(ONE), r"path, not a DataFrame: check_ratings\(df\) takes a table"),
    (lambda: load_ratings("100k", columns={"user": "userId"}), "100k is read as it is; columns="),
]  # fmt: skip


@pytest.mark.parametrize(("call", "complaint"), REFUSED)
def test_what_cannot_be_is_refused_with_what_can(call, complaint):
    with pytest.raises((ValueError, IndexError, TypeError), match=complaint):
        call()

"""Ratings in, encoded ids and sparse matrices out.

A ratings table has one row per rating: ``userId, movieId, rating`` and, usually, ``timestamp``.
"""

import warnings
from collections.abc import Hashable
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from nmf_helpers.checks import check_ids, check_matrix, check_number, nearest
from nmf_helpers.fetch import fetch_100k
from nmf_helpers.files import COLUMNS, Columns, check_ratings, check_table, read_ratings

DATASETS = ["latest-small", "100k"]
EMBEDDED = Path(__file__).parent / "datasets"


def load_ratings(
    name: str | Path = "latest-small", columns: Columns = None, **reading: Any
) -> pd.DataFrame:
    """Load a ratings table: one of two datasets, or a file of your own.

    - `name`: ``"latest-small"`` comes with this package: 100,004 ratings by 671 users of 9,066
      movies, half stars from 0.5 to 5. ``"100k"`` is fetched once and kept: 100,000 ratings by 943
      users of 1,682 movies, whole stars from 1 to 5 (Harper and Konstan, "The MovieLens Datasets",
      ACM TiiS 5(4), 2015). Or the path of a file: text with a comma, semicolon, tab or ``::``
      between columns, packed or not, or Parquet.
    - `columns`, for other column names, are yours and ours: ``{"user": "userId", "isbn": "movieId",
      "stars": "rating"}``; for a file without names, ours in the file's order, None for one to
      leave out: ``["userId", "movieId", "rating", None, "timestamp"]``.
    - `reading` is what a file doesn't show: ``sep`` between columns; ``encoding``, such as
      ``"latin-1"``; and which of two ratings of one movie by one user to ``keep``, ``"first"`` or
      ``"last"`` (they are refused otherwise).

    Other columns are left out; types are as by :func:`check_ratings`, rows in the file's order.
    ValueError or OSError: no such name or file; a file that can't be read without doubt (the
    message says where, why, and what to write); or ``"100k"`` can't be fetched.
    """
    if not isinstance(name, str | PathLike):
        given = f"a {type(name).__name__}: check_ratings(df) takes a table that is loaded already"
        raise TypeError(f"load_ratings takes a dataset's name or a file's path, not {given}")
    if name in DATASETS and (columns or reading):
        raise ValueError(f"{name} is read as it is; columns= and others are for a file of your own")
    if name == "latest-small":
        return check_ratings(pd.read_csv(EMBEDDED / name / "ratings.csv.gz"))
    if name == "100k":
        u_data = BytesIO(fetch_100k().ratings)
        return check_ratings(pd.read_csv(u_data, sep="\t", header=None, names=COLUMNS))
    path = Path(name).expanduser()
    if not (path.suffix or path.exists() or path.parent.name):
        nearest('dataset (a file needs a path such as "my.csv")', str(name), DATASETS)
    return read_ratings(path, columns, **reading)


def load_movies(name: str = "latest-small") -> pd.DataFrame:
    """Load the movies of a dataset, ``"latest-small"`` or ``"100k"``, by movieId.

    Columns: ``movieId`` (int64), ``title`` (without the year; empty for 5 movies of latest-small),
    ``year`` (Int64, missing where unknown) and ``genres`` (joined by ``"|"``).
    """
    if nearest("dataset", name, DATASETS) == "100k":
        columns = ["movieId", "title", "year", "genres"]
        return pd.DataFrame(fetch_100k().movies, columns=columns).astype({"year": "Int64"})
    # Without keep_default_na=False a movie called "Null" would lose its title.
    file, empty = EMBEDDED / name / "movies.csv.gz", {"year": [""]}
    return pd.read_csv(file, dtype={"year": "Int64"}, keep_default_na=False, na_values=empty)


def split_ratings(
    df: pd.DataFrame, train_fraction: float = 0.8, seed: int = 3
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split ratings at random: (train, validation); `train_fraction` is the chance of train."""
    check_table(df, "df", [])
    check_number("train_fraction", train_fraction, above=0, below=1)
    check_number("seed", seed, at_least=0, at_most=2**32 - 1, whole=True)
    # What np.random.seed(seed) and np.random.rand() draw, without touching others' random numbers.
    in_train = np.random.RandomState(seed).rand(len(df)) < train_fraction
    return df[in_train].copy(), df[~in_train].copy()


def encode_column(
    column: pd.Series, train_column: pd.Series | None = None
) -> tuple[dict[Hashable, int], np.ndarray, int]:
    """Give the values of a column the codes 0, 1, 2, ... in order of first appearance.

    The codes come from `train_column`, if there is one. Returned are a dict from value to code; the
    column's codes, int64 of shape (len(column),), -1 for a value that `train_column` doesn't have;
    and the number of codes. ValueError: a value is missing. TypeError: text against numbers.
    """
    column = pd.Series(column)
    train_column = column if train_column is None else pd.Series(train_column)
    kinds = {pd.api.types.infer_dtype(np.asarray(part)) for part in (column, train_column)}
    if "string" in kinds and kinds & {"integer", "floating"}:
        same = f"make both text, with df.astype({{{column.name!r}: str}}), or read both files alike"
        raise TypeError(f"{column.name} is text in one table and numbers in the other: {same}")
    if column.isna().any() or train_column.isna().any():
        raise ValueError(f"column {column.name!r} has missing values; drop those rows first")
    values = pd.Index(train_column.unique())
    index = {value: code for code, value in enumerate(values.tolist())}
    return index, values.get_indexer(column).astype("int64"), len(values)


def encode_ratings(df: pd.DataFrame, train: pd.DataFrame | None = None) -> pd.DataFrame:
    """Replace userId and movieId by codes counting from 0; drop and count what train never saw.

    Both tables have original ids; those of `train` (`df` by default) get the codes. ``attrs`` of
    the result: ``n_users`` and ``n_items``, the numbers of codes, and ``dropped``: how many
    ``rows``, and how many for an ``unknown_user`` or an ``unknown_movie`` (a row may be both).
    """
    train = df if train is None else train
    check_table(df, "df", COLUMNS[:2])
    check_table(train, "train", COLUMNS[:2])
    if ("n_users" in df.attrs) != ("n_users" in train.attrs):
        raise ValueError("one of df and train is encoded already: give both with original ids")
    _, users, n_users = encode_column(df["userId"], train["userId"])
    _, items, n_items = encode_column(df["movieId"], train["movieId"])
    known = (users >= 0) & (items >= 0)
    if len(df) and not known.any():
        warnings.warn(f"train knows none of these {len(df)} rows: same kind of ids?", stacklevel=2)
    encoded = df.assign(userId=users, movieId=items)[known].copy()
    unknown = {"rows": ~known, "unknown_user": users < 0, "unknown_movie": items < 0}
    dropped = {why: int(rows.sum()) for why, rows in unknown.items()}
    encoded.attrs = {**df.attrs, "n_users": n_users, "n_items": n_items, "dropped": dropped}
    return encoded


def interaction_matrix(
    df: pd.DataFrame, threshold: float | None = None, shape: tuple[int, int] | None = None
) -> sparse.csr_matrix:
    """Lay ratings out as a sparse users x movies matrix, CSR of float32.

    Encoded ids (:func:`encode_ratings`) are the row and column numbers; original ids are numbered
    in ascending order. With a `threshold` the matrix is 1 where ``rating >= threshold`` and empty
    elsewhere. A `shape`, (n_users, n_items), is for ids that are row and column numbers already.
    Errors: as :func:`check_ratings`; ids outside the shape; a threshold above every rating.
    """
    df = check_ratings(df)
    users, items = df["userId"], df["movieId"]
    if shape is None and "n_users" in df.attrs:
        shape = (df.attrs["n_users"], df.attrs["n_items"])
    if shape is None:
        (rows, user_ids), (columns, item_ids) = (pd.factorize(x, sort=True) for x in (users, items))
        shape = (len(user_ids), len(item_ids))
        counted = users.dtype == items.dtype == np.int64 and min(user_ids[0], item_ids[0]) == 0
        if counted and (user_ids[-1] >= shape[0] or item_ids[-1] >= shape[1]):
            known = "these ids count from 0, with gaps, and are numbered anew"
            codes = "if codes lost their attrs (in a merge, a file), give shape=(n_users, n_items)"
            warnings.warn(f"{known}: {codes}; ids go by encode_ratings(df)", stacklevel=2)
    else:
        rows = check_ids("userId", users, shape[0])
        columns = check_ids("movieId", items, shape[1])
    values = df["rating"].to_numpy("float32")
    if threshold is not None:
        check_number("threshold", threshold)
        keep = df["rating"].to_numpy() >= threshold
        if not keep.any():
            raise ValueError(f"no rating reaches {threshold=}: the highest is {max(df.rating)}")
        rows, columns, values = rows[keep], columns[keep], np.ones(keep.sum(), "float32")
    return sparse.csr_matrix((values, (rows, columns)), shape=shape)


def leave_n_out(
    matrix: Any, n: int = 10, seed: int | np.random.Generator = 2017
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Hold out `n` random entries of every user who has more than `n`; the others give none.

    Returned are two disjoint parts, train and test, in the shape of the matrix, (n_users, n_items).
    Refused are a table in place of a matrix, and an `n` below 1 or that nobody exceeds.
    """
    entries = check_matrix("the matrix", matrix, may_be_empty=True).tocoo()
    check_number("n", n, at_least=1, whole=True)
    users, items = entries.coords  # (n_entries,) each, user by user
    counts = np.bincount(users, minlength=entries.shape[0])  # (n_users,)
    if (most := counts.max(initial=0)) <= n:
        raise ValueError(f"nobody has more than n={n} entries; the most is {most}: use a smaller n")
    # Shuffle each user's entries by ranking random keys, and hold out the first n.
    keys = pd.Series(np.random.default_rng(seed).random(len(users)))
    held_out = (keys.groupby(users).rank() <= n).to_numpy() & (counts > n)[users]
    train, test = (
        sparse.csr_matrix((entries.data[part], (users[part], items[part])), shape=entries.shape)
        for part in (~held_out, held_out)
    )
    return train, test


def item_features(movies: pd.DataFrame, items: Any = None) -> np.ndarray:
    """Describe each movie by its genres and its year: float64 of shape (n_items, f).

    `movies` is as from :func:`load_movies`. `items` are the movieIds in the order of a matrix's
    columns, all of them in `movies`; by default all, ascending. A row has a flag for each genre
    divided by √(number of the movie's genres); then how near the year is to each of at most 13
    quantiles of all years, linear between two of them (the median year where it is missing).
    """
    check_table(movies, "movies", ["movieId", "genres", "year"])
    table = movies.drop_duplicates("movieId").set_index("movieId")
    wanted = np.sort(table.index) if items is None else np.asarray(items)
    if missing := set(wanted.tolist()) - set(table.index):
        raise ValueError(f"movies has no row for {len(missing)} of the items, {min(missing)} first")
    table = table.loc[wanted]
    flags = table["genres"].fillna("").str.get_dummies("|").drop(columns="", errors="ignore")
    genres = flags.div(flags.sum(axis=1).clip(lower=1) ** 0.5, axis=0).to_numpy("float64")
    year = table["year"].astype("Float64")
    year = year.fillna(year.median()).to_numpy("float64")
    knots = np.unique(np.quantile(year, np.linspace(0, 1, 13)))  # closer where there are more
    hats = [np.interp(year, knots, peak) for peak in np.eye(len(knots))]
    return np.column_stack([genres, *hats])

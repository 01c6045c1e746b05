"""Ratings in, encoded ids and sparse matrices out.

A ratings table has one row per rating: ``userId, movieId, rating`` and, usually, ``timestamp``.
Models need more: ids that count 0, 1, 2, ... without gaps (:func:`encode_ratings`), a part of the
ratings kept back to judge them by (:func:`split_ratings`, :func:`leave_n_out`), and often the
whole table as one sparse users x movies matrix (:func:`interaction_matrix`).
"""

from collections.abc import Hashable
from difflib import get_close_matches
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from nmf_helpers.checks import check_number
from nmf_helpers.fetch import fetch_100k

COLUMNS = ["userId", "movieId", "rating", "timestamp"]
DATASETS = ["latest-small", "100k"]
EMBEDDED = Path(__file__).parent / "datasets"


def load_ratings(name: str | Path = "latest-small") -> pd.DataFrame:
    """Load a ratings table.

    Parameters
    ----------
    name
        ``"latest-small"``, which comes with this package: 100,004 ratings by 671 users of 9,066
        movies, half stars from 0.5 to 5.
        ``"100k"``, fetched once and kept: 100,000 ratings by 943 users of 1,682 movies, whole
        stars from 1 to 5.
        Or the path of a CSV file of your own with the columns ``userId``, ``movieId``,
        ``rating`` and, if you like, ``timestamp``; other columns are left out.

    Returns
    -------
    DataFrame
        ``userId``, ``movieId`` and ``timestamp`` (seconds since 1970) as int64, ``rating`` as
        float64; rows in the file's order.

    Raises
    ------
    ValueError
        Unknown name, or a file that is not a ratings table: the message says where and why.
    FileNotFoundError
        No file at this path.
    nmf_helpers.fetch.FetchError
        ``"100k"`` is not in the cache and no way to fetch it worked.

    References
    ----------
    F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4),
    2015.
    """
    if not isinstance(name, str | Path):
        raise TypeError(
            f"load_ratings takes a name or the path of a file, not {type(name).__name__}; "
            "check_ratings(df) checks a table that is loaded already"
        )
    if name == "latest-small":
        return check_ratings(pd.read_csv(EMBEDDED / name / "ratings.csv.gz"))
    if name == "100k":
        u_data = BytesIO(fetch_100k().ratings)
        return check_ratings(pd.read_csv(u_data, sep="\t", header=None, names=COLUMNS))
    path = Path(name)
    if not path.is_file():
        if path.suffix:
            raise FileNotFoundError(f"there is no file {path.name} in {path.parent.resolve()}")
        raise ValueError(_unknown(str(name)) + ' For a file of your own, give its path: "my.csv".')
    try:
        df = pd.read_csv(path, skipinitialspace=True, index_col=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read as a CSV file in UTF-8: {error}") from error
    return check_ratings(df, str(path))


def load_movies(name: str = "latest-small") -> pd.DataFrame:
    """Load the movies of a dataset, ``"latest-small"`` or ``"100k"``.

    Returns
    -------
    DataFrame
        ``movieId`` (int64), ``title`` (without the year; empty for 5 movies of latest-small),
        ``year`` (Int64, missing where unknown) and ``genres`` (joined by ``"|"``), by movieId.
    """
    if name not in DATASETS:
        raise ValueError(_unknown(str(name)))
    if name == "100k":
        columns = ["movieId", "title", "year", "genres"]
        return pd.DataFrame(fetch_100k().movies, columns=columns).astype({"year": "Int64"})
    # Without keep_default_na=False a movie called "Null" would lose its title.
    return pd.read_csv(
        EMBEDDED / name / "movies.csv.gz",
        dtype={"year": "Int64"},
        keep_default_na=False,
        na_values={"year": [""]},
    )


def check_ratings(df: pd.DataFrame, source: str = "the ratings") -> pd.DataFrame:
    """Return the rating columns of `df` with their proper types, or say what is wrong with it.

    Raises
    ------
    ValueError
        A missing column, no rows, an id or timestamp that is not a whole number, a rating that
        is not a finite number, or two ratings of one movie by one user.
    """
    _require_columns(df, COLUMNS[:3], source)
    if df.empty:
        raise ValueError(f"{source}: there are no ratings, only column names")
    present = [column for column in COLUMNS if column in df.columns]
    numbers = {column: _numbers(df[column], column != "rating", source) for column in present}
    result = pd.DataFrame(numbers, index=df.index)
    twice = result.duplicated(["userId", "movieId"])
    if twice.any():
        user, movie = result.loc[twice.to_numpy(), ["userId", "movieId"]].iloc[0]
        raise ValueError(
            f"{source}: user {user} rates movie {movie} more than once ({twice.sum()} such rows); "
            'keep one, say with df.drop_duplicates(["userId", "movieId"], keep="last")'
        )
    result.attrs = df.attrs
    return result


def split_ratings(
    df: pd.DataFrame, train_fraction: float = 0.8, seed: int = 3
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split ratings at random, each row by itself, into (train, valid).

    Every row goes to train with probability `train_fraction`, so that the sizes come out near
    that fraction, not exactly at it.
    """
    check_number("train_fraction", train_fraction, above=0, below=1)
    check_number("seed", seed, at_least=0, at_most=2**32 - 1, whole=True)
    # RandomState(seed) draws what np.random.seed(seed); np.random.rand() would, without touching
    # anyone else's random numbers.
    in_train = np.random.RandomState(seed).rand(len(df)) < train_fraction
    return df[in_train].copy(), df[~in_train].copy()


def encode_column(
    column: pd.Series, train_column: pd.Series | None = None
) -> tuple[dict[Hashable, int], np.ndarray, int]:
    """Give the values of a column the codes 0, 1, 2, ... in order of first appearance.

    Parameters
    ----------
    column
        Values to encode, such as user ids.
    train_column
        Where the codes come from, if not from `column` itself.

    Returns
    -------
    index : dict
        From value to code.
    codes : int64 array, shape (len(column),)
        The code of each value, -1 for a value that `train_column` doesn't have.
    n : int
        How many different codes there are.

    Raises
    ------
    ValueError
        A missing value (NaN, None) in either column.
    """
    column = pd.Series(column)
    train_column = column if train_column is None else pd.Series(train_column)
    if column.isna().any() or train_column.isna().any():
        raise ValueError(f"column {column.name!r} has missing values; drop those rows first")
    values = pd.Index(train_column.unique())
    index = {value: code for code, value in enumerate(values.tolist())}
    return index, values.get_indexer(column).astype("int64"), len(values)


def encode_ratings(df: pd.DataFrame, train: pd.DataFrame | None = None) -> pd.DataFrame:
    """Replace userId and movieId by codes counting from 0; drop and count what train never saw.

    Parameters
    ----------
    df
        Ratings with their original ids.
    train
        Ratings with their original ids whose users and movies get the codes; `df` by default.

    Returns
    -------
    DataFrame
        A copy of `df` without the rows whose user or movie is not in `train`. Its ``attrs`` hold
        ``n_users`` and ``n_items``, the numbers of codes, and ``dropped``: how many ``rows`` were
        dropped, how many of them for an ``unknown_user`` and how many for an ``unknown_movie``
        (a row can count as both).
    """
    train = df if train is None else train
    _require_columns(df, ["userId", "movieId"], "df")
    _require_columns(train, ["userId", "movieId"], "train")
    if ("n_users" in df.attrs) != ("n_users" in train.attrs):
        raise ValueError("one of df and train is encoded already: give both with original ids")
    _, users, n_users = encode_column(df["userId"], train["userId"])
    _, items, n_items = encode_column(df["movieId"], train["movieId"])
    known = (users >= 0) & (items >= 0)
    encoded = df.assign(userId=users, movieId=items)[known].copy()
    dropped = {
        "rows": int((~known).sum()),
        "unknown_user": int((users < 0).sum()),
        "unknown_movie": int((items < 0).sum()),
    }
    encoded.attrs = {**df.attrs, "n_users": n_users, "n_items": n_items, "dropped": dropped}
    return encoded


def interaction_matrix(
    df: pd.DataFrame, threshold: float | None = None, shape: tuple[int, int] | None = None
) -> sparse.csr_matrix:
    """Lay ratings out as a sparse users x movies matrix.

    Parameters
    ----------
    df
        Ratings, one row each. Encoded ids (:func:`encode_ratings`) are the row and column
        numbers; original ids are numbered in ascending order, smallest id first.
    threshold
        If given, the matrix is 1 where ``rating >= threshold`` and empty elsewhere.
    shape
        (n_users, n_items), for ids that are row and column numbers already.

    Returns
    -------
    scipy.sparse.csr_matrix
        float32, shape (n_users, n_items); the shape doesn't depend on `threshold`.

    Raises
    ------
    ValueError
        As :func:`check_ratings`; ids outside `shape`; or a threshold above every rating.
    """
    df = check_ratings(df)
    if shape is None and "n_users" in df.attrs:
        shape = (df.attrs["n_users"], df.attrs["n_items"])
    if shape is None:
        users, rows = np.unique(df["userId"], return_inverse=True)
        items, columns = np.unique(df["movieId"], return_inverse=True)
        shape = (len(users), len(items))
    else:
        rows, columns = df["userId"].to_numpy(), df["movieId"].to_numpy()
        for name, ids, n in (("userId", rows, shape[0]), ("movieId", columns, shape[1])):
            if ids.min() < 0 or ids.max() >= n:
                raise ValueError(
                    f"{name} must lie in 0 ... {n - 1} to be a position in a matrix of shape "
                    f"{shape}, but goes from {ids.min()} to {ids.max()}"
                )
    values = df["rating"].to_numpy("float32")
    if threshold is not None:
        check_number("threshold", threshold)
        keep = df["rating"].to_numpy() >= threshold
        if not keep.any():
            raise ValueError(
                f"no rating reaches the threshold {threshold}: the highest is {df['rating'].max()}"
            )
        rows, columns, values = rows[keep], columns[keep], np.ones(keep.sum(), "float32")
    return sparse.csr_matrix((values, (rows, columns)), shape=shape)


def leave_n_out(
    matrix: Any, n: int = 10, seed: int | np.random.Generator = 2017
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Hold out `n` random entries of every user who has more than `n`; the others give none.

    Parameters
    ----------
    matrix
        Sparse, shape (n_users, n_items).
    n
        Entries to hold out per user, at least 1.
    seed
        Seed or generator of the random choice.

    Returns
    -------
    train, test : scipy.sparse.csr_matrix
        Same shape as `matrix`; no entry is in both, every entry is in one.

    Raises
    ------
    ValueError
        `n` below 1, or so large that nobody has more than `n` entries.
    """
    matrix = sparse.csr_matrix(matrix, copy=True)
    matrix.sum_duplicates()
    counts = np.diff(matrix.indptr)  # (n_users,)
    check_number("n", n, at_least=1, whole=True)
    if not (counts > n).any():
        most = counts.max(initial=0)
        raise ValueError(
            f"nobody has more than n={n} entries; the most is {most}: choose a smaller n"
        )
    users = np.repeat(np.arange(len(counts)), counts)  # (n_entries,)
    # Shuffle each user's entries by sorting on random keys, and hold out the first n.
    shuffled = np.lexsort((np.random.default_rng(seed).random(len(users)), users))
    position = np.empty(len(users), dtype="int64")
    position[shuffled] = np.arange(len(users)) - matrix.indptr[users]
    held_out = (position < n) & (counts > n)[users]
    return _keep(matrix, ~held_out), _keep(matrix, held_out)


def _keep(matrix: sparse.csr_matrix, entries: np.ndarray) -> sparse.csr_matrix:
    """Return the matrix with only those of its stored entries where the mask is true."""
    kept_before = np.concatenate([[0], np.cumsum(entries)])
    parts = matrix.data[entries], matrix.indices[entries], kept_before[matrix.indptr]
    return sparse.csr_matrix(parts, shape=matrix.shape)


def _numbers(column: pd.Series, whole: bool, source: str) -> np.ndarray:
    """Return the column as int64 (`whole`) or float64, or say where it holds something else."""
    numbers = pd.to_numeric(column, errors="coerce")
    values = numbers.to_numpy("float64", na_value=np.nan)
    good = np.isfinite(values)
    if whole:
        good &= (values == np.round(values)) & (abs(values) < 2**63)
    if not good.all():
        row = int(good.argmin())
        raise ValueError(
            f"{source}: {column.name} must be a {'whole' if whole else 'finite'} number, but is "
            f"{column.iloc[[row]].tolist()[0]!r} in row {row + 1} of {len(column)} "
            f"({(~good).sum()} such rows)"
        )
    return numbers.to_numpy("int64") if whole else values


def _require_columns(df: pd.DataFrame, wanted: list[str], source: str) -> None:
    for column in wanted:
        if column not in df.columns:
            found = [str(c) for c in df.columns]
            lower = {c.lower().replace("_", ""): c for c in found}
            near = get_close_matches(column.lower(), lower, n=1, cutoff=0.5)
            hint = f"; rename {lower[near[0]]!r} to {column!r}?" if near else ""
            hint = hint or ("; a comma must stand between columns" if len(found) == 1 else "")
            raise ValueError(f"{source}: there is no column {column!r} among {found}{hint}")


def _unknown(name: str) -> str:
    near = get_close_matches(name.lower().removeprefix("ml-"), DATASETS, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"there is no dataset {name!r}, only {DATASETS}.{hint}"


def item_features(movies: pd.DataFrame, items: Any = None) -> np.ndarray:
    """Describe each movie by its genres and its year, in numbers of about size 1.

    Parameters
    ----------
    movies
        As from :func:`load_movies`: ``movieId``, ``genres`` joined by ``"|"``, ``year``.
    items
        The movieIds in the order of a matrix's columns; ascending by default.

    Returns
    -------
    float64 array, shape (n_items, f)
        A flag for each genre divided by √(number of the movie's genres); then how near the year
        is to each of at most 13 quantiles of all years, linear between two of them (the median
        year where it is missing).

    Raises
    ------
    ValueError
        If `movies` lacks one of the items.
    """
    _require_columns(movies, ["movieId", "genres", "year"], "movies")
    table = movies.drop_duplicates("movieId").set_index("movieId")
    wanted = np.sort(table.index) if items is None else np.asarray(items)
    if missing := set(wanted.tolist()) - set(table.index):
        raise ValueError(f"movies has no row for {len(missing)} of the items, {min(missing)} first")
    table = table.loc[wanted]
    flags = table["genres"].fillna("").str.get_dummies("|").drop(columns="", errors="ignore")
    genres = flags.to_numpy("float64")
    genres = genres / np.sqrt(np.maximum(genres.sum(axis=1, keepdims=True), 1))
    year = table["year"].astype("Float64")
    year = year.fillna(year.median()).to_numpy("float64")
    knots = np.unique(np.quantile(year, np.linspace(0, 1, 13)))  # closer where there are more
    hats = [np.interp(year, knots, peak) for peak in np.eye(len(knots))]
    return np.column_stack([genres, *hats])

"""What a table of ratings is: which columns it has, and what may stand in them."""

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import date
from difflib import get_close_matches
from numbers import Real
from typing import Literal

import numpy as np
import pandas as pd
from pandas.api import types

from nmf_helpers.checks import nearest

Columns = Sequence[str | None] | Mapping[str, str | None] | None
Keep = Literal["first", "last"] | None
Checked = tuple[np.ndarray, np.ndarray]  # values, and which of them are good; shape (n,) each

COLUMNS = ["userId", "movieId", "rating", "timestamp"]  # the last may be missing
WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,18})([.,]0)?")  # as programs write it: 7 or 7.0, not 007
NUMBER = re.compile(r"[+-]?([0-9]+[.,]?[0-9]*|[.,][0-9]+)([eE][+-]?[0-9]+)?")
THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}[.][0-9]{3}")
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ].*)?")
MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "<na>", "nat", r"\n"}
WANTED = {
    "userId": "a whole number below 2**63, or text",
    "movieId": "a whole number below 2**63, or text",
    "rating": "a finite number",
    "timestamp": "a whole number of seconds since 1970 (below 10**11), or a date as 2001-12-31",
}
USUAL_NAMES = {
    "userId": "user userid uid reviewer reviewerid customer customerid member memberid reader "
    "listener",
    "movieId": "movie movieid film filmid item itemid book bookid isbn asin product productid "
    "game gameid artist artistid song songid track trackid business businessid anime animeid",
    "rating": "ratings score scores star stars bookrating overall grade value points",
    "timestamp": "time date datetime unixtime unixreviewtime createdat reviewdate ratedat",
}


def check_ratings(df: pd.DataFrame, source: str = "the ratings") -> pd.DataFrame:
    """Return the rating columns of a table with their proper types, or say what is wrong.

    Parameters
    ----------
    df
        ``userId``, ``movieId``, ``rating`` and, if there is one, ``timestamp``.
    source
        What an error calls the table.

    Returns
    -------
    DataFrame
        ``userId`` and ``movieId`` as int64, or as text if one of the column isn't a plain whole
        number ("007" is not 7); ``rating`` as float64; ``timestamp`` as int64 seconds since 1970,
        dates without a time zone taken as UTC. Index and ``attrs`` stay.

    Raises
    ------
    ValueError
        A column that is missing or there twice, no rows, an empty field, a rating that isn't
        finite, or two ratings of one item by one user.
    """
    our_names(df.columns, None, source)
    return checked(df, source, lambda row: f"row {row + 1} of {len(df)}", ".", None)


def checked(
    df: pd.DataFrame, source: str, where: Callable[[int], str], decimal: str, keep: Keep
) -> pd.DataFrame:
    """Check a table; `where` says in which line a row stands, `keep` which of two ratings stays."""
    if df.empty:
        raise ValueError(f"{source}: there are no ratings, only column names")
    result = pd.DataFrame(index=df.index)
    for name in (name for name in COLUMNS if name in df.columns):
        if name == "rating":
            values, good = _floats(df[name], decimal)
        else:
            values, good = _seconds(df[name]) if name == "timestamp" else _ids(df[name])
        if not good.all():
            row = int(good.argmin())
            value = df[name].iloc[[row]].tolist()[0]
            hint = (
                ' or say decimal="," or decimal="."' if re.search(r"\d[.,]\d", f"{value}") else ""
            )
            raise ValueError(
                f"{source}: {name} must be {WANTED[name]}, but is {value!r} in {where(row)} "
                f"({(~good).sum()} such rows): mend or remove them{hint}"
            )
        result[name] = values
    twice = result.duplicated(["userId", "movieId"], keep=keep or "first").to_numpy()
    if twice.any() and not keep:
        row = int(twice.argmax())
        user, item = result["userId"].iloc[row], result["movieId"].iloc[row]
        raise ValueError(
            f"{source}: user {user} rates movie {item} more than once, again in {where(row)} "
            f'({twice.sum()} such rows); keep one, with load_ratings(path, keep="last") or '
            'df.drop_duplicates(["userId", "movieId"], keep="last")'
        )
    if twice.any():
        result = result[~twice].reset_index(drop=True)
    result.attrs = df.attrs
    return result


def _labels(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Return each row's place in a list of the different values as text; "" where missing."""
    column = column.astype("category").cat.remove_unused_categories()
    plain = (
        str(value).strip()
        if isinstance(value, str | Real | date) and not isinstance(value, bool)
        else ""
        for value in column.cat.categories
    )
    return column.cat.codes.to_numpy("int64"), [*plain, ""]  # a missing value's code is -1


def _ids(column: pd.Series) -> Checked:
    column = column.infer_objects()
    if types.is_float_dtype(column):
        numbers = column.to_numpy("float64", na_value=np.nan)
        good = (numbers == np.round(numbers)) & (abs(numbers) < 2**53)  # above, some are rounded
        return np.where(good, numbers, 0).astype("int64"), good
    if types.is_integer_dtype(column):
        good = (column.notna() & (column.fillna(0) < 2**63)).to_numpy(bool)
        return column.where(good, 0).to_numpy("int64"), good
    codes, labels = _labels(column)
    good = np.array([label.lower() not in MISSING for label in labels])
    texts = [label for label in labels if label.lower() not in MISSING]
    if all(WHOLE.fullmatch(text) for text in texts):
        labels = [label.split(".")[0].split(",")[0] for label in labels]
        numbers = np.array(
            [int(label) if ok else 0 for label, ok in zip(labels, good, strict=True)]
        )
        if numbers.dtype == np.int64:
            return numbers[codes], good[codes]
    elif all(NUMBER.fullmatch(text) for text in texts):  # 1.5 or 1e5: no id, and no text either
        good &= [re.fullmatch("[0-9]*", label) is not None for label in labels]
    return np.array(labels, dtype=object)[codes], good[codes]


def _floats(column: pd.Series, decimal: str) -> Checked:
    """Return a column as float64; `decimal` is ".", ",", or ".?" where 1.234 may be 1234."""
    column = column.infer_objects()
    if types.is_numeric_dtype(column):
        numbers = column.to_numpy("float64", na_value=np.nan)
        return numbers, np.isfinite(numbers)
    codes, labels = _labels(column)
    other = "," if decimal[0] == "." else "."
    numbers = np.full(len(labels), np.nan)
    for place, label in enumerate(labels):
        doubtful = other in label or (decimal == ".?" and THOUSANDS.fullmatch(label))
        if NUMBER.fullmatch(label) and not doubtful:
            numbers[place] = float(label.replace(",", "."))
    return numbers[codes], np.isfinite(numbers)[codes]


def _seconds(column: pd.Series) -> Checked:
    column = column.infer_objects()
    if types.is_datetime64_any_dtype(column):
        if getattr(column.dtype, "tz", None):
            column = column.dt.tz_convert("UTC").dt.tz_localize(None)
        seconds = column.to_numpy("datetime64[s]").astype("int64")
        return seconds, column.notna().to_numpy()
    if types.is_numeric_dtype(column):
        numbers = column.to_numpy("float64", na_value=np.nan)
        good = (numbers == np.round(numbers)) & (abs(numbers) < 1e11)  # above: milliseconds
        if ((numbers > 19_000_000) & (numbers < 21_000_000))[good].all():
            good[:] = False  # all in half a year of 1970? Rather days written as 20011231
        return np.where(good, numbers, 0).astype("int64"), good
    codes, labels = _labels(column)
    whole = [float(t.replace(",", ".")) if WHOLE.fullmatch(t) else np.nan for t in labels]
    dates = pd.Series([text if DATE.fullmatch(text) else None for text in labels], dtype=object)
    dates = pd.to_datetime(dates, format="ISO8601", utc=True, errors="coerce")
    (numbers, good), (seconds, are_dates) = _seconds(pd.Series(whole)), _seconds(dates)
    return np.where(are_dates, seconds, numbers)[codes], (good | are_dates)[codes]


def our_names(
    names: Iterable[Hashable], columns: Columns, source: str, needed: Sequence[str] = COLUMNS[:3]
) -> list[str | None]:
    """Return what each column is called here; refuse if one is missing, or there twice."""
    theirs = [str(name).strip() for name in names]
    if columns is None or isinstance(columns, Mapping):
        for name, ours in (columns or {}).items():
            nearest(f"column of {source},", name, theirs)
            nearest("column of ratings", ours or "rating", COLUMNS)
        result = [(columns or {}).get(name, name) for name in theirs]
    else:
        result = list(columns)
    if len(result) != len(theirs):
        raise ValueError(
            f"{source} has {len(theirs)} fields, {theirs}, but columns= has {len(result)}: give "
            "one for each, None for one to leave out"
        )
    if twice := [name for name in COLUMNS if result.count(name) > 1]:
        raise ValueError(f"{source}: there are two columns {twice[0]!r} among {theirs}: keep one")
    if missing := [name for name in needed if name not in result]:
        guess = suggested([name for name in theirs if name not in COLUMNS], missing)
        way_out = f"say which is which, columns={guess}"
        if "?rating" in guess:
            way_out += ". If each row is a like: check_ratings(pd.read_csv(...).assign(rating=1.0))"
        raise ValueError(f"{source}: there is no column {missing[0]!r} among {theirs}; {way_out}")
    return result


def suggested(names: list[str], wanted: list[str]) -> dict[str, str]:
    """Guess which of somebody's names mean ours; "?userId" stands for one to fill in."""
    guess = {}
    for ours in wanted:
        usual = [ours.lower(), *USUAL_NAMES.get(ours, "").split()]
        for name in [*names, f"?{ours}"]:
            plain = re.sub("[^a-z]", "", name.lower().split(":")[0])
            if name not in guess and get_close_matches(plain, usual, n=1, cutoff=0.85):
                guess[name] = ours
                break
    return guess

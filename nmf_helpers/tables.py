"""What a table of ratings is: which columns it has, and what may stand in them."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from difflib import get_close_matches
from functools import partial
from numbers import Real
from typing import Any, Literal

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
ID = "a whole number below 2**63, or text"
SECONDS = "a whole number of seconds since 1970 (below 10**11), or a date as 2001-12-31"
WANTED = {"userId": ID, "movieId": ID, "rating": "a finite number", "timestamp": SECONDS}
USUAL_NAMES = {
    "userId": "userid user uid reviewer reviewerid customer customerid member memberid reader "
    "listener",
    "movieId": "movieid movie film filmid item itemid book bookid isbn asin product productid "
    "game gameid artist artistid song songid track trackid business businessid anime animeid",
    "rating": "rating ratings score scores star stars bookrating overall grade value points",
    "timestamp": "timestamp time date datetime unixtime unixreviewtime createdat reviewdate",
}


def check_ratings(
    df: pd.DataFrame,
    source: str = "the ratings",
    where: Callable[[int], str] | None = None,
    decimal: str = ".",
    keep: Keep = None,
) -> pd.DataFrame:
    """Return the rating columns of a table with their proper types, or say what is wrong.

    ``userId`` and ``movieId`` become int64, or text if one of the column isn't a plain whole number
    ("007" is not 7); ``rating`` float64; ``timestamp``, if there is one, int64 seconds since 1970,
    dates without a time zone taken as UTC. Index and ``attrs`` stay. An error calls the table
    `source`, and a row as `where` says; `decimal` and `keep` are as in
    :func:`nmf_helpers.data.load_ratings`.

    Raises
    ------
    TypeError, ValueError
        No table; a column missing or there twice; no rows; an empty field; a rating that isn't
        finite; two ratings of one item by one user.
    """
    check_table(df, source)
    where = where or (lambda row: f"row {row + 1} of {len(df)}")
    if df.empty:
        raise ValueError(f"{source}: there are no ratings, only column names")
    result = pd.DataFrame(index=df.index)
    readers: dict[str, Callable[[pd.Series], Checked]] = {
        "rating": partial(_floats, decimal=decimal), "timestamp": _seconds
    }  # fmt: skip
    for name in (name for name in COLUMNS if name in df.columns):
        result[name], good = readers.get(name, _ids)(df[name].infer_objects())
        if not good.all():
            row = int(good.argmin())
            value = df[name].iloc[[row]].tolist()[0]
            doubtful = name == "rating" and re.search(r"\d[.,]\d", f"{value}")
            raise ValueError(
                f"{source}: {name} must be {WANTED[name]}, but is {value!r} in {where(row)} "
                f"({(~good).sum()} such rows): mend or remove them"
                + (' or say decimal="," or decimal="."' if doubtful else "")
            )
    twice = result.duplicated(["userId", "movieId"], keep=keep or "first").to_numpy()
    if twice.any() and not keep:
        row = int(twice.argmax())
        user, item = (result[name].iloc[row] for name in COLUMNS[:2])
        raise ValueError(
            f"{source}: user {user} rates movie {item} more than once, again in {where(row)} "
            f"({twice.sum()} such rows); keep one: load_ratings(path, keep='last'), or "
            "df.drop_duplicates(['userId', 'movieId'], keep='last')"
        )
    result.attrs = df.attrs
    return result[~twice].reset_index(drop=True) if keep else result


def check_table(df: Any, what: str, needed: Sequence[str] = COLUMNS[:3]) -> None:
    """Raise an error unless `df` is a table that has each of the columns needed, once."""
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"{what} must be a table (DataFrame), not {type(df).__name__}")
    our_names([*df.columns], None, what, needed, say="df.rename(columns={})")


# What may stand in a column. Different values are few, so each text is looked at once.


def _labels(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Return each row's place in a list of the different values as text, "" for a missing one."""

    def text(value: Any) -> str:
        plain = isinstance(value, str | Real | Decimal | date) and not isinstance(value, bool)
        label = str(value).strip()
        return label if plain and label.lower() not in MISSING else ""

    try:
        codes, values = pd.factorize(column)
    except TypeError:  # lists and the like
        codes, values = np.full(len(column), -1), []
    return codes, [*map(text, values), ""]


def _whole(column: pd.Series) -> Checked:
    """Return a numeric column as int64; a float above its mantissa may have been rounded."""
    numbers = column.fillna(0).to_numpy()
    limit = 2**63 if numbers.dtype.kind in "iu" else 2 ** (np.finfo(numbers.dtype).nmant + 1)
    good = column.notna().to_numpy(bool) & (numbers == np.round(numbers)) & (abs(numbers) < limit)
    return np.where(good, numbers, 0).astype("int64"), good


def _number(text: str, decimal: str) -> float:
    """Return a text as a number, NaN if it is none; `decimal` is as in `_floats`."""
    doubtful = ("," if decimal[0] == "." else ".") in text
    doubtful |= decimal == ".?" and bool(THOUSANDS.fullmatch(text))
    return float(text.replace(",", ".")) if NUMBER.fullmatch(text) and not doubtful else np.nan


def _floats(column: pd.Series, decimal: str) -> Checked:
    """Return a column as float64; `decimal` is ".", ",", or ".?" where 1.234 may be 1234."""
    if types.is_numeric_dtype(column) and not types.is_complex_dtype(column):
        numbers = column.to_numpy("float64", na_value=np.nan)
    else:
        codes, labels = _labels(column)
        numbers = np.array([_number(label, decimal) for label in labels])[codes]
    return numbers, np.isfinite(numbers)


def _ids(column: pd.Series) -> Checked:
    if types.is_integer_dtype(column) or types.is_float_dtype(column):
        return _whole(column)
    codes, labels = _labels(column)
    if all(WHOLE.fullmatch(label) for label in labels if label):
        labels = [re.split("[.,]", label)[0] for label in labels]
        numbers = np.array([int(label or 0) for label in labels])
        if numbers.dtype == np.int64:
            return numbers[codes], np.array([label != "" for label in labels])[codes]
    elif all(NUMBER.fullmatch(label) for label in labels if label):
        # 1.5 or 1e5: no whole number, and no text either
        labels = [label if re.fullmatch("[0-9]+", label) else "" for label in labels]
    texts = np.array(labels, dtype=object)[codes]
    return texts, texts != ""


def _seconds(column: pd.Series) -> Checked:
    if types.is_datetime64_any_dtype(column):
        seconds = column.to_numpy("datetime64[s]").astype("int64")  # in UTC
        return seconds, column.notna().to_numpy(bool)
    if types.is_integer_dtype(column) or types.is_float_dtype(column):
        numbers, good = _whole(column)
        good &= abs(numbers) < 1e11  # above: milliseconds
        if ((numbers > 19_000_000) & (numbers < 21_000_000))[good].all():
            good[:] = False  # all in half a year of 1970? Rather days written as 20011231
        return numbers, good
    if column.dtype == "str" and column.str.fullmatch("[0-9]{1,11}").all():  # texts are slow
        return _seconds(column.astype("int64"))
    codes, labels = _labels(column)
    whole = [_number(label, ".") if WHOLE.fullmatch(label) else np.nan for label in labels]
    dates = pd.Series([text if DATE.fullmatch(text) else None for text in labels], dtype=object)
    dates = pd.to_datetime(dates, format="ISO8601", utc=True, errors="coerce")
    (numbers, good), (seconds, are_dates) = _seconds(pd.Series(whole)), _seconds(dates)
    return np.where(are_dates, seconds, numbers)[codes], (good | are_dates)[codes]


# Whose name is which


def our_names(
    names: Sequence[Any],
    columns: Columns,
    source: str,
    needed: Sequence[str] = COLUMNS[:3],
    say: str = "columns={}",
) -> list[str | None]:
    """Return what each column is called here; refuse if one is missing, or there twice.

    `columns` is as in :func:`nmf_helpers.data.load_ratings`; `say` is what an error tells to write.
    """
    if in_order := not (columns is None or isinstance(columns, Mapping)):
        result, strange = [*columns], []
    else:
        renamed: dict[Any, str | None] = dict(columns or {})
        for ours in filter(None, renamed.values()):
            nearest("column of ratings", ours, COLUMNS)
        result = [renamed.get(name, name) for name in names]
        strange = [name for name in renamed if name not in names]
    missing = [name for name in needed if name not in result]
    twice = [name for name in COLUMNS if result.count(name) > 1]
    if len(result) != len(names):
        why = f"has {len(names)} fields, but columns= has {len(result)}: give one for each, or None"
    elif twice:
        why = f"there are two columns {twice[0]!r}: keep one"
    elif missing and in_order:
        why = f"columns= gives no {missing[0]!r}"
    elif missing or strange:
        guess = suggested([name for name in names if name not in COLUMNS], missing or needed)
        why = f"there is no column {[*strange, *missing][0]!r}; say which is which, "
        why += say.format(guess)
        if [name for name in guess if f"{name}"[:1] == "?"] == ["?rating"]:
            why += ". If each row is a like: check_ratings(df.assign(rating=1.0))"
    else:
        return result
    raise ValueError(f"{source}: {why}. The columns are {[*names]}")


def suggested(names: Sequence[Any], wanted: Sequence[str]) -> dict[Any, str]:
    """Guess which of somebody's names mean ours; "?userId" stands for one to fill in."""
    guess: dict[Any, str] = {}
    for ours in wanted:
        usual = USUAL_NAMES.get(ours, ours.lower()).split()
        for name in [*names, f"?{ours}"]:
            plain = re.sub("[^a-z]", "", str(name).lower().split(":")[0])
            if name not in guess and get_close_matches(plain, usual, n=1, cutoff=0.85):
                guess[name] = ours
                break
    return guess

"""Read ratings from anybody's file or table: take what is clear, say what to write for the rest.

Nothing is guessed. What can be read in two ways is refused with a ``ValueError`` that names the
file, the line and the way out, and so is a row that doesn't fit the column names.
"""

import csv
import io
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from pandas.io.common import get_handle

from nmf_helpers.checks import nearest

Columns = Sequence[str | None] | Mapping[str, str | None] | None
Keep = Literal["first", "last"] | None
Checked = tuple[np.ndarray, np.ndarray]  # values, and which of them are good; shape (n,) each

COLUMNS = ["userId", "movieId", "rating", "timestamp"]  # the last may be missing
NEEDED = COLUMNS[:3]
WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,18})([.,]0)?")  # as programs write it: 7 or 7.0, not 007
NUMBER = re.compile(r"[+-]?([0-9]+[.,]?[0-9]*|[.,][0-9]+)([eE][+-]?[0-9]+)?")
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ].*)?")
MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "<na>", "nat", r"\n"}
ID = "a whole number below 2**63, or text"
SECONDS = "a whole number of seconds since 1970 (below 10**11), or a date as 2001-12-31"
WANTED = {"userId": ID, "movieId": ID, "rating": "a finite number", "timestamp": SECONDS}
USUAL_NAMES = {  # the letters of names that others use
    "userId": "(user|reviewer|customer|member|reader|listener|u)(id)?",
    "movieId": "(movie|film|item|book|product|game|artist|song|track|anime)(id)?|isbn|asin",
    "rating": "(book)?ratings?|scores?|stars?|overall|grades?|value|points",
    "timestamp": "(unix)?(review)?(date)?time(stamp)?|(review)?date|createdat",
}
SEPARATORS = ["::", "\t", ";", ","]
LETTER = {"::": "\x1f"}  # csv and pandas' fast reader take one letter
# The first row of GroupLens's u.data or ratings.dat, which have no header.
OF_GROUPLENS = re.compile(r"(\d+\t\d+\t\d\d?\t\d{8,10}|\d+::\d+::\d(\.\d)?::\d{8,10})(?![^\r\n])")


def read_ratings(
    path: Path, columns: Columns, sep: str | None = None, encoding: str = "utf-8", keep: Keep = None
) -> pd.DataFrame:
    """Read a file of ratings: what :func:`nmf_helpers.data.load_ratings` does with a path."""
    if not path.is_file():
        what = "a folder, but no file," if path.is_dir() else "no file"
        raise FileNotFoundError(f"there is {what} {path.name} in {path.parent.resolve()}")
    df, lines = _content(path, encoding), None
    if isinstance(df, str):
        sep, names, header = _layout(df, columns, sep, path)
        lines = array("q", (line for line, _ in _records(df, sep, path, names)))[header:]
        letter = LETTER.get(sep, sep)
        df = pd.read_csv(
            io.StringIO(df.replace(sep, letter), newline=""), sep=letter, header=None, dtype=str,
            names=range(len(names)), keep_default_na=False, skipinitialspace=True,
        )[header:].reset_index(drop=True)  # fmt: skip
        if len(df) != len(lines):  # pandas and csv disagree
            raise ValueError(f"{path}: it is not clear what quotes enclose; write it without them")
    else:
        names = our_names([*df.columns], columns, str(path))
    df = df.set_axis(pd.Index(names, dtype=object), axis="columns")
    return check_ratings(df, str(path), lines, keep)


def _content(path: Path, encoding: str) -> Any:
    """Return what a file holds, packed or not: a text, or a table if it is Parquet."""
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding
    try:
        if path.suffix in (".parquet", ".pq"):
            return pd.read_parquet(path)
        with get_handle(path, "r", encoding=encoding, compression="infer") as file:
            return file.handle.read()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        way_out = (
            'say encoding="latin-1" or whichever it is; if it is no text at all, save it as CSV'
        )
        raise ValueError(f"{path}: line {line}: {error}: {way_out}") from error
    except Exception as error:  # each library has its own
        way_out = "get it anew, or save it as text, named .csv"
        raise ValueError(f"{path} can't be read ({error}): {way_out}") from error


def _records(text: str, sep: str, path: Path, names: Any = None) -> Iterator[tuple[int, list]]:
    """Yield (its first line, fields) of each record that isn't blank, as many fields as `names`."""
    letter, line = LETTER.get(sep, sep), 1
    lines = io.StringIO(text.replace(sep, letter), newline="")
    try:
        reader = csv.reader(lines, delimiter=letter, skipinitialspace=True, strict=True)
        for fields in reader:
            if fields in ([], [""]):
                pass
            elif names and len(fields) != len(names):
                found = f"{len(fields)} fields, but there are {len(names)} columns, {names}"
                way_out = "Write the file without (row.names=FALSE in R, index=False in pandas)"
                raise ValueError(f"{path}: line {line} has {found}. Row names? {way_out}")
            elif names and fields[0].startswith(("#", "%")):
                raise ValueError(f"{path}: line {line} may be a comment: remove it ({fields[0]!r})")
            else:
                yield line, fields
            line = reader.line_num + 1
    except (csv.Error, TypeError) as error:
        raise ValueError(f"{path}: line {line}: {error}") from error


def _layout(text: str, columns: Columns, sep: str | None, path: Path) -> tuple[str, list, int]:
    """Return the separator, our name for each column, and how many records are a header."""
    if columns is None and OF_GROUPLENS.match(text.lstrip()):
        columns = COLUMNS
    in_order = not (columns is None or isinstance(columns, Mapping))

    def fit(sep: str) -> tuple[int, int]:
        with suppress(ValueError):  # a wrong one may cut a quoted field
            _, fields = next(_records(text[: 1 << 16], sep, path), (1, []))
            return len({*map(str.strip, fields)}.intersection(columns or COLUMNS)), len(fields)
        return 0, 0

    sep = sep or max(SEPARATORS, key=fit)
    line, fields = next(_records(text, sep, path), (1, []))
    fields, source = [*map(str.strip, fields)], f"{path}: line {line}"
    if len(fields) < 2:
        less = f"fewer than two fields, {fields}"
        raise ValueError(f'{source} has {less}: say what separates, as with sep="|"')
    if not (in_order or fit(sep)[0]) and any(map(NUMBER.fullmatch, fields)):
        order = [*COLUMNS, *[None] * len(fields)][: max(3, len(fields))]
        way_out = f"Name them in order, with None for one to leave out: columns={order}"
        raise ValueError(f"{source}: the first line holds no column names, but {fields}. {way_out}")
    return sep, our_names(fields, columns, source), int(not in_order)


def check_ratings(
    df: pd.DataFrame, source: str = "the ratings", lines: Any = None, keep: Keep = None
) -> pd.DataFrame:
    """Return the rating columns of a table with their proper types, or say what is wrong.

    ``userId`` and ``movieId`` become int64, or text if one of the column isn't a plain whole number
    ("007" is not 7); ``rating`` float64; ``timestamp``, if there is one, int64 seconds since 1970,
    dates without a time zone taken as UTC. Index and ``attrs`` stay; `keep` is as in
    `nmf_helpers.data.load_ratings`. TypeError or ValueError, which call the table `source` and a
    row by its number in `lines`: no table; a column missing or there twice; no rows; an empty
    field; a rating that isn't finite; two ratings of one item by one user.
    """
    check_table(df, source)
    if df.empty:
        raise ValueError(f"{source}: there are no ratings, only column names")

    def where(row: int) -> str:
        return f"line {lines[row]}" if lines else f"row {row + 1} of {len(df)}"

    result = pd.DataFrame(index=df.index)
    for name in (name for name in COLUMNS if name in df.columns):
        column = df[name].infer_objects()
        codes: Any = slice(None)
        if not is_numeric_dtype(column):  # of texts look at each different one once
            codes, different = pd.factorize(column.astype(object).map(str))
            column = pd.Series(different).map(str).str.strip()
        values, good = READERS[name](column)
        result[name], good = values[codes], good[codes]
        if not good.all():
            row, n_bad = int(good.argmin()), (~good).sum()
            found = f"{df[name].tolist()[row]!r} in {where(row)} ({n_bad} such rows)"
            wanted = f"{name} must be {WANTED[name]}"
            raise ValueError(f"{source}: {wanted}, but is {found}: mend or remove them")
    twice = result.duplicated(["userId", "movieId"], keep=keep or "first").to_numpy()
    if twice.any() and not keep:
        row = int(twice.argmax())
        user, item = (result[name].iloc[row] for name in COLUMNS[:2])
        again = f"more than once, again in {where(row)} ({twice.sum()} such rows); keep one"
        way_out = "load_ratings(path, keep='last'), df.drop_duplicates(['userId', 'movieId'])"
        raise ValueError(f"{source}: user {user} rates movie {item} {again}: {way_out}")
    result.attrs = df.attrs
    return result[~twice].reset_index(drop=True) if keep else result


def check_table(df: Any, what: str, needed: list[str] = NEEDED) -> None:
    """Raise an error unless `df` is a table that has each of the columns needed, once."""
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"{what} must be a table (DataFrame), not {type(df).__name__}")
    our_names([*df.columns], None, what, needed, say="df.rename(columns={})")


def _whole(column: pd.Series) -> Checked:
    """Return numbers as int64; a float above its mantissa may have been rounded."""
    numbers = column.fillna(0).to_numpy() + 0  # bools too
    is_float = numbers.dtype.kind == "f"
    limit = 2 ** (np.finfo(numbers.dtype).nmant + 1) if is_float else 2**63
    good = column.notna().to_numpy(bool) & (numbers == np.round(numbers)) & (abs(numbers) < limit)
    return np.where(good, numbers, 0).astype("int64"), good


def _ids(column: pd.Series) -> Checked:
    if is_numeric_dtype(column):
        return _whole(column)
    good = ~column.str.lower().isin(MISSING)
    if column[good].str.fullmatch(WHOLE).all():
        with suppress(OverflowError):  # from 2**63 on they stay text
            whole = column.where(good, "0").str.replace("[.,]0$", "", regex=True)
            return whole.astype("int64").to_numpy(), good.to_numpy()
    elif column[good].str.fullmatch(NUMBER).all():
        good &= column.str.isdecimal()  # 1.5 or 1e5 is no id
    return column.to_numpy(object), good.to_numpy()


def _ratings(column: pd.Series) -> Checked:
    if not is_numeric_dtype(column):
        # A comma is decimal, but before three digits it may mark thousands.
        doubtful = "[.]|,[0-9]{3}$" if column.str.contains(",").any() else "[^0-9.eE+-]"
        column = column.mask(column.str.contains(doubtful)).str.replace(",", ".")
        column = pd.to_numeric(column, errors="coerce")
    numbers = column.to_numpy("float64", na_value=np.nan)
    return numbers, np.isfinite(numbers)


def _seconds(column: pd.Series) -> Checked:
    if not is_numeric_dtype(column):
        dates = column.where(column.str.fullmatch(DATE))
        dates = pd.to_datetime(dates, format="ISO8601", utc=True, errors="coerce")
        if dates.notna().any():
            return dates.to_numpy("datetime64[s]").astype("int64"), dates.notna().to_numpy()
        column = pd.to_numeric(column.where(column.str.fullmatch(WHOLE)), errors="coerce")
    numbers, good = _whole(column)
    good &= abs(numbers) < 1e11  # above: milliseconds
    if ((numbers > 19_000_000) & (numbers < 21_000_000))[good].all():
        good[:] = False  # all in half a year of 1970? Rather days written as 20011231
    return numbers, good


# Each takes a column of numbers, or of texts without blanks around.
READERS = {"userId": _ids, "movieId": _ids, "rating": _ratings, "timestamp": _seconds}


def our_names(
    names: list, columns: Columns, source: str, needed: list[str] = NEEDED, say: str = "columns={}"
) -> list[str | None]:
    """Return our name for each column, or `say` in an error what to write where one is missing."""
    result: list[Any]
    if columns is None or isinstance(columns, Mapping):
        renamed: Mapping[Any, str | None] = columns or {}
        for ours in filter(None, renamed.values()):
            nearest("column of ratings", ours, COLUMNS)
        result = [renamed.get(name, name) for name in names]
        strange = [name for name in renamed if name not in names]
    else:
        result, strange = [*columns], []
    missing = [name for name in needed if name not in result]
    twice = [name for name in COLUMNS if result.count(name) > 1]
    if len(result) != len(names):
        why = f"has {len(names)} fields, but columns= has {len(result)}: give one for each, or None"
    elif twice:
        why = f"there are two columns {twice[0]!r}: keep one"
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
        usual = USUAL_NAMES.get(ours, ours.lower())
        for name in [*names, f"?{ours}"]:
            letters = re.sub("[^a-z]", "", str(name).lower().split(":")[0])
            if name not in guess and re.fullmatch(usual, letters):
                guess[name] = ours
                break
    return guess

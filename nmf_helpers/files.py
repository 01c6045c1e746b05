"""Read ratings from anybody's file: take what is clear, and say what to write for the rest.

Nothing is guessed. What can be read in two ways is refused with a ``ValueError`` that names the
file, the line and the way out, and so is a row that doesn't fit the column names.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.common import get_handle

from nmf_helpers.tables import COLUMNS, NUMBER, Columns, Keep, check_ratings, our_names

SEPARATORS = ["::", "\t", ";", ","]
# The first row of GroupLens's u.data or ratings.dat, which have no header.
OF_GROUPLENS = re.compile(r"(\d+\t\d+\t\d\d?\t\d{8,10}|\d+::\d+::\d(\.\d)?::\d{8,10})(?![^\r\n])")


def read_ratings(
    path: str | Path,
    columns: Columns = None,
    *,
    sep: str | None = None,
    encoding: str = "utf-8",
    keep: Keep = None,
) -> pd.DataFrame:
    """Read a file of ratings: what :func:`nmf_helpers.data.load_ratings` does with a path.

    A ValueError for what isn't clear names the file and, in a text, the line.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "a folder, but no file," if path.is_dir() else "no file"
        raise FileNotFoundError(f"there is {what} {path.name} in {path.parent.resolve()}")
    where: Callable[[int], str] | None = None
    df = _content(path, encoding)
    if isinstance(df, str):
        sep, names, has_header = _layout(df, columns, sep, path)
        records = [*_records(df, sep, path)][has_header:]
        _check_fields(records, names, path)
        where = lambda row: f"line {records[row][0]}"  # noqa: E731
        df = pd.DataFrame([fields for _, fields in records], columns=range(len(names)))
    else:
        names = our_names([*df.columns], columns, str(path))
    df = df.set_axis(pd.Index(names, dtype=object), axis="columns")
    return check_ratings(df, str(path), where, keep)


def _content(path: Path, encoding: str) -> Any:
    """Return what a file holds, packed or not: a text, or a table if it is Parquet."""
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        with get_handle(path, "r", encoding=encoding, compression="infer") as file:
            return file.handle.read()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f'{path}: line {line}: {error}. Say encoding="latin-1" (old files of Western Europe), '
            '"utf-16" or whichever it is; if it is no text at all, save it as CSV'
        ) from error
    except Exception as error:  # each library has its own
        raise ValueError(
            f"{path} can't be read ({error}): get it anew, or save it as text, named .csv"
        ) from error


def _records(text: str, sep: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its first line, fields) of each record that isn't blank."""
    letter, line = "\x1f" if sep == "::" else sep, 1  # csv takes one letter
    lines = io.StringIO(text.replace(sep, letter), newline="")
    try:
        reader = csv.reader(lines, delimiter=letter, skipinitialspace=True, strict=True)
        for fields in reader:
            if fields not in ([], [""]):
                yield line, fields
            line = reader.line_num + 1
    except (csv.Error, TypeError) as error:
        raise ValueError(f"{path}: line {line}: {error}") from error


def _layout(
    text: str, columns: Columns, sep: str | None, path: Path
) -> tuple[str, list[str | None], bool]:
    """Return the separator, our name for each column, and whether the first record is a header."""
    if columns is None and OF_GROUPLENS.match(text.lstrip()):
        columns = COLUMNS
    in_order = not (columns is None or isinstance(columns, Mapping))

    def fit(sep: str) -> tuple[int, int]:
        with suppress(ValueError):  # a wrong one may cut a quoted field
            _, fields = next(_records(text[: 1 << 16], sep, path), (1, []))
            n_fits = len(fields) == len(columns or ()) if in_order else known(fields)
            return int(n_fits), len(fields)
        return 0, 0

    def known(fields: list[str]) -> int:
        return len({*map(str.strip, fields)}.intersection(columns or COLUMNS))

    sep = sep or max(SEPARATORS, key=fit)
    line, fields = next(_records(text, sep, path), (1, []))
    fields = [*map(str.strip, fields)]
    source = f"{path}: line {line}"
    if len(fields) < 2:
        less = f"fewer than two fields, {fields}"
        raise ValueError(f'{source} has {less}: say what separates, as with sep="|"')
    if not (in_order or known(fields)) and any(map(NUMBER.fullmatch, fields)):
        order = [*COLUMNS, *[None] * len(fields)][: max(3, len(fields))]
        raise ValueError(
            f"{source}: the first line holds no column names, but {fields}. Name them in order, "
            f"with None for one to leave out: columns={order}"
        )
    return sep, our_names(fields, columns, source), not in_order


def _check_fields(
    records: list[tuple[int, list[str]]], names: list[str | None], path: Path
) -> None:
    for line, fields in records:
        if len(fields) != len(names):
            raise ValueError(
                f"{path}: line {line} has {len(fields)} fields, but there are {len(names)} "
                f"columns, {names}. Row names? Write the file without (row.names=FALSE in R, "
                "index=False in pandas)"
            )
        if fields[0].startswith(("#", "%")):
            raise ValueError(f"{path}: line {line} may be a comment: remove it ({fields[0]!r})")

"""Read ratings from anybody's file: take what is clear, and say what to write for the rest.

Nothing is guessed. What can be read in two ways is refused with a ``ValueError`` that names the
file, the line and the way out, and so is a row that doesn't fit the column names.
"""

import bz2
import csv
import gzip
import io
import lzma
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pandas as pd

from nmf_helpers.tables import COLUMNS, NUMBER, Columns, Keep, checked, our_names, suggested

Records = Iterator[tuple[int, list[str]]]  # line number, fields

SEPARATORS = {"::": "\x1f", "\t": "\t", ";": ";", ",": ","}  # pandas' fast reader takes one letter
U_DATA_OR_RATINGS_DAT = re.compile(r"\d+\t\d+\t\d\d?\t\d{8,10}|\d+::\d+::\d(\.\d)?::\d{8,10}")


def read_ratings(
    path: str | Path,
    columns: Columns = None,
    *,
    sep: str | None = None,
    decimal: str | None = None,
    encoding: str = "utf-8",
    keep: Keep = None,
) -> pd.DataFrame:
    """Read a file of ratings, text or Parquet, into a checked table.

    Parameters
    ----------
    path, columns
        As in :func:`nmf_helpers.data.load_ratings`.
    sep, decimal, encoding
        What is between columns, the decimal sign, and the encoding, if the file doesn't show it.
    keep
        Which of several ratings of a movie by one user stays, ``"first"`` or ``"last"``; by
        default they are refused.

    Raises
    ------
    FileNotFoundError
        No file at this path.
    ValueError
        Anything that isn't clear; the message names the file and, in a text, the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path.name} in {path.parent.resolve()}")
    if decimal not in (None, ".", ","):
        raise ValueError(f'decimal must be "." or ",", not {decimal!r}')
    content = path.read_bytes()
    if content.startswith(b"PAR1"):
        df = _read_parquet(path)
        names = our_names(df.columns, columns, str(path))
        df = df.set_axis(pd.Index(names, dtype=object), axis="columns")
        return checked(df, str(path), lambda row: f"row {row + 1} of {len(df)}", ".", keep)
    text = _decode(_unpack(content, path), encoding, path)
    sep, names, skip = _layout(text[: 1 << 16], columns, sep, path)
    letter = SEPARATORS.get(sep, sep)
    text = text.replace(sep, letter)
    n_rows, n_fields = _count(_records(text, letter, path, skip), names, path)
    if not n_rows:
        raise ValueError(f"{path}: there are no ratings, only column names in line {skip}")
    df = _parse(_after(text, skip), letter, names, n_fields)
    if len(df) != n_rows:  # pandas and csv disagree
        raise ValueError(f"{path}: from line {skip + 1} on it is not clear what quotes enclose")
    if decimal is None and sep == ";":
        # A comma is decimal here; if there is none, a point is, unless it may mark thousands.
        decimal = "," if df["rating"].str.contains(",", regex=False).any() else ".?"

    def where(row: int) -> str:
        return f"line {next(islice(_records(text, letter, path, skip), row, None))[0]}"

    return checked(df, str(path), where, decimal or ".", keep)


# From bytes to text


def _unpack(content: bytes, path: Path) -> bytes:
    """Unpack what is packed, whatever its name says: browsers unpack, and keep the name."""
    packed: dict[bytes, Callable[[bytes], bytes]] = {
        b"\x1f\x8b": gzip.decompress,
        b"BZh": bz2.decompress,
        b"\xfd7zXZ": lzma.decompress,
        b"PK\x03\x04": _only_member,
    }
    for start, unpack in packed.items():
        if content.startswith(start):
            try:
                return unpack(content)
            except Exception as error:  # each library has its own
                raise ValueError(f"{path} can't be unpacked ({error}): get it anew") from error
    return content


def _only_member(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(names) != 1:
            raise ValueError(f"{len(names)} files in one: unpack it, or save a sheet as CSV")
        return archive.read(names[0])


def _decode(content: bytes, encoding: str, path: Path) -> str:
    if encoding == "utf-8":
        marked = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        encoding = "utf-16" if marked else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except LookupError:
        raise ValueError(f'{path}: there is no encoding {encoding!r}; try "latin-1"') from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f'{path}: line {line} is not {error.encoding}: say encoding="latin-1" (old files of '
            "Western Europe) or whichever it is; if it is no text at all, save it as CSV"
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if found := re.search("[\0\x1f]", text):
        line = text.count("\n", 0, found.start()) + 1
        raise ValueError(f"{path}: line {line} holds {found[0]!r}: no text; save it as CSV")
    return text


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except ImportError:
        raise ValueError(f"{path} is Parquet: pip install pyarrow, or save it as CSV") from None
    except Exception as error:  # pyarrow has its own
        raise ValueError(f"{path} can't be read as Parquet: {error}") from error


# From text to columns


def _after(text: str, skip: int) -> io.StringIO:
    """Return the text as a file of which `skip` lines are read already."""
    file = io.StringIO(text)
    for _ in range(skip):
        file.readline()
    return file


def _records(text: str, letter: str, path: Path, skip: int = 0) -> Records:
    """Yield (number of its first line, fields) of each record that isn't blank."""
    file, line = _after(text, skip), skip + 1
    try:
        reader = csv.reader(file, delimiter=letter, skipinitialspace=True, strict=True)
        for fields in reader:
            if fields not in ([], [""]):
                yield line, fields
            line = skip + reader.line_num + 1
    except (csv.Error, TypeError) as error:  # TypeError: two letters as a separator
        raise ValueError(f"{path}: line {line}: {error}") from error


def _layout(
    head: str, columns: Columns, sep: str | None, path: Path
) -> tuple[str, list[str | None], int]:
    """Return the separator, our name for each column, and how many lines the header takes."""
    first: dict[str, tuple[int, list[str]]] = {}
    fitting = []
    for sign in [sep] if sep else SEPARATORS:
        letter = SEPARATORS.get(sign, sign)
        with suppress(ValueError, StopIteration):  # a wrong sign may cut a quoted field
            first[sign] = next(_records(head.replace(sign, letter), letter, path))
            our_names(first[sign][1], columns, str(path))
            fitting.append(sign)
    if not first:
        raise ValueError(f"{path}: line 1: the file is empty, or a quote lacks its partner")
    start = head.strip("\n").partition("\n")[0]
    if columns is None and U_DATA_OR_RATINGS_DAT.fullmatch(start):
        return ("::" if "::" in start else "\t"), list(COLUMNS), 0
    if len(fitting) > 1:
        raise ValueError(f"{path}: line 1 can be cut at each of {fitting}: say which, with sep=")
    by_place = columns is not None and not isinstance(columns, Mapping)
    sign = fitting[0] if fitting else max(first, key=lambda sign: len(first[sign][1]))
    line, fields = first[sign]
    has_numbers = any(NUMBER.fullmatch(field.strip()) for field in fields)
    if has_numbers and not by_place and not fitting:
        order = [*COLUMNS, *[None] * len(fields)][: max(3, len(fields))]
        raise ValueError(
            f"{path}: the first line holds no column names (line {line}: {fields}). Name them in "
            f"order, with None for one to leave out: columns={order}"
        )
    if by_place and not has_numbers:
        raise ValueError(
            f"{path}: line {line} seems to hold column names: say which is which, "
            f"columns={suggested(fields, COLUMNS[:3])}"
        )
    names = our_names(fields, columns, f"{path}: line {line}")
    return sign, names, 0 if by_place else line + sum(field.count("\n") for field in fields)


def _count(records: Records, names: list[str | None], path: Path) -> tuple[int, int]:
    """Return how many records there are, and fields in the widest; each must fit the names."""
    n_rows, widest = 0, len(names)
    # An empty field too many is a separator at the end of the line; but if the last column may be
    # empty itself, it may as well be a row name in front, which shifts all the others.
    spare = names[-1] in COLUMNS[:3]
    for line, fields in records:
        n = len(fields)
        if n != len(names) and not (spare and n == len(names) + 1 and not fields[-1]):
            raise ValueError(
                f"{path}: line {line} has {n} fields, but there are {len(names)} columns, {names}. "
                "Row names? Write the file without (row.names=FALSE in R, index=False in pandas)"
            )
        if fields[0].startswith(("#", "%")):
            raise ValueError(f"{path}: line {line} may be a comment: remove it ({fields[0]!r})")
        n_rows, widest = n_rows + 1, max(widest, n)
    return n_rows, widest


def _parse(file: io.StringIO, letter: str, names: list[str | None], n_fields: int) -> pd.DataFrame:
    """Return our columns: the timestamp as pandas reads it, the others as text.

    For as numbers "007" and 76561198122624101 beside "5.0" would be changed on the way.
    """
    places = {names.index(name): name for name in COLUMNS if name in names}
    kinds = {place: str for place in range(n_fields) if places.get(place) != "timestamp"}
    plain = {"header": None, "index_col": False, "keep_default_na": False, "low_memory": False}
    df = pd.read_csv(
        file, sep=letter, names=range(n_fields), dtype=kinds, skipinitialspace=True, **plain
    )
    return df[[*places]].rename(columns=places)

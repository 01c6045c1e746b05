"""Read ratings from anybody's file: take what is clear, and say what to write for the rest.

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

import pandas as pd
from pandas.io.common import get_handle

from nmf_helpers.tables import COLUMNS, NUMBER, Columns, Keep, check_ratings, our_names, suggested

PACKED = {  # how a packed file begins; its name says little: browsers unpack, and keep the name
    b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"(\xb5/": "zstd",
}  # fmt: skip
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
    """Read a file of ratings: what :func:`nmf_helpers.data.load_ratings` does with a path.

    A ValueError for what isn't clear names the file and, in a text, the line.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "a folder, but no file," if path.is_dir() else "no file"
        raise FileNotFoundError(f"there is {what} {path.name} in {path.parent.resolve()}")
    if not (sep is None or sep in SEPARATORS or len(sep) == 1):
        raise ValueError(f'{path}: sep must be one character, or "::", not {sep!r}')
    if decimal not in (None, ".", ","):
        raise ValueError(f'{path}: decimal must be "." or ",", not {decimal!r}')
    content = path.read_bytes()
    if content.startswith(b"PAR1"):
        df = _read_parquet(path)
        names = our_names([*df.columns], columns, str(path))
        df = df.set_axis(pd.Index(names, dtype=object), axis="columns")
        return check_ratings(df, str(path), keep=keep)
    text = _decode(_unpack(content, path), encoding, path)
    sep, names, skip = _layout(text[: 1 << 16], columns, sep, path)
    letter = SEPARATORS.get(sep, sep)
    body = text.split("\n", skip)[-1].replace(sep, letter)
    lines = _check_fields(body, letter, names, path, skip)
    df = pd.read_csv(
        io.StringIO(body), sep=letter, header=None, index_col=False, skipinitialspace=True,
        names=range(len(names) + 1),  # one more than there are, for a separator at the end
        dtype=str, keep_default_na=False,  # numbers would change "007", and 2**53 + 1 beside "5.0"
    )  # fmt: skip
    if len(df) != len(lines):  # pandas and csv disagree
        raise ValueError(f"{path}: from line {skip + 1} on it is not clear what quotes enclose")
    df = df.set_axis(pd.Index([*names, None], dtype=object), axis="columns")
    if decimal is None and sep == ";":
        # A comma is decimal here; if there is none, a point is, unless it may mark thousands.
        decimal = "," if df["rating"].str.contains(",", regex=False).any() else ".?"
    return check_ratings(df, str(path), lambda row: f"line {lines[row]}", decimal or ".", keep)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except ImportError:
        raise ValueError(f"{path} is Parquet: pip install pyarrow, or save it as CSV") from None
    except Exception as error:  # pyarrow has its own
        raise ValueError(f"{path} can't be read as Parquet: {error}") from error


def _unpack(content: bytes, path: Path) -> bytes:
    for start, kind in [*PACKED.items(), (b"", "tar")]:
        if content.startswith(start) and (start or content[257:262] == b"ustar"):
            packed = io.BytesIO(content)
            try:
                with get_handle(packed, "rb", compression=kind, is_text=False) as unpacked:
                    content = unpacked.handle.read()
            except Exception as error:  # each library has its own
                raise ValueError(
                    f"{path} can't be unpacked ({error}): get it anew, or save one sheet as CSV"
                ) from error
    return content


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
        raise ValueError(
            f"{path}: line {line} holds {found[0]!r}: no text, or of another encoding. Say "
            "encoding=, or save it as CSV"
        )
    return text


def _records(text: str, letter: str, path: Path, line: int = 1) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its first line, fields) of each record that isn't blank."""
    above = line - 1
    reader = csv.reader(io.StringIO(text), delimiter=letter, skipinitialspace=True, strict=True)
    try:
        for fields in reader:
            if fields not in ([], [""]):
                yield line, fields
            line = above + reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}: line {line}: {error}") from error


def _layout(
    head: str, columns: Columns, sep: str | None, path: Path
) -> tuple[str, list[str | None], int]:
    """Return the separator, our name for each column, and how many lines the header takes."""
    start = head.strip("\n").partition("\n")[0]
    if columns is None and U_DATA_OR_RATINGS_DAT.fullmatch(start):
        return ("::" if "::" in start else "\t"), [*COLUMNS], 0
    in_order = not (columns is None or isinstance(columns, Mapping))
    first: dict[str, tuple[int, list[str]]] = {}
    fits: dict[str, tuple[int, int]] = {}  # how many of our names a separator shows, and fields
    for sign in [sep] if sep else SEPARATORS:
        letter = SEPARATORS.get(sign, sign)
        with suppress(ValueError, StopIteration):  # a wrong sign may cut a quoted field
            line, fields = next(_records(head.replace(sign, letter), letter, path))
            fields = [field.strip() for field in fields]
            named = {*fields}.intersection(columns or COLUMNS)
            n_known = len(fields) == len(columns or ()) if in_order else len(named)
            first[sign], fits[sign] = (line, fields), (n_known, len(fields))
    if not first:
        raise ValueError(f"{path}: line 1: the file is empty, or a quote lacks its partner")
    best = max(fits.values())
    sign, *others = (sign for sign in fits if fits[sign] == best)
    line, fields = first[sign]
    source, no_names = f"{path}: line {line}", any(map(NUMBER.fullmatch, fields))
    if others and best[0]:
        signs = [sign, *others]
        raise ValueError(f"{source} can be cut at each of {signs}: say which, with sep=")
    if len(fields) == 1:
        raise ValueError(f'{source} is one field, {fields}: say what separates, as with sep="|"')
    if no_names and not in_order and not best[0]:
        order = [*COLUMNS, *[None] * len(fields)][: max(3, len(fields))]
        raise ValueError(
            f"{source}: the first line holds no column names, but {fields}. Name them in order, "
            f"with None for one to leave out: columns={order}"
        )
    if in_order and not no_names:
        guess = suggested(fields, COLUMNS[:3])
        raise ValueError(f"{source} seems to hold column names: say which, columns={guess}")
    n_lines = line + sum(field.count("\n") for field in fields)
    return sign, our_names(fields, columns, source), 0 if in_order else n_lines


def _check_fields(
    body: str, letter: str, names: list[str | None], path: Path, skip: int
) -> Sequence[int]:
    """Return the line of each record; each must have as many fields as there are names."""
    # An empty field too many is a separator at the end of the line; but if the last column may be
    # empty itself, it may as well be a row name in front, which shifts all the others.
    spare, lines, n_names = names[-1] in COLUMNS[:3], array("q"), len(names)
    for line, fields in _records(body, letter, path, skip + 1):
        n = len(fields)
        if n != n_names and not (spare and n == n_names + 1 and not fields[-1]):
            raise ValueError(
                f"{path}: line {line} has {n} fields, but there are {n_names} columns, {names}. "
                "Row names? Write the file without (row.names=FALSE in R, index=False in pandas)"
            )
        if fields[0].startswith(("#", "%")):
            raise ValueError(f"{path}: line {line} may be a comment: remove it ({fields[0]!r})")
        lines.append(line)
    if not lines:
        raise ValueError(f"{path}: there are no ratings, only column names in line {skip}")
    return lines

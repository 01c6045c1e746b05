"""Anybody's file of ratings: the right table, or an error that names file and line."""

import csv
import gzip
import io
import re
import zipfile
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmf_helpers.data import (
    COLUMNS,
    check_ratings,
    encode_ratings,
    interaction_matrix,
    load_ratings,
    split_ratings,
)

NAMES = "userId,movieId,rating"
ONE = (NAMES + "\n7,20,4.5\n").encode()
ROW = [[7], [20], [4.5]]
BIG = 76561198122624101  # above 2**53, as Steam's ids are


def zipped(**files):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


def read(folder, content, name="my.csv", **options):
    """Load a file of this content; options that are no arguments of ours are left out."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_ratings(folder / name, **options)


RIGHT = {  # name: (content, arguments, columns)
    "any order, other columns, spaces": ("movieId,note,userId, rating\n 20,x, 7 ,4.5\n", {}, ROW),
    "an index with an empty name": (f",{NAMES}\n0,7,20,4.5\n", {}, ROW),
    "semicolons, decimal commas": ("userId;movieId;rating\n7;20;4,5\n", {}, ROW),
    "semicolons, decimal points": ("userId;movieId;rating\n7;20;4.5\n", {}, ROW),
    "decimal commas in quotes": (f'{NAMES}\n7,20,"4,5"\n', {}, ROW),
    "bars by word": (NAMES.replace(",", "|") + "\n7|20|4.5\n", {"sep": "|"}, ROW),
    "u.data": ("7\t20\t4\t881250949\n", {}, [[7], [20], [4], [881250949]]),
    "ratings.dat": ("7::20::4.5::978300760", {}, [*ROW, [978300760]]),
    "no names": ("20,x,7,4.5\n", {"columns": ["movieId", None, "userId", "rating"]}, ROW),
    "other names": ("who,isbn,rating\n7,20,4.5\n", {"columns": {"who": "userId", "isbn": "movieId"}}, ROW),  # noqa: E501
    "a column left out": (
        f"{NAMES},timestamp\n7,20,4.5,noon\n", {"columns": {"timestamp": None}}, ROW),
    "Windows": ("\ufeff" + NAMES + "\r\n7,20,4.5\r\n", {}, ROW),
    "blank lines": (f"\n\n{NAMES}\n\n7,20,4.5\n  \n\n", {}, ROW),
    "latin-1 by word": (
        f"{NAMES}\n7,Zoë,4.5\n".encode("latin-1"), {"encoding": "latin-1"}, [[7], ["Zoë"], [4.5]]),
    "gzip": (gzip.compress(ONE), {"name": "my.csv.gz"}, ROW),
    "zip": (zipped(**{"my.csv": ONE}), {"name": "my.zip"}, ROW),
    "quotes": (f'{NAMES}\n"a, ""b""\nc",20,4.5\n', {}, [['a, "b"\nc'], [20], [4.5]]),
    "ids as text": (f"{NAMES}\n007,080442957X,4\n7,1,5\n", {}, [["007", "7"], ["080442957X", "1"], [4, 5]]),  # noqa: E501
    "big ids beside a decimal": (
        f"{NAMES}\n{BIG},1,4\n{BIG + 2},1,4\n5.0,1,4\n", {}, [[BIG, BIG + 2, 5], [1] * 3, [4] * 3]),
    "dates": (
        f"{NAMES},timestamp\n1,2,3,2001-01-01\n1,3,3,2001-01-01T01:00:00+01:00\n",
        {}, [[1] * 2, [2, 3], [3] * 2, [978307200] * 2]),
    "twice, the last": (f"{NAMES}\n7,20,1\n8,20,1\n7,20,4.5\n", {"keep": "last"},
                        [[8, 7], [20, 20], [1, 4.5]]),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_a_clear_file_is_read_right(tmp_path, case):
    content, options, columns = RIGHT[case]
    df = read(tmp_path, content, **options)
    assert [df[name].tolist() for name in df] == columns and df.index[0] == 0
    assert df["rating"].dtype == "float64"
    ids = zip(columns[:2], (df["userId"], df["movieId"]), strict=True)
    assert all(got.dtype == "int64" or isinstance(wanted[0], str) for wanted, got in ids)


WHICH = "say which is which, columns="
REFUSED = {  # name: (content, arguments, line, complaint)
    "nothing": ("\n", {}, 1, "fewer than two fields"),
    "names alone": (f"{NAMES}\n", {}, None, "no ratings, only column names"),
    "row names of R": ('"userId","movieId","rating"\n"1",7,318,5\n', {}, 2, "4 fields.*Row names"),
    "a field too few": (f"{NAMES},note\n7,20,4,x\n7,21,4\n", {}, 3, "3 fields.* 4 columns"),
    "no names, commas": (
        "1,31,2.5,1260759144\n", {}, 1,
        r"the first line holds no column names.*columns=\['userId', 'movieId', 'rating', 'timesta"),
    "names where none should be": (
        "user,item,stars\n1,2,3\n", {"columns": NAMES.split(",")}, 1, "rating .* is 'stars'"),
    "RecBole's names": ("user_id:token,movieId,rating:float\n1,2,3\n", {}, 1,
                        WHICH + "{'user_id:token': 'userId', 'rating:float': 'rating'}"),
    "other names": (
        "User-ID;ISBN;Book-Rating\n1;2;3\n", {}, 1,
        WHICH + "{'User-ID': 'userId', 'ISBN': 'movieId', 'Book-Rating': 'rating'}"),
    "names nobody can guess": (
        "userId,x\n1,2\n", {}, 1, r"columns={'\?movieId': 'movieId', '\?rating': 'rating'}"),
    "likes": ("userId,movieId\n1,2\n", {}, 1, r"each row is a like: .*assign\(rating=1\.0\)"),
    "too few names": ("1,31,2.5,9\n", {"columns": NAMES.split(",")}, 1, "has 4 fields.*has 3"),
    "a wrong name": ("user,movieId,rating\n1,2,3\n", {"columns": {"usr": "userId"}}, 1,
                     "no column 'usr'.*columns={'user': 'userId'}"),
    "a name twice": (f"{NAMES},rating\n1,2,3,4\n", {}, 1, "two columns 'rating'"),
    "thousands or decimals": (f'{NAMES}\n1,2,"1,234"\n', {}, 2, "'1,234'"),
    "a decimal comma beside a point": ("userId;movieId;rating\n1;2;4,5\n1;3;3.5\n", {}, 3, "'3.5'"),
    "a day without dashes": (f"{NAMES},timestamp\n1,2,3,20010102\n", {}, 2, "20010102"),
    "a separator nobody expects": ("userId|movieId|rating\n1|2|3\n", {}, 1, 'fewer.*sep="|"'),
    "a separator of two letters": (ONE, {"sep": r"\s+"}, 1, "a 1-character string"),
    "NaN": (f"{NAMES}\n\n7,20,NaN\n", {}, 3, "'NaN'"),
    "a broken id": (f"{NAMES}\n7,20,4\n1.5,11,3\n", {}, 3, "userId must be a whole .*'1.5'"),
    "an empty id": (f'{NAMES}\n"a\nb",20,4\n,11,3\n', {}, 4, "userId .*''"),
    "one movie twice": (f"{NAMES}\n7,20,4\n7,21,4\n7,20,5\n", {}, 4, "user 7 rates movie 20 more"),
    "day or month first": (f"{NAMES},timestamp\n1,2,3,01/02/2001\n", {}, 2, "a date as 2001-12-31"),
    "milliseconds": (f"{NAMES},timestamp\n1,2,3,1260759144000\n", {}, 2, r"below 10\*\*11"),
    "a time rounded by a spreadsheet": (f"{NAMES},timestamp\n1,2,3,1.26E+09\n", {}, 2, "timestamp"),
    "a comment": (f"{NAMES}\n7,20,4\n#7,21,5\n", {}, 3, "may be a comment"),
    "a quote without its partner": (f'{NAMES}\n7,20,4\n7,"21,5\n7,22,5\n', {}, 3, "unexpected end"),
    "a quote that swallows a row": (f'{NAMES}\n7,"20,4\n7,21,4\n7,"2,5\n', {}, 2, "expected after"),
    "latin-1": (f"{NAMES}\n7,Zoë,4\n".encode("latin-1"), {}, 2, 'encoding="latin-1"'),
    "an unknown encoding": (ONE, {"encoding": "lation-1"}, None, "unknown encoding: lation-1"),
    "half a gzip": (gzip.compress(ONE)[:-9], {"name": "r.csv.gz"}, None, "can't be read"),
    "unpacked by the browser": (ONE, {"name": "r.csv.gz"}, None, "Not a gzipped.*named .csv"),
    "a workbook": (zipped(a=b"\xff"), {"name": "my.xlsx"}, 1, "no text at all, save it as CSV"),
    "half a Parquet": (b"PAR1", {"name": "my.parquet"}, None, "can't be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_an_unclear_file_is_refused_by_name_line_and_reason(tmp_path, case):
    content, options, line, complaint = REFUSED[case]
    with pytest.raises(ValueError, match=complaint) as error:
        read(tmp_path, content, **options)
    assert str(tmp_path / options.get("name", "my.csv")) in str(error.value)
    assert line is None or f"line {line}" in str(error.value)


def test_a_path_may_begin_at_home_and_what_is_no_file_is_reported_with_its_folder(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "Übung 1").mkdir()
    (tmp_path / "Übung 1" / "my ratings.csv").write_bytes(ONE)
    assert load_ratings("~/Übung 1/my ratings.csv")["userId"].tolist() == [7]
    with pytest.raises(FileNotFoundError, match=r"no file mine\.csv in .*" + tmp_path.name):
        load_ratings(tmp_path / "mine.csv")
    with pytest.raises(FileNotFoundError, match="a folder, but no file"):
        load_ratings(tmp_path)


def test_parquet_is_read(tmp_path):
    pytest.importorskip("pyarrow")
    dates = pd.to_datetime(["2001-01-01T01:00:00+01:00"])
    df = pd.DataFrame({"who": ["007"], "movieId": [BIG], "rating": [4], "timestamp": dates})
    df.to_parquet(tmp_path / "my.parquet")
    read = load_ratings(tmp_path / "my.parquet", columns={"who": "userId"})
    assert read.iloc[0].tolist() == ["007", BIG, 4.0, 978307200]
    with pytest.raises(ValueError, match=r"my\.parquet: there is no column 'userId'.*'who'"):
        load_ratings(tmp_path / "my.parquet")


# Tables that are loaded already

GOOD = {"userId": [7], "movieId": [20], "rating": [4.5]}


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ({"userId": ["7"], "rating": ["4.5"]}, [7, 20, 4.5]),
        ({"movieId": pd.array([2**62 + 1], "Int64")}, [7, 2**62 + 1, 4.5]),
        ({"userId": pd.Categorical(["b"], categories=["a", "b"])}, ["b", 20, 4.5]),
        ({"userId": [7.0], "rating": [True]}, [7, 20, 1.0]),
        ({"userId": [Decimal(7)], "rating": [Decimal("4.5")]}, [7, 20, 4.5]),
        ({"userId": pd.array([2**62 + 1], "UInt64")}, [2**62 + 1, 20, 4.5]),
        *(
            ({"timestamp": pd.to_datetime(["2001-01-01"]).as_unit(unit)}, [7, 20, 4.5, 978307200])
            for unit in ("s", "ms", "us", "ns")
        ),
        ({"timestamp": pd.to_datetime(["1969-12-31T23:59:59.5Z"])}, [7, 20, 4.5, -1]),
        ({"timestamp": pd.Series([date(2001, 1, 1)])}, [7, 20, 4.5, 978307200]),
    ],
)
def test_a_table_is_taken_whatever_the_types_of_its_columns(columns, values):
    checked = check_ratings(pd.DataFrame(GOOD | columns))
    assert [checked[name].item() for name in checked] == values


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"userId": [2.0**53]}, "userId must be a whole number"),
        ({"userId": pd.array([2**63], "UInt64")}, "userId must be a whole number"),
        ({"userId": np.array([2**24], "float32")}, "userId must be .* row 1"),  # 2**24 + 1 is, too
        ({"userId": ["nan"]}, "userId must be .*'nan' in row 1 of 1"),
        ({"movieId": pd.Categorical([None], categories=["a"])}, "movieId must be"),
        ({"rating": pd.array([pd.NA], "Float64")}, "rating must be a finite number"),
        ({"timestamp": [pd.NaT]}, "timestamp must be"),
    ],
)
def test_a_table_is_refused_by_column_and_row(columns, complaint):
    with pytest.raises(ValueError, match="^mine: " + complaint):
        check_ratings(pd.DataFrame(GOOD | columns), "mine")


def test_a_table_of_arrow_is_a_table():
    pytest.importorskip("pyarrow")
    df = pd.DataFrame(GOOD | {"timestamp": pd.to_datetime(["2001-01-01"])})
    checked = check_ratings(df.convert_dtypes(dtype_backend="pyarrow"))
    assert checked.iloc[0].tolist() == [7, 20, 4.5, 978307200]


@pytest.mark.parametrize("given", [{"userId": [7]}, np.ones((2, 3)), pd.Series([1]), None, "a.csv"])
def test_what_is_no_table_is_called_by_its_type(given):
    for take in (check_ratings, encode_ratings, interaction_matrix, split_ratings):
        with pytest.raises(TypeError, match=rf"must be a table .*not {type(given).__name__}"):
            take(given)


def test_a_column_that_is_called_otherwise_is_asked_for_in_the_words_of_a_table():
    with pytest.raises(ValueError, match=r"df\.rename\(columns={' userId': 'userId'}\)"):
        check_ratings(pd.DataFrame(GOOD).rename(columns={"userId": " userId"}))


junk = st.one_of(
    st.none(), st.text(max_size=3), st.floats(), st.integers(), st.booleans(),
    st.sampled_from(["3", "nan", "1e400", "2,5", float("inf"), pd.NaT]),
)  # fmt: skip
names = st.sampled_from(["userId", "movieId", "rating", "timestamp", "user", "Rating", "", 0])


@settings(max_examples=150)
@given(st.dictionaries(names, st.lists(junk, min_size=3, max_size=3)), st.integers(0, 3))
def test_whatever_a_table_holds_it_is_read_or_refused_with_a_sentence(columns, n_rows):
    df = pd.DataFrame(columns)[:n_rows]
    try:
        checked = check_ratings(df, "mine.csv")
    except ValueError as error:
        assert str(error).startswith("mine.csv: ")
    else:
        assert len(checked) == len(df) > 0
        assert np.isfinite(checked["rating"]).all()
        assert "timestamp" not in checked or checked["timestamp"].dtype == np.int64
        assert not checked.duplicated(["userId", "movieId"]).any()


# Files with everything at once

ID_KINDS = [
    st.integers(0, 30).map(str),
    st.integers(BIG, BIG + 3).map(str),
    st.integers(2**63 - 2, 2**63 + 1).map(str),
    st.integers(1, 12).map("{:03d}".format),
    st.sampled_from(["080442957X", "Zoë", 'say "hi"', "a, b", "x;y", "two\nlines", "b12e4", "7"]),
]
STARS = ["0.5", "3", "4.5", "10", "1.234", "-2.25"]
TIMES = {"seconds": "%s", "iso": "%Y-%m-%dT%H:%M:%SZ", "slashes": "%d/%m/%Y"}
FAULTS = {"row names", "duplicate", "NaN", "infinite", "empty", "a field less", "comment"}
CLEAR = {"a point zero", "blank", "CRLF", "BOM", "gz", "quote all", "note", "named", "no names"}
MAYBE = {"decimal comma", "latin-1", "other names"}  # readable or not, but never read wrongly


def as_ids(texts):
    whole = all(re.fullmatch("0|[1-9][0-9]*", text) for text in texts)
    return [int(t) for t in texts] if whole and max(map(int, texts)) < 2**63 else texts


@st.composite
def files(draw):
    """Draw (bytes, name, arguments, the truth or None where there is none, must it be read)."""
    odd = draw(st.sets(st.sampled_from(sorted(FAULTS | CLEAR | MAYBE)), max_size=5))
    sep, time = draw(st.sampled_from([",", ";", "\t", "::"])), draw(st.sampled_from([*TIMES, None]))
    row = st.tuples(*(draw(st.sampled_from(ID_KINDS)) for _ in "ui"), st.sampled_from(STARS))
    rows = draw(st.lists(row, min_size=1, max_size=6, unique_by=lambda row: row[:2]))
    if "row names" in odd:
        odd -= {"a field less", "empty"}  # together they can make a file without a fault
    users, items, stars = map(list, zip(*rows, strict=True))
    seconds = draw(st.lists(st.integers(9 * 10**8, 10**9), min_size=len(rows), max_size=len(rows)))
    truth = [as_ids(users), as_ids(items), [*map(float, stars)], seconds][: 4 if time else 3]
    if "a point zero" in odd and isinstance(truth[0][0], int):
        users[0] += ".0"
    if "decimal comma" in odd:
        stars = [star.replace(".", ",") for star in stars]
    for oddity, text in (("NaN", "NA"), ("infinite", "inf"), ("empty", "")):
        if oddity in odd:
            at = stars if oddity == "infinite" else draw(st.sampled_from([users, items, stars]))
            at[draw(st.integers(0, len(rows) - 1))] = text
    columns = {"userId": users, "movieId": items, "rating": stars}
    if time:
        moments = [datetime.fromtimestamp(second, UTC) for second in seconds]
        texts = [m.strftime(TIMES[time].replace("%s", f"{m.timestamp():.0f}")) for m in moments]
        columns["timestamp"] = texts
    if "note" in odd:
        columns["note"] = [draw(st.sampled_from(["", "fine"])) for _ in rows]
    order = draw(st.permutations([*columns]))
    body = [list(fields) for fields in zip(*(columns[name] for name in order), strict=True)]
    content, name, options = laid_out(draw, odd, sep, order, body)
    told = "named" in odd or not odd & {"no names", "other names"}
    clear = told and odd <= CLEAR | {"other names"} and time != "slashes"
    wrong = odd & FAULTS or ("decimal comma" in odd and "1,234" in stars)
    return content, name, options, None if wrong else truth, clear


def laid_out(draw, odd, sep, order, body):
    """Put a table into a file, its oddities between."""
    header = [f"My{name}" if "other names" in odd else name for name in order]
    body += body[:1] * ("duplicate" in odd)
    if "row names" in odd:  # as R writes them
        body = [[f"{row}", *(t or "NA" for t in fields)] for row, fields in enumerate(body, 1)]
    if "a field less" in odd:
        body[-1] = body[-1][:-1]
    if "comment" in odd:
        body.insert(draw(st.integers(0, len(body))), ["#" + body[0][0], *body[0][1:]])
    options = {}
    if "named" in odd and "no names" in odd:
        options["columns"] = list(order)
    elif "named" in odd and "other names" in odd:
        options["columns"] = {f"My{name}": name for name in order if name in COLUMNS}
    rows = ([] if "no names" in odd else [header]) + body
    rows.insert(draw(st.integers(0, len(rows))), []) if "blank" in odd else None
    text, letter = io.StringIO(newline=""), "\x1f" if sep == "::" else sep
    quoting = csv.QUOTE_ALL if "quote all" in odd else csv.QUOTE_MINIMAL
    end = "\r\n" if "CRLF" in odd else "\n"
    csv.writer(text, delimiter=letter, quoting=quoting, lineterminator=end).writerows(rows)
    code = "latin-1" if "latin-1" in odd else "utf-8-sig" if "BOM" in odd else "utf-8"
    options |= {"encoding": "latin-1"} if "latin-1" in odd and draw(st.booleans()) else {}
    content = text.getvalue().replace(letter, sep).encode(code)
    packed = "gz" in odd
    return gzip.compress(content) if packed else content, f"a.csv{'.gz' * packed}", options


@given(files())
@settings(max_examples=150)
def test_a_file_with_everything_is_read_right_or_refused_by_file_and_line(tmp_path_factory, file):
    content, name, options, truth, clear = file
    folder = tmp_path_factory.mktemp("f")
    try:
        df = read(folder, content, name, **options)
    except ValueError as error:
        assert not clear or truth is None, error
        assert str(folder / name) in str(error) and "line " in str(error)
    else:
        assert truth is not None, df
        assert [df[column].tolist() for column in df] == truth

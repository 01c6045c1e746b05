"""Made up for several tests: tables of ratings, ML-100K in small as each source packs it, runs."""

import hashlib
import io
import time
import zipfile

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from scipy import sparse


def ratings(rows):
    """Build a ratings table from (user, movie, rating) rows."""
    users, movies, stars = zip(*rows, strict=True) if rows else ((), (), ())
    ids = {"userId": np.array(users, "int64"), "movieId": np.array(movies, "int64")}
    return pd.DataFrame(ids | {"rating": np.array(stars, "float64")})


def tables(min_size=1):
    """Draw ratings tables of odd shapes: gaps between ids, one user, one movie, any order."""
    ids = st.integers(-3, 12) | st.sampled_from([10**6, 2**62])
    row = st.tuples(ids, ids, st.sampled_from([0.0, 0.5, 1.0, 3.5, 5.0]))
    return st.lists(row, min_size=min_size, unique_by=lambda r: r[:2]).map(ratings)


@st.composite
def matrices(draw):
    """Draw CSR matrices with empty rows, full rows, and entries in any order."""
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    cells = st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items - 1))
    entries = draw(st.lists(cells, unique=True))
    users, items = np.array(entries, "int64").reshape(-1, 2).T
    values = np.arange(1, len(entries) + 1, dtype="float32")
    return sparse.csr_matrix((values, (users, items)), shape=(n_users, n_items))


RATINGS = b"196\t242\t3\t881250949\n186\t302\t3\t891717742\n"
FLAGS = {"unknown": "1|0|0", "Animation|Comedy": "0|1|1", "Comedy": "0|0|1"}
MOVIES = [
    (1, "Toy Story", 1995, "Animation|Comedy"),
    (267, "unknown", None, "unknown"),
    (543, "Misérables, Les", 1995, "Comedy"),
    (1412, "Land Before Time III: The Time of the Great Giving", 1995, "Animation|Comedy"),
    (1635, "Two Friends (of mine)", 1986, "Comedy"),
]
ITEMS = [  # the titles as GroupLens has them: one without a year, one with more, one with a space
    "Toy Story (1995)",
    "unknown",
    "Misérables, Les (1995)",
    "Land Before Time III: The Time of the Great Giving (1995) (V)",
    "Two Friends (of mine) (1986) ",
]
RETYPED = [  # and as RecBole has them
    ("Toy Story", "1995"),
    ("unkonwn", "unkonwn"),
    ("Misérables, Les", "1995"),
    ("Land Before Time III: The Time of the Great Giving (1995)", "V"),
    ("Two Friends (of mine)", "1986"),
]


def archive(files):
    """Zip up {name: contents} in memory."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            out.writestr(zipfile.ZipInfo(name), content)  # dated 1980: always the same bytes
    return memory.getvalue()


def grouplens_zip(ratings=RATINGS, **more):
    items = [
        f"{number}|{title}|01-Jan-1995||http://x|{FLAGS[genres]}\n"
        for (number, _, _, genres), title in zip(MOVIES, ITEMS, strict=True)
    ]
    files = {
        "ml-100k/u.data": ratings,
        "ml-100k/u.item": "".join(items).encode("latin-1"),
        "ml-100k/u.genre": b"unknown|0\nAnimation|1\nComedy|2\n\n",
    }
    return archive(files | more)


def recbole_wheel():
    items = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"]
    items += [
        f"{number}\t{title}\t{year}\t{genres.replace('|', ' ')}\n"
        for (number, _, _, genres), (title, year) in zip(MOVIES, RETYPED, strict=True)
    ]
    path = "recbole/dataset_example/ml-100k/ml-100k"
    header = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    return archive({path + ".inter": header + RATINGS, path + ".item": "".join(items).encode()})


def digest(content):
    return hashlib.sha256(content).hexdigest()


def reply(content, status=200, length=None):
    def answer(handler):
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def slow_run(lr=0.1, n_epochs=60, **_):
    """What a lab trains, in epochs of 5 ms."""

    def epochs():
        for epoch in range(1, n_epochs + 1):
            time.sleep(0.005)
            yield {"epoch": epoch, "validation_loss": 1 / epoch}

    return None, epochs()

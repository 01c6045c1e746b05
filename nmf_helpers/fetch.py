"""Fetch ML-100K once, verify it, and keep it in a cache.

ML-100K may not be passed on, so this package can't carry it. Two archives hold it: GroupLens's zip
file, and the wheel of RecBole, a recommender library that has it as an example. A third route is a
copy of your own of either (environment variable ``NMF_ML100K``: a path or an address). Whichever
came is verified and kept as ``ml-100k.zip``; the tables are the same.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import BytesIO
from itertools import compress
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

from platformdirs import user_cache_dir

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
URL_SHA256 = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"


class ML100K(NamedTuple):
    """The contents of ML-100K: the bytes of ``u.data``, and (movieId, title, year, genres) rows."""

    ratings: bytes
    movies: list[tuple[int, str, int | None, str]]


class FetchError(OSError):
    """ML-100K could not be had, or not be kept; the message says why and what to do."""


def cache_dir() -> Path:
    """Return the cache folder: environment variable NMF_DATA_DIR, or the platform's usual one."""
    chosen = os.environ.get("NMF_DATA_DIR") or user_cache_dir("nmf_helpers", False)
    folder = Path(chosen).expanduser()
    if not folder.is_absolute():
        why = f"NMF_DATA_DIR={chosen} means another folder in each notebook's"
        raise FetchError(f"{why}: give the whole path, such as {folder.absolute()}")
    return folder


def fetch_100k() -> ML100K:
    """Return ML-100K from the cache, else by the first route that works, or raise FetchError."""
    path, failures = cache_dir() / "ml-100k.zip", []
    if path.exists():
        try:
            return read_archive(path.read_bytes())
        except Exception as error:  # an archive can be broken in many ways; get a new one
            failures.append(f"{path}: {error}")
    check_writable(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for name, route in routes().items():
            try:
                archive = Path(route(folder))
                contents = read_archive(archive.read_bytes())
                with suppress(PermissionError):  # Windows, while another process reads its own
                    archive.replace(path)  # so that the file is never there in half
                return contents
            except Exception as error:  # whatever went wrong, the next route may work
                failures.append(f"{name}: {str(error) or type(error).__name__}")
    raise FetchError(
        "\n  - ".join(["ML-100K could not be fetched. Tried:", *failures])
        + f"\nWays out:\n  - get {URL} in any way you can, and put it at {path}\n"
        "  - set the environment variable NMF_ML100K to where a copy is: a path or an address\n"
        "  - if the disk is full: make room, or set NMF_DATA_DIR to a folder on another\n"
        '  - work with the dataset that comes with this package: load_ratings("latest-small")'
    )


def routes() -> dict[str, Callable[[str], str]]:
    """Return the ways to get ML-100K by name: each puts it into a folder, and returns its path."""
    ways: dict[str, Callable[[str], str]] = {}
    if own := os.environ.get("NMF_ML100K"):
        copy = partial(shutil.copy, Path(own).expanduser())
        is_address = re.match("https?://", own)
        ways[f"NMF_ML100K={own}"] = partial(download, own) if is_address else copy
    ways[URL] = partial(download, URL)
    ways[f"pip download {WHEEL}"] = partial(pip_download, WHEEL)
    return ways


def check_writable(folder: Path) -> None:
    """Create the folder if need be; raise FetchError if no file can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        ways = 'make room, set NMF_DATA_DIR to a folder of yours, or load_ratings("latest-small")'
        raise FetchError(f"the cache folder {folder} can't be written ({error}): {ways}") from error


def download(url: str, folder: str, timeout: float = 10) -> str:
    """Download a file, with a progress bar; give up after `timeout` seconds without a byte."""
    import pooch  # here, because it takes a while

    pooch.get_logger().setLevel("WARNING")  # the bar says enough
    take = pooch.HTTPDownloader(progressbar=True, timeout=timeout)
    return pooch.retrieve(url, None, path=folder, downloader=take)  # read_archive verifies it


def pip_download(requirement: str, folder: str) -> str:
    """Download a wheel with pip, which knows this machine's package index; install nothing."""
    options = "--no-deps --only-binary=:all: --no-input --quiet --retries=0 --timeout=10"
    command = [sys.executable, "-m", "pip", "download", requirement, *options.split()]
    command += ["--disable-pip-version-check", f"--dest={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise OSError((done.stderr.strip() or "pip failed").splitlines()[-1])
    (wheel,) = Path(folder).glob("*.whl")
    return str(wheel)


def read_archive(content: bytes) -> ML100K:
    """Take ML-100K from GroupLens's zip file or RecBole's wheel; other bytes are a ValueError."""
    found = hashlib.sha256(content).hexdigest()
    if found not in (URL_SHA256, WHEEL_SHA256):
        what = "a web page, of a login perhaps," if content.lstrip()[:1] == b"<" else "a file"
        raise ValueError(f"{what} with a wrong checksum ({len(content):,} bytes)")
    with ZipFile(BytesIO(content)) as archive:
        ratings, items = (_read_zip if found == URL_SHA256 else _read_wheel)(archive)
    movies = []
    for number, title, genres in items:
        # "Toy Story (1995)"; one title goes on after the year: "... (1995) (V)", for a video.
        match = re.match(r"(.*)\((\d{4})\)", title)
        name, year = (match[1], int(match[2])) if match else (title, None)
        movies.append((int(number), name.strip(), year, "|".join(genres)))
    return ML100K(ratings, movies)


def _read_zip(archive: ZipFile) -> tuple[bytes, list]:
    # u.genre names the genres, one a line: "Action|1"; u.item has a 0/1 flag for each of them.
    genres = [line.split("|")[0] for line in archive.read("ml-100k/u.genre").decode().split()]
    lines = archive.read("ml-100k/u.item").decode("latin-1").splitlines()
    rows = [line.split("|") for line in lines]
    items = [(row[0], row[1], compress(genres, map(int, row[5:]))) for row in rows]
    return archive.read("ml-100k/u.data"), items


def _read_wheel(archive: ZipFile) -> tuple[bytes, list]:
    # RecBole puts a header above u.data, and types u.item anew, with years in a column.
    path, items = "recbole/dataset_example/ml-100k/ml-100k", []
    for line in archive.read(path + ".item").decode().splitlines()[1:]:
        number, title, year, genres = line.split("\t")
        title = "unknown" if title == "unkonwn" else f"{title} ({year})"
        items.append((number, title, genres.split()))
    return archive.read(path + ".inter").partition(b"\n")[2], items

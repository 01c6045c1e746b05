"""Fetch ML-100K once, verify it, and keep it in a cache.

ML-100K may not be passed on, so this package can't carry it. Three routes lead to it: a copy of
your own (environment variable ``NMF_ML100K``: a path or an address), GroupLens's zip file, and the
wheel of RecBole, a recommender library that has it as an example. The ratings are the same verified
bytes each time, and whichever archive came is kept as ``ml-100k.zip``.
"""

import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from itertools import compress
from pathlib import Path
from threading import Thread
from typing import NamedTuple
from zipfile import ZipFile

from platformdirs import user_cache_dir

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
URL_SHA256 = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
RATINGS_SHA256 = "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"
STALE = 60  # seconds; nobody needs as long to write 5 MB


class ML100K(NamedTuple):
    """The contents of ML-100K: the bytes of ``u.data``, and (movieId, title, year, genres) rows."""

    ratings: bytes
    movies: list[tuple[int, str, int | None, str]]


class FetchError(OSError):
    """ML-100K could not be had, or not be kept; the message says why and what to do."""


def cache_dir() -> Path:
    """Return the cache folder: environment variable NMF_DATA_DIR, or the platform's usual one."""
    chosen = os.environ.get("NMF_DATA_DIR") or user_cache_dir("nmf_helpers", False)
    folder = Path(os.path.expanduser(chosen))
    if not folder.is_absolute():
        raise FetchError(
            f"NMF_DATA_DIR={chosen} means another folder in each notebook's: give the whole path, "
            f"such as {folder.absolute()}"
        )
    return folder


def fetch_100k(
    path: Path | None = None,
    routes: Mapping[str, Callable[[], bytes]] | None = None,
    sha256: str = RATINGS_SHA256,
) -> ML100K:
    """Return the contents of ML-100K, fetching it if there is no good copy in the cache yet.

    The `routes` (by name; :func:`usual_routes` by default) are tried in their order, until one
    gives an archive whose ratings have this checksum; it is kept at `path`. FetchError is raised if
    no route worked, or the cache can't be written.
    """
    path = path or cache_dir() / "ml-100k.zip"
    failures: list[str] = []
    if path.exists():
        try:
            return read_archive(path.read_bytes(), sha256)
        except Exception as error:  # an archive can be broken in many ways; get a new one
            failures.append(f"{path}: {error}")
    check_writable(path.parent, *failures)
    for name, route in (routes or usual_routes()).items():
        try:
            archive = route()
            contents = read_archive(archive, sha256)
        except Exception as error:  # whatever went wrong, the next route may work
            failures.append(f"{name}: {str(error) or type(error).__name__}")
        else:
            _store(archive, path)
            return contents
    raise FetchError(
        "\n  - ".join(["ML-100K could not be fetched. Tried:", *failures])
        + f"\nThree ways out:\n  - get {URL} in any way you can, and put it at {path}\n"
        "  - set the environment variable NMF_ML100K to where a copy is: a path or an address\n"
        '  - work with the dataset that comes with this package: load_ratings("latest-small")'
    )


def usual_routes() -> dict[str, Callable[[], bytes]]:
    """Return the ways to get ML-100K, by name: a copy of one's own, GroupLens, a wheel."""
    routes: dict[str, Callable[[], bytes]] = {
        URL: lambda: download(URL, URL_SHA256),
        f"pip download {WHEEL}": lambda: pip_download(WHEEL, WHEEL_SHA256),
    }
    if own := os.environ.get("NMF_ML100K"):
        is_address = re.match("https?://", own)
        read = download if is_address else lambda path: Path(path).expanduser().read_bytes()
        routes = {f"NMF_ML100K={own}": lambda: read(own), **routes}
    return routes


def check_writable(folder: Path, *failures: str) -> None:
    """Create the folder if need be; raise FetchError if no file can be written in it."""
    with _writing(folder, *failures):
        tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def _writing(folder: Path, *failures: str) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        why = f"the cache folder {folder} can't be written ({error}). Make room or set the "
        why += "environment variable NMF_DATA_DIR to a folder of yours, or work with "
        raise FetchError("\n".join([*failures, why + 'load_ratings("latest-small")'])) from error


def download(url: str, sha256: str | None = None, seconds: float = 120, stall: float = 10) -> bytes:
    """Download a small file into memory, with a progress bar, and verify it.

    Gives up after `stall` seconds without a byte, or `seconds` in all.
    """
    from pooch import HTTPDownloader  # here, because it takes a while to import
    from tqdm.auto import tqdm

    content, done = io.BytesIO(), Future[None]()

    def work() -> None:
        try:
            # A bar without a total is neither true nor false; pooch asks, and sets the real one.
            with tqdm(desc="ML-100K", total=1, unit="B", unit_scale=True, leave=False) as bar:
                HTTPDownloader(bar, chunk_size=256, timeout=stall)(url, content, None)
            done.set_result(None)
        except Exception as error:
            done.set_exception(error.with_traceback(None))  # which would keep the connection open

    # In a thread, for `stall` counts from byte to byte: it never ends for a server that drips.
    Thread(target=work, daemon=True).start()
    try:
        if error := done.exception(timeout=seconds):
            raise error
        return _verified(content.getvalue(), sha256, "the download")
    except TimeoutError:
        raise TimeoutError(f"too slow: not done after {seconds} s") from None
    finally:
        content.close()  # whatever still writes to it, stops


def pip_download(requirement: str, sha256: str, seconds: float = 120) -> bytes:
    """Download a wheel with pip, which knows this machine's package index, and verify it.

    Nothing is installed. Gives up after 10 seconds without a byte, or `seconds` in all.
    """
    options = "--no-deps --only-binary=:all: --no-input --disable-pip-version-check --quiet"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", requirement, *options.split()]
        command += ["--retries=0", "--timeout=10", f"--dest={folder}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"too slow: pip was not done after {seconds} s") from None
        if done.returncode:
            raise OSError((done.stderr.strip() or "pip failed").splitlines()[-1])
        (wheel,) = Path(folder).glob("*.whl")
        return _verified(wheel.read_bytes(), sha256, "the wheel")


def read_archive(content: bytes, sha256: str = RATINGS_SHA256) -> ML100K:
    """Take ML-100K from GroupLens's zip file or RecBole's wheel: the same tables from either.

    A ValueError (BadZipFile, KeyError) says what is wrong: another checksum of the ratings, names
    that point outside the archive, no archive at all, or one without ML-100K in it.
    """
    with ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        # Nothing is unpacked to disk here, but an archive that tries to escape isn't ours.
        if unsafe := [name for name in names if re.search(r"^[/\\]|(^|[/\\])\.\.|:", name)]:
            raise ValueError(f"the archive has an unsafe name in it: {unsafe[0]!r}")
        from_wheel = any(name.startswith("recbole/") for name in names)
        contents = _read_wheel(archive) if from_wheel else _read_zip(archive)
    _verified(contents.ratings, sha256, "u.data")
    return contents


def _read_zip(archive: ZipFile) -> ML100K:
    # u.genre names the genres, one a line: "Action|1"; u.item has a 0/1 flag for each of them.
    genres = [line.split("|")[0] for line in archive.read("ml-100k/u.genre").decode().split()]
    movies = []
    for line in archive.read("ml-100k/u.item").decode("latin-1").splitlines():
        number, title, _, _, _, *flags = line.split("|")
        movies.append(_movie(number, title, compress(genres, map(int, flags))))
    return ML100K(archive.read("ml-100k/u.data"), movies)


def _read_wheel(archive: ZipFile) -> ML100K:
    # RecBole puts a header above u.data, and types u.item anew, with years in a column.
    path = "recbole/dataset_example/ml-100k/ml-100k"
    _, _, ratings = archive.read(path + ".inter").partition(b"\n")
    movies = []
    for line in archive.read(path + ".item").decode().splitlines()[1:]:
        number, title, year, genres = line.split("\t")
        title = "unknown" if title == "unkonwn" else f"{title} ({year})"
        movies.append(_movie(number, title, genres.split()))
    return ML100K(ratings, movies)


def _movie(number: str, title: str, genres: Iterable[str]) -> tuple[int, str, int | None, str]:
    # "Toy Story (1995)"; one title goes on after the year: "... (1995) (V)", for a video.
    match = re.match(r"(.*)\((\d{4})\)", title)
    name, year = (match[1], int(match[2])) if match else (title, None)
    return int(number), name.strip(), year, "|".join(genres)


def _verified(content: bytes, sha256: str | None, what: str) -> bytes:
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        page = content.lstrip()[:1] == b"<"
        hint = "; it is a web page, perhaps of a login or an error" if page else ""
        raise ValueError(f"{what} has a wrong checksum ({len(content):,} bytes{hint})")
    return content


def _store(content: bytes, path: Path) -> None:
    """Write under another name, then rename: the file is never there in half."""
    for left in path.parent.glob(f"{path.name}.*.part"):  # by a process killed while it wrote
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE:
                left.unlink()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # two processes may write at once
    try:
        with _writing(path.parent):
            part.write_bytes(content)
            # Windows won't replace a file that another process is reading: then that process has
            # one, and we have ours in memory.
            with suppress(PermissionError) if path.exists() else nullcontext():
                part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)

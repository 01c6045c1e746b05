"""Fetch ML-100K once, verify it, and keep it in a cache.

ML-100K may not be passed on, so this package can't carry it. Several routes lead to it; each ends
in the same verified bytes, or is given up for the next.
"""

import csv
import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import compress
from pathlib import Path, PurePosixPath
from urllib.request import urlopen
from zipfile import ZipFile

from platformdirs import user_cache_dir
from tqdm.auto import tqdm

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
ZIP_SHA256 = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
WHEEL = "recbole==1.2.1"  # the recommender library RecBole brings ML-100K as an example
SHA256 = {
    "u.data": "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
    "movies.csv": "7a84f011b17091310ac1c9df993c25a93acb6db84711219ebd44ffa1544cee4c",
}

Route = Callable[[], Mapping[str, bytes]]  # what a route brings: file name -> contents


class FetchError(OSError):
    """ML-100K could not be had, or not be kept; the message says why and what to do."""


def cache_dir() -> Path:
    """Return the cache folder: environment variable NMF_DATA_DIR, or the platform's usual one."""
    chosen = os.environ.get("NMF_DATA_DIR")
    return Path(chosen or user_cache_dir("nmf_helpers", appauthor=False)).expanduser().absolute()


def fetch_100k(
    folder: Path | None = None,
    routes: Mapping[str, Route] | None = None,
    sha256: Mapping[str, str] = SHA256,
) -> Path:
    """Return a folder with a verified copy of ML-100K, fetching it if there is none yet.

    Parameters
    ----------
    folder
        Where to keep it; ``ml-100k`` in :func:`cache_dir` by default.
    routes
        Ways to fetch it, by name, in the order to try them; by default GroupLens, then the
        package index that pip uses. An ``ml-100k.zip`` put beside `folder` by hand comes first.
    sha256
        The files to keep and their checksums.

    Returns
    -------
    Path
        The folder with ``u.data``, GroupLens's own file, and ``movies.csv``.

    Raises
    ------
    FetchError
        No route worked, or `folder` can't be written.
    """
    folder = folder or cache_dir() / "ml-100k"
    if is_cached(folder, sha256):
        return folder
    check_writable(folder)
    by_hand = folder.parent / "ml-100k.zip"
    if routes is None:
        routes = {
            URL: lambda: read_zip(download(URL, ZIP_SHA256)),
            f"pip download {WHEEL}": lambda: read_wheel(pip_download(WHEEL)),
        }
    if by_hand.exists():
        routes = {str(by_hand): lambda: read_zip(by_hand.read_bytes()), **routes}
    failures = []
    for name, route in routes.items():
        try:
            files = route()
            for file, expected in sha256.items():
                _verify(files[file], expected, file)
        except Exception as error:  # whatever went wrong here, the next route may work
            failures.append(f"  - {name}: {str(error) or type(error).__name__}")
        else:
            _store(files, folder, sha256)
            return folder
    raise FetchError(
        "ML-100K could not be fetched. Tried:\n"
        + "\n".join(failures)
        + f"\nTwo ways out:\n  - get {URL} in any way you can, and put it at {by_hand}\n"
        '  - work with the dataset that comes with this package: load_ratings("latest-small")'
    )


def is_cached(folder: Path, sha256: Mapping[str, str] = SHA256) -> bool:
    """Tell whether every file is in the folder and has its checksum."""
    try:
        return all(_sha256((folder / name).read_bytes()) == want for name, want in sha256.items())
    except OSError:
        return False


def check_writable(folder: Path) -> None:
    """Create the folder if need be; raise FetchError if no file can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _unwritable(folder, error) from error


def download(url: str, sha256: str, seconds: float = 120, stall: float = 10) -> bytes:
    """Download a small file into memory, with a progress bar, and verify it.

    Gives up after `stall` seconds without a byte, or `seconds` in all.
    """
    deadline = time.monotonic() + seconds
    content = bytearray()
    with urlopen(url, timeout=stall) as response:
        size = int(response.headers.get("Content-Length") or 0) or None
        with tqdm(desc="ML-100K", total=size, unit="B", unit_scale=True, leave=False) as bar:
            while chunk := response.read1(1 << 16):
                content += chunk
                bar.update(len(chunk))
                if time.monotonic() > deadline:
                    raise TimeoutError(f"too slow: {len(content)} bytes after {seconds} s")
    _verify(content, sha256, "the download")
    return bytes(content)


def pip_download(requirement: str, seconds: float = 120) -> bytes:
    """Download a wheel with pip, which knows this machine's package index, without installing."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", requirement, "--no-deps"]
        command += ["--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
        command += ["--quiet", "--retries=0", "--timeout=10", f"--dest={folder}"]
        with tqdm(desc=f"ML-100K, {requirement}", total=1, leave=False) as bar:
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"too slow: pip was not done after {seconds} s") from None
            bar.update()
        if done.returncode:
            raise OSError((done.stderr.strip() or "pip failed").splitlines()[-1])
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.read_bytes()


def read_zip(content: bytes) -> dict[str, bytes]:
    """Take ML-100K from GroupLens's zip file."""
    with _open_zip(content) as archive:
        # u.genre names the genres, one a line: "Action|1". u.item has one 0/1 flag for each.
        genres = [g.split("|")[0] for g in archive.read("ml-100k/u.genre").decode().split()]
        movies = []
        for line in archive.read("ml-100k/u.item").decode("latin-1").splitlines():
            number, title, _, _, _, *flags = line.split("|")
            movies.append((number, title, list(compress(genres, map(int, flags)))))
        return {"u.data": archive.read("ml-100k/u.data"), "movies.csv": _movies_csv(movies)}


def read_wheel(content: bytes) -> dict[str, bytes]:
    """Take ML-100K from RecBole's wheel: GroupLens's u.data under a header, movies retyped."""
    with _open_zip(content) as archive:
        path = "recbole/dataset_example/ml-100k/ml-100k"
        _, _, ratings = archive.read(path + ".inter").partition(b"\n")
        movies = []
        for line in archive.read(path + ".item").decode().splitlines()[1:]:
            number, title, year, genres = line.split("\t")
            title = "unknown" if title == "unkonwn" else f"{title} ({year})"
            movies.append((number, title, genres.split(" ")))
        return {"u.data": ratings, "movies.csv": _movies_csv(movies)}


def _movies_csv(movies: Iterable[tuple[str, str, list[str]]]) -> bytes:
    """Write movies in the one form that both archives lead to, byte for byte."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["movieId", "title", "year", "genres"])
    for number, title, genres in movies:
        # "Toy Story (1995)"; one title goes on after the year: "... (1995) (V)", for video.
        match = re.match(r"(.*)\((\d{4})\)", title)
        name, year = match.groups() if match else (title, "")
        writer.writerow([number, name.strip(), year, "|".join(genres)])
    return text.getvalue().encode()


def _open_zip(content: bytes) -> ZipFile:
    archive = ZipFile(io.BytesIO(content))
    for name in archive.namelist():
        # Nothing here unpacks to disk, but an archive that tries to escape isn't the one we want.
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise ValueError(f"the archive has an unsafe name in it: {name!r}")
    return archive


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _verify(content: bytes, expected: str, what: str) -> None:
    if _sha256(content) != expected:
        page = content.lstrip()[:1] == b"<"
        hint = "; it is a web page, perhaps of a login or an error" if page else ""
        raise ValueError(f"{what} has a wrong checksum ({len(content)} bytes{hint})")


def _store(files: Mapping[str, bytes], folder: Path, sha256: Mapping[str, str]) -> None:
    """Write each file under another name, then rename: it is never there in half."""
    try:
        with tempfile.TemporaryDirectory(dir=folder) as partial:
            for name in sha256:
                (Path(partial) / name).write_bytes(files[name])
                os.replace(Path(partial) / name, folder / name)
    except OSError as error:
        # On Windows a file that another process is reading can't be replaced; if that process
        # has put a good one there, all is well.
        if not is_cached(folder, sha256):
            raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> FetchError:
    return FetchError(
        f"the cache folder {folder} can't be written ({error}). Make room or set the environment "
        'variable NMF_DATA_DIR to a folder of yours, or work with load_ratings("latest-small")'
    )

"""Fetching ML-100K when everything goes wrong: servers on loopback that fail in each known way."""

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from made_up import MOVIES, RATINGS, archive, digest, grouplens_zip, recbole_wheel, reply

from nmf_helpers import fetch
from nmf_helpers.fetch import (
    FetchError,
    cache_dir,
    download,
    fetch_100k,
    pip_download,
    read_archive,
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Take the small archives made up here for the real ones."""
    monkeypatch.setattr(fetch, "URL_SHA256", digest(grouplens_zip()))
    monkeypatch.setattr(fetch, "WHEEL_SHA256", digest(recbole_wheel()))


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Where the archive is kept."""
    monkeypatch.setenv("NMF_DATA_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ml-100k.zip"


@pytest.fixture
def routes(monkeypatch):
    return lambda **ways: monkeypatch.setattr(fetch, "routes", lambda: ways)


def gives(what):
    """Make a route that gives these bytes, or fails with this error."""

    def route(folder):
        if not isinstance(what, bytes):
            raise what
        Path(folder, "archive").write_bytes(what)
        return f"{folder}/archive"

    return route


# What arrives


def test_both_archives_give_the_same_contents():
    from_zip = read_archive(grouplens_zip())
    assert from_zip == read_archive(recbole_wheel())
    assert from_zip.ratings == RATINGS
    assert from_zip.movies == MOVIES


@pytest.mark.parametrize("other", [
    grouplens_zip(RATINGS.replace(b"3", b"4", 1)), grouplens_zip(**{"../evil": b"x"}),
    grouplens_zip()[:-60], b"",
])  # fmt: skip
def test_any_other_archive_is_refused(other):
    with pytest.raises(ValueError, match="a file with a wrong checksum"):
        read_archive(other)


def test_the_routes_are_a_copy_of_ones_own_grouplens_and_a_wheel(tmp_path, monkeypatch, serve):
    monkeypatch.delenv("NMF_ML100K", raising=False)
    assert [*fetch.routes()] == [fetch.URL, "pip download recbole==1.2.1"]
    (tmp_path / "mine.zip").write_bytes(grouplens_zip())
    (tmp_path / "new").mkdir()
    for own in (str(tmp_path / "mine.zip"), serve(reply(grouplens_zip()))):
        monkeypatch.setenv("NMF_ML100K", own)
        name, route = next(iter(fetch.routes().items()))
        assert name == f"NMF_ML100K={own}"
        assert Path(route(str(tmp_path / "new"))).read_bytes() == grouplens_zip()
    assert (tmp_path / "mine.zip").exists()


# Downloading


def test_the_next_route_is_taken_when_one_fails_or_falls_silent(path, routes, serve):
    def stall(handler):
        reply(b"PK", length=1000)(handler)
        over.wait(20)

    start, over, whole = time.monotonic(), threading.Event(), grouplens_zip()
    half = reply(whole[: len(whole) // 2], length=len(whole))
    urls = [serve(answer) for answer in (reply(b"<html>"), half, stall, reply(whole))]
    routes(**{url: partial(download, url, timeout=0.3) for url in urls})
    assert fetch_100k().ratings == RATINGS and time.monotonic() - start < 10
    over.set()


def test_if_all_routes_fail_one_error_tells_what_was_tried_and_the_ways_out(path, routes, serve):
    path.parent.mkdir()
    path.write_bytes(b"")
    page = serve(reply(b"\n<!DOCTYPE html><title>Please log in to the wifi</title>"))
    sorry = serve(reply(b"sorry", status=503))
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}/"
    urls = {url: partial(download, url) for url in (page, sorry, closed)}
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = f"http://127.0.0.1:{server.getsockname()[1]}/"
        routes(
            **urls, **{silent: partial(download, silent, timeout=0.2)}, empty=gives(TimeoutError())
        )
        with pytest.raises(FetchError) as error:
            fetch_100k()
    for words in (
        f"{path}: a file with a wrong checksum (0 bytes)", f"{page}: a web page, of a login per",
        f"{sorry}: 503", "refused", "timed out", "empty: TimeoutError", f"put it at {path}",
        "make room", 'load_ratings("latest-small")',
    ):  # fmt: skip
        assert words in str(error.value)
    assert path.read_bytes() == b"" and os.listdir(path.parent) == [path.name]


def test_pip_fetches_a_wheel_or_passes_its_last_word_on(tmp_path, monkeypatch):
    wheel = archive(
        {
            "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
            "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n",
        }
    )
    (tmp_path / "tiny-1.0-py3-none-any.whl").write_bytes(wheel)
    (tmp_path / "new").mkdir()
    for variable in [v for v in os.environ if v.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))  # a package index that is a folder
    assert Path(pip_download("tiny==1.0", str(tmp_path / "new"))).read_bytes() == wheel
    with pytest.raises(OSError, match=r"No matching distribution found for huge==9"):
        pip_download("huge==9", str(tmp_path / "new"))


# The cache


def test_the_cache_folder_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("NMF_DATA_DIR", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.setenv("NMF_DATA_DIR", "~/mine")
    assert cache_dir().is_absolute() and "~" not in str(cache_dir())
    monkeypatch.delenv("NMF_DATA_DIR")
    assert cache_dir().is_absolute()
    monkeypatch.setenv("NMF_DATA_DIR", "mine")
    with pytest.raises(FetchError, match="give the whole path, such as "):
        cache_dir()


def test_what_was_fetched_once_is_not_fetched_again(path, routes):
    for way in (grouplens_zip(), AssertionError("there was no need to fetch")):
        routes(way=gives(way))
        assert fetch_100k().movies == MOVIES
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    "broken", [b"", b"<html>", grouplens_zip()[:-60], grouplens_zip(b"1\t2\n")]
)
def test_a_broken_cached_file_is_noticed_and_replaced(path, routes, broken):
    path.parent.mkdir()
    path.write_bytes(broken)
    routes(way=gives(recbole_wheel()))
    assert fetch_100k().ratings == RATINGS
    assert path.read_bytes() == recbole_wheel()


def test_a_cache_that_cannot_be_written_is_reported_before_anything_is_fetched(path, routes):
    path.parent.write_text("a file where the folder should be")
    routes(way=gives(AssertionError("fetched")))
    with pytest.raises(FetchError, match=r"cache can't be written .* NMF_DATA_DIR"):
        fetch_100k()


def test_a_full_disk_is_reported_and_leaves_nothing_behind(path, routes):
    resource = pytest.importorskip("resource")  # a limit on file sizes stands in for a full disk
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    routes(way=gives(grouplens_zip()))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(FetchError, match=r"(?s)File too large.*make room"):
            fetch_100k()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(path.parent) == []
    assert fetch_100k().movies == MOVIES  # once there is room


def test_two_may_fetch_at_once(path, routes):
    def slow(folder):
        assert Path(folder).parent == path.parent  # on the same disk, for a rename is at once
        both.wait(20)  # both have found nothing, and fetch
        return gives(grouplens_zip())(folder)

    both = threading.Barrier(2)
    routes(way=slow)
    with ThreadPoolExecutor() as threads:
        fetched = [*threads.map(lambda _: fetch_100k().movies, range(2))]
    assert fetched == [MOVIES] * 2
    assert os.listdir(path.parent) == [path.name] and path.read_bytes() == grouplens_zip()


def test_an_interrupted_download_leaves_nothing_behind(path, routes):
    routes(way=gives(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        fetch_100k()
    assert os.listdir(path.parent) == []

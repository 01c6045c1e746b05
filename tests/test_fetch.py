"""Fetching ML-100K when everything goes wrong: servers on loopback that fail in each known way."""

import os
import socket
import threading
import time
from contextlib import suppress

import pytest
from made_up import (
    FETCH,
    MOVIES,
    RATINGS,
    SHA256,
    archive,
    digest,
    grouplens_zip,
    python,
    recbole_wheel,
    reply,
)

from nmf_helpers.fetch import (
    FetchError,
    cache_dir,
    download,
    fetch_100k,
    pip_download,
    read_archive,
)


def no_route():
    raise AssertionError("there was no need to fetch")


# What arrives


def test_both_archives_give_the_same_contents():
    from_zip = read_archive(grouplens_zip(), SHA256)
    assert from_zip == read_archive(recbole_wheel(), SHA256)
    assert from_zip.ratings == RATINGS
    assert from_zip.movies == MOVIES


def test_the_real_archive_round_trips_through_grouplens_format():
    real = fetch_100k()
    names = sorted({g for *_, genres in real.movies for g in genres.split("|")})
    lines = []
    for number, title, year, genres in real.movies:
        flags = "|".join(str(int(g in genres.split("|"))) for g in names)
        lines.append(f"{number}|{title}{f' ({year})' if year else ''}|||u|{flags}\n")
    rebuilt = archive(
        {
            "ml-100k/u.data": real.ratings,
            "ml-100k/u.item": "".join(lines).encode("latin-1"),
            "ml-100k/u.genre": "".join(f"{g}|{i}\n" for i, g in enumerate(names)),
        }
    )
    again = read_archive(rebuilt)
    assert again.ratings == real.ratings
    as_sets = [[(*m[:3], set(m[3].split("|"))) for m in c.movies] for c in (again, real)]
    assert as_sets[0] == as_sets[1]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/passwd", "C:\\evil", "..\\evil"])
def test_an_archive_with_a_name_that_points_outside_is_refused(name):
    with pytest.raises(ValueError, match="unsafe name"):
        read_archive(grouplens_zip(**{name: b"x"}), SHA256)


def test_ratings_with_one_byte_changed_are_refused():
    with pytest.raises(ValueError, match=r"u\.data has a wrong checksum"):
        read_archive(grouplens_zip(RATINGS.replace(b"3", b"4", 1)), SHA256)


# Downloading


def test_a_download_arrives_whole(serve):
    content = grouplens_zip()
    assert download(serve(reply(content)), digest(content)) == content


def test_a_truncated_download_is_noticed(serve):
    content = grouplens_zip()
    url = serve(reply(content[: len(content) // 2], length=len(content)))
    with pytest.raises(OSError, match="IncompleteRead"):
        download(url, digest(content))


def test_a_web_page_in_place_of_the_data_is_called_by_its_name(serve):
    url = serve(reply(b"\n<!DOCTYPE html><title>Please log in to the wifi</title>"))
    with pytest.raises(ValueError, match=r"wrong checksum .*it is a web page"):
        download(url, digest(grouplens_zip()))


def test_an_error_status_is_reported(serve):
    with pytest.raises(OSError, match="503"):
        download(serve(reply(b"sorry", status=503)), digest(b"sorry"))


def test_a_server_that_never_answers_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(OSError) as gave_up:
        download(f"http://127.0.0.1:{server.getsockname()[1]}/", SHA256, stall=0.2)
    assert "timed out" in str(gave_up.value)


def test_a_server_that_drips_is_given_up(serve):
    def answer(handler):
        reply(b"", length=10**6)(handler)
        try:
            for _ in range(3000):
                handler.wfile.write(b"x")
                time.sleep(0.01)
        except ConnectionError:
            hung_up.set()

    hung_up = threading.Event()
    with pytest.raises(TimeoutError, match=r"too slow: not done after 0\.3 s"):
        download(serve(answer), SHA256, seconds=0.3, stall=5)
    assert hung_up.wait(20)


def test_a_server_that_drips_its_headers_is_given_up():
    def drip():
        connection, _ = server.accept()
        with connection, suppress(ConnectionError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not over.wait(0.02):
                connection.sendall(b"x")

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(TimeoutError, match=r"too slow: not done after 0\.3 s"):
            download(f"http://127.0.0.1:{server.getsockname()[1]}/", SHA256, seconds=0.3)
        over.set()
        thread.join()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Give pip a package index that is a folder, with a tiny package in it."""
    name = "tiny-1.0-py3-none-any.whl"
    wheel = archive(
        {
            "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
            "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n",
        }
    )
    (tmp_path / name).write_bytes(wheel)
    for variable in [v for v in os.environ if v.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return wheel


def test_pip_fetches_a_wheel_without_installing_it(index):
    assert pip_download("tiny==1.0", digest(index)) == index


def test_a_wheel_that_was_tampered_with_is_refused(index):
    with pytest.raises(ValueError, match="the wheel has a wrong checksum"):
        pip_download("tiny==1.0", SHA256)


def test_the_last_word_of_pip_is_passed_on(index):
    with pytest.raises(OSError, match=r"No matching distribution found for huge==9"):
        pip_download("huge==9", SHA256)


def test_a_pip_that_takes_too_long_is_given_up(index):
    with pytest.raises(TimeoutError, match=r"pip was not done after 0\.01 s"):
        pip_download("tiny==1.0", digest(index), seconds=0.01)


# The cache


def test_the_cache_folder_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("NMF_DATA_DIR", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.setenv("NMF_DATA_DIR", "~/mine")
    assert cache_dir().is_absolute()
    assert "~" not in str(cache_dir())
    monkeypatch.delenv("NMF_DATA_DIR")
    assert cache_dir().is_absolute()


def test_what_was_fetched_once_is_not_fetched_again(tmp_path):
    path = tmp_path / "new folder" / "ml-100k.zip"
    for route in (grouplens_zip, no_route):
        contents = fetch_100k(path, {"the route": route}, SHA256)
        assert contents.movies == MOVIES
    assert os.listdir(path.parent) == ["ml-100k.zip"]


@pytest.mark.parametrize(
    "broken", [b"", b"<html>", grouplens_zip()[:-60], grouplens_zip(b"1\t2\n")]
)
def test_a_broken_cached_file_is_noticed_and_replaced(tmp_path, broken):
    path = tmp_path / "ml-100k.zip"
    path.write_bytes(broken)
    assert fetch_100k(path, {"the route": grouplens_zip}, SHA256).ratings == RATINGS
    assert path.read_bytes() == grouplens_zip()


@pytest.mark.parametrize("by_hand", [grouplens_zip(), recbole_wheel()])
def test_a_file_put_by_hand_is_used_whatever_its_source(tmp_path, by_hand):
    path = tmp_path / "ml-100k.zip"
    path.write_bytes(by_hand)
    assert fetch_100k(path, {"the route": no_route}, SHA256).movies == MOVIES


def test_the_next_route_is_taken_when_one_fails_or_falls_silent(tmp_path, serve):
    def stall(handler):
        reply(b"PK", length=1000)(handler)
        over.wait(20)

    content, over, start = grouplens_zip(), threading.Event(), time.monotonic()
    urls = [serve(answer) for answer in (reply(b"<html>"), stall, reply(content))]
    routes = {url: lambda url=url: download(url, digest(content), stall=0.3) for url in urls}
    assert fetch_100k(tmp_path / "ml-100k.zip", routes, SHA256).ratings == RATINGS
    over.set()
    assert time.monotonic() - start < 10


def test_if_all_routes_fail_one_error_tells_what_was_tried_and_the_ways_out(tmp_path, serve):
    path = tmp_path / "ml-100k.zip"
    path.write_bytes(b"")
    page = serve(reply(b"<html>", status=200))
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}/"
    routes = {
        page: lambda: download(page, SHA256),
        closed: lambda: download(closed, SHA256),
        "an empty reason": lambda: (_ for _ in ()).throw(TimeoutError()),
    }
    with pytest.raises(FetchError) as error:
        fetch_100k(path, routes, SHA256)
    message = str(error.value)
    assert f"{path}: File is not a zip file" in message
    assert f"{page}: the download has a wrong checksum (6 bytes; it is a web page" in message
    assert closed in message
    assert "refused" in message
    assert "an empty reason: TimeoutError" in message
    assert f"put it at {path}" in message
    assert 'load_ratings("latest-small")' in message
    assert path.read_bytes() == b""


def test_a_cache_that_cannot_be_written_is_reported_before_anything_is_fetched(tmp_path):
    (tmp_path / "occupied").write_text("a file where the folder should be")
    with pytest.raises(FetchError, match=r"occupied can't be written .* NMF_DATA_DIR"):
        fetch_100k(tmp_path / "occupied" / "ml-100k.zip", {"the route": no_route}, SHA256)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user")
def test_a_read_only_cache_can_be_read_but_not_filled(tmp_path):
    # Root may write anywhere: look at the folder as nobody.
    for folder in [tmp_path, *tmp_path.parents][:4]:
        os.chmod(folder, 0o755)
    path = tmp_path / "ml-100k.zip"
    # (Once before, so that all modules are there: nobody may not read Python's own folder.)
    code = "import os\nread_archive(grouplens_zip(), SHA256)\nos.setuid(65534)\n" + FETCH
    out, err = python(code, path).communicate(timeout=60)
    assert "can't be written ([Errno 13] Permission denied" in out, err
    path.write_bytes(b"")
    out, err = python(code, path).communicate(timeout=60)
    assert f"{path}: File is not a zip file" in out, err
    path.write_bytes(grouplens_zip())
    out, err = python(code, path).communicate(timeout=60)
    assert out == "fetched\n", err


def test_a_full_disk_is_reported_and_leaves_nothing_behind(tmp_path):
    pytest.importorskip("resource")  # a limit on the size of files stands in for a full disk
    path = tmp_path / "ml-100k.zip"
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    out, err = python(full + FETCH, path).communicate(timeout=60)
    assert "can't be written" in out and "Make room" in out, err
    assert os.listdir(tmp_path) == []
    assert python(FETCH, path).communicate(timeout=60)[0] == "fetched\n"  # once there is room


def test_two_processes_may_fetch_at_once(tmp_path):
    path = tmp_path / "ml-100k.zip"
    processes = [python(FETCH, path) for _ in range(2)]
    assert [p.communicate(timeout=60)[0] for p in processes] == ["fetched\n"] * 2
    assert os.listdir(tmp_path) == ["ml-100k.zip"]
    assert path.read_bytes() == grouplens_zip()


def test_a_process_killed_while_writing_leaves_no_half_file(tmp_path):
    path = tmp_path / "ml-100k.zip"
    slow = """
whole = Path.write_bytes
def half(self, content):
    whole(self, content[:50])
    print("half", flush=True)
    time.sleep(60)
Path.write_bytes = half
"""
    process = python(slow + FETCH, path)
    assert process.stdout.readline() == "half\n"
    process.kill()
    process.communicate()
    assert not path.exists()
    (left,) = tmp_path.iterdir()
    hour_ago = time.time() - 3600
    os.utime(left, (hour_ago, hour_ago))
    others = path.with_name(path.name + ".1.part")
    others.touch()  # of a process that is writing just now
    assert fetch_100k(path, {"the route": grouplens_zip}, SHA256).ratings == RATINGS
    assert sorted(tmp_path.iterdir()) == [path, others]


def test_an_interrupted_download_leaves_the_cache_as_it_was(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_100k(tmp_path / "ml-100k.zip", {"the route": interrupted}, SHA256)
    assert os.listdir(tmp_path) == []

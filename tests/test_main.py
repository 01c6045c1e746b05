"""The command line: what it takes and refuses, and the check of a machine, with its fixes."""

import os
import re
import subprocess
import sys
from importlib import metadata

import psutil
import pytest

from nmf_helpers import fetch
from nmf_helpers.course import commands, show, start


@pytest.fixture
def opened(monkeypatch):
    """What would be opened in JupyterLab; nothing is fetched."""
    seen = []
    monkeypatch.setattr(fetch, "fetch_100k", lambda: None)
    monkeypatch.setattr(start, "open_lab", lambda copy, browser: seen.append((copy, browser)))
    return seen


@pytest.mark.parametrize(
    ("words", "name", "browser"),
    [
        ([], "01-encoding.ipynb", True),
        (["3", "--no-browser"], "03-biased-mf.ipynb", False),
        (["--no-browser", "3"], "03-biased-mf.ipynb", False),
    ],
)
def test_start_opens_the_notebook_that_is_named(opened, tmp_path, words, name, browser, capsys):
    assert commands.main(["start", "--folder", str(tmp_path), *words]) == 0
    assert opened == [(tmp_path / name, browser)]
    assert f"Your notebooks are in {tmp_path}." in capsys.readouterr().out


def test_reset_keeps_the_old_copy_and_says_where(opened, tmp_path, capsys):
    for words in ([], ["--reset"]):
        assert commands.main(["start", "3", "--folder", str(tmp_path), *words]) == 0
    assert "Your 03-biased-mf.ipynb is kept as 03-biased-mf 20" in capsys.readouterr().out
    assert len(list(tmp_path.glob("03-biased-mf*.ipynb"))) == 2


def test_show_is_given_the_courses_own_notebook(monkeypatch):
    monkeypatch.setattr(show, "show", lambda notebook, browser: [notebook.name, browser])
    assert commands.main(["show", "4", "--no-browser"]) == ["04-neural-collabfnet.ipynb", False]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("fly", 2, "choose from"),
        ("start --reset", 2, "start what? One more word is needed"),
        ("show", 2, "show what?"),
        ("check 3", 2, "check stands alone"),
        ("start 3 --folder", 2, "expected one argument"),
        ("start 8", 1, "unknown notebook '8': did you mean "),
        ("start --folder pyproject.toml", 1, "File exists"),
        ("start --folder notebooks", 1, "the course's own, not for copies"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    words, status, said, opened, monkeypatch, capsys
):
    monkeypatch.chdir(start.CHECKOUT)
    try:
        ended = commands.main(words.split())
    except SystemExit as stop:
        ended = stop.code
    assert (ended, opened) == (status, []) and said in capsys.readouterr().err


def test_fetch_tells_where_the_data_are_also_where_a_console_lacks_the_letters(tmp_path):
    folder = tmp_path / "Zoë"
    folder.mkdir()
    fetched = fetch.cache_dir() / "ml-100k.zip"
    if not fetched.exists():
        pytest.skip("ML-100K has not been fetched")
    (folder / fetched.name).write_bytes(fetched.read_bytes())
    env = os.environ | {"NMF_DATA_DIR": str(folder), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "nmf_helpers", "fetch"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip().endswith(r"Zo\xeb"), done


def test_fetch_fails_with_the_reason(monkeypatch, capsys):
    monkeypatch.setenv("NMF_DATA_DIR", __file__)
    assert commands.main(["fetch"]) == 1
    assert capsys.readouterr().err.startswith("the cache folder")


# -- check ----------------------------------------------------------------------------------------


def test_an_installed_course_passes_its_check(capsys):
    assert commands.main(["check"]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    for package in ("Python", "nmf-helpers", "torch", "ipywidgets", "jupyterlab", "sliders"):
        assert f"\nOK    {package}: " in f"\n{said}", package
    assert f"OK    pandas: {metadata.version('pandas')}\n" in said
    assert "OK    latest-small: 100,004 ratings" in said and said.endswith("All is ready.\n")


@pytest.mark.parametrize(
    ("package", "installed", "said"),
    [
        ("pandas", "0.0.1", 'FAIL  pandas: 0.0.1, but the course needs >=.*install "pandas>='),
        ("pandas", None, 'FAIL  pandas: No package.*fix: python -m pip install "pandas>='),
        ("nmf-helpers", None, r"FAIL  nmf-helpers: No package.*fix: python -m pip install -e \."),
        ("Python", "3.8.1", "FAIL  Python: 3.8.1, but the course needs >=3.11"),
    ],
)
def test_an_old_or_missing_package_fails_with_the_pip_line(
    monkeypatch, capsys, package, installed, said
):
    real = metadata.version

    def version(name):
        if name == package and installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed if name == package else real(name)

    monkeypatch.setattr(metadata, "version", version)
    if package == "Python":
        monkeypatch.setattr(commands.platform, "python_version", lambda: installed)
    assert commands.report(commands.packages()) == 1
    out = capsys.readouterr().out
    assert re.search(said, out, re.S) and out.endswith("1 to fix.\n")


def test_what_a_machine_lacks_fails_with_its_fix(monkeypatch, capsys, tmp_path):
    memory = psutil.virtual_memory()._replace(available=2**29)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(commands.site, "getuserbase", lambda: str(tmp_path))
    (tmp_path / "occupied").write_text("")
    said = ""
    for place, broken in (("new", None), ("occupied", None), ("new", b"")):
        if broken is not None:
            (tmp_path / place / "ml-100k.zip").write_bytes(broken)
        monkeypatch.setenv("NMF_DATA_DIR", str(tmp_path / place))
        assert commands.report(commands.machine()) == 1
        said += capsys.readouterr().out
    for line in (
        "FAIL  memory: 0.5 of ", "FAIL  sliders: missing", "FAIL  ML-100K: not fetched yet",
        "      fix: python -m nmf_helpers fetch", "FAIL  cache: the cache folder",
        "FAIL  ML-100K: a file with a wrong checksum", "OK    torch computes: ", "4 to fix.",
    ):  # fmt: skip
        assert line in said, line

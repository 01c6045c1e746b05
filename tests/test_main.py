"""The command line: check says OK or FAIL and how to mend it, fetch prepares for a class."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

from nmf_helpers import __main__ as cli
from nmf_helpers import fetch


def fail():
    raise RuntimeError("it is broken")


def test_each_check_is_one_line_and_each_failure_has_its_fix(capsys):
    status = cli.run([("wheels", lambda: "4 of 4", "buy"), ("brakes", fail, "mend --brakes")])
    assert status == 1
    assert capsys.readouterr().out.splitlines() == [
        "OK    wheels: 4 of 4",
        "FAIL  brakes: it is broken",
        "      fix: mend --brakes",
        "",
        "1 to fix.",
    ]


def test_what_is_optional_fails_without_failing_the_check(capsys):
    assert cli.run([("bell (optional)", fail, "buy a bell")]) == 0
    out = capsys.readouterr().out
    assert "--    bell (optional): it is broken\n      fix: buy a bell" in out
    assert out.endswith("All is ready.\n")


def test_an_installed_course_passes_its_check(capsys):
    assert cli.run(cli.packages()) == 0, capsys.readouterr().out
    lines = capsys.readouterr().out.splitlines()
    for package in ("Python", "nmf-helpers", "torch", "pandas", "ipywidgets", "jupyterlab"):
        assert any(line.startswith(f"OK    {package}: ") for line in lines), package
    assert f"OK    pandas: {metadata.version('pandas')}" in lines


@pytest.mark.parametrize(
    ("installed", "complaint"),
    [
        ("0.0.1", "0.0.1, but the course needs >="),
        (None, "not installed"),
    ],
)
def test_an_old_or_missing_package_fails_with_the_pip_line(
    monkeypatch, capsys, installed, complaint
):
    real = metadata.version

    def version(name):
        if name == "pandas" and installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed if name == "pandas" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    assert cli.run(cli.packages()) == 1
    out = capsys.readouterr().out
    assert f"FAIL  pandas: {complaint}" in out
    assert 'fix: python -m pip install "pandas>=' in out
    assert "1 to fix." in out


def test_an_old_python_fails(monkeypatch, capsys):
    monkeypatch.setattr(cli.platform, "python_version", lambda: "3.8.1")
    assert cli.run(cli.packages()) == 1
    assert "FAIL  Python: 3.8.1, but the course needs >=3.11" in capsys.readouterr().out


def test_a_course_that_is_not_installed_fails(monkeypatch, capsys):
    monkeypatch.setattr(cli, "COURSE", "not-a-course")
    assert cli.run(cli.packages()) == 1
    out = capsys.readouterr().out
    assert "FAIL  not-a-course: not installed" in out
    assert "fix: python -m pip install -e ." in out


def test_the_machine_check_says_what_is_not_fetched_and_what_cannot_be_written(
    monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("NMF_DATA_DIR", str(tmp_path / "new"))
    assert cli.run(cli.machine()) == 1
    out = capsys.readouterr().out
    assert "OK    latest-small: 100,004 ratings, 9,066 movies" in out
    assert "FAIL  ML-100K: not fetched yet" in out
    assert "fix: python -m nmf_helpers fetch" in out
    (tmp_path / "new" / "ml-100k.zip").write_bytes(b"")
    assert cli.run(cli.machine()) == 1
    assert "FAIL  ML-100K: File is not a zip file" in capsys.readouterr().out
    (tmp_path / "occupied").write_text("")
    monkeypatch.setenv("NMF_DATA_DIR", str(tmp_path / "occupied"))
    assert cli.run(cli.machine()) == 1
    assert "FAIL  cache: the cache folder" in capsys.readouterr().out


def test_little_memory_and_missing_widgets_fail(monkeypatch, capsys, tmp_path):
    import psutil

    memory = psutil.virtual_memory()._replace(available=2**29)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(cli.site, "getuserbase", lambda: str(tmp_path))
    assert cli.run(cli.machine()) == 1
    out = capsys.readouterr().out
    assert "FAIL  memory: 0.5 of " in out
    assert "FAIL  widgets: JupyterLab would show no sliders" in out


def test_fetch_tells_where_the_data_are(monkeypatch, capsys):
    monkeypatch.setattr(fetch, "fetch_100k", lambda: None)
    assert cli.main(["fetch"]) == 0
    assert str(fetch.cache_dir()) in capsys.readouterr().out


def test_fetch_fails_with_the_reason_and_no_traceback(tmp_path):
    (tmp_path / "occupied").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "nmf_helpers", "fetch"],
        env={**os.environ, "NMF_DATA_DIR": str(tmp_path / "occupied")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("the cache folder")
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["fly"])
    assert stop.value.code == 2
    assert "choose from" in capsys.readouterr().err

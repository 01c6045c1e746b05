"""Prepare a machine or a class for the course.

``python -m nmf_helpers check`` says what is ready and how to mend what isn't;
``python -m nmf_helpers fetch`` fetches ML-100K ahead of a class without network;
``python -m nmf_helpers handout [folder]`` writes the notebooks for students, without outputs;
``python -m nmf_helpers slides [folder]`` writes slides that need no network.
"""

import argparse
import os
import platform
import shutil
import site
import sys
from collections.abc import Callable, Iterable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

COURSE = "nmf-helpers"
WIDGETS = "share/jupyter/labextensions/@jupyter-widgets/jupyterlab-manager/package.json"

# What is checked, a probe that describes it or raises an error, and the line that fixes it.
Check = tuple[str, Callable[[], str], str]


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m nmf_helpers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["check", "fetch", "handout", "slides"])
    parser.add_argument("folder", nargs="?", help="where to write; a folder named as the command")
    given = parser.parse_args(argv)
    if given.command in ("handout", "slides"):
        return write_files(given.command, given.folder or given.command)
    if given.folder:
        parser.error(f"{given.command} takes no folder")
    return fetch() if given.command == "fetch" else run([*packages(), *machine()])


def fetch() -> int:
    """Fetch ML-100K into the cache, or say why that can't be."""
    from nmf_helpers.fetch import FetchError, cache_dir, fetch_100k

    try:
        fetch_100k()
        print(f"ML-100K is ready in {cache_dir()}")
    except FetchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def write_files(what: str, folder: str) -> int:
    """Write the hand-out or the slides, or say why that can't be."""
    from nmf_helpers import publish

    try:
        written = getattr(publish, what)(folder)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(written)} files written to {Path(folder).resolve()}")
    return 0


def run(checks: Iterable[Check]) -> int:
    """Print a line per check, and the fix below it where it fails; return 1 if any fails."""
    failed = 0
    for what, probe, fix in checks:
        try:
            print(f"OK    {what}: {probe()}")
        except Exception as error:  # whatever is wrong, the other checks are wanted too
            verdict = "--  " if "optional" in what else "FAIL"
            failed += verdict == "FAIL"
            print(f"{verdict}  {what}: {error}\n      fix: {fix}")
    print(f"\n{failed} to fix." if failed else "\nAll is ready.")
    return min(failed, 1)


def packages() -> list[Check]:
    """Return the checks of Python and of each package that pyproject.toml asks for."""
    install = "python -m pip install -e .   (in the folder of the course)"
    try:
        from packaging.requirements import Requirement

        about = metadata.metadata(COURSE)
        python = Requirement(f"python{about['Requires-Python']}")
        wanted = [Requirement(line) for line in metadata.requires(COURSE) or []]
    except ImportError as error:
        return [(COURSE, partial(_fail, f"not installed ({error})"), install)]
    checks: list[Check] = [
        ("Python", partial(_fits, python, platform.python_version()), f"install {python}"),
        (COURSE, partial(metadata.version, COURSE), install),
    ]
    for package in wanted:
        if package.marker is None or package.marker.evaluate({"extra": ""}):
            fix = f'python -m pip install "{package}"'
            checks.append((package.name, partial(_fits, package), fix))
    return checks


def machine() -> list[Check]:
    """Return the checks of what no package manager knows."""
    return [
        ("torch computes", _torch, "python -m pip install --force-reinstall torch"),
        ("widgets", _widgets, "python -m pip install --force-reinstall jupyterlab_widgets"),
        ("cores", _cores, ""),
        ("memory", _memory, "close other programs"),
        ("cache", _cache, "set NMF_DATA_DIR to a folder you can write"),
        ("latest-small", _latest_small, "python -m pip install --force-reinstall -e ."),
        ("ML-100K", _ml_100k, "python -m nmf_helpers fetch"),
        ("Chromium (optional)", _chromium, "sudo apt-get install chromium, for the browser tests"),
    ]


def _fail(message: str) -> str:
    raise RuntimeError(message)


def _fits(requirement: Any, version: str | None = None) -> str:
    try:
        version = version or metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        raise RuntimeError("not installed") from None
    if not requirement.specifier.contains(version, prereleases=True):
        raise RuntimeError(f"{version}, but the course needs {requirement.specifier}")
    return version


def _torch() -> str:
    import torch  # an installed torch can still lack a system library, on Windows above all

    total = int(torch.ones(2, 2).sum())
    return f"2 + 2 = {total}, {torch.get_num_threads()} threads"


def _widgets() -> str:
    places = [Path(root) / WIDGETS for root in (sys.prefix, site.getuserbase())]
    if not any(place.exists() for place in places):
        raise RuntimeError("JupyterLab would show no sliders: its extension is missing")
    return "JupyterLab will show sliders"


def _cores() -> str:
    return f"{os.cpu_count()} (hogwild, notebook 7, can gain from 2 or more)"


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    free, total = memory.available / 2**30, memory.total / 2**30
    if free < 1:
        raise RuntimeError(f"{free:.1f} of {total:.1f} GiB free, less than 1")
    return f"{free:.1f} of {total:.1f} GiB free"


def _cache() -> str:
    from nmf_helpers.fetch import cache_dir, check_writable

    check_writable(cache_dir())
    return f"{cache_dir()} can be written"


def _latest_small() -> str:
    from nmf_helpers.data import load_movies, load_ratings

    return f"{len(load_ratings()):,} ratings, {len(load_movies()):,} movies"


def _ml_100k() -> str:
    from nmf_helpers.fetch import cache_dir, read_archive

    try:
        read_archive((cache_dir() / "ml-100k.zip").read_bytes())
    except FileNotFoundError:
        raise RuntimeError("not fetched yet; notebooks 5 to 7 need it") from None
    return "fetched and verified"


def _chromium() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    return path or _fail("not found; only the browser tests need it")


if __name__ == "__main__":
    raise SystemExit(main())

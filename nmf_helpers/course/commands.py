"""Start the course, show it to a class, or see whether a machine is ready for it.

start [N]  your own copies of the notebooks, opened in JupyterLab at notebook N
show N     notebook N as a live page for a projector, its code folded
check      what is ready on this machine, and how to mend what isn't
fetch      fetch ML-100K, ahead of a class without network
"""

import argparse
import os
import platform
import site
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module, metadata
from itertools import chain
from pathlib import Path
from typing import Any

from nmf_helpers.checks import nearest
from nmf_helpers.course import start

COURSE = "nmf-helpers"
WIDGETS = "share/jupyter/labextensions/@jupyter-widgets/jupyterlab-manager/package.json"

# What is checked, a probe that describes it or raises an error, and the line that fixes it.
Check = tuple[str, Callable[[], str], str]


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console may not know the letters of a path
            stream.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(
        prog="python -m nmf_helpers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["start", "show", "check", "fetch"])
    parser.add_argument("which", nargs="?", metavar="N", help="a notebook's number, or its name")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("--folder", type=Path, help="where your copies are, or will be")
    parser.add_argument("--reset", action="store_true", help="copy N again; yours stays beside it")
    given = parser.parse_intermixed_args(argv)  # N may stand anywhere
    if not given.which and (given.reset or given.command == "show"):
        parser.error(f"{given.command} what? One more word is needed")
    if given.which and given.command in ("check", "fetch"):
        parser.error(f"{given.command} stands alone")
    try:
        return run(given)
    except (OSError, ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1


def run(given: argparse.Namespace) -> int:
    """Do what the command line says, and return the exit status."""
    if given.command == "check":
        return report(chain(packages(), machine()))
    if given.command == "fetch":
        fetch()
        return 0
    found = start.find_notebooks()
    wanted: Any = found[nearest("notebook", given.which, found)] if given.which else None
    if given.command == "show":
        from nmf_helpers.course.show import show

        return show(wanted, browser=not given.no_browser)
    folder = (given.folder or start.students_folder()).expanduser().absolute()
    said = start.copy_notebooks(folder, wanted if given.reset else None)
    print(f"Your notebooks are in {folder}.", *said, sep="\n", flush=True)
    try:
        fetch()
    except OSError as error:
        print(error, "Notebooks 5 to 7 need ML-100K. The others don't: go on.", sep="\n\n")
    copy = folder / wanted.name if wanted else start.last_worked_on(folder)
    start.open_lab(copy, browser=not given.no_browser)
    return 0


def fetch() -> None:
    """Fetch ML-100K into the cache."""
    from nmf_helpers.fetch import cache_dir, fetch_100k

    fetch_100k()
    print(f"ML-100K is ready in {cache_dir()}")


def report(checks: Iterable[Check]) -> int:
    """Print a line per check, and the fix below it where it fails; return 1 if any fails."""
    failed = 0
    for what, probe, fix in checks:
        try:
            print(f"OK    {what}: {probe()}")
        except Exception as error:  # whatever is wrong, the other checks are wanted too
            failed += 1
            print(f"FAIL  {what}: {error}\n      fix: {fix}")
    print(f"\n{failed} to fix." if failed else "\nAll is ready.")
    return min(failed, 1)


def packages() -> Iterator[Check]:
    """Yield the checks of Python and of each package that pyproject.toml asks for."""
    from packaging.requirements import Requirement

    install = "python -m pip install -e .   (in the folder of the course)"
    yield COURSE, partial(metadata.version, COURSE), install
    with suppress(metadata.PackageNotFoundError):
        python = Requirement(f"python{metadata.metadata(COURSE)['Requires-Python']}")
        yield "Python", partial(_fits, python, platform.python_version()), f"install {python}"
        for package in map(Requirement, metadata.requires(COURSE) or []):
            if package.marker is None or package.marker.evaluate({"extra": ""}):
                yield package.name, partial(_fits, package), f'python -m pip install "{package}"'


def machine() -> Iterator[Check]:
    """Yield the checks of what no package manager knows."""
    from psutil import virtual_memory

    from nmf_helpers.data import load_ratings
    from nmf_helpers.fetch import cache_dir, check_writable, read_archive

    def writable() -> str:
        check_writable(cache_dir())
        return str(cache_dir())

    def fetched() -> str:
        archive = cache_dir() / "ml-100k.zip"
        _say(archive.exists(), "", "not fetched yet; notebooks 5 to 7 need it")
        return f"{len(read_archive(archive.read_bytes()).movies):,} movies"

    again, memory = "python -m pip install --force-reinstall", virtual_memory()
    there = any(Path(root, WIDGETS).exists() for root in (sys.prefix, site.getuserbase()))
    free = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    enough = memory.available >= 2**30
    # An installed torch can still lack a system library, on Windows above all.
    yield "torch computes", lambda: str(import_module("torch").ones(4).sum()), f"{again} torch"
    yield "sliders", partial(_say, there, "there", "missing"), f"{again} jupyterlab_widgets"
    yield "cores", lambda: f"{os.cpu_count()} (notebook 7 can gain from 2 or more)", ""
    yield "memory", partial(_say, enough, free, f"{free}, less than 1"), "close other programs"
    yield "cache", writable, "set NMF_DATA_DIR to a folder you can write"
    yield "latest-small", lambda: f"{len(load_ratings()):,} ratings", f"{again} -e ."
    yield "ML-100K", fetched, "python -m nmf_helpers fetch"


def _say(fits: bool, said: str, complaint: str) -> str:
    if not fits:
        raise RuntimeError(complaint)
    return said


def _fits(requirement: Any, version: str | None = None) -> str:
    version = version or metadata.version(requirement.name)
    fits = requirement.specifier.contains(version, prereleases=True)
    return _say(fits, version, f"{version}, but the course needs {requirement.specifier}")

"""Before the notebooks are tested: one thread each, the data, and a guard before the test part."""

import os
import warnings
from pathlib import Path

import pytest

from nmf_helpers.fetch import FetchError, fetch_100k

# Steps this small gain little from a second thread, and on a busy machine they wait for it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_sessionstart(session):
    """Fetch the data first."""
    try:
        fetch_100k()
    except FetchError as error:
        warnings.warn(f"notebooks 5 to 7 will fail: {error}", stacklevel=1)


def pytest_collectstart(collector):
    """Compare what notebooks print, alt texts included, but not pixels, nor how a page looks."""
    if hasattr(collector, "sanitize_patterns"):
        collector.sanitize_patterns[r"data:image/png;base64,[^\"]+"] = "a picture"
        collector.sanitize_patterns[r"(?s)<(style|script)>.*?</\1>"] = ""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Let the kernels of nbval, and no others, keep the test part shut (tests/guard.py)."""
    os.environ.pop("PYTHONSTARTUP", None)
    if item.path.suffix == ".ipynb":
        os.environ["PYTHONSTARTUP"] = str(Path(__file__).with_name("tests") / "startup.py")

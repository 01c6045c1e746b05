"""Before the notebooks are tested: one thread each, and the data, so that no bar gets between."""

import os
import warnings

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

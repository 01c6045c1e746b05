"""Before the notebooks are tested: have the data, so that no progress bar joins the outputs."""

import warnings

from nmf_helpers.fetch import FetchError, fetch_100k


def pytest_sessionstart(session):
    try:
        fetch_100k()
    except FetchError as error:
        warnings.warn(f"notebooks 5 to 7 will fail: {error}", stacklevel=1)

"""Exercises that answer at once: is it right, and if not, what differs?

    check("2.1", predict)    passed, not attempted yet, or what differs on a small example
    hint("2.1")              a nudge; hint("2.1", 2) says more, hint("2.1", 3) nearly all

The checks of notebook 2 are the functions of `notebook2.py` beside this file: `check_2_1` calls
the reader's function on a small example whose answer is worked out in some other way. The three
paragraphs of its docstring are the three hints. There are no solutions here.
"""

import copy
import inspect
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd

NOTEBOOKS = range(1, 8)
BLANKS = (None, ..., NotImplemented)  # what an unfinished function returns


class NotAttempted(Exception):
    """The answer is still blank."""


class Different(Exception):
    """The answer differs from what is expected; the message says where, not how to mend it."""


def check(name: str, answer: Callable) -> None:
    """Print in one line whether an exercise is solved.

    It prints and doesn't raise, so that a notebook with open exercises runs to its end.

    Parameters
    ----------
    name : str
        Number of the exercise, such as ``"2.1"`` or ``"2.bug1"``.
    answer : callable
        The function or class that was asked for.

    Raises
    ------
    ValueError
        For a number that no exercise has.
    """
    judge = _find(name)
    try:
        if any(answer is blank for blank in BLANKS):
            raise NotAttempted
        if not callable(answer):
            raise Different(f"Give the function itself, not what it returns ({show(answer)}).")
        judge(answer)
        verdict = "passed."
    except (NotAttempted, NotImplementedError):
        verdict = "not attempted yet (it returns nothing)."
    except Different as difference:
        verdict = f"not yet. {difference}"
    except Exception as error:  # whatever a reader's code can do must not end her notebook
        verdict = f"not yet. It stopped with {type(error).__name__}: {error}"
    print(f"{name}: {verdict}")


def hint(name: str, tier: int = 1) -> None:
    """Print a hint: 1 is a nudge, 2 says more, 3 nearly all."""
    judge = _find(name)
    if tier not in (1, 2, 3):
        raise ValueError(f"tier must be 1, 2 or 3, not {tier!r}")
    paragraph = inspect.getdoc(judge).split("\n\n")[tier - 1]
    more = f'  (More: hint("{name}", {tier + 1}))' if tier < 3 else ""
    print(" ".join(paragraph.split()) + more)


def names() -> list[str]:
    """Return the numbers of all exercises, in order."""
    return [name for notebook in NOTEBOOKS for name in _judges(notebook)]


# -- for the checks -------------------------------------------------------------------------------


def expect(answer: Callable, inputs: tuple, want: Any, words: str, given: str = "") -> Any:
    """Call `answer` on copies of `inputs` and compare what it returns with `want`.

    `words` says what is expected, `given` what the inputs are unless they can be shown.

    Raises
    ------
    NotAttempted
        If nothing is returned.
    Different
        If the answer is another, or none because the code stopped.
    """
    given = given or ", ".join(map(show, inputs))
    got = call(answer, inputs, given)
    if not same(got, want):
        raise Different(f"Given {given}, yours returned {show(got)}. Expected {words}.")
    return got


def call(answer: Callable, inputs: tuple, given: str) -> Any:
    """Return what `answer` makes of copies of `inputs`; see `expect` for the errors."""
    try:
        got = answer(*copy.deepcopy(inputs))
    except NotImplementedError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".rstrip(".")
        raise Different(f"Given {given}, it stopped with {reason}.") from error
    if any(got is blank for blank in BLANKS):
        raise NotAttempted
    return got


def same(got: Any, want: Any) -> bool:
    """Whether two results are equal: shapes exactly, numbers to six digits."""
    if isinstance(want, tuple):
        matches = isinstance(got, tuple | list) and len(got) == len(want)
        return matches and all(map(same, got, want))
    try:
        got, want = _array(got), _array(want)
        return got.shape == want.shape and bool(np.allclose(got, want, rtol=1e-5, atol=1e-6))
    except (TypeError, ValueError):
        return False


def show(value: Any) -> str:
    """Write a value in one line."""
    if isinstance(value, float | int | str | np.number | np.bool_):
        return f"{value:.4g}" if isinstance(value, float | np.floating) else f"{value}"
    if isinstance(value, tuple):
        return " and ".join(map(show, value))
    if isinstance(value, pd.DataFrame):
        return f"a table of {len(value)} rows"
    try:
        array = _array(value)
        text = " ".join(np.array2string(array, precision=3, suppress_small=True).split())
    except (TypeError, ValueError):
        return f"something of type {type(value).__name__}"
    if array.ndim > 1 or array.size > 12:
        return (text if array.size <= 12 else "an array") + f" of shape {array.shape}"
    return text


def _array(value: Any) -> np.ndarray:
    value = value.detach() if hasattr(value, "detach") else value
    array = np.asarray(value)
    if array.dtype == object:
        raise TypeError("not numbers")
    return array


def _judges(notebook: int) -> dict[str, Callable]:
    """Return the checks of one notebook, by exercise number."""
    module = import_module(f"{__name__}.notebook{notebook}")
    prefix = f"check_{notebook}_"
    found = {f: getattr(module, f) for f in dir(module) if f.startswith(prefix)}
    return {f"{notebook}.{f.removeprefix(prefix)}": judge for f, judge in found.items()}


def _find(name: str) -> Callable:
    notebook = str(name).partition(".")[0]
    if notebook in map(str, NOTEBOOKS) and name in (judges := _judges(int(notebook))):
        return judges[name]
    close = get_close_matches(str(name), names(), n=1, cutoff=0)[0]
    raise ValueError(f"there is no exercise {name!r}: did you mean {close!r}? All: {names()}")

"""What an exercise is made of: a solution, three hints in the comment above it, and cases.

Whatever gives the right numbers is right, be it a list, an array, a tensor, a table's column or a
plain number. Where no result is written down for a case, it is the solution's.
"""

import ast
import copy
import inspect
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import pandas as pd


class NotAttempted(Exception):
    """The answer is still blank."""


class Different(Exception):
    """The answer differs from what is expected; the message says where, not how to mend it."""


class Exercise(NamedTuple):
    """A function or class, and functions (answer, solution) that raise Different or don't."""

    solution: Callable
    cases: list[Callable[[Callable, Callable], None]]

    def hints(self) -> list[str]:
        """Return three hints, from a nudge to nearly all."""
        comment = (inspect.getcomments(self.solution) or "").replace("# ", " ")
        return [" ".join(hint.split()) for hint in re.split(r"^ *\d\. ", comment, flags=re.M)[1:]]

    def source(self) -> str:
        """Return the solution's code, without its decorators."""
        code = inspect.getsource(self.solution)
        first = ast.parse(code).body[0].lineno  # of the def or class: decorators stand above
        return "".join(code.splitlines(keepends=True)[first - 1 :])

    def judge(self, answer: Any) -> None:
        """Raise NotAttempted or Different unless the answer is right."""

        def filled(value: Any) -> Any:
            if any(value is blank for blank in (None, ..., NotImplemented)):
                raise NotAttempted
            return value

        if not callable(filled(answer)):
            raise Different(f"Give the function itself, not what it returns ({show(answer)}).")
        for case in self.cases:
            case(lambda *inputs, **named: filled(answer(*inputs, **named)), self.solution)


EXERCISES: dict[str, Exercise] = {}


def case(
    name: str, *inputs: Any, want: Any = ..., why: str = "", given: str = "", look: Any = None
) -> Callable:
    """Decorate the solution of an exercise: add a case on which answers are tried.

    An answer is called with copies of the inputs. What it returns, or what `look` makes of answer
    and inputs, should be `want`; by default what the solution gives, and an error class if that
    is to be raised. The verdict says "Given …, yours returned 3. Expected 4: why."; after a `look`
    it says "Given …, looked at ⟨what it returns⟩: 3. Expected 4.", in its docstring's words.
    """

    def judge(answer: Callable, solution: Callable) -> None:
        names = inspect.signature(solution).parameters
        words = given or ", ".join(f"{n} = {show(v)}" for n, v in zip(names, inputs, strict=False))
        error: Any = want if isinstance(want, type) else ()
        wanted = _try(look, solution, inputs) if want is ... else want
        try:
            got = _try(look, answer, inputs)
        except (NotAttempted, NotImplementedError):
            raise
        except error:
            return
        except Exception as stop:  # whatever a reader's code can do must not end her notebook
            happened = f"it stopped with {type(stop).__name__}: {stop}".rstrip(": .")
        else:
            if not error and same(got, wanted):
                return
            seen = (getattr(look, "__doc__", "") or "").removeprefix("Return ").rstrip(".")
            happened = f"looked at {seen}: {show(got)}" if seen else f"yours returned {show(got)}"
        expected = f"{show(wanted)}: {why}" if why else show(wanted)
        raise Different(f"Given {words}, {happened}. Expected {expected}.")

    def add(solution: Any) -> Any:
        EXERCISES.setdefault(name, Exercise(solution, [])).cases.insert(0, judge)
        return solution

    return add


def _try(look: Callable | None, answer: Callable, inputs: tuple) -> Any:
    ask = (lambda *given: look(answer, *given)) if look else answer
    torch = sys.modules.get("torch")  # notebook 1 does without
    with torch.random.fork_rng(devices=[]) if torch else nullcontext():
        if torch:
            torch.manual_seed(0)
        try:
            got = ask(*copy.deepcopy(inputs))
        except (AttributeError, TypeError):  # where lists are given, arrays may be expected
            got = ask(*(np.array(i) if isinstance(i, list) else copy.deepcopy(i) for i in inputs))
    table = next((value for value in inputs if isinstance(value, pd.DataFrame)), None)
    if isinstance(got, pd.Series) and table is not None and set(got.index) == set(table.index):
        return got.reindex(table.index)  # pandas goes by labels, whatever the order of the rows
    return got


def numbers(value: Any) -> np.ndarray:
    """Return an array of what may be a tensor, a column, a list of any of these, a fraction …."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    array = np.asarray([*map(numbers, value)] if isinstance(value, list | tuple) else value)
    return array.astype(float) if array.dtype == object else array


def same(got: Any, want: Any) -> bool:
    """Return whether two results are equal: shapes exactly, numbers to six digits."""
    try:
        if isinstance(want, tuple):
            return len(got) == len(want) and all(map(same, got, want))
        got, want = numbers(got), numbers(want)
        got = got.reshape(()) if want.ndim == 0 and got.size == 1 else got
        return got.shape == want.shape and bool(np.allclose(got, want, rtol=1e-5, atol=1e-6))
    except (TypeError, ValueError):
        return False


def show(value: Any) -> str:
    """Write a value in one line."""
    if isinstance(value, tuple):
        return " and ".join(map(show, value))
    if isinstance(value, pd.DataFrame):
        return str(value.to_dict("list")) if value.size <= 20 else f"a table of {len(value)} rows"
    try:
        array = numbers(value)
    except (TypeError, ValueError):
        return getattr(value, "__name__", f"something of type {type(value).__name__}")
    if array.ndim == 0:
        return f"{array:.4g}" if np.issubdtype(array.dtype, np.floating) else f"{array}"
    text = " ".join(np.array2string(array, precision=4, suppress_small=True).split())
    shape = f" of shape {array.shape}" if array.ndim > 1 or array.size > 12 else ""
    return (text if array.size <= 12 else "an array") + shape

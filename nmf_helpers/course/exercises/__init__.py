"""Exercises that answer at once: ``check("2.1", predict)``, ``hint("2.1")``, ``progress()``.

The exercises are in the other files of this folder, solutions included.
"""

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pandas as pd

from nmf_helpers.checks import nearest
from nmf_helpers.course import start
from nmf_helpers.course.exercises.judge import EXERCISES, Different, Exercise, NotAttempted

MODULES = ("encoding", "rating", "ranking")  # notebook 1, notebooks 2 to 5, 6 and 7


def check(name: str, answer: Callable) -> None:
    """Print in one line whether a function or class solves an exercise, and if not, what differs.

    It doesn't raise, so that a notebook with open exercises runs to its end; except a ValueError
    for a name that no exercise has.
    """
    exercise = _find(name)
    try:
        exercise.judge(answer)
        _remember(name)
        verdict = "passed."
    except (NotAttempted, NotImplementedError):
        verdict = "not attempted yet (it returns nothing)."
    except Different as difference:
        verdict = f"not yet. {difference}"
    print(f"{name}: {verdict}")


def hint(name: str, tier: int = 1) -> None:
    """Print a hint: 1 is a nudge, 2 says more, 3 nearly all, and 4 is the solution."""
    exercise = _find(name)
    if tier not in (1, 2, 3, 4):
        raise ValueError(f"tier must be 1, 2, 3 or 4 (the solution), not {tier!r}")
    if tier < 4:
        more = "More" if tier < 3 else "The solution"
        print(f'{exercise.hints()[tier - 1]}  ({more}: hint("{name}", {tier + 1}))')
    else:
        print(f"The solution of {name}, or one of them:\n\n{exercise.source()}", end="")


def progress() -> pd.DataFrame:
    """Return a table of what has passed `check` in this folder, one row a notebook.

    It is remembered in a folder that ``python -m nmf_helpers start`` made, and only there.
    """
    if not (Path.cwd() / start.FILE).exists():
        print("Nothing is remembered here, only in the folder of: python -m nmf_helpers start")
    passed = start.read(Path.cwd())["passed"]
    rows = {}
    for notebook in range(1, 8):
        mine = [name for name in names() if name.startswith(f"{notebook}.")]
        left = [name for name in mine if name not in passed]
        done = f"{len(mine) - len(left)} of {len(mine)}"
        rows[notebook] = {"passed": done, "still open": "  ".join(left)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("notebook")


def _remember(name: str) -> None:
    here = Path.cwd()
    if (here / start.FILE).exists() and name not in (kept := start.read(here))["passed"]:
        with suppress(OSError):  # a folder that can't be written must not end a notebook
            start.write(here, kept | {"passed": [*kept["passed"], name]})


def names() -> list[str]:
    """Return the numbers of all exercises, in order."""
    for module in MODULES:
        import_module(f"{__name__}.{module}")
    return sorted(EXERCISES, key=lambda name: (name[0], "bug" in name, name))


def _find(name: str) -> Exercise:
    for module in MODULES:  # only as far as need be: notebook 1 does without torch
        import_module(f"{__name__}.{module}")
        if name in EXERCISES:
            break
    return EXERCISES[nearest("exercise", name, EXERCISES)]

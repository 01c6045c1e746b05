"""What INSTRUCTORS.md says will be seen in a lab is seen: each claim is trained and checked.

Beside a claim stands a comment, one Python expression a line, each of which must be true:

    <!-- lab 2
    run(n_factors=100)[0] > 10 > line
    -->

`run` trains the lab of that notebook as its sliders start, but for what is given, and returns the
metric of each epoch; `line` is the lab's first baseline.
"""

import inspect
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from labs import code_for_the_lab, needed_for

from nmf_helpers.lab import TrainingLab

FOLDER = Path(__file__).parents[1] / "notebooks"
CLAIMS = [
    (int(number), line)
    for number, lines in re.findall(
        r"(?s)<!-- lab (\d)\n(.*?)-->", (FOLDER / "INSTRUCTORS.md").read_text("utf-8")
    )
    for line in filter(str.strip, lines.splitlines())
]


def starting(control):
    """Where a control starts, given as a lab is: a choice, a tick, or (low, start, high)."""
    if isinstance(control, tuple):
        return control[1]
    return control[0] if isinstance(control, list) else control


def only_recorded(make, **given):
    """What a lab would be made of, its defaults included."""
    bound = inspect.signature(TrainingLab).bind(make, **given)
    bound.apply_defaults()
    return SimpleNamespace(**bound.arguments | bound.arguments["plot"])


@cache
def lab(number):
    """`run` and `line` of a notebook's lab; the lab itself stays unbuilt."""
    (path,) = FOLDER.glob(f"0{number}-*.ipynb")
    known = {}
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nmf_helpers.lab.TrainingLab", only_recorded)
        exec(code_for_the_lab(path), known)
    built = known["lab"]
    settings = {name: getattr(built, name) for name in ("lr", "weight_decay", "n_epochs")}
    settings = {name: starting(c) for name, c in {**settings, **(built.controls or {})}.items()}
    settings = {name: value for name, value in settings.items() if value is not None}

    @cache
    def run(**changes):
        assert changes.keys() <= settings.keys(), changes
        _, records = built.make(**settings | {"seed": 0} | changes)
        return [record[built.metric] for record in records]

    drawn = getattr(built, "baseline", {})
    lines = drawn if isinstance(drawn, dict) else dict([drawn])
    return {"run": run, "line": next(iter(lines.values()), None)}


@pytest.mark.parametrize(("number", "claim"), CLAIMS)
def test_what_will_be_seen_in_a_lab_is_seen(number, claim):
    assert eval(claim, lab(number)), claim


def test_a_wrong_claim_and_a_setting_that_no_lab_has_are_found():
    assert not eval("run(n_epochs=1)[-1] < 0", lab(2))
    with pytest.raises(AssertionError):
        eval("run(n_facters=1)", lab(2))


def test_only_what_a_lab_needs_is_run():
    code = "import a, b\nx = a.f()\nx.go()\nfor y in x:\n    b.g(y)\nf = lambda y: x\nlab = f(1)"
    wanted = "import a, b\nx = a.f()\nx.go()\nf = lambda y: x\nlab = f(1)"
    assert needed_for("lab", code) == wanted

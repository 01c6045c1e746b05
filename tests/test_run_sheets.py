"""What INSTRUCTORS.md says will be seen in a lab is seen: each claim is trained and checked.

Beside a claim stands a comment, one Python expression a line, each of which must be true:

    <!-- lab 2
    run(n_factors=100)[0] > 10 > line
    -->

`run` trains the lab of that notebook as its sliders start, but for what is given, and returns the
metric of each epoch; `line` is the lab's first baseline. Of the notebook's code only what the lab
needs is run.
"""

import ast
import inspect
import re
import symtable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch

from nmf_helpers.lab import TrainingLab

FOLDER = Path(__file__).parents[1] / "notebooks"
PAGE = FOLDER / "INSTRUCTORS.md"


def claims_in(text):
    """Number of the notebook and expression of each claim."""
    for number, lines in re.findall(r"(?s)<!-- lab (\d)\n(.*?)-->", text):
        yield from ((int(number), line) for line in lines.splitlines() if line.strip())


def names(node):
    """Names that a statement sets, and those that it reads from outside of itself."""
    top = symtable.symtable(ast.unparse(node), "", "exec")
    found = top.get_symbols()
    sets = {s.get_name() for s in found if s.is_assigned() or s.is_imported() or s.is_namespace()}
    reads = {s.get_name() for s in found if s.is_referenced()}
    inner = [*top.get_children()]
    for table in inner:
        reads |= {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
        inner += table.get_children()
    touched = getattr(node, "iter" if isinstance(node, ast.For) else "value", None)
    if isinstance(node, ast.For | ast.Expr) and isinstance(touched, ast.Call):
        # table.fit(train), or: for table in tables.values(): table.fit(train)
        sets |= {getattr(getattr(touched.func, "value", None), "id", "")}
    return sets, reads


def needed_for(wanted, code):
    """Statements of a notebook's code that a name needs, in their order."""
    kept, wanted = [], {wanted}
    for node in reversed(ast.parse(code).body):
        sets, reads = names(node)
        if sets & wanted:
            kept.append(node)
            wanted |= reads
    return ast.unparse(ast.Module(kept[::-1], []))


def code_up_to_the_lab(path):
    code = ""
    for cell in nbformat.read(path, as_version=4).cells:
        code += cell.source + "\n" if cell.cell_type == "code" else ""
        if "lab = TrainingLab(" in code:
            return code
    raise LookupError(f"{path.name} has no lab")


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
        exec(needed_for("lab", code_up_to_the_lab(path)), known)
    built = known["lab"]
    settings = {name: starting(getattr(built, name)) for name in ("lr", "weight_decay", "n_epochs")}
    settings |= {name: starting(control) for name, control in (built.controls or {}).items()}
    settings = {name: value for name, value in settings.items() if value is not None}

    @cache
    def run(**changes):
        assert changes.keys() <= settings.keys(), changes
        _, records = built.make(**settings | {"seed": 0} | changes)
        return [record[built.metric] for record in records]

    drawn = getattr(built, "baseline", {})
    lines = drawn if isinstance(drawn, dict) else dict([drawn])
    return {"run": run, "lines": lines, "line": next(iter(lines.values()), None)}


@pytest.mark.parametrize(("number", "claim"), [*claims_in(PAGE.read_text("utf-8"))])
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

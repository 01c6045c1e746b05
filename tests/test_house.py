"""The house: who may import whom, how big each wing is, which words it uses, its types."""

import ast
import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import jupytext
import pytest
from mypy import api as mypy

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nmf_helpers"
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
FLOORS = [floor.split(" : ") for floor in CONTRACTS["contracts"][0]["layers"]]
WINGS = ("lab", "course")
CORE = [module for floor in FLOORS for module in floor if module not in ("__main__", *WINGS)]
NEVER_IN_THE_CORE = CONTRACTS["contracts"][1]["forbidden_modules"]


# -- who may import whom ---------------------------------------------------------------------------


def lint_imports(folder):
    """The verdict of import-linter on the package in a folder, and what it says."""
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    run = subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--config", str(ROOT / "pyproject.toml")],
        cwd=folder, capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    return run.returncode == 0, run.stdout + run.stderr


def test_imports_keep_the_contracts():
    kept, said = lint_imports(ROOT)
    assert kept, said


@pytest.fixture
def model_house(tmp_path):
    """An empty module wherever the contracts name one."""
    package = tmp_path / "nmf_helpers"
    for wing in WINGS:
        (package / wing).mkdir(parents=True)
        (package / wing / "__init__.py").touch()
    for module in ("__init__", "__main__", *CORE):
        (package / f"{module}.py").touch()
    return package


def test_an_empty_house_keeps_the_contracts(model_house):
    kept, said = lint_imports(model_house.parent)
    assert kept, said


PLANTED = [
    *((module, f"nmf_helpers.{wing}") for module in ("recipes", "checks") for wing in WINGS),
    ("lab/__init__", "nmf_helpers.course"),
    *((low[0], f"nmf_helpers.{high[0]}") for high, low in pairwise(FLOORS[3:])),
    *(("pipeline", outside) for outside in NEVER_IN_THE_CORE),
]


@pytest.mark.parametrize(("module", "imported"), PLANTED)
def test_a_forbidden_import_breaks_a_contract(model_house, module, imported):
    (model_house / f"{module}.py").write_text(f"def f():\n    import {imported}\n")
    kept, said = lint_imports(model_house.parent)
    assert not kept and "BROKEN" in said and imported in said


def test_a_module_without_a_floor_breaks_a_contract(model_house):
    (model_house / "attic.py").touch()
    kept, said = lint_imports(model_house.parent)
    assert not kept and "attic" in said


@pytest.mark.parametrize("module", ["data", "models", "pipeline"])
def test_the_core_loads_no_wing_and_nothing_that_only_wings_need(module):
    code = f"import sys, nmf_helpers.{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    unwanted = {*NEVER_IN_THE_CORE, *(f"nmf_helpers.{wing}" for wing in WINGS), "sklearn"}
    unwanted |= {"pandas", "pooch"} if module == "models" else set()
    assert f"nmf_helpers.{module}" in loaded.stdout.split(), loaded.stderr
    assert not unwanted & set(loaded.stdout.split())


# -- how big ---------------------------------------------------------------------------------------

# Lines of .py files, as wc counts them: no more than today. The aims are 3,100 for the core, 1,250
# for the lab, 1,150 for the course and 8,000 for the tests; 350 for a file and 60 for a function.
SIZES = {
    "core": (4_143, [*PACKAGE.glob("*.py")]),
    "lab": (1_466, [*PACKAGE.glob("lab/**/*.py")]),
    "course": (1_150, [*PACKAGE.glob("course/**/*.py")]),
    "tests": (10_282, [*ROOT.glob("tests/**/*.py")]),
}
LONGEST_FILE, LONGEST_FUNCTION = 350, 60


def n_lines(path):
    return path.read_bytes().count(b"\n")


@pytest.mark.parametrize("wing", SIZES)
def test_a_wing_keeps_to_its_budget(wing):
    budget, files = SIZES[wing]
    assert files and sum(map(n_lines, files)) <= budget, sorted((n_lines(p), p.name) for p in files)


def test_no_file_of_the_package_is_long():
    sizes = {str(path.relative_to(PACKAGE)): n_lines(path) for path in PACKAGE.rglob("*.py")}
    assert not {name: size for name, size in sizes.items() if size > LONGEST_FILE}


def long_functions(source, most=LONGEST_FUNCTION):
    """Names of the functions whose body, docstring included, has more lines than that."""
    for node in ast.walk(ast.parse(source)):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function and node.end_lineno - node.body[0].lineno + 1 > most:
            yield node.name


def test_no_function_of_the_package_is_long():
    found = {
        path.name: [*long_functions(path.read_text("utf-8"))] for path in PACKAGE.rglob("*.py")
    }
    assert not {name: functions for name, functions in found.items() if functions}


def test_a_long_function_is_found():
    source = "def f(\n    x,\n):\n" + "    x = 1\n" * LONGEST_FUNCTION
    assert [*long_functions(source)] == []
    assert [*long_functions(source + "    x = 1\n")] == ["f"]


# -- which words -----------------------------------------------------------------------------------

RENAMED = {  # what things were once called: one name each, everywhere
    r"valid_(?!ids\b)\w+": "validation_…",
    r"\w+_valid\b": "…_validation",
    r"valid(?= *[=\[.)])": "validation",
    r"fit_part": "train_part",
    r"svd_start": "svd_init",
    r"checked_csr|check_csr": "check_matrix",
    r"FusedBPR|fused_bpr": 'BPRStep, step="by_hand"',
    r"sum_gradients": 'reduction="sum"',
    r"first_epoch": "start_epoch",
    r"steadiness": "noise_prior_shape",
    r"put_together": "merge_models",
    r"(known|avoid|seen)=": "exclude=",
    r"films?|\w+_films?|films?_\w+|Films?[A-Z]\w+|\w*[a-z]Films?": "item",
    r"nmf_helpers\.(explore|plots|controls|publish|exercises)|nmf_helpers import (plots|exercises)":
        "nmf_helpers.lab, nmf_helpers.course",
}  # fmt: skip


def code_of(path):
    """The code of a Python file or of a notebook's text half, without strings and comments."""
    if path.suffix == ".md":
        cells = [c.source for c in jupytext.read(path).cells if c.cell_type == "code"]
        text = "\n".join(c for c in cells if not c.startswith("%"))
    else:
        text = path.read_text("utf-8")
    return ast.unparse(WithoutTexts().visit(ast.parse(text)))


class WithoutTexts(ast.NodeTransformer):
    """Texts are for readers, who may read of films; the keys of records are names."""

    def visit_Constant(self, node):
        is_key = isinstance(node.value, str) and re.fullmatch(r"[a-z]+(_[\w@]+)+", node.value)
        return node if is_key or not isinstance(node.value, str) else ast.Constant("")


def old_words(code):
    for old, new in RENAMED.items():
        for found in re.finditer(rf"\b(?:{old})", code):
            yield f"{found[0]} is now {new}"


@pytest.mark.parametrize("folder", ["nmf_helpers", "benchmarks"])
def test_one_name_for_one_thing(folder):
    files = [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).glob("0*.md")]
    found = {p.name: {*old_words(code_of(p))} for p in files if p != Path(__file__)}
    assert files and not {name: words for name, words in found.items() if words}


def test_an_old_word_is_found_and_a_new_one_is_not(tmp_path):
    code = tmp_path / "code.py"
    code.write_text('"""valid_loss of films."""\nf(test, valid_loss=1)["train_rmse"]\nn_items = 2')
    assert [*old_words(code_of(code))] == ["valid_loss is now validation_…"]
    code.write_text("validation_loss = exclude = item  # seen=, known=\nis_invalid = unseen = 1\n")
    assert not [*old_words(code_of(code))]


# -- types -----------------------------------------------------------------------------------------


def test_an_untyped_function_is_refused(tmp_path):
    file = tmp_path / "untyped.py"
    file.write_text("def f(x):\n    return x\n")
    said, _, status = mypy.run(["--config-file", str(ROOT / "pyproject.toml"), str(file)])
    assert status == 1 and "missing a type annotation" in said

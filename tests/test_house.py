"""The house: who may import whom, how big each wing is, which words it uses."""

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nmf_helpers"
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
FLOORS = [floor.split(" : ") for floor in CONTRACTS["contracts"][0]["layers"]]
WINGS = ("lab", "course")
CORE = [module for floor in FLOORS for module in floor if module not in ("__main__", *WINGS)]
NEVER_IN_THE_CORE = CONTRACTS["contracts"][1]["forbidden_modules"]


# -- who may import whom ---------------------------------------------------------------------------


def run_python(folder, code, *words):
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")


def lint_imports(folder):
    """The exit status of import-linter on the package in a folder, and what it says."""
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    run = run_python(folder, code, "--no-cache", "--config", str(ROOT / "pyproject.toml"))
    return run.returncode, run.stdout + run.stderr


def test_imports_keep_the_contracts():
    status, said = lint_imports(ROOT)
    assert status == 0, said


PLANTED = [
    *((module, f"nmf_helpers.{wing}") for module in ("recipes", "checks") for wing in WINGS),
    ("lab", "nmf_helpers.course"),
    *((low[0], f"nmf_helpers.{high[0]}") for high, low in pairwise(FLOORS[3:])),
    *(("pipeline", outside) for outside in NEVER_IN_THE_CORE),
]


@pytest.fixture(scope="module")
def said_of_a_bad_house(tmp_path_factory):
    """An empty module wherever the contracts name one, all forbidden imports, one module more."""
    package = tmp_path_factory.mktemp("house") / "nmf_helpers"
    files = {module: package / f"{module}.py" for module in ("__init__", "__main__", *CORE)}
    files |= {wing: package / wing / "__init__.py" for wing in WINGS}
    files["attic"] = package / "attic.py"
    for module, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        wanted = [imported for planter, imported in PLANTED if planter == module]
        file.write_text("def f():\n" + "".join(f"    import {name}\n" for name in wanted or ["os"]))
    status, said = lint_imports(package.parent)
    assert status == 1, said
    return said


@pytest.mark.parametrize(("module", "imported"), PLANTED)
def test_a_forbidden_import_breaks_a_contract(said_of_a_bad_house, module, imported):
    assert f"nmf_helpers.{module} -> {imported} (l." in said_of_a_bad_house


def test_a_module_without_a_floor_breaks_a_contract(said_of_a_bad_house):
    assert "attic" in said_of_a_bad_house


def test_the_core_loads_no_wing_and_nothing_that_only_wings_need():
    both = "import sys, nmf_helpers.models; print(*sys.modules); import nmf_helpers.pipeline"
    run = run_python(ROOT, f"{both}; print(*sys.modules)")
    models, pipeline = (line.split() for line in run.stdout.splitlines())
    unwanted = {*NEVER_IN_THE_CORE, *(f"nmf_helpers.{wing}" for wing in WINGS), "sklearn"}
    assert not unwanted & {*pipeline} and not {"pandas", "pooch"} & {*models}


# -- how big ---------------------------------------------------------------------------------------

# Lines of .py files, as wc counts them, at most.
SIZES = {
    "core": (3_100, [*PACKAGE.glob("*.py")]),
    "lab": (1_250, [*PACKAGE.glob("lab/**/*.py")]),
    "course": (1_150, [*PACKAGE.glob("course/**/*.py")]),
    "tests": (8_000, [*ROOT.glob("tests/**/*.py")]),
}
LONGEST_FILE, LONGEST_FUNCTION = 350, 60


def n_lines(path):
    return path.read_bytes().count(b"\n")


@pytest.mark.parametrize("wing", SIZES)
def test_a_wing_keeps_to_its_budget(wing):
    budget, files = SIZES[wing]
    assert files and sum(map(n_lines, files)) <= budget, sorted((n_lines(p), p.name) for p in files)


def long_functions(source, most=LONGEST_FUNCTION):
    """Names of the functions whose body, docstring included, has more lines than that."""
    for node in ast.walk(ast.parse(source)):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function and node.end_lineno - node.body[0].lineno + 1 > most:
            yield node.name


def test_no_file_and_no_function_of_the_package_is_long():
    for path in PACKAGE.rglob("*.py"):
        assert n_lines(path) <= LONGEST_FILE, path.name
        assert not [*long_functions(path.read_text("utf-8"))], path.name


def test_a_long_function_is_found():
    source = "def f(\n    x,\n):\n" + "    x = 1\n" * LONGEST_FUNCTION
    assert [*long_functions(source)] == []
    assert [*long_functions(source + "    x = 1\n")] == ["f"]


# -- which words -----------------------------------------------------------------------------------

# What things were once called: validation, train_part, svd_init, check_matrix, BPRStep,
# reduction="sum", start_epoch, noise_prior_shape, merge_models, item have one name each.
OLD = (
    r"valid(?!_ids|ation|ate)\w*|\w+_valid|fit_part|svd_start|check(ed)?_csr|[Ff]used_?([Bb][Pp][Rr])|"
    r"sum_gradients|first_epoch|steadiness|put_together|(\w+_)?films?(_\w+)?|Films?[A-Z]\w+"
)


def old_names(source):
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.string for t in tokens if t.type == tokenize.NAME and re.fullmatch(OLD, t.string)}


def test_one_name_for_one_thing():
    found = old_names("x = f(films=1, valid_loss=2, unseen=valid_ids)  # film")
    assert found == {"films", "valid_loss"}
    for path in (*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")):
        assert not old_names(path.read_text("utf-8")), path.name

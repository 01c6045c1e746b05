"""The files that set the course up agree with each other and with what is imported."""

import ast
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "nbconvert": "nbconvert-core"}
IMPORT_NAMES = {"pillow": "PIL", "scikit-learn": "sklearn"}
COMES_ALONG = {"IPython", "traitlets"}  # with JupyterLab


def specifiers(requirements):
    return {r.name: str(r.specifier) for r in map(Requirement, requirements)}


def conda_specifiers():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    lines = re.findall(r"^  - ([a-z0-9.-]+)([<>=][^ #\n]*)?", text.split("dependencies:")[1], re.M)
    return {
        name: str(Requirement(name + spec).specifier)
        for name, spec in lines
        if name not in ("pip", "python")
    }


def test_conda_and_pip_ask_for_the_same_packages_and_versions():
    wanted = specifiers(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"])
    assert conda_specifiers() == {CONDA_NAMES.get(n, n): s for n, s in wanted.items()}


def test_conda_asks_for_the_same_python():
    assert f"python{PROJECT['requires-python']}" in (ROOT / "environment.yml").read_text()


def test_every_package_has_a_lower_bound():
    for name, specifier in specifiers(PROJECT["dependencies"]).items():
        assert ">=" in specifier, name


def test_every_import_of_the_package_is_listed():
    listed = {IMPORT_NAMES.get(n, n) for n in specifiers(PROJECT["dependencies"])} | COMES_ALONG
    for path in (ROOT / "nmf_helpers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                known = top in listed or top == "nmf_helpers" or top in sys.stdlib_module_names
                assert known, f"{path.name} imports {name}, which pyproject.toml does not list"


def test_importing_the_package_is_light():
    source = (ROOT / "nmf_helpers" / "__init__.py").read_text(encoding="utf-8")
    imports = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not imports


def test_the_readme_names_each_notebook():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("0*.ipynb")):
        assert f"notebooks/{path.name}" in readme, path.name

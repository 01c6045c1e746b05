"""The files that set the course up agree with each other and with what is there."""

import json
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from nmf_helpers.course import show

ROOT = Path(__file__).parent.parent
FILE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = FILE["project"]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "nbconvert": "nbconvert-core"}


def specifiers(requirements):
    return {r.name: str(r.specifier) for r in map(Requirement, requirements)}


def test_conda_and_pip_ask_for_the_same_pythons_packages_and_versions():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8").split("dependencies:")[1]
    lines = re.findall(r"^  - ([a-z0-9.-]+ ?(?:[<>=][^ #\n]*)?)( cpu\*)?", text, re.M)
    found = specifiers(line for line, _ in lines)
    assert next(line for line, cpu in lines if cpu).startswith("pytorch ")  # no CUDA
    wanted = specifiers(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"])
    wanted = {CONDA_NAMES.get(name, name): spec for name, spec in wanted.items()}
    assert found == wanted | {"python": PROJECT["requires-python"], "pip": ""}
    assert all(">=" in spec for spec in specifiers(PROJECT["dependencies"]).values())


README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN, TEST = (
    re.search(rf"<!-- {which} command -->\n```sh\n(.+)\n```", README)[1]
    for which in ("run", "test")
)


def test_the_wheel_carries_every_package_and_the_notebooks():
    files = [file.relative_to(ROOT) for file in ROOT.glob("nmf_helpers/**/__init__.py")]
    found = {".".join(file.parent.parts) for file in files} | {"nmf_helpers.course.notebooks"}
    about = FILE["tool"]["setuptools"]
    assert {*about["packages"]} == found
    assert about["package-dir"] == {"nmf_helpers.course.notebooks": "notebooks"}


def test_the_dev_container_opens_by_the_readmes_own_command():
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    assert container["postAttachCommand"] == f"{RUN} --no-browser"


def test_workflows_call_what_is_there_on_the_pythons_that_are_supported():
    texts = {path.stem: path.read_text("utf-8") for path in ROOT.glob(".github/workflows/*.yml")}
    assert {*texts} == {"test", "weekly", "pages"}
    for script in re.findall(r"\.ci/\w+(?:\.py)?", "".join(texts.values())):
        assert (ROOT / script).is_file(), script
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f'python: ["{oldest}", "3.13"]' in texts["test"] and "bash .ci/run" in texts["test"]
    assert FILE["tool"]["mypy"]["disallow_untyped_defs"]
    assert "\nmypy\nruff check .\n" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "<!-- test command -->" in texts["test"] and "pip install -e" in TEST
    assert {extra for text in texts.values() for extra in re.findall(r"\.\[(\w+)\]", text)} <= {
        *PROJECT["optional-dependencies"]
    }


def test_without_its_tool_show_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(show, "find_spec", lambda name: None)
    assert show.show(ROOT / "notebooks/01-encoding.ipynb") == 1
    (extra,) = re.findall(r'python -m pip install -e "\.\[(\w+)\]"', capsys.readouterr().err)
    assert "voila" in specifiers(PROJECT["optional-dependencies"][extra])


def test_the_citation_names_this_version_and_licence():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    version = re.search(r'__version__ = "(.+)"', (ROOT / "nmf_helpers/__init__.py").read_text())[1]
    assert f"\nversion: {version}\n" in citation
    assert f"\nlicense: {PROJECT['license']}\n" in citation
    assert "repository" not in citation and "url:" not in citation


def test_the_files_that_the_recipes_name_are_there():
    page = (ROOT / ".github/CONTRIBUTING.md").read_text(encoding="utf-8")
    named = [n for n in re.findall(r"`([\w./-]+/[\w./-]*)`", page) if not re.search("[A-Z]{4}", n)]
    assert len(named) > 5
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "nmf_helpers" / name).exists(), name


def imported_by(modules):
    """What any of these modules, or wings, imports of ours."""
    package = ROOT / "nmf_helpers"
    paths = [path for m in modules for path in (package / f"{m}.py", *(package / m).rglob("*.py"))]
    text = "\n".join(path.read_text("utf-8") for path in paths if path.is_file())
    names = re.findall(r"^ *from nmf_helpers import (.+)", text, re.M)
    return {*re.findall(r"^ *from nmf_helpers\.(\w+)", text, re.M), *re.findall(r"\w+", str(names))}


def test_the_readme_names_every_notebook_and_module_and_the_maps_arrows_are_imports():
    for path in (ROOT / "notebooks").glob("0*.ipynb"):
        assert f"notebooks/{path.name}" in README, path.name
    drawn = re.search(r"```mermaid\nflowchart BT\n(.*?)```", README, re.S)[1]
    named = dict(re.findall(r'(\w+)\["([^":]+)', drawn))
    groups = {node: re.findall(r"\w+", words) for node, words in named.items()}
    arrows = re.findall(r'(\w+)(?:\[".*?"\])? --> (\w+)', drawn)
    assert len(arrows) > 10 and len(drawn.splitlines()) <= 20
    for low, high in arrows:
        assert {*groups[low]} & imported_by(groups[high]), f"{low} --> {high}"
    modules = {path.stem for path in (ROOT / "nmf_helpers").glob("[a-z]*.py")}
    assert modules <= {module for group in groups.values() for module in group}

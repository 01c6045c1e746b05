"""A student's folder: clean copies, never overwritten, never paired; opened by the right Python."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nmf_helpers.course import start

ROOT = Path(__file__).parents[1]
ANSWER = "share_filled = 42  # my answer"


def write(path, *cells, **metadata):
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)
    return path


def put_answer(path, source=ANSWER):
    notebook = nbformat.read(path, 4)
    notebook.cells.append(new_code_cell(source))
    nbformat.write(notebook, path)


def sources(path):
    return [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A small course, as a wheel brings it: a notebook and a page."""
    monkeypatch.setattr(start, "INSTALLED", tmp_path / "installed")
    start.INSTALLED.mkdir()
    for name in ("01-encoding", "02-dot-product-mf"):
        write(start.INSTALLED / f"{name}.ipynb", new_code_cell("first = 1"))
    write(start.INSTALLED / "glossary.ipynb", new_markdown_cell("# Glossary"))
    return start.INSTALLED


@pytest.fixture
def folder(course, tmp_path):
    start.copy_notebooks(tmp_path / "mine")
    return tmp_path / "mine"


# -- a clean copy ---------------------------------------------------------------------------------


def test_nothing_of_the_maker_stays_in_a_copy(tmp_path):
    printed = new_output("stream", text="best 0.923")
    source = write(
        tmp_path / "01-mine.ipynb",
        new_markdown_cell("for everybody", metadata={"slideshow": {"slide_type": "slide"}}),
        new_code_cell("answer = 42", metadata={"tags": ["solution"]}),
        new_markdown_cell("ask the back row", metadata={"tags": ["instructor", "other"]}),
        new_code_cell("1 + 1", metadata={"tags": ["other"], "execution": {"at": "9.23"}},
                      outputs=[printed], execution_count=923),
        kernelspec={"name": "lab-923", "display_name": "Anna's", "language": "python"},
        language_info={"name": "python", "version": "9.23"},
        widgets={"application/vnd.jupyter.widget-state+json": {"state": {"a": "0.923"}}},
        maker="/home/anna/923",
    )  # fmt: skip
    copy = start.clean_copy(source)
    nbformat.validate(copy)
    assert [cell.source for cell in copy.cells] == ["for everybody", "1 + 1"]
    assert [dict(cell.metadata) for cell in copy.cells] == [{}, {"tags": ["other"]}]
    assert copy.metadata.kernelspec.name == "python3"
    for cell in copy.cells:
        cell.id = "x"  # drawn by chance: it may hold a 23
    assert not re.search("923|23|anna", nbformat.writes(copy))


@pytest.mark.parametrize("path", start.find_notebooks().values(), ids=lambda path: path.stem)
def test_a_copy_has_the_code_that_is_tested_and_no_output(path):
    copy = start.clean_copy(path)
    assert [cell.source for cell in copy.cells if cell.cell_type == "code"] == sources(path)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in copy.cells)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda cells: cells[1].pop("source"), r"01-x\.ipynb, cell 2 is broken: .*source"),
        (lambda cells: cells[0].update(cell_type="poem"), r"01-x\.ipynb, cell 1 is broken: .*poem"),
        (lambda cells: cells.append("x"), r"01-x\.ipynb is broken: "),
    ],
)
def test_a_broken_notebook_is_named_with_its_cell(tmp_path, damage, said):
    path = write(tmp_path / "01-x.ipynb", new_markdown_cell("a"), new_markdown_cell("b"))
    notebook = json.loads(path.read_text("utf-8"))
    damage(notebook["cells"])
    path.write_text(json.dumps(notebook))
    with pytest.raises(ValueError, match=said):
        start.clean_copy(path)


def test_what_is_no_notebook_and_an_empty_course_are_named(course):
    (course / "glossary.ipynb").write_text("# a text")
    with pytest.raises(ValueError, match=r"glossary\.ipynb is no notebook"):
        start.clean_copy(course / "glossary.ipynb")
    for path in course.iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="install the course again"):
        start.find_notebooks()


# -- copies ---------------------------------------------------------------------------------------


def test_what_is_there_stays_and_what_is_missing_comes_back(folder):
    put_answer(folder / "01-encoding.ipynb")
    before = (folder / "01-encoding.ipynb").read_bytes()
    (folder / "glossary.ipynb").unlink()
    assert start.copy_notebooks(folder) == []
    assert (folder / "01-encoding.ipynb").read_bytes() == before
    seen = [path.name for path in sorted(folder.iterdir()) if path.name[0] != "."]
    assert seen == ["01-encoding.ipynb", "02-dot-product-mf.ipynb", "glossary.ipynb"]


def test_reset_copies_anew_and_keeps_what_was_there_under_a_dated_name(folder, course):
    copy = folder / "01-encoding.ipynb"
    for answer in ("mine = 1", "mine = 2"):
        put_answer(copy, answer)
        (said,) = start.copy_notebooks(folder, again=course / "01-encoding.ipynb")
        assert re.search(r"kept as 01-encoding 20\d\d-\d\d-\d\d .*\.ipynb", said)
        assert sources(copy) == ["first = 1"]
    kept = sorted(folder.glob("01-encoding 20*.ipynb"))
    assert [sources(path)[1] for path in kept] == ["mine = 1", "mine = 2"]


def test_a_newer_edition_is_announced_until_it_is_fetched(folder, course):
    source = course / "01-encoding.ipynb"
    ran = new_output("stream", text="1")
    cell = nbformat.read(source, 4).cells[0] | {"outputs": [ran], "execution_count": 1}
    write(source, nbformat.from_dict(cell))
    assert start.copy_notebooks(folder) == [], "the same text, only run"
    put_answer(source, "second = 2")
    put_answer(folder / source.name)
    for _ in range(2):
        (said,) = start.copy_notebooks(folder)
        assert "newer edition of 01-encoding.ipynb" in said
        assert said.endswith("python -m nmf_helpers start 1 --reset")
        assert sources(folder / source.name) == ["first = 1", ANSWER]
    start.copy_notebooks(folder, again=source)
    assert sources(folder / source.name) == ["first = 1", "second = 2"]
    assert start.copy_notebooks(folder) == []


def test_the_last_notebook_worked_on_is_opened_and_at_first_the_first_but_never_a_page(folder):
    os.utime(folder / "glossary.ipynb", (3e9, 3e9))
    assert start.last_worked_on(folder).name == "01-encoding.ipynb"
    os.utime(folder / "02-dot-product-mf.ipynb", (2e9, 2e9))
    assert start.last_worked_on(folder).name == "02-dot-product-mf.ipynb"
    (folder / "02-dot-product-mf.ipynb").unlink()
    assert start.last_worked_on(folder).name == "01-encoding.ipynb"


def test_copies_belong_in_the_checkout_or_where_we_are_and_never_in_a_folder_of_copies(
    course, folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert start.students_folder() == tmp_path / "my-notebooks"
    monkeypatch.chdir(folder)
    assert start.students_folder() == folder
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "INSTALLED", tmp_path / "not there")
    assert start.students_folder() == ROOT / "my-notebooks"
    assert "my-notebooks/" in (ROOT / ".gitignore").read_text("utf-8").split()


@pytest.mark.parametrize("inside", [".", "mine"])
def test_the_courses_own_folder_is_refused(course, inside):
    before = sorted(course.iterdir())
    with pytest.raises(ValueError, match="the course's own, not for copies: name another folder"):
        start.copy_notebooks(course / inside)
    assert sorted(course.iterdir()) == before


# -- work is never lost ---------------------------------------------------------------------------


def test_a_copy_is_never_paired_wherever_jupyter_is_started(tmp_path):
    """With jupytext's own contents manager, which a plain `jupyter lab` has."""
    home = tmp_path / "course"
    mine, own, first = home / "my-notebooks", home / "notebooks", start.find_notebooks()["1"]
    own.mkdir(parents=True)
    (home / "jupytext.toml").write_bytes((ROOT / "jupytext.toml").read_bytes())
    for half in (first, first.with_suffix(".md")):
        (own / half.name).write_bytes(half.read_bytes())
    start.copy_notebooks(mine)
    for day, place in enumerate((mine, home, tmp_path, mine)):
        manager = jupytext.TextFileContentsManager()
        manager.root_dir = str(place)
        path = os.path.relpath(mine / first.name, place).replace(os.sep, "/")
        opened = manager.get(path)
        assert opened["content"].cells[1].source.endswith(f"day {day - 1}" if day else "")
        opened["content"].cells[1].source = f"{ANSWER}, day {day}"
        manager.save(opened, path)
        os.utime(own / first.with_suffix(".md").name)
    assert not list(mine.glob("*.md"))


# -- the server -----------------------------------------------------------------------------------


def test_a_name_that_is_not_known_yet_is_told_plainly():
    """What a kernel of `start` says of a cell that ran before its imports."""
    words = ["-m", "IPython", "--colors=NoColor", "--ext=nmf_helpers.course.start", "-c", "check"]
    said = subprocess.run([sys.executable, *words], capture_output=True, text=True).stdout
    assert "NameError: name 'check' is not defined" in said
    assert "Has a cell above not run, or was the kernel restarted? Run > Run All Above" in said


@pytest.fixture
def served(tmp_path):
    """Notebook 2 in a folder of hers, without network, beside a kernel of another Python."""
    foreign = tmp_path / "data" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    spec = {"argv": ["/another/python"], "display_name": "Another", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(spec))
    env = os.environ | {
        "HOME": str(tmp_path), "JUPYTER_DATA_DIR": str(tmp_path / "data"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "NMF_DATA_DIR": str(tmp_path / "cache"),
        "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9",
    }  # fmt: skip
    command = [sys.executable, "-m", "nmf_helpers", "start", "2", "--no-browser", "--folder"]
    mine, said, address = tmp_path / "Zoë und Ich", "", None
    process = subprocess.Popen([*command, mine], env=env, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        said += line
        if address := re.search(r"(http://.*?:\d+)(/\S+)\?token=(\w+)", line):
            yield mine, said, *address.groups()
            break
    process.terminate()
    process.wait(timeout=30)
    assert address, f"it ended:\n{said}"


def test_a_day_in_a_folder_of_ones_own(served):
    mine, said, address, page, token = served
    assert f"Your notebooks are in {mine}." in said
    assert "ML-100K could not be fetched" in said and "The others don't: go on." in said
    assert page == "/lab/tree/02-dot-product-mf.ipynb"

    head = {"Authorization": f"token {token}"}
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(path, **changes):
        request = urllib.request.Request(address + path, headers=head)
        if changes:
            request.method, request.data = "PUT", json.dumps(changes).encode()
        return direct.open(request).read()

    kernel = json.loads(ask("/api/kernelspecs"))["kernelspecs"]["python3"]
    assert kernel["spec"]["argv"][0] == sys.executable
    shown = ask(page).decode()
    config = json.loads(re.search(r'id="jupyter-config-data".*?>(.*?)</script>', shown, re.S)[1])
    assert config["news"] == {"disabled": True}
    path = "/api/contents/02-dot-product-mf.ipynb"
    content = json.loads(ask(path))["content"]
    content["cells"][2]["source"] = ANSWER
    ask(path, type="notebook", content=content)
    assert start.copy_notebooks(mine) == []  # the next day, without a number
    assert start.last_worked_on(mine).name == "02-dot-product-mf.ipynb"
    assert nbformat.read(mine / "02-dot-product-mf.ipynb", 4).cells[2].source == ANSWER

"""The notebooks as files: pairs agree, every cell has run, sections and alt text are there.

That what is printed is also true, nbval shows by running every cell again.
"""

import re
from functools import cache
from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
SOURCES = sorted(FOLDER.glob("0*.md"))  # the seven notebooks
PAIRS = [path for path in sorted(FOLDER.glob("*.md")) if path.read_text("utf-8")[:7] == "---\njup"]
PAGES = [path for path in PAIRS if path not in SOURCES]  # and what stands beside them
WIDGET = "application/vnd.jupyter.widget-view+json"

each = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
each_pair = pytest.mark.parametrize("source", PAIRS, ids=lambda path: path.stem)


@cache
def run_half(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def code_cells(source):
    return [cell for cell in run_half(source).cells if cell.cell_type == "code"]


def outputs(source):
    return [output for cell in code_cells(source) for output in cell.outputs]


def test_there_are_seven_notebooks_and_every_text_has_its_run_half():
    assert [path.name[:2] for path in SOURCES] == [f"0{n}" for n in range(1, 8)]
    assert "your-own-ratings" in {page.stem for page in PAGES}
    assert sorted(FOLDER.glob("*.ipynb")) == [path.with_suffix(".ipynb") for path in PAIRS]


@each_pair
def test_both_halves_of_a_pair_agree_cell_by_cell(source):
    def content(notebook):
        return [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in notebook.cells]

    text, run = content(jupytext.read(source)), content(run_half(source))
    for number, (ours, theirs) in enumerate(zip(text, run, strict=False), start=1):
        assert ours == theirs, f"cell {number} differs: rebuild with .ci/execute.py"
    assert len(text) == len(run)


@each_pair
def test_every_cell_has_run_in_order_none_failed_or_warned_and_all_output_is_compared(source):
    unchecked = {"nbval-ignore-output", "nbval-skip", "raises-exception"}
    for cell in code_cells(source):
        assert not unchecked & {*cell.metadata.get("tags", ())} and "NBVAL_" not in cell.source
    counts = [cell.execution_count for cell in code_cells(source)]
    assert counts == list(range(1, len(counts) + 1))
    assert not {"error", "stderr"} & {o.get("name", o.output_type) for o in outputs(source)}


@each_pair
def test_nothing_of_the_machine_stays_in_the_file(source):
    notebook = run_half(source)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert set(notebook.metadata.kernelspec) == {"display_name", "language", "name"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata.language_info) == {"name"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}, cell.source[:60]
    text = source.with_suffix(".ipynb").read_text("utf-8")
    pictures = re.sub(r'"image/png": "[^"]*"', "", text)
    path = re.search(r"(/home/|/root/|/tmp/|/work/|/Users/|[A-Z]:\\\\Users)[^\"]{0,40}", pictures)
    assert path is None, path
    assert not re.search(r"\bat 0x[0-9a-f]+|object at |pid[ =]\d", pictures)
    assert len(text) < 2_000_000, "bytes, pictures included"


@each
def test_a_notebook_has_its_sections_in_order(source):
    text = source.read_text("utf-8")
    wanted = [
        rf"^# {source.name[1]} · ", r"^\*[^*]+\*$", r"\*\*What you'll do\.\*\*",
        r"\*\*What you need\.\*\*", r"\*\*Time\.\*\* \d+ minutes", r"^## By hand",
        r"^## Find the bug", r"^## Exercises", r"^## Take away",
    ]  # fmt: skip
    places = []
    for pattern in wanted:
        found = re.search(pattern, text, re.M)
        assert found, f"no {pattern}"
        places.append(found.start())
    assert places == sorted(places)
    last = "**This was the last notebook.**" if source == SOURCES[-1] else "**Next.**"
    assert last in text[places[-1] :]
    assert len(re.findall(r"^> \*\*Predict|^> .*predict", text, re.M)) >= 2
    if source != SOURCES[0]:
        assert "\n## Lab\n" in text and "baseline=" in text


def way(source):
    """The line that leads to the notebooks before and after, and to the contents."""
    titles = [re.search(r"^# (.+)$", path.read_text("utf-8"), re.M)[1] for path in SOURCES]
    place, links = SOURCES.index(source), ["[contents](start-here.ipynb)"]
    if place > 0:
        links.insert(0, f"[← {titles[place - 1]}]({SOURCES[place - 1].stem}.ipynb)")
    if place < len(SOURCES) - 1:
        links.append(f"[{titles[place + 1]} →]({SOURCES[place + 1].stem}.ipynb)")
    return " · ".join(links)


@each
def test_a_notebook_begins_and_ends_with_the_way_to_the_others(source):
    written = [cell.source for cell in run_half(source).cells if cell.cell_type == "markdown"]
    assert (written[0].splitlines()[0], written[-1].splitlines()[-1]) == (way(source),) * 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_begins_with_the_way_to_the_contents_and_is_listed_there(page):
    contents = (FOLDER / "start-here.md").read_text("utf-8")
    if page.stem != "start-here":
        assert run_half(page).cells[0].source.startswith("[contents](start-here.ipynb)\n\n# ")
        assert f"]({page.stem}.ipynb)" in contents
    else:
        assert all(f"]({source.stem}.ipynb)" in contents for source in SOURCES)


@each
def test_every_picture_has_alt_text_with_what_it_shows(source):
    data = [(o, o.get("data", {})) for o in outputs(source)]  # a lab's own picture says less
    pictures = [o for o, kinds in data if "image/png" in kinds and WIDGET not in kinds]
    assert pictures
    for output in pictures:
        alt = output.metadata["image/png"]["alt"]
        assert alt == output.data["text/plain"]
        assert len(alt) > 30 and not alt.startswith("<"), alt
        assert re.search(r"\d", alt) or len(alt) > 60, f"alt text without a finding: {alt}"


@each
def test_every_lab_is_followed_by_a_picture_that_needs_no_kernel(source):
    kinds = [{k for o in cell.outputs for k in o.get("data", {})} for cell in code_cells(source)]
    for number, shown in enumerate(kinds):
        if WIDGET in shown:
            near = set().union(*kinds[number : number + 3])
            assert near & {"image/png", "text/html"}, f"code cell {number + 1} has no twin"


@each
def test_open_exercises_and_bugs_say_so_in_the_stored_output(source):
    """Nobody has left a solution in the notebook, and every check has answered."""
    for cell in code_cells(source):
        for name in re.findall(r'^check\("([^"]+)"', cell.source, re.M):
            said = "".join(output.get("text", "") for output in cell.outputs)
            open_ = "not yet. " if "bug" in name else "not attempted yet"
            assert f"{name}: {open_}" in said, said


@each_pair
def test_a_notebook_that_trains_keeps_to_one_thread(source):
    """On a busy laptop a second one makes it four times as slow: threads wait by spinning."""
    first = next(iter(code_cells(source)), nbformat.from_dict({"source": ""})).source
    assert bool(re.search(r"import .*\btorch\b", first)) == ("torch.set_num_threads(1)" in first)


@pytest.mark.parametrize(
    "page", [*PAIRS, FOLDER / "INSTRUCTORS.md", FOLDER.parent / "README.md"], ids=lambda p: p.name
)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    for link in links:
        if "://" in link:
            assert link.startswith("https://"), link
        else:
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_the_instructors_page_names_sections_and_commands_that_exist():
    page = (FOLDER / "INSTRUCTORS.md").read_text("utf-8")
    rows = re.findall(r"^\|.*\| (\d): (.+) \|$", page, re.M)
    assert len(rows) >= 4
    for number, sections in rows:
        text = SOURCES[int(number) - 1].read_text("utf-8")
        for section in re.findall(r'"(.+?)"', sections):
            assert re.search(rf"^## {section}", text, re.M), f"{number}: {section}"
    from nmf_helpers.course import commands

    source = Path(commands.__file__).read_text("utf-8")
    for command in re.findall(r"^    python -m nmf_helpers (\w+)", page, re.M):
        assert f'"{command}"' in source
    assert re.findall(r"^### (\d) ·", page, re.M) == [source.name[1] for source in SOURCES]

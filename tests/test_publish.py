"""The hand-out has no outputs and no solutions and runs; the slides need nothing but a browser."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nmf_helpers import __main__ as cli
from nmf_helpers import exercises, publish

NOTEBOOKS = publish.find_notebooks()


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory):
    target = tmp_path_factory.mktemp("class") / "handout"
    publish.handout(target)
    return target


def write(folder: Path, *cells, name: str = "01-example.ipynb") -> Path:
    nbformat.write(new_notebook(cells=list(cells)), folder / name)
    return folder


def test_the_handout_is_every_notebook_and_nothing_else(handed_out):
    assert [p.name for p in sorted(handed_out.iterdir())] == [p.name for p in NOTEBOOKS]


def test_the_handout_has_no_outputs(handed_out):
    for path in handed_out.iterdir():
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                assert cell.outputs == [] and cell.execution_count is None


def test_the_handout_holds_every_exercise_and_no_solution(handed_out):
    text = "\n".join(
        cell.source for path in handed_out.iterdir() for cell in nbformat.read(path, 4).cells
    )
    for name in exercises.names():
        assert f'check("{name}", ' in text
    for path in (Path(publish.__file__).parent.parent / "notebooks/solutions").glob("*.py"):
        for blank in re.findall(r"# <<<\n(.*?)# >>>", path.read_text("utf-8"), re.S):
            assert blank.strip() not in text


def test_tagged_cells_are_not_handed_out(tmp_path):
    source = write(
        tmp_path,
        new_markdown_cell("for everybody"),
        new_code_cell("answer = 42", metadata={"tags": ["solution"]}),
        new_markdown_cell("ask the back row", metadata={"tags": ["instructor", "other"]}),
        new_code_cell(
            "1 + 1", metadata={"tags": ["other"]}, outputs=[new_output("stream", text="2")]
        ),
    )
    (path,) = publish.handout(tmp_path / "out", source)
    notebook = nbformat.read(path, as_version=4)
    assert [cell.source for cell in notebook.cells] == ["for everybody", "1 + 1"]
    nbformat.validate(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_handed_out_is_the_code_that_the_notebook_tests_run(handed_out, path):
    ours, theirs = (
        [cell.source for cell in nbformat.read(place, 4).cells if cell.cell_type == "code"]
        for place in (path, handed_out / path.name)
    )
    assert ours == theirs


def test_a_handed_out_notebook_runs_from_nothing_to_its_end(handed_out):
    path = handed_out / "01-encoding.ipynb"
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, kernel_name="python3", timeout=120, resources={"metadata": {"path": handed_out}}
    ).execute()
    printed = "".join(
        output.get("text", "") for c in notebook.cells for output in c.get("outputs", ())
    )
    for name in ("1.1", "1.2", "1.3"):
        assert f"{name}: not attempted yet" in printed


def test_a_handout_never_overwrites_somebodys_work(handed_out, tmp_path, capsys):
    before = {path: path.read_bytes() for path in handed_out.iterdir()}
    with pytest.raises(FileExistsError, match=r"01-encoding\.ipynb is there already: name another"):
        publish.handout(handed_out)
    assert cli.main(["handout", str(handed_out)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in handed_out.iterdir()}


def test_no_notebooks_is_said(tmp_path):
    for make in (publish.handout, publish.slides):
        with pytest.raises(FileNotFoundError, match="there are no notebooks"):
            make(tmp_path / "out", tmp_path)


# -- slides ---------------------------------------------------------------------------------------

PNG = "iVBORw0KGgo="  # the first bytes of any PNG file, in base64


def picture(alt: str = "it falls"):
    return new_output("execute_result", data={"image/png": PNG, "text/plain": alt})


def split(*cells) -> list[list[str]]:
    return [[cell.source for cell in slide] for slide in publish.split_slides(list(cells))]


def test_a_heading_begins_a_slide_and_a_prediction_ends_one():
    assert split(
        new_markdown_cell("# 1 · Title"),
        new_markdown_cell("## Idea"),
        new_markdown_cell("> **Predict.** How many?"),
        new_code_cell("count()", outputs=[new_output("stream", text="7")]),
        new_markdown_cell("Seven."),
    ) == [["# 1 · Title"], ["## Idea", "> **Predict.** How many?"], ["count()", "Seven."]]


def test_what_does_not_fit_goes_on_the_next_slide():
    cells = [new_code_cell(f"draw({i})", outputs=[picture()]) for i in range(3)]
    assert split(new_markdown_cell("## Pictures"), *cells) == [
        ["## Pictures", "draw(0)"],
        ["draw(1)"],
        ["draw(2)"],
    ]


def test_exercises_and_instructors_cells_are_not_projected():
    assert split(
        new_markdown_cell("## Idea"),
        new_markdown_cell("psst", metadata={"tags": ["instructor"]}),
        new_markdown_cell("## Exercises"),
        new_code_cell("check('1.1', f)"),
        new_markdown_cell("## Take away"),
    ) == [["## Idea"], ["## Take away"]]


def test_slideshow_metadata_has_the_last_word():
    def typed(source, kind):
        return new_markdown_cell(source, metadata={"slideshow": {"slide_type": kind}})

    cells = [new_markdown_cell("## Idea"), typed("a", "skip"), typed("b", "slide"), typed("c", "-")]
    assert split(*cells) == [["## Idea"], ["b", "c"]]


def test_long_code_is_left_out_and_what_it_prints_is_shown(tmp_path):
    printed = new_output("stream", text="RMSE < 0.9")
    source = write(tmp_path, new_code_cell("secret = 1\n" * 40, outputs=[printed]))
    deck = publish.slides(tmp_path / "out", source)[0].read_text("utf-8")
    assert "secret" not in deck and "RMSE &lt; 0.9" in deck


def test_pictures_carry_their_alt_text_and_formulas_are_drawn(tmp_path):
    source = write(
        tmp_path,
        new_markdown_cell(r"$$\hat r = p_u \cdot q_i$$ and $k$, but `cost $5 or $6`"),
        new_code_cell("plot()", outputs=[picture('from "3" to 1')]),
    )
    deck = publish.slides(tmp_path / "out", source)[0].read_text("utf-8")
    assert '<img alt="from &quot;3&quot; to 1" src="data:image/png;base64,iVBOR' in deck
    assert deck.count("<svg") == 2
    assert r'aria-label="\hat r = p_u \cdot q_i"' in deck
    assert "cost $5 or $6" in deck


def test_decks_of_all_notebooks_need_no_network(tmp_path, capsys):
    assert cli.main(["slides", str(tmp_path)]) == 0
    assert f"{len(NOTEBOOKS)} files written to {tmp_path}" in capsys.readouterr().out
    for path in NOTEBOOKS:
        deck = (tmp_path / f"{path.stem}.html").read_text("utf-8")
        assert deck.count("<section>") >= 8
        assert not re.search(r"""(?:src|href)=["'](?:https?:)?//|@import|url\(http""", deck)
        assert "<img" in deck and 'alt=""' not in deck
        words = re.sub(r"<(pre|code).*?</\1>|<script.*?</script>", "", deck, flags=re.S)
        assert not re.search(r"\$[^$<]+\$", words), "a formula was left as LaTeX"


@pytest.mark.parametrize("command", ["check", "fetch"])
def test_a_folder_where_none_belongs_is_refused(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "somewhere"])
    assert f"{command} takes no folder" in capsys.readouterr().err


def test_the_command_line_writes_a_handout(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "nmf_helpers", "handout", str(tmp_path / "new")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "new").glob("*.ipynb"))) == len(NOTEBOOKS)

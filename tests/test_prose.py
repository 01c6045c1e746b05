"""What the prose says: every number has a home, every prediction an answer, every term an entry.

A Markdown cell lists the homes of its numbers in a comment at its end, one line an entry:

    <!-- homes
    0.807, 0.806: cell decay-table             printed by the code cell with that tag
    0.812: cell 03/decay-table, "AdamW"        by another notebook's, in a line with that text
    0.268: claims iALS/imp10/ndcg@10           a path in a JSON of benchmarks/
    3.18: reckoned scipy.stats.t.ppf(.975, 3)  Python with math, np, scipy, and claims("PATH") alike
    0.944: source Surprise's README            somebody else's figure
    0.85: example                              invented, or a setting
    0.19: lab                                  INSTRUCTORS.md: in a claim, see test_instructors.py
    -->

A decimal number, a percentage, and a time, a size or a ratio with its unit need one. Code
spans, formulas, targets of links, exercises ("exercise 3.2") and generated tables are left out.
"""

import json
import math
import re
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pytest
import scipy.stats
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("0*.ipynb"))
PAGES = [path for path in sorted(FOLDER.glob("*.ipynb")) if path not in NOTEBOOKS]
MOST_LINES, MOST_MINUTES = 4_200, 500

ANSWER = r"(?ms)^<details><summary>Answer</summary>\n\n.+?\n\n</details>"
GENERATED = r"(?s)<!-- [\w ]+ -->\n(?:(?!<!--).)*<!-- end -->"


@cache
def cells(path):
    """The cells of a notebook; of a page without code, its sections."""
    if path.suffix == ".ipynb":
        return nbformat.read(path, as_version=4).cells
    sections = re.split(r"(?m)^(?=## )", path.read_text("utf-8"))
    return [new_markdown_cell(section) for section in sections]


def markdown(path):
    return [cell.source for cell in cells(path) if cell.cell_type == "markdown"]


def prose(text):
    """What a reader reads of a Markdown cell, without code, formulas and where links lead."""
    text = re.sub(GENERATED, "", text)
    text = re.sub(r"(?s)<!--.*?-->|^```.*?^```$|^    [^\n]*$", "", text, flags=re.M)
    return re.sub(r"(?s)`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$|\]\([^)]*\)", " ", text)


# -- (a) numbers and their homes -------------------------------------------------------------------

EXERCISES = r"(?:\*\*|[Ee]xercises? )\d\.\d(?:(?:, | and | to )\d\.\d)*"
UNIT = r"%|×(?!\s?\d)|ms|s|seconds?|MiB|GiB|KiB|MB|GB|kB"
VALUE = rf"\d*\.\d+|\d[\d,]*(?=\s?(?:{UNIT})(?![\w/]))"
NUMBER = rf"(?<![\w.,])({VALUE})(?:\s?({UNIT})(?!\w))?(?![\w.]*\d)"
THOUSANDS = r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\w.]*\d)"  # these may have a home


def numbers_in(text):
    """Numbers that need a home, as they are written but for the space before a unit."""
    found = re.findall(NUMBER, re.sub(EXERCISES, "", prose(text)))
    return list(dict.fromkeys(number + unit for number, unit in found))


def homes_in(text):
    """The entries of a cell's comment, as (number, home)."""
    for comment in re.findall(r"(?s)<!-- homes\n(.*?)-->", text):
        for line in filter(str.strip, comment.splitlines()):
            said, colon, home = line.partition(": ")
            for number in re.split(r",\s+", said):
                yield re.sub(r"\s", "", number), home.strip() if colon else ""


def is_among(number, values):
    """Whether one of the values, rounded as the number is written, is that number."""
    digits = re.match(r"[\d,]*\.?\d*", number)[0].replace(",", "")
    half = 0.5 * 10.0 ** -len(digits.partition(".")[2]) + 1e-9
    factors = (1, 100) if number.endswith("%") else (1,)
    return any(abs(abs(v) * factor - float(digits)) <= half for v in values for factor in factors)


def said_by(cell):
    texts = (o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs)
    return "\n".join(texts)


def printed(path, tag, line=""):
    """Numbers in what the one cell with a tag prints, or in those of its lines with a text."""
    found = [c for c in cells(path) if tag in c.metadata.get("tags", ())]
    if len(found) != 1:
        raise LookupError(f"{len(found)} cells of {path.stem} are tagged {tag}")
    lines = [one for one in said_by(found[0]).splitlines() if line in one]
    if not lines:
        raise LookupError(f"the cell {tag} prints nothing with {line!r}")
    written = re.findall(r"\d[\d,]*\.?\d*(?:e[+-]?\d+)?|\.\d+", "\n".join(lines))
    return [float(number.replace(",", "")) for number in written]


def found_in(file, path):
    """Numbers under a path in a file of benchmarks/: keys, or the values that choose rows."""
    nodes = [json.loads((ROOT / "benchmarks" / f"{file}.json").read_text("utf-8"))]
    for step in path.split("/"):
        flat = [n for node in nodes for n in (node if isinstance(node, list) else [node])]
        chosen = [node[step] for node in flat if isinstance(node, dict) and step in node]
        rows = [n for n in flat if isinstance(n, dict) and step in map(str, n.values())]
        nodes = chosen or rows
    if not nodes:
        raise LookupError(f"benchmarks/{file}.json has nothing at {path}")
    return [*leaves(nodes)]


def leaves(node):
    """All numbers of a JSON, but for how they were checked."""
    if isinstance(node, dict):
        node = [n for key, n in node.items() if key not in ("tolerance", "seeds", "conditions")]
    if isinstance(node, list):
        yield from (number for child in node for number in leaves(child))
    elif isinstance(node, int | float):
        yield float(node)


def is_home(number, home, path):
    """Whether the number lives where an entry says; a LookupError if there is no such place."""
    kind, _, where = home.partition(" ")
    if kind == "cell":
        tag, _, line = where.partition(", ")
        other, _, tag = tag.rpartition("/")
        source = next(p for p in NOTEBOOKS if p.name.startswith(other)) if other else path
        return is_among(number, printed(source, tag, line.strip('"')))
    files = [file.stem for file in (ROOT / "benchmarks").glob("*.json")]
    if kind in files:
        return is_among(number, found_in(kind, where))
    if kind == "reckoned":
        names = {file: lambda path, file=file: found_in(file, path)[0] for file in files}
        value = eval(where, {"math": math, "np": np, "scipy": scipy, **names})
        return is_among(number, np.ravel(value))
    if home == "lab":
        claims = re.findall(r"(?s)<!-- lab \d\n(.*?)-->", path.read_text("utf-8"))
        return bool(re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", "\n".join(claims)))
    if (kind == "source" and where) or home == "example":
        return True
    raise LookupError(f"{home!r} is no kind of home: see the top of tests/test_prose.py")


def homeless(text, path=NOTEBOOKS[0]):
    """Complaints about the numbers of one Markdown cell."""
    said, homes = numbers_in(text), [*homes_in(text)]
    large = re.findall(THOUSANDS, prose(text))
    for number in said:
        if not any(key in (number, re.sub(UNIT, "", number)) for key, _ in homes):
            yield f"{number} has no home"
    for key, home in homes:
        full = [number for number in said + large if key in (number, re.sub(UNIT, "", number))]
        if not full:
            yield f"{key} has a home, and isn't said"
        try:
            if full and not is_home(full[0], home, path):
                yield f"{full[0]} is not at {home}"
        except LookupError as error:
            yield f"{key}: {error}"


def thousands_from_nowhere(text, known):
    """Numbers like 79,799 without a home that none of those known, rounded alike, is."""
    for said in {*re.findall(THOUSANDS, prose(text))} - {key for key, _ in homes_in(text)}:
        digits = said.replace(",", "")
        places = len(digits.rstrip("0")) - len(digits)
        if not any(round(k, places) == int(digits) for k in known):
            yield said


def thousands_that_no_cell_knows(path):
    """Counts of rows and users are said everywhere: any cell will do, here or earlier."""
    earlier = [c for p in NOTEBOOKS for c in cells(p) if p <= path and c.cell_type == "code"]
    text = "\n".join(f"{cell.source}\n{said_by(cell)}" for cell in earlier)
    known = [float(n) for n in re.findall(r"\d+\.?\d*", re.sub(r"(?<=\d)[,_](?=\d)", "", text))]
    yield from thousands_from_nowhere("\n".join(markdown(path)), known)


def numbers_without_a_home(path):
    for text in markdown(path):
        yield from homeless(text, path)


def test_numbers_that_need_a_home_are_found_and_others_are_not():
    text = "9,066 films, about 9,000, 7,123 rows and 1,683.\n<!-- homes\n1,683: example\n-->"
    assert [*thousands_from_nowhere(text, [9066.0])] == ["7,123"]
    text = (
        "RMSE 0.807 or .81, 3 %, 12%, 1.2 s, 20 MiB and 13×, 0.5 MiB; not 4 users, `lr=0.7`, 671 × "
        "8,442, $0.3$, **1.4** and exercises 2.1 to 2.3, [here](a0.5), 79,799 or 10 slow."
    )
    assert numbers_in(text) == ["0.807", ".81", "3%", "12%", "1.2s", "20MiB", "13×", "0.5MiB"]
    assert numbers_in("<!-- claims a -->\n| 0.1 |\n<!-- end -->\n0.2") == ["0.2"]


@pytest.fixture
def home(tmp_path):
    """A notebook with one tagged cell, which prints two lines."""
    output = nbformat.v4.new_output("stream", text="Adam   0.8071\nAdamW  1,200 0.031\n")
    tagged = new_code_cell("", metadata={"tags": ["table"]}, outputs=[output])
    path = tmp_path / "03-x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[tagged]), path)
    return path


@pytest.mark.parametrize(
    ("said", "entry", "altered"),
    [
        ("0.807", "0.807: cell table", "0.808"),
        (".81", '.81: cell table, "Adam "', ".82"),
        ("3 %", "3 %: cell table", "4 %"),
        ("3.18", "3.18: reckoned scipy.stats.t.ppf(.975, 3)", "3.19"),
        ("0.128", "0.128: claims popularity/imp10/ndcg@10", "0.129"),
        ("0.953", "0.953: folds bias table/u1", "0.954"),
    ],
)
def test_a_number_is_found_at_home_and_missed_when_either_side_changes(home, said, entry, altered):
    text = "We get {}.\n\n<!-- homes\n{}\n-->"
    assert not [*homeless(text.format(said, entry), home)]
    assert [*homeless(text.format(altered, entry), home)]
    assert [*homeless(text.format(altered, entry.replace(said, altered)), home)]


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("", "0.807 has no home"),
        ("0.807", "no kind of home"),
        ("0.807: cell other", "0 cells of 03-x are tagged other"),
        ('0.807: cell table, "AdamW"', "0.807 is not at"),
        ("0.807: claims iALS/imp10/ndcg", "has nothing at"),
        ("0.807: example\n0.9: example", "0.9 has a home, and isn't said"),
    ],
)
def test_a_number_elsewhere_and_an_entry_that_leads_nowhere_are_no_home(home, entry, complaint):
    text = f"We get 0.807.\n\n<!-- homes\n{entry}\n-->"
    assert re.search(complaint, "\n".join(homeless(text, home)))


# -- (b) predictions and answers -------------------------------------------------------------------


def predictions_without_an_answer(path):
    yield from unanswered(cells(path))


def unanswered(notebook_cells):
    """Predictions without an answer that is closed, and stands after the cell with the result."""
    shown = "<!-- parts -->"  # code shows a result, and so does a table that was measured
    text = "\n".join(shown if c.cell_type == "code" else c.source for c in notebook_cells)
    kinds = ANSWER + r"|^> \*\*(?P<asked>Predict)|^<!-- (?P<shown>parts|hogwild) "
    found = [mark.lastgroup or "answered" for mark in re.finditer(kinds, text)]
    asked, answered = ([k for k, f in enumerate(found) if f == x] for x in ("asked", "answered"))
    if len(asked) != len(answered):
        yield f"{len(asked)} predictions, {len(answered)} answers"
    for number, (place, end) in enumerate(zip(asked, answered, strict=False), start=1):
        if "shown" not in found[place:end]:
            yield f"no answer after the result of prediction {number}"


@pytest.mark.parametrize("kinds", ["pra", "pprraa", "prao", "pta", "par!", "prapa!", "pr!", "pro!"])
def test_an_answer_stands_closed_after_its_result(kinds):
    """P: predicted, r: a result, t: a table, a: answered, o: openly; !: a complaint is due."""
    closed = "<details><summary>Answer</summary>\n\nMore.\n\n</details>"
    texts = {"p": "> **Predict.** More?", "a": closed, "o": "Answer: more."}
    texts["t"] = "<!-- parts x -->"  # a table that was measured
    made = [new_code_cell("1") if k == "r" else new_markdown_cell(texts.get(k, "")) for k in kinds]
    assert len([*unanswered(made)]) == kinds.count("!")


# -- (c) minutes and lines -------------------------------------------------------------------------


def minutes(notebook_cells):
    """How long a notebook takes: 200 words or 15 lines of code a minute, 8 minutes an exercise."""
    texts = "\n".join(c.source for c in notebook_cells if c.cell_type == "markdown")
    code = "\n".join(c.source for c in notebook_cells if c.cell_type == "code")
    words = len(re.sub(r"(?s)<!--.*?-->", "", texts).split())
    lines = sum(map(bool, map(str.strip, code.splitlines())))
    exercises = {*re.findall(r"^\*\*(\d\.\d)", texts, re.M)}
    exercises |= {*re.findall(r'^check\("(\d\.bug\d)"', code, re.M)}
    return words / 200 + lines / 15 + 8 * len(exercises)


def minutes_that_are_wrong(path):
    stated = re.search(r"\*\*Time\.\*\* (\d+) minutes", "\n".join(markdown(path)))
    reckoned = minutes(cells(path))
    if not stated or abs(int(stated[1]) / reckoned - 1) > 0.2:
        yield f"it takes {reckoned:.0f} minutes, and says {stated and stated[1]}"


def test_minutes_count_words_code_and_exercises():
    text = "word " * 199 + "\n**1.1** <!-- homes\n0.1: example -->\n\n**1.1 Open.**"
    code = "a = 1\n\n" * 14 + 'check("1.bug1", a)'
    found = minutes([new_markdown_cell(text), new_code_cell(code)])
    assert found == pytest.approx(1 + 1 + 16, abs=0.02)


def test_all_notebooks_together_are_no_longer_than_that():
    assert sum(minutes(cells(path)) for path in NOTEBOOKS) <= MOST_MINUTES
    lines = [path.with_suffix(".md").read_text("utf-8").count("\n") for path in NOTEBOOKS]
    assert sum(lines) <= MOST_LINES


# -- (d) terms -------------------------------------------------------------------------------------

EVERYDAY = {  # words of other meanings too
    "id", "index", "split", "leak", "loss", "batch", "factor", "bias", "like", "negative",
    "prior", "mask", "worker", "popularity", "encoding", "epoch",
}  # fmt: skip


def glossary(text):
    """The terms of the glossary by their anchors, each with the notebook that introduces it.

    An anchor is the heading with dashes for spaces, as JupyterLab makes it: #weight-decay, #RMSE.
    """
    parts = re.split(r"(?m)^## (\d) · .*$", text)
    return {
        term.replace(" ", "-"): (term, int(number))
        for number, part in zip(parts[1::2], parts[2::2], strict=True)
        for term in re.findall(r"(?m)^### (.+)\n\S", part)
    }


@cache
def terms():
    return glossary("\n\n".join(markdown(FOLDER / "glossary.ipynb")))


def first_uses(text, number, known):
    """Complaints about the terms of one notebook: used too early, or not linked at first."""
    text = re.sub(r"(?m)^#.*$|^.*\[contents\]\(.*$", "", text)  # headings and ways bear no link
    for anchor, (term, introduced) in known.items():
        linked = text.find(f"](glossary.ipynb#{anchor})")
        if number < introduced and linked >= 0:
            yield f"{term} is linked before notebook {introduced} introduces it"
        if number == introduced and linked < 0:
            yield f"{term} is introduced here, and not linked"
        if term in EVERYDAY:
            continue
        word = re.escape(term) if term != term.lower() else re.sub(r"[ -]", "[ -]", term)
        flags = re.I if term == term.lower() else 0
        first = re.search(rf"(?<![\w-]){word}(?:e?s)?(?![\w-])", blank(text), flags)
        if first and number < introduced:
            yield f"{term} is used before notebook {introduced} introduces it"
        elif first and (linked < first.end() or re.search(r"[][]", text[first.end() : linked])):
            yield f"{term} is not linked where it is first used"


def blank(text):
    """The text without code, formulas and targets of links, everything else in its place."""
    hidden = r"(?s)<!--.*?-->|```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$|\]\([^)]*\)"
    return re.sub(hidden, lambda m: re.sub(r"\S", " ", m[0]), text)


KNOWN = {"weight-decay": ("weight decay", 2), "AUC": ("AUC", 6), "like": ("like", 6)}


@pytest.mark.parametrize(
    ("number", "text", "complaints"),
    [
        (3, "We use [weight decay](glossary.ipynb#weight-decay). Weight decay pulls.", 0),
        (3, "Weight decay pulls. See [weight decay](glossary.ipynb#weight-decay).", 1),
        (3, "No term, something like it, and `weight decay`.", 0),
        (3, "The AUC is used too early.", 1),
        (3, "A [like](glossary.ipynb#like) is linked too early.", 1),
        (2, "This introduces nothing.", 1),
        (6, "An [AUC](glossary.ipynb#AUC) of [likes](glossary.ipynb#like).", 0),
    ],
)
def test_a_term_is_linked_where_it_is_first_used_and_not_earlier(number, text, complaints):
    assert len([*first_uses(text, number, KNOWN)]) == complaints


def terms_not_linked(path):
    yield from first_uses("\n\n".join(markdown(path)), int(path.name[:2]), terms())


def links_to_no_entry(path):
    linked = re.findall(r"\]\(glossary\.ipynb#([^)]*)\)", "\n".join(markdown(path)))
    yield from {*linked} - {*terms()}


def test_the_glossary_has_every_term_once():
    text = "\n".join(markdown(FOLDER / "glossary.ipynb"))
    assert len(terms()) == len(re.findall(r"(?m)^### ", text)) > 40


# -- (e) the test part -----------------------------------------------------------------------------


def part_not_opened_once(path):
    """Complaints about the tag that guard.py goes by; that nobody reads earlier, nbval shows."""
    opening = [c for c in cells(path) if "opens-test" in c.metadata.get("tags", ())]
    wanted = path.name[:2] in ("05", "06")
    if len(opening) != wanted:
        yield f"{len(opening)} cells are tagged opens-test"


SPLIT = """
from scipy.sparse import csr_matrix
from nmf_helpers.data import leave_n_out
rest, test = leave_n_out(csr_matrix([[1, 2, 3, 4]] * 3), n=1)
train, validation = leave_n_out(rest, n=1)
"""
PLAIN = [SPLIT, "test", "validation.sum(), test.shape, test.nnz", "leave_n_out.__doc__[:8]"]
EARLY = ["test.sum()", "rest.multiply(test)", "csr_matrix(test)"]
LATE = {"test.max()": "about-test", "test.min()": "opens-test", "test.mean()": "plain"}


def test_the_guard_stops_cells_that_read_the_test_part_early_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONSTARTUP", str(Path(__file__).with_name("startup.py")))
    tags = {**dict.fromkeys(PLAIN, "plain"), **dict.fromkeys(EARLY, "early"), **LATE}
    made = [new_code_cell(code, metadata={"tags": [tag]}) for code, tag in tags.items()]
    notebook = nbformat.v4.new_notebook(cells=made)
    nbformat.write(notebook, tmp_path / "one.ipynb")
    client = NotebookClient(notebook, resources={"metadata": {"path": tmp_path}})
    client.allow_errors = True
    client.execute()
    for cell in notebook.cells:
        for said in ("before the cell tagged opens-test", "'output_type': 'error'"):
            assert (said in str(cell.outputs)) == (cell.metadata.tags == ["early"]), cell.source
    assert "<Compressed Sparse Row sparse matrix" in str(notebook.cells[1].outputs)


# -- every text ------------------------------------------------------------------------------------

RULES = {
    numbers_without_a_home: [*NOTEBOOKS, *PAGES, ROOT / "README.md", FOLDER / "INSTRUCTORS.md"],
    thousands_that_no_cell_knows: NOTEBOOKS,
    predictions_without_an_answer: NOTEBOOKS,
    minutes_that_are_wrong: NOTEBOOKS,
    terms_not_linked: NOTEBOOKS,
    links_to_no_entry: NOTEBOOKS + PAGES,
    part_not_opened_once: NOTEBOOKS,
}
PAIRS = [(rule, path) for rule, paths in RULES.items() for path in paths]
NAMES = [f"{path.stem}: {rule.__name__}" for rule, path in PAIRS]


@pytest.mark.parametrize(("rule", "path"), PAIRS, ids=NAMES)
def test_a_text_keeps_the_rule(rule, path):
    complaints = [*rule(path)]
    assert not complaints, "\n".join(complaints)

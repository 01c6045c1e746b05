"""Every exercise: many right answers pass, blanks and mistakes don't, hints tell by and by."""

import ast
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from answers import REWRITTEN, WRITTEN

from nmf_helpers.course import exercises, start
from nmf_helpers.course.exercises.judge import EXERCISES

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
NAMES = exercises.names()
BUGS = [name for name in NAMES if "bug" in name]
OTHERS = [name for name in NAMES if "bug" not in name]


def solution(name):
    return EXERCISES[name].solution


def rewritten(text):
    """Solutions with a piece exchanged, by exercise; a line is: exercise | piece | instead."""
    found = {name: [] for name in NAMES}
    for name, piece, instead in (map(str.strip, line.split("|")) for line in text.splitlines()):
        code = EXERCISES[name].source()
        assert piece in code, f"the solution of {name} has no {piece!r}"
        space = dict(vars(sys.modules[solution(name).__module__]))
        exec(code.replace(piece, instead), space)
        found[name].append(space[solution(name).__name__])
    return found


def in_type(name, make, *inputs):
    return make(np.asarray(solution(name)(*inputs)))


BESIDE = Path(exercises.__file__).with_name("mistakes.txt")
MISTAKES = rewritten(BESIDE.read_text("utf-8").partition("\n")[2])
ANSWERS = rewritten(REWRITTEN.strip())
TYPES = [torch.tensor, np.ndarray.tolist, np.float32, lambda a: pd.Series([*np.atleast_1d(a)])]
for name in NAMES:
    ANSWERS[name] += [solution(name), *WRITTEN.get(name, ())]
    if "bug" not in name and name not in ("4.2", "4.3", "7.1", "7.2"):  # it returns numbers
        ANSWERS[name] += [partial(in_type, name, make) for make in TYPES]


def verdict(capsys, name, reply):
    capsys.readouterr()
    exercises.check(name, reply)
    out = capsys.readouterr().out
    assert out.endswith("\n") and out.count("\n") == 1, "a verdict is one line"
    assert out.startswith(f"{name}: ")
    return out.removeprefix(f"{name}: ").strip()


def each(answers):
    pairs = [(name, n, answer) for name in NAMES for n, answer in enumerate(answers[name])]
    ids = [f"{name}-{n}" for name, n, _ in pairs]
    return pytest.mark.parametrize(("name", "_", "reply"), pairs, ids=ids)


# -- right, blank, wrong --------------------------------------------------------------------------


def test_every_exercise_is_tried_with_three_right_and_three_wrong_answers():
    for answers in (ANSWERS, MISTAKES):
        assert list(answers) == NAMES
        assert min(map(len, answers.values())) >= 3
    assert len(BUGS) >= 8 and {name[0] for name in NAMES} == set("1234567")


@each(ANSWERS)
def test_a_right_answer_passes_however_it_is_written(name, _, reply, capsys):
    assert verdict(capsys, name, reply) == "passed."


@each(MISTAKES)
def test_a_mistake_is_told_apart_from_the_solution(name, _, reply, capsys):
    said = verdict(capsys, name, reply)
    assert said.startswith("not yet. Given ") and len(said) > 50, "says what differs"
    assert not any(line in said for line in secret_lines(name))


def stops(error):
    return lambda *_, **__: (_ for _ in ()).throw(error)


@pytest.mark.parametrize("name", NAMES)
def test_a_blank_is_not_attempted(name, capsys):
    blanks = [stops(NotImplementedError())]
    for value in (None, ..., NotImplemented):
        blanks += [value, lambda *_, value=value, **__: value]
    for blank in blanks:
        assert verdict(capsys, name, blank).startswith("not attempted yet")


def test_a_result_in_place_of_the_function_is_explained(capsys):
    assert "Give the function itself" in verdict(capsys, "1.1", 0.0164)


@pytest.mark.parametrize("name", NAMES)
def test_nonsense_and_code_that_stops_are_wrong_end_no_notebook_and_show_no_address(name, capsys):
    for nonsense in ("four", object(), [[1], [2, 3]], {}):
        said = verdict(capsys, name, lambda *_, value=nonsense, **__: value)
        assert said.startswith("not yet.") and "0x" not in said
    said = verdict(capsys, name, stops(ZeroDivisionError("division by zero")))
    assert said.startswith("not yet.") and "ZeroDivisionError: division by zero" in said


def test_a_verdict_shows_inputs_result_and_what_was_expected(capsys):
    said = verdict(capsys, "2.3", lambda mean_rating, n_factors: mean_rating / n_factors)
    assert said == (
        "not yet. Given mean_rating = 4, n_factors = 1, yours returned 4. Expected 2: 2·2 = 4."
    )
    assert "'timestamp': [30, 10, 20, 50, 40]" in verdict(capsys, "1.3", lambda r, n: [n])


def test_a_check_says_the_same_each_time_and_leaves_random_states_alone(capsys):
    numbers = np.random.get_state()[1]
    for name in NAMES:
        said = []
        for seed in (1, 2):  # wherever the reader's own random numbers stand
            state = torch.manual_seed(seed).get_state()
            said.append(verdict(capsys, name, MISTAKES[name][0]))
            assert torch.equal(torch.get_rng_state(), state)
        assert said[0] == said[1]
    assert (np.random.get_state()[1] == numbers).all()


@pytest.mark.parametrize("call", [lambda n: exercises.check(n, None), exercises.hint])
@pytest.mark.parametrize(("wrong", "near"), [("2.11", "2.1"), ("2.bug", "2.bug"), (2.1, "2.1")])
def test_an_unknown_exercise_suggests_the_nearest(call, wrong, near):
    with pytest.raises(ValueError, match=f"did you mean '{near}"):
        call(wrong)


# -- hints ----------------------------------------------------------------------------------------


def secret_lines(name):
    """The lines of a solution that a hint or a verdict must not give away."""
    lines = EXERCISES[name].source().splitlines()[1:]
    return [line.strip() for line in lines if len(line.strip()) > 12]


@pytest.mark.parametrize("name", NAMES)
def test_three_hints_do_not_tell_the_solution_and_the_fourth_does(name, capsys):
    tiers = []
    for tier in (1, 2, 3):
        exercises.hint(name, tier)
        tiers.append(capsys.readouterr().out)
    assert len(set(tiers)) == 3
    for text, more in zip(tiers, ("More", "More", "The solution"), strict=True):
        assert 20 < len(text) < 420 and text.count("\n") == 1 and f"({more}: hint(" in text
        assert not any(line in text for line in secret_lines(name))
    exercises.hint(name)
    assert capsys.readouterr().out == tiers[0]
    exercises.hint(name, 4)
    told = capsys.readouterr().out
    assert told.startswith(f"The solution of {name}")
    assert told.endswith(EXERCISES[name].source()) and "@case" not in told
    with pytest.raises(ValueError, match=r"tier must be 1, 2, 3 or 4 \(the solution\), not 5"):
        exercises.hint(name, 5)


def test_numbers_in_hints_are_right(capsys):
    said = {name: EXERCISES[name].hints() for name in NAMES}
    assert "0.9995." in said["6.3"][0] and round(solution("6.3")(1682, 100, 50, 10), 4) == 0.9995
    assert "0.187." in said["2.3"][0] and round(solution("2.3")(3.5, 100), 3) == 0.187
    assert "913,321." in said["4.1"][0] and solution("4.1")(671, 8442, 100, 10) == 913_321
    assert "answer is 6." in said["7.3"][0] and solution("7.3")(10, 3, 1) == 6


# -- in the notebooks -----------------------------------------------------------------------------


def notebook_code(name):
    (path,) = NOTEBOOKS.glob(f"0{name[0]}-*.md")
    return re.findall(r"^```python[^\n]*\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)


@pytest.mark.parametrize("name", OTHERS)
def test_the_notebook_holds_a_blank_and_its_check_in_one_cell(name):
    head = EXERCISES[name].source().splitlines()[0]
    (cell,) = [cell for cell in notebook_code(name) if f'check("{name}"' in cell]
    assert f"{head}\n" in cell and f'check("{name}", {solution(name).__name__})\n' in cell
    (function,) = [node for node in ast.parse(cell).body if isinstance(node, ast.FunctionDef)]
    assert ast.get_docstring(function) and ast.unparse(function.body[1:]) == "..."


@pytest.mark.parametrize("name", BUGS)
def test_the_notebook_shows_the_bug_and_checks_the_repair(name):
    code, function = "\n".join(notebook_code(name)), solution(name).__name__
    assert f'check("{name}", {function})\n' in code
    assert re.search(rf"^(def|class) {function}\b", code, re.M), f"no {function} to repair"
    assert EXERCISES[name].source() not in code


# -- progress -------------------------------------------------------------------------------------


def test_what_passes_is_remembered_in_a_students_folder_and_nowhere_else(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    exercises.check("2.3", solution("2.3"))
    assert not list(tmp_path.iterdir())
    assert set(exercises.progress()["passed"]) == {f"0 of {n}" for n in (4, 5, 6)}
    assert "only in the folder of: python -m nmf_helpers start" in capsys.readouterr().out
    start.write(tmp_path, start.read(tmp_path))
    for name in ("2.3", "2.3", "7.2"):
        exercises.check(name, solution(name))
    exercises.check("2.3", MISTAKES["2.3"][0])  # what has passed stays so
    table = exercises.progress()
    assert list(table.index) == [1, 2, 3, 4, 5, 6, 7]
    assert table["passed"][2] == "1 of 6"
    assert table["still open"][2] == "2.1  2.2  2.4  2.bug1  2.bug2"
    assert table["passed"][7] == "1 of 4" and start.read(tmp_path)["passed"] == ["2.3", "7.2"]


def test_a_folder_that_cannot_be_written_or_read_ends_no_check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / start.FILE).write_text("half a fi")
    monkeypatch.setattr(start, "write", stops(PermissionError()))
    assert verdict(capsys, "2.3", solution("2.3")) == "passed."

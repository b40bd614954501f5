"""Every exercise has a stub that is open, an answer that is not in the clear, and a solution."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from pose_nb import checks
from pose_nb.files import InputError

NOTEBOOKS = Path(__file__).parent.parent / "nbs"
ALL = [p for p in sorted(NOTEBOOKS.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]
SOLUTIONS = [p for p in ALL if "solutions" in (p.parent.name, p.stem)]
LESSONS = [p for p in ALL if p not in SOLUTIONS]
CHAPTERS = [p for p in LESSONS if p.parent.name == "course"]
CHECK = re.compile(r"""\bcheck\(\s*["']([^"']+)["']""")


def code_cells(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == "code"]


def is_home(notebook, key):
    """Whether an exercise belongs here: 4.2 to course/04_…, parts/520.1 to parts/520_…,
    results/coco.1 to results/01_coco."""
    folder, _, name = key.rpartition(".")[0].rpartition("/")
    if notebook.parent.name != (folder or "course"):
        return False
    number, _, title = notebook.stem.partition("_")
    known = (number, title, title.partition("_")[0])
    return name in known if folder else int(name) == int(number)


STUBS = {  # key: the cell in which it waits for its answer
    key: cell
    for notebook in LESSONS
    for cell in code_cells(notebook)
    for key in CHECK.findall(cell)
    if is_home(notebook, key)
}
SOLVED = {key for p in SOLUTIONS for c in code_cells(p) for key in CHECK.findall(c)}


def test_each_exercise_has_a_stub_an_answer_and_a_solution():
    keys = set(checks.answer_keys())
    assert keys, "no answers at all"
    assert keys == set(STUBS), f"without stub or answer: {sorted(keys ^ set(STUBS))}"
    assert keys == SOLVED, f"without solution or answer: {sorted(keys ^ SOLVED)}"


def test_a_stub_holds_no_answer():
    for key, cell in STUBS.items():
        assert "..." in cell, f"the cell of {key} is no stub:\n{cell}"


def test_stubs_fail_unanswered(capsys):
    for key in checks.answer_keys():
        for nothing in (None, ..., [1, ...]):
            assert checks.check(key, nothing).right is None, key
        assert checks.check(key, lambda *a, **k: None).right in (None, False), key
        assert checks.check(key, object()).right is False, key
    assert "not answered yet" in capsys.readouterr().out


def test_solutions_stop_at_a_wrong_answer():
    for notebook in SOLUTIONS:
        for cell in code_cells(notebook):
            for line in cell.splitlines():
                assert not CHECK.match(line), f"{notebook.name}: 'assert' is missing: {line}"


def test_answers_are_sealed_in_solutions_only():
    for notebook in LESSONS:
        if notebook.name != "972_checks.ipynb":
            assert not [c for c in code_cells(notebook) if re.search(r"\bseal\(", c)], notebook
    for notebook in SOLUTIONS:
        for cell in code_cells(notebook):
            if re.search(r"^\s*seal\(", cell, re.M):
                assert re.match(r"#\|\s*eval: false", cell), f"{notebook.name}: tests would seal"


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_has_three_exercises(chapter):
    own = [key for key in STUBS if is_home(chapter, key)]
    assert len(own) >= 3, f"{chapter.name} has {own}"


# ---------------------------------------------------------------- check itself


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "ANSWERS", tmp_path / "answers.txt")
    monkeypatch.setenv("POSE_NB_CACHE", str(tmp_path))
    return tmp_path


def test_a_line_is_replaced_and_the_file_stays_sorted(own_file):
    for key, answer in [("4.2", 7), ("4.1", "DARK"), ("4.2", 8)]:
        checks.seal(key, answer)
    assert checks.answer_keys() == ["4.1", "4.2"]
    assert checks.check("4.2", 8) and not checks.check("4.2", 7)
    assert "DARK" not in checks.ANSWERS.read_text()


@pytest.mark.parametrize(
    ("answer", "given", "says"),
    [
        (3, 3.01, "too large"),
        (0.5, np.float32(2), "four times"),
        ([0.1, 0.2], [0.2, 0.1], "x and y"),
        (np.zeros((2, 2)), np.zeros(4), "its shape is"),
        (0.7, 70, "percentage"),
        (True, 1, "True or False"),
        (["a", "b"], "a", "a list of 2"),
        ({"nose", "eye"}, {"nose", "ear"}, "1 of 2"),
        (1.0, float("nan"), "NaN"),
    ],
)
def test_a_wrong_answer_is_described(own_file, capsys, answer, given, says):
    checks.seal("1.1", answer)
    assert checks.check("1.1", given).right is False
    assert says in capsys.readouterr().out
    assert checks.check("1.1", answer)


def test_whole_numbers_are_exact_and_others_to_a_hundredth(own_file):
    checks.seal("1.1", 400)
    checks.seal("1.2", 400.0)
    assert (
        not checks.check("1.1", 401) and checks.check("1.2", 401) and not checks.check("1.2", 405)
    )


def test_a_function_is_run_on_cases_of_its_own(own_file, capsys):
    def sorts_in_place(values):
        values.sort()
        return values

    forgets = lambda values: values
    checks.seal("1.1", sorts_in_place, cases=[([2, 1],), ([3],)], wrong=[(forgets, "not sorted")])
    assert checks.check("1.1", sorts_in_place) and checks.check("1.1", sorted)
    assert not checks.check("1.1", forgets)
    assert not checks.check("1.1", lambda values: 1 / 0)
    told = capsys.readouterr().out
    assert "not sorted" in told and "ZeroDivisionError" in told


def test_an_unknown_exercise_is_named_with_its_neighbours(own_file):
    checks.seal("parts/520.1", 1)
    with pytest.raises(InputError, match=r"parts/52\.1.*known are parts/520\.1"):
        checks.check("parts/52.1", 1)


def test_a_guess_is_there_after_a_restart(own_file, capsys):
    checks.predict("1.1", 3)
    checks.predict("1.1", ...)
    checks.compare("1.1", 3.1, "px")
    assert "your guess was 3 px" in capsys.readouterr().out
    (own_file / "predictions.json").write_text("{")
    checks.compare("1.1", 3.1)
    assert "no guess" in capsys.readouterr().out

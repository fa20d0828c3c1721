"""What a user's grader may return, and what its code decides."""

import sys
import types

import pytest
from omegaconf import OmegaConf

from near.common.errors import UserError
from near.evaluation.graded_columns import grader_code
from near.evaluation.graders.base import Answer, Grade, checked_grades

ANSWERS = [Answer(row, "q", "r", "t") for row in range(3)]


@pytest.mark.parametrize("score", [0, 1, 0.25, None, True])
def test_scores_from_0_to_1(score):
    grades = [Grade(score)] * 3
    assert checked_grades("mine", grades, ANSWERS) == grades


@pytest.mark.parametrize(
    ("grades", "line"),
    [
        ([Grade(1.0)] * 2, "grader mine returned 2 grades for 3 answers; return a list with one each"),
        (None, "grader mine returned a NoneType, not grades for 3 answers"),
        ((Grade(1.0) for _ in ANSWERS), "grader mine returned a generator, not grades for 3 answers"),
        ([1.0, 0.0, 1.0], "grader mine returned a float; return near.evaluation.graders.base.Grade"),
        ([Grade(1.0), Grade(2.0), Grade(0.0)], "a score of 2.0; use a number from 0 to 1, or None"),
        ([Grade(-0.1)] * 3, "a score of -0.1"),
        ([Grade(float("nan"))] * 3, "a score of nan"),
        ([Grade("1")] * 3, "a score of 1; use a number from 0 to 1"),
    ],
)
def test_other_results_are_one_line(grades, line):
    with pytest.raises(UserError) as error:
        checked_grades("mine", grades, ANSWERS)
    assert line in str(error.value) and "\n" not in str(error.value)


def code_of(tmp_path, monkeypatch, body: str, module: str = "my_graders", helper: str = "") -> dict[str, str]:
    """The digests for a grader class of this source, in a module of a user's."""
    path = tmp_path / f"{module}.py"
    path.write_text(
        "from near.evaluation.graders.base import Compares\n\n\nclass Base(Compares):\n    bonus = 0\n\n\n"
        f"class Mine(Base):\n    def value(self, text):\n        return {body}\n\n\n{helper}\n"
    )
    loaded = types.ModuleType(module)
    loaded.__file__ = str(path)
    exec(compile(path.read_text(), str(path), "exec"), vars(loaded))
    monkeypatch.setitem(sys.modules, module, loaded)
    import linecache

    linecache.checkcache(str(path))
    return grader_code(OmegaConf.create({"answers": True, "graders": {"mine": {"_target_": f"{module}.Mine"}}}))


def test_changed_code_of_a_grader_is_another_grader(tmp_path, monkeypatch):
    first = code_of(tmp_path, monkeypatch, "text.strip()")
    assert code_of(tmp_path, monkeypatch, "text.strip()") == first
    assert code_of(tmp_path, monkeypatch, "text.lower()") != first
    assert code_of(tmp_path, monkeypatch, "text.strip()", helper="STOP = '.'") != first, "a helper of its module"
    assert code_of(tmp_path, monkeypatch, "text.strip()", helper="# a comment") == first
    assert code_of(tmp_path, monkeypatch, "text.strip()", "moved") == first, "a module's name decides nothing"


def test_without_answers_no_grader_counts():
    assert grader_code(OmegaConf.create({"answers": False, "graders": {"mine": {"_target_": "no.such.Class"}}})) == {}

"""The grader of data=reasoning: the library's scores, answers that no scorer may see, and a scorer that dies."""

import json

import pytest

from near.common.errors import UserError
from near.evaluation.graders.base import Answer, Grade
from near.evaluation.graders.reasoning_gym import ReasoningGym
from tests.data.test_reasoning import stand_in  # noqa: F401


def grades(*pairs: tuple[dict | None, str], seconds: int = 1) -> list[Grade]:
    return ReasoningGym(seconds).grade([Answer(i, "", "", text, raw) for i, (raw, text) in enumerate(pairs)], "")


def raw(task: str, answer: str = "7", **metadata) -> dict:
    return {"task": task, "entry": json.dumps({"question": "q", "answer": answer, "metadata": metadata})}


def test_scores_are_the_librarys(stand_in):  # noqa: F811
    row = raw("gcd")
    assert grades((row, "7"), (row, " 7\n"), (row, "0"), (row, "9"), (row, "no number"), (row, " ")) == [
        Grade(1.0),
        Grade(1.0),
        Grade(0.0),
        Grade(0.25),
        Grade(0.0),
        Grade(0.0, no_answer=True),
    ]


def test_the_others_are_graded_if_the_scorer_dies(stand_in):  # noqa: F811
    row = raw("gcd")
    scores = grades((row, "7"), (row, "die"), (row, "slow"), (row, "die"), (row, "7"))
    assert [grade.score for grade in scores] == [1, 0, 0, 0, 1]
    assert scores[1].detail == "the scorer failed: exit status 3"


def test_an_answer_that_is_code_is_not_handed_to_a_scorer(tmp_path, packages):
    """Without a worker: nothing else is there to be scored."""
    packages(reasoning_gym=True)
    code = f"open('{tmp_path}/made', 'w')"
    rows = [raw(task) for task in ("countdown", "simple_integration")] + [raw("countdown", code)]
    assert grades((rows[0], code), (rows[1], code), (rows[2], "7")) == [Grade(0.0, "no expression")] * 3
    assert not (tmp_path / "made").exists()


OTHER = [
    None,
    {},
    {"task": "gcd"},
    {"task": "gcd", "entry": "{"},
    {"task": "gcd", "entry": "[]"},
    {"task": "gcd", "entry": 7},
    {"task": ["gcd"], "entry": '{"answer": "1"}'},
    {"task": "n_queens", "entry": '{"answer": "1"}'},
]


@pytest.mark.parametrize("other", OTHER)
def test_rows_of_other_data_are_not_graded(other):
    assert grades((other, "7")) == [Grade(None)]


def test_without_the_package(packages):
    packages(reasoning_gym=False)
    with pytest.raises(UserError, match=r'reasoning_gym is not installed; pip install "near\[reasoning\]"'):
        ReasoningGym().check()


@pytest.mark.extras
def test_answers_of_the_library():
    pytest.importorskip("reasoning_gym")
    integral = raw("simple_integration", "x**2 + C", integrand="2*x", variable="x")
    total = raw("chain_sum", "12")
    given = (
        (integral, "x**2 + C"),
        (integral, "x**2 + 5"),
        (integral, "x**3"),
        (integral, "x**2 +"),
        (total, "12"),
        (total, "13"),
    )
    assert [grade.score == 1 for grade in grades(*given, seconds=20)] == [True, True, False, False, True, False]

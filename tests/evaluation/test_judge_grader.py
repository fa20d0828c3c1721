"""A judge's verdicts are saved as soon as they arrive, and never requested twice."""

import json

import pytest

from near.common.errors import UserError
from near.evaluation.graders.base import Answer
from near.evaluation.graders.judge import JudgeGrader, Verdicts
from tests.judging import chat, serve  # noqa: F401 - a fixture

ANSWERS = [Answer(i, f"question {i}", "ref", f"answer {i}") for i in range(6)]


def right(body) -> bool:
    """Answers with an even number are."""
    return any(f"answer {i}" in body["messages"][0]["content"] for i in (0, 2, 4))


def saved(tmp_path) -> list[dict]:
    (path,) = (tmp_path / "verdicts").glob("*/verdicts.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_verdicts_are_grades_and_are_requested_once(serve, tmp_path):  # noqa: F811
    server, options = serve(lambda body, count: (200, chat("Yes!" if right(body) else "No, another day.")))
    grades = JudgeGrader(options).grade(ANSWERS, str(tmp_path))
    assert [g.score for g in grades] == [1, 0, 1, 0, 1, 0]
    assert grades[1].detail == "No, another day." and len(server.requests) == 6
    again = JudgeGrader(options).grade([*ANSWERS, ANSWERS[0]], str(tmp_path))
    assert [g.score for g in again] == [1, 0, 1, 0, 1, 0, 1] and len(server.requests) == 6
    (folder,) = (tmp_path / "verdicts").iterdir()
    assert json.loads((folder / "judge.json").read_text())["model"] == "wise"
    assert "a-key" not in "".join(p.read_text() for p in folder.iterdir() if p.is_file())
    JudgeGrader({**options, "model": "wiser"}).grade(ANSWERS[:1], str(tmp_path))
    assert len(server.requests) == 7, "another judge is another opinion"


@pytest.mark.parametrize("fault", [(500, {}), (200, chat("perhaps")), (200, {})])
def test_a_judge_that_fails_midway_costs_nothing_already_judged(serve, tmp_path, fault):  # noqa: F811
    server, options = serve(lambda body, count: (200, chat("yes")) if count <= 3 else fault)
    with pytest.raises(UserError):
        JudgeGrader(options).grade(ANSWERS, str(tmp_path))
    done = len(saved(tmp_path))
    assert done == 3
    server.say = lambda body, count: (200, chat("yes" if right(body) else "no"))
    before = len(server.requests)
    JudgeGrader(options).grade(ANSWERS, str(tmp_path))
    assert len(server.requests) - before == 6 - done and len(saved(tmp_path)) == 6


def test_a_line_that_was_cut_short_is_passed_over(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    Verdicts(path).add("a", True, "yes")
    path.write_bytes(path.read_bytes() + b'{"key": "b", "ri')
    verdicts = Verdicts(path)
    assert verdicts.known == {"a": (True, "yes")}
    verdicts.add("c", False, "no")
    assert Verdicts(path).known == {"a": (True, "yes"), "c": (False, "no")}


def test_verdicts_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    path.write_text('{"key": "a", "right": true, "said": "yes"}\n{"key": "b", "right": true}\n')
    verdicts = Verdicts(path)
    assert verdicts.known == {"a": (True, "yes")}
    verdicts.add("c", False, "no")
    assert json.loads(path.read_text().splitlines()[-1]) == {"key": "c", "right": False, "reply": "no"}
    assert Verdicts(path).known == {"a": (True, "yes"), "c": (False, "no")}


def test_nothing_to_grade(serve, tmp_path):  # noqa: F811
    _, options = serve(lambda body, count: (200, chat("yes")))
    assert JudgeGrader(options).grade([], str(tmp_path)) == []

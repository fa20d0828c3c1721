"""The grader of data=crossed against answers made a second way, and against wrong ones."""

import itertools
import json

import pytest

from near.data.builtin.crossed.rows import row
from near.data.builtin.crossed.skills import FORMS, SKILLS
from near.evaluation.graders.base import Answer, Grade
from near.evaluation.graders.crossed import Crossed

LISTS = [
    ["plum", "fox", "plum", "boat", "acid"],
    ["fox", "axe", "bat"],
    ["acid", "acid", "zebra"],
    ["window", "bee", "owl", "tea", "bee", "house", "apple", "oil"],
]


def by_hand(skill: str, items: list[str]) -> list:
    """Each skill once more, by loops and counting instead of slices and keys."""
    n = len(items)
    if skill == "sort":
        return next(list(p) for p in itertools.permutations(items) if all(p[i] <= p[i + 1] for i in range(n - 1)))
    if skill == "by_length":
        return [item for length in range(20) for item in items if len(item) == length]
    if skill == "reverse":
        return [items[n - 1 - i] for i in range(n)]
    if skill == "rotate":
        return [items[(i + 1) % n] for i in range(n)]
    if skill == "swap_ends":
        return [items[{0: n - 1, n - 1: 0}.get(i, i)] for i in range(n)]
    if skill == "every_second":
        return [item for i, item in enumerate(items) if i % 2]
    if skill == "unique":
        return [item for i, item in enumerate(items) if item not in items[:i]]
    if skill == "smallest":
        return [next(item for item in items if not any(other < item for other in items))]
    if skill == "longest":
        return [next(item for item in items if not any(len(other) > len(item) for other in items))]
    if skill == "last":
        return [items[n - 1]]
    if skill == "upper":
        return ["".join(chr(ord(c) - 32) for c in item) for item in items]
    if skill == "title":
        return [chr(ord(item[0]) - 32) + item[1:] for item in items]
    if skill == "initials":
        return [next(iter(item)) for item in items]
    if skill == "endings":
        return [item[len(item) - 1] for item in items]
    if skill == "lengths":
        return [sum(1 for _ in item) for item in items]
    assert skill == "count"
    return [sum(1 for _ in items)]


def grade(raw: dict | None, text: str) -> Grade:
    return Crossed().grade([Answer(0, "", "", text, raw)], "")[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("skill", SKILLS)
def test_it_agrees_with_a_second_implementation(skill, form):
    for items in LISTS:
        one = row(skill, 0, form, items)
        expected = by_hand(skill, items)
        text = ", ".join(map(str, expected)) if form == "plain" else json.dumps(expected)
        assert grade(one, text) == Grade(1.0)
        assert grade(one, one["messages"][1]["content"]) == Grade(1.0)
        for other in SKILLS:
            answer = row(other, 0, form, items)["messages"][1]["content"]
            assert grade(one, answer).score == float(by_hand(other, items) == expected)
        for wrong in (f"{text}, plum", f"{text}\n{text}", f"Output: {text}", text[:-3], text.swapcase() + "x"):
            assert grade(one, wrong).score == 0.0
        for empty in ("", " \n"):
            assert grade(one, empty) == Grade(0.0, no_answer=True)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("axe, bat, fox", 1),
        (" axe,bat,fox\n", 1),
        ("axe bat fox.", 1),
        ('"axe", "bat", "fox"', 1),
        ("'axe', ‘bat’, `fox`", 1),
        ("axe\nbat\nfox", 1),
        ("axe; bat; fox,", 1),
        ("Axe, bat, fox", 0),
        ("axe, fox, bat", 0),
        ("axe, bat", 0),
        ("axe, bat, fox, fox", 0),
        ("axebat, fox", 0),
        ('["axe", "bat", "fox"]', 0),
        ("axe, bat, fox. Done", 0),
        (",,,", 0),
        ("axe, bat, fox " * 500, 0),
    ],
)
def test_what_counts_in_plain_text(text, score):
    assert grade(row("sort", 0, "plain", ["fox", "axe", "bat"]), text).score == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("[3,4]", 1),
        (" [ 3,\n4 ] ", 1),
        ("[3,4", 0),
        ('["3","4"]', 0),
        ("[3.0,4]", 0),
        ("[3,4,4]", 0),
        ("[[3,4]]", 0),
        ('{"a":[3,4]}', 0),
        ("3, 4", 0),
        ("[3,4] and more", 0),
        ("[3,true]", 0),
        ("NaN", 0),
        ("[" * 100_000, 0),
        ("[" + "9" * 10_000 + "]", 0),
    ],
)
def test_what_counts_as_json(text, score):
    raw = {"answer": [3, 4], "form": "json"}
    assert grade(raw, text) == Grade(float(score))


def test_true_is_not_the_number_one():
    assert grade({"answer": [1], "form": "json"}, "[true]").score == 0.0


@pytest.mark.parametrize("raw", [None, {}, {"answer": "a", "form": "plain"}, {"answer": ["a"], "form": "xml"}])
def test_rows_of_other_data_are_not_graded(raw):
    assert grade(raw, "a") == Grade(None)

"""Answers graded as a person would grade them, beside what lm-eval's own filters take out of the same texts."""

from collections import Counter
from fractions import Fraction

import pytest

from near.evaluation.graders.base import Answer
from near.evaluation.graders.choice import Choice, letters
from near.evaluation.graders.number import FinalNumber, final_number
from tests import graded_choices, graded_numbers, lm_eval_filters


def named(cases: list[tuple]) -> list:
    return [pytest.param(*case[:-1], id=f"{position}-{case[-1]}") for position, case in enumerate(cases)]


@pytest.mark.parametrize(("text", "chosen"), named(graded_choices.CASES))
def test_letters(text, chosen):
    assert letters(text) == (None if chosen is None else frozenset(chosen))


@pytest.mark.parametrize(("text", "number"), named(graded_numbers.CASES))
def test_numbers(text, number):
    assert final_number(text) == number


@pytest.mark.parametrize(("reference", "text", "question", "score"), named(graded_numbers.PAIRS))
def test_numbers_beside_references(reference, text, question, score):
    [grade] = FinalNumber().grade([Answer(0, question, reference, text)], "unused")
    assert grade.score == score


def test_there_are_enough_cases():
    assert len(graded_choices.CASES) + len(graded_numbers.CASES) + len(graded_numbers.PAIRS) >= 300
    for cases in (graded_choices.CASES, graded_numbers.CASES):
        assert max(Counter(case[0] for case in cases).values()) == 1
        assert all(case[-1] for case in cases)


def beside_lm_eval() -> dict[str, tuple[int, int]]:
    """By filter of lm-eval: how many of our cases it reads as a person does, and of how many. No number and no letter
    are read where nothing of the kind is taken out."""
    numbers = [(text, number) for text, number, _ in graded_numbers.CASES]
    whole = [(text, n) for text, n in numbers if n is not None and Fraction(n).denominator == 1]
    options = [(text, letter) for text, letter, _ in graded_choices.CASES if letter is None or len(letter) == 1]
    counts = {}
    for name, cases in (("all numbers", numbers), ("whole numbers", whole)):
        for of in (lm_eval_filters.gsm8k_strict, lm_eval_filters.gsm8k_flexible):
            right = sum(_number(of(text)) == number for text, number in cases)
            counts[f"{of.__name__}, {name}"] = (right, len(cases))
    for of in (lm_eval_filters.mmlu_strict, lm_eval_filters.mmlu_flexible, lm_eval_filters.mmlu_generative):
        read = [(of(text), letter) for text, letter in options]
        right = sum((value if len(value) == 1 else None) == letter for value, letter in read)
        counts[of.__name__] = (right, len(options))
    return counts


def _number(text: str) -> Fraction | None:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None


def test_lm_evals_filters_on_the_same_texts():
    """If an answer has the form of its task, lm-eval reads it as we do; of other forms it misses most."""
    in_form = [
        (t, n) for t, n in ((c[0], c[1]) for c in graded_numbers.CASES) if t.startswith("#### ") and t[5:].isdigit()
    ]
    assert all(
        _number(lm_eval_filters.gsm8k_strict(text)) == number for text, number in [*in_form, ("#### 1,234", 1234)]
    )
    counts = beside_lm_eval()
    assert all(right < of for right, of in counts.values())


@pytest.mark.parametrize("text", ["#### 42", "The total is\n#### 1,234", "2 + 3 = 5 so\n#### -5", "#### $70,000"])
def test_gsm8ks_form_is_read_as_by_the_flexible_filter(text):
    assert final_number(text) == Fraction(lm_eval_filters.gsm8k_flexible(text))


@pytest.mark.parametrize(
    "text", ["The answer is (B).", "So, the answer is (D).", "(A) and (B) are cold. The answer is (C)."]
)
def test_mmlus_form_is_read_as_by_both_filters(text):
    expected = lm_eval_filters.mmlu_strict(text)
    assert lm_eval_filters.mmlu_flexible(text) == expected and letters(text) == frozenset(expected)


CAPITALS = "What is the capital of France?\nA. Rome\nB. Paris\nC. New York City.\nAnswer:"


@pytest.mark.parametrize(
    ("question", "reference", "text", "score"),
    [
        (CAPITALS, "B", "Paris", 1),
        (CAPITALS, "B", "paris.", 1),
        (CAPITALS, "B", "The answer is Paris.", 1),
        (CAPITALS, "B", "Paris\n\nIt lies on the Seine.", 1),
        (CAPITALS, "Paris", "(b)", 1),
        (CAPITALS, "Paris", "Rome", 0),
        (CAPITALS, "C", "New York City", 1),
        (CAPITALS, "B", "It is not Paris.", 0),
        (CAPITALS, "B", "Berlin", 0),
        ("Which? (A) Rome (B) Paris (C) Oslo", "B", "Paris", 1),
        ("Which? A) Rome B) Paris", "A", "Answer: Rome", 1),
        ("An example: A) x B) y Answer: A\nWhich? A) Rome B) Paris", "B", "Paris", 1),
        ("What is the capital of France?", "B", "Paris", 0),
    ],
)
def test_an_options_text_is_its_letter(question, reference, text, score):
    [grade] = Choice().grade([Answer(0, question, reference, text)], "unused")
    assert grade.score == score


HOSTILE = [
    "9",
    "1 ",
    "\\boxed{",
    "{",
    "\\frac{",
    "#### ",
    "answer is ",
    "(",
    "2^{",
    "no, ",
    "A, ",
    "A or ",
    "**B** ",
    "[[",
    "½",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_long_texts_of_one_thing(unit):
    """They are read to their end, and what is no number of anybody's is none."""
    text = unit * (20_000 // len(unit))
    assert final_number(text) is None or abs(final_number(text)) < 10**100
    assert letters(text) is None or letters(text) <= set("AB")


@pytest.mark.parametrize(
    ("grader", "reference", "texts", "expected"),
    [
        (FinalNumber(), "#### 42", ["42", "41", "none", ""], [(1, False), (0, False), (0, True), (0, True)]),
        (Choice(), "B", ["(b)", "A", "I don't know"], [(1, False), (0, False), (0, True)]),
        (Choice(), "no letter", ["B", ""], [(None, False), (None, False)]),
    ],
)
def test_an_answer_that_holds_nothing_is_wrong_and_counted(grader, reference, texts, expected):
    grades = grader.grade([Answer(i, "", reference, text) for i, text in enumerate(texts)], "unused")
    assert [(g.score, g.no_answer) for g in grades] == expected

"""Graders by hand, and what all of them keep to."""

from fractions import Fraction

import numpy as np
import pytest

from near.common.text import normalise
from near.evaluation.graders.base import Answer
from near.evaluation.graders.choice import Choice, letters
from near.evaluation.graders.exact import Exact
from near.evaluation.graders.number import FinalNumber, final_number
from near.evaluation.graders.rouge import RougeL, tokens


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Tuesday, May 17, 1927.", "tuesday,  may 17, 1927", True),
        ("Ｃ）", "c)", True),
        ("1.5", "15", False),
        ("(stack 1 2)", "(stack 12)", False),
        ("Straße", "STRASSE", True),
    ],
)
def test_normalise(a, b, same):
    assert (normalise(a) == normalise(b)) is same


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = 7 apples.\n#### 7", 7),
        ("#### 1,234", 1234),
        ("The total is $1,234.50.", Fraction("1234.5")),
        ("it is 12.", 12),
        ("x = -3", -3),
        ("x = \u22123", -3),
        ("-$5", -5),
        (r"so \boxed{42} and not 43", 42),
        (r"\boxed{\frac{3}{4}}", Fraction(3, 4)),
        (r"\boxed{\dfrac{-1}{2}}", Fraction(-1, 2)),
        ("3/4 of it", Fraction(3, 4)),
        ("1.50", Fraction(3, 2)),
        (".5", Fraction(1, 2)),
        ("about 25%", 25),
        ("2e3", 2000),
        ("答案是１２。", 12),
        ("1e999999999", None),
        ("nothing", None),
        ("", None),
        ("1/0", None),
        ("9" * 1000, None),
    ],
)
def test_final_number(text, number):
    assert final_number(text) == number


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B) a red one", "B"),
        ("**B**", "B"),
        ("Answer: B", "B"),
        ("The answer is (B) because A is wrong.", "B"),
        ("the correct option is C", "C"),
        (r"therefore \boxed{D}", "D"),
        ("答案是B。", "B"),
        ("选C", "C"),
        ("Ｃ）", "C"),
        ("A, C", "AC"),
        ("ABD", "ABD"),
        ("Answer: A and C", "AC"),
        ("A cat sat there", None),
        ("I think so", None),
        ("the answer is a cat", None),
        ("", None),
    ],
)
def test_letters(text, chosen):
    assert letters(text) == (None if chosen is None else frozenset(chosen))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat's on 2 mats.", ["the", "cat", "s", "on", "2", "mats"]),
        ("我爱GPU编程", ["我", "爱", "gpu", "编", "程"]),
        ("カタカナとひらがな", list("カタカナとひらがな")),
        ("한국어 문장", ["한국어", "문장"]),
        ("ภาษาไทย", ["ภ", "า", "ษ", "า", "ไ", "ท", "ย"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("ＡＢＣ", ["abc"]),
        ("...", []),
    ],
)
def test_tokens_of_rouge(text, expected):
    assert tokens(text) == expected


def test_rouge_l_by_hand():
    """Reference of 6 words, answer of 5, 3 in order: recall 3/6, precision 3/5."""
    pairs = [
        ("the cat sat on the mat", "the cat is on fire", 2 * (3 / 6) * (3 / 5) / (3 / 6 + 3 / 5)),
        ("我喜欢红苹果", "我喜欢苹果", 2 * (5 / 6) * 1 / (5 / 6 + 1)),
        ("same", "same", 1),
        ("one", "two", 0),
        ("one", "", 0),
        ("...", "one", None),
    ]
    grades = RougeL().grade([Answer(0, "", reference, text) for reference, text, _ in pairs], "unused")
    assert [g.score for g in grades] == [score if score is None else pytest.approx(score) for *_, score in pairs]


@pytest.mark.extras
def test_rouge_l_beside_googles():
    """rouge-score, which comes with lm-eval, on texts that its tokens are the same of."""
    from rouge_score.rouge_scorer import RougeScorer

    rng, words = np.random.default_rng(0), np.array("the cat sat on a mat 12 days before it rained".split())
    texts = [" ".join(rng.choice(words, rng.integers(1, 30))) for _ in range(100)]
    peer = RougeScorer(["rougeL"])
    grades = RougeL().grade([Answer(0, "", a, b) for a, b in zip(texts, texts[1:], strict=False)], "unused")
    for grade, a, b in zip(grades, texts, texts[1:], strict=False):
        assert grade.score == pytest.approx(peer.score(a, b)["rougeL"].fmeasure, abs=1e-12)


GRADERS = [Exact(), FinalNumber(), Choice(), RougeL()]


@pytest.mark.parametrize("grader", GRADERS, ids=lambda g: type(g).__name__)
def test_the_contract(grader):
    answers = [
        Answer(i, "q", r, t) for i, (r, t) in enumerate([("B", "B"), ("12", "13"), ("", ""), ("汉字", "汉字。")])
    ]
    grades = grader.grade(answers, "unused")
    assert len(grades) == 4 and all(g.score is None or 0 <= g.score <= 1 for g in grades)
    assert grader.grade([], "unused") == []


@pytest.mark.parametrize(
    ("grader", "scores"), [(Exact(), [1, 0, 0]), (FinalNumber(), [None, 0, 1]), (Choice(), [1, None, None])]
)
def test_scores(grader, scores):
    answers = [Answer(0, "", "B", "b."), Answer(1, "", "12", "13"), Answer(2, "", "so 12", "#### 12.0")]
    if isinstance(grader, Choice):
        answers[0] = Answer(0, "", "B", "B. because")
    assert [g.score for g in grader.grade(answers, "unused")] == scores

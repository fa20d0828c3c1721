"""Formulas beside numbers: math-verify, where it is installed (`pip install "near[maths]"`)."""

import pytest

from near.common.errors import UserError
from near.evaluation.graders.base import Answer
from near.evaluation.graders.number import FinalNumber


def test_without_math_verify_it_is_said(packages):
    packages(math_verify=False)
    FinalNumber().check()
    with pytest.raises(UserError, match="formulas=true: math-verify is not installed; pip install -r"):
        FinalNumber(formulas=True).check()


def test_what_formulas_may_be():
    with pytest.raises(UserError, match="formulas=maybe is not true or false"):
        FinalNumber(formulas="maybe")


def test_formulas_are_left_out_by_default():
    [grade] = FinalNumber().grade([Answer(0, "", r"\boxed{2\sqrt{3}}", r"\boxed{2\sqrt{3}}")], "unused")
    assert (grade.score, grade.no_answer) == (None, False)


@pytest.mark.extras
@pytest.mark.parametrize(
    ("reference", "text", "score", "no_answer"),
    [
        (r"\boxed{2\sqrt{3}}", r"so \boxed{\sqrt{12}}", 1, False),
        (r"\boxed{2\sqrt{3}}", r"so \boxed{5\sqrt{3}}", 0, False),
        (r"\boxed{2\sqrt{3}}", "I don't know", 0, True),
        (r"\boxed{x^2+2x+1}", r"$\boxed{(x+1)^2}$", 1, False),
        (r"\boxed{[0,1)}", r"\boxed{[0,1)}", 1, False),
        (r"\boxed{[0,1)}", r"\boxed{(0,1)}", 0, False),
        (r"\boxed{3, 4}", r"\boxed{4, 3}", 1, False),
        ("#### 4", r"\boxed{\sqrt{16}}", 1, False),
        ("#### 4", "four", 0, True),
        ("3½", r"\boxed{\frac72}", 1, False),
        ("words", r"\boxed{2}", None, False),
    ],
)
def test_what_is_no_number(reference, text, score, no_answer):
    pytest.importorskip("math_verify")
    [grade] = FinalNumber(formulas=True).grade([Answer(0, "", reference, text)], "unused")
    assert (grade.score, grade.no_answer) == (score, no_answer)

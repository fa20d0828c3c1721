"""The contract of a grader, which scores a generated answer against its reference."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

from near.common.errors import UserError
from near.common.moved import Contract
from near.common.text import plural

NO_ANSWER = "no answer"  # in tables: an answer without anything to grade


def no_answers(count: int | None, graded: int) -> str:
    """Text beside a grader's mean: how many answers had nothing to grade; empty if none, or if it is unknown."""
    return f" ({count} of {graded} {NO_ANSWER})" if count else ""


class Grade(NamedTuple):
    """The grade of one answer.

    Attributes:
        score: 0 to 1 (right); None if the reference can't be graded, for example without a number.
        detail: text that is written beside the score, such as a judge's reply.
        no_answer: the reference can be graded, but the answer has nothing to compare; its score is 0.
    """

    score: float | None
    detail: str | None = None
    no_answer: bool = False


Grade.renamed = {"told": "detail"}  # type: ignore[attr-defined] # old names of fields, for error messages


@dataclass(frozen=True)
class Answer:
    """One generated answer. `raw`: its row of the source, for graders with `columns`."""

    row: int
    question: str
    reference: str
    text: str
    raw: Mapping | None = None


class Grader(Contract, ABC):
    """A class named by `_target_` under evaluation.graders; its options are keyword arguments."""

    # the columns of Answer.raw that it reads; True: any, or, as a class attribute, those that its instances name
    columns: bool | tuple[str, ...] = False
    unsafe = False  # evaluation.unsafe: whether code may run without a sandbox

    def check(self) -> None:  # noqa: B027 - most run anywhere
        """Raise UserError if it can't run here. Called before anything heavy."""

    def metadata(self) -> dict:
        """Entries that are written beside its scores in the metrics."""
        return {}

    @abstractmethod
    def grade(self, answers: Sequence[Answer], cache_dir: str) -> list[Grade]:
        """A grade for each answer. `cache_dir`: where a grader may cache results that cost money or time."""


def checked_grades(name: str, grades: object, answers: Sequence[Answer]) -> list[Grade]:
    """`grades` of grader `name`; UserError unless they are a Grade for each answer, each from 0 to 1 or None."""
    if not isinstance(grades, Sequence) or len(grades) != len(answers):
        count = len(grades) if isinstance(grades, Sequence) else f"a {type(grades).__name__}, not"
        raise UserError(
            f"grader {name} returned {count} grades for {plural(len(answers), 'answer')}; return a list with one each"
        )
    for grade in grades:
        if not isinstance(grade, Grade):
            raise UserError(
                f"grader {name} returned a {type(grade).__name__}; return near.evaluation.graders.base.Grade"
            )
        if grade.score is not None and not (isinstance(grade.score, Real) and 0 <= grade.score <= 1):
            raise UserError(f"grader {name} returned a score of {grade.score}; use a number from 0 to 1, or None")
    return list(grades)


class Compares(Grader):
    """1 if the same value is extracted from answer and reference, else 0; None if the reference has no such value."""

    renamed = {"taken": "value"}

    @abstractmethod
    def value(self, text: str) -> object:
        """The value of a text that is compared; None if there is none."""

    def same(self, expected: Any, actual: Any, answer: Answer) -> bool:
        """Whether the reference's value and the answer's value are the same."""
        return expected == actual

    def grade(self, answers: Sequence[Answer], cache_dir: str) -> list[Grade]:
        return [self._grade(answer) for answer in answers]

    def _grade(self, answer: Answer) -> Grade:
        return self._compared(answer, self.value(answer.reference), self.value(answer.text))

    def _compared(self, answer: Answer, expected: object, actual: object) -> Grade:
        if expected is None:
            return Grade(None)
        if actual is None:
            return Grade(0.0, no_answer=True)
        return Grade(float(self.same(expected, actual, answer)))

"""The contract of a grader: how well a generated answer does beside its reference."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

NO_ANSWER = "no answer"  # an answer that held nothing to grade


def no_answers(count: int | None, graded: int) -> str:
    """Beside a grader's mean: of how many answers it found nothing to grade in; nothing where none or not known."""
    return f" ({count} of {graded} {NO_ANSWER})" if count else ""


class Grade(NamedTuple):
    """score: in [0, 1], 1 being right; None where the grader has nothing to say (the reference holds no number).
    told: what is kept beside it, such as a judge's reply. no_answer: the reference held something and the answer held
    nothing that could be compared, such as no number; its score is 0."""

    score: float | None
    told: str | None = None
    no_answer: bool = False


@dataclass(frozen=True)
class Answer:
    """One generated answer. `raw`: its row as it stands in the source, for graders that ask for it."""

    row: int
    question: str
    reference: str
    text: str
    raw: Mapping | None = None


class Grader(ABC):
    """Named by `_target_` under evaluation.graders, with its options as keywords."""

    # which columns of Answer.raw it reads; True: any. Of a class True where its objects name some
    columns: bool | tuple[str, ...] = False
    unsafe = False  # evaluation.unsafe: whether code may run without a sandbox

    def check(self) -> None:  # noqa: B027 - most run anywhere
        """UserError where it can't run here; called before anything heavy."""

    def metadata(self) -> dict:
        """What stands beside its scores in the metrics."""
        return {}

    @abstractmethod
    def grade(self, answers: Sequence[Answer], cache_dir: str) -> list[Grade]:
        """A grade for each answer. `cache_dir`: where what was paid for once may be kept."""


class Compares(Grader):
    """1 where the same is taken out of answer and reference, else 0; None where the reference holds nothing of it."""

    @abstractmethod
    def taken(self, text: str) -> object:
        """What of a text is compared; None where there is nothing."""

    def same(self, wanted: Any, found: Any, answer: Answer) -> bool:
        """Whether what was taken out of the reference and out of the answer are the same."""
        return wanted == found

    def grade(self, answers: Sequence[Answer], cache_dir: str) -> list[Grade]:
        return [self._grade(answer) for answer in answers]

    def _grade(self, answer: Answer) -> Grade:
        return self._compared(answer, self.taken(answer.reference), self.taken(answer.text))

    def _compared(self, answer: Answer, wanted: object, found: object) -> Grade:
        if wanted is None:
            return Grade(None)
        if found is None:
            return Grade(0.0, no_answer=True)
        return Grade(float(self.same(wanted, found, answer)))

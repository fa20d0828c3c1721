"""Normalised exact match."""

from near.common.text import normalise
from near.evaluation.graders.base import Answer, Compares, Grade


class Exact(Compares):
    """1 if the whole texts are equal when normalised, else 0."""

    def value(self, text: str) -> object:
        return normalise(text)

    def _grade(self, answer: Answer) -> Grade:
        grade = super()._grade(answer)
        return grade._replace(no_answer=not grade.score and not normalise(answer.text))

"""Normalised exact match."""

import unicodedata

from near.graders.base import Answer, Compares, Grade


def normalise(text: str) -> str:
    """Unicode NFKC, case folded, white space collapsed, closing punctuation dropped."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.rstrip(".!。 ")


class Exact(Compares):
    """The whole text, normalised."""

    def taken(self, text: str) -> object:
        return normalise(text)

    def _grade(self, answer: Answer) -> Grade:
        grade = super()._grade(answer)
        return grade._replace(no_answer=not grade.score and not normalise(answer.text))

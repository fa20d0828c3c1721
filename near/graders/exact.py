"""Normalised exact match."""

import unicodedata
from collections.abc import Sequence

from near.graders.base import Answer, Grade, Grader


def normalise(text: str) -> str:
    """Unicode NFKC, case folded, white space collapsed, closing punctuation dropped."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.rstrip(".!。 ")


class Exact(Grader):
    """1 where answer and reference are the same once normalised, else 0."""

    def grade(self, answers: Sequence[Answer], cache_dir: str) -> list[Grade]:
        return [Grade(float(normalise(a.text) == normalise(a.reference))) for a in answers]

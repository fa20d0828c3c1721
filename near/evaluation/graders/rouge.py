"""ROUGE-L: the longest common subsequence of answer and reference."""

import unicodedata
from collections.abc import Sequence

import regex
from rapidfuzz.distance import LCSseq

from near.evaluation.graders.base import Answer, Grade, Grader

# scripts without spaces between words: Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
TOKEN = regex.compile(rf"[{UNSPACED}]\p{{M}}*|(?:(?![{UNSPACED}])[\p{{L}}\p{{N}}]\p{{M}}*)+")


def tokens(text: str) -> list[str]:
    """Words of letters and digits, case folded; in scripts without spaces, characters with their marks."""
    return TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


class RougeL(Grader):
    """The F-measure of ROUGE-L (Lin 2004, beta 1): twice the length of the longest common subsequence of tokens, over
    the number of tokens of both; None if the reference has no word."""

    def grade(self, answers: Sequence[Answer], cache_dir: str) -> list[Grade]:
        grades = []
        for answer in answers:
            expected, actual = tokens(answer.reference), tokens(answer.text)
            common = LCSseq.similarity(expected, actual)
            score = 2 * common / (len(expected) + len(actual)) if expected else None
            grades.append(Grade(score, no_answer=bool(expected) and not actual))
        return grades

"""ROUGE-L: the longest common subsequence of answer and reference."""

import unicodedata
from collections.abc import Sequence

import regex
from rapidfuzz.distance import LCSseq

from near.evaluation.graders.base import Answer, Grade, Grader

# scripts that put no spaces between words: Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
TOKEN = regex.compile(rf"[{UNSPACED}]\p{{M}}*|(?:(?![{UNSPACED}])[\p{{L}}\p{{N}}]\p{{M}}*)+")


def tokens(text: str) -> list[str]:
    """Words of letters and digits, case folded; of unspaced scripts, characters with their marks."""
    return TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


class RougeL(Grader):
    """The F-measure of ROUGE-L (Lin 2004, with beta 1): twice the longest common subsequence over the tokens of both;
    None where the reference holds no word."""

    def grade(self, answers: Sequence[Answer], cache_dir: str) -> list[Grade]:
        grades = []
        for answer in answers:
            wanted, found = tokens(answer.reference), tokens(answer.text)
            common = LCSseq.similarity(wanted, found)
            score = 2 * common / (len(wanted) + len(found)) if wanted else None
            grades.append(Grade(score, no_answer=bool(wanted) and not found))
        return grades

"""The letter of a multiple-choice question."""

import re
import unicodedata

from near.graders.base import Compares

LIST = r"\(?\s*([A-J](?:\s*\)?\s*(?:,|、|;|and|和|&)?\s*\(?\s*[A-J])*)\s*\)?"
BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{)?\s*" + LIST + r"\s*\}")
ALONE = re.compile(r"^[\s*_`\"']*" + LIST + r"[\s*_`\"'.。]*$")
TOLD = re.compile(
    r"(?:(?i:answer|option|choice)|答案|选项)(?:\s+is|\s*应?[为是选])?\s*[:：]?\s*[*_`]*\s*(?:option\s+)?"
    + LIST
    + r"(?![A-Za-z])|选\s*"
    + LIST
    + r"(?![A-Za-z])"
)
OPENS = re.compile(r"^[\s*_`]*(?:\(\s*([A-J])\s*\)|([A-J])\s*[).:：、,]|([A-J])\s*$)", re.MULTILINE)


def letters(text: str) -> frozenset[str] | None:
    """The letters that are chosen, A to J; None where there are none. An article ("A cat") is no choice."""
    text = unicodedata.normalize("NFKC", text).strip()
    for pattern in (BOXED, TOLD, ALONE, OPENS):
        found = [next(group for group in match.groups() if group) for match in pattern.finditer(text)]
        if found:
            chosen = found[0] if pattern in (ALONE, OPENS) else found[-1]  # the last that is told, the first that opens
            return frozenset(re.findall("[A-J]", chosen))
    return None


class Choice(Compares):
    """The letter or letters that are chosen, all of them and no other."""

    def taken(self, text: str) -> object:
        return letters(text)

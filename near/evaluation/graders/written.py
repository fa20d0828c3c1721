"""The numbers of a text that stand for themselves."""

import re
from bisect import bisect_right
from typing import NamedTuple

from near.evaluation.graders.arithmetic import NoNumber, Number, literal, scale

STARTS = re.compile(  # no index, no power, no part of a name
    r"(?<![A-Za-z0-9À-ɏ_^\\])(?<![A-Za-z]-)(?<![A-Za-z0-9]\.)(?<!\d/)(?<![\^_]\{)"
    r"(?:\((?=-?[\d./]+\) ?\^)|\\frac|\.?\d)"
)
STOP = re.compile(r"[^\s]*")
BULLET = re.compile(r"^[ \t]*\(?\d{1,3}[.)][ \t]+(?=\S)", re.MULTILINE)
OTHER = re.compile(r"(?:st|nd|rd|th)\b|[xyz](?![A-Za-z])|\.\d")  # an ordinal, a formula, a version
MINUS = re.compile(r"(?:\bnegative|(?:\b(?:is|was|be|equals)|[=:(]|^) ?minus) $|[负負]$", re.I)


class Written(NamedTuple):
    """A number in a text, and where it begins, with its sign, and ends."""

    number: Number
    start: int
    end: int


def numbers(text: str) -> list[Written]:
    """All numbers of a plain text that stand for themselves: no index, no power, no ordinal, no number of a list."""
    found, at = [], 0
    passed = [match.span() for match in BULLET.finditer(text)]
    starts = [start for start, _ in passed]
    while match := STARTS.search(text, at):
        start = match.start()
        place = bisect_right(starts, start) - 1
        if place >= 0 and start < passed[place][1]:
            at = passed[place][1]
            continue
        try:
            value, end = literal(text, start)
        except NoNumber:
            at = max(STOP.match(text, start).end(), match.end())
            continue
        at = end
        if not OTHER.match(text, end) or text[max(0, start - 2) : start].rstrip().endswith("="):
            negative, begin = _sign(text, start)
            found.append(Written(Number(-value if negative else value, scale(text, end)), begin, end))
    return found


def _sign(text: str, start: int) -> tuple[bool, int]:
    """Whether a number is negative, and where it begins with its sign: in "10-5" and "10 - 5" the dash is none of 5."""
    before = text[max(0, start - 20) : start]
    if match := MINUS.search(before):
        return True, start - len(before) + match.start()
    match = re.search(r"[-–]( ?)[$€£¥₹]?$|[$€£¥₹] ?[-–]()$", before)
    if match is None:
        return False, start
    left = before[: match.start()]
    if match[1] or re.search(r"[A-Za-z0-9)}\]]$|[\d)}\]] $", left):
        return bool(match[1] and re.search(r"[=(:{<>] ?$", left)), start
    return True, start - len(before) + match.start()

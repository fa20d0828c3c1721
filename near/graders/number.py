"""The final number, for maths."""

import re
import unicodedata
from fractions import Fraction

from near.graders.base import Compares

# digits with or without thousands separators, decimals, an exponent of at most two digits, and a fraction's other half
NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d{1,2})?(?:\s?/\s?\d+)?(?!\d|e[+-]?\d)|-?\.\d+",
    re.IGNORECASE,
)
FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")
LONGEST = 100  # characters of a number: beyond, it is none that anybody meant


def final_number(text: str) -> Fraction | None:
    """The number a solution ends with: after the last ####, else in the last \\boxed{}, else the last one there is.

    Full-width digits, thousands separators, currencies, percent signs, \\frac{a}{b} and a/b are understood.
    """
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-")
    if "####" in text:
        text = text.rpartition("####")[2]
    elif (boxed := _boxed(text)) is not None:
        text = boxed
    text = FRACTION.sub(r" \1/\2 ", text)
    text = re.sub(r"(?<=-)[$€£¥]|[$€£¥](?=-?[\d.])", "", text)
    found = [n for n in NUMBER.findall(text) if len(n) <= LONGEST]
    return _value(found[-1]) if found else None


def _boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed")
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin + 1 : at]
    return text[begin + 1 :]


def _value(number: str) -> Fraction | None:
    above, _, below = number.replace(",", "").replace(" ", "").partition("/")
    if below and int(below) == 0:
        return None
    return Fraction(above) / (int(below) if below else 1)


class FinalNumber(Compares):
    """The number that a solution ends with."""

    def taken(self, text: str) -> object:
        return final_number(text)

"""Numbers as people, LaTeX and programs write them, read exactly."""

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

LONGEST = 100  # digits of a number; beyond this and the next two, it is none that anybody meant
LARGEST_EXPONENT = 1000
LARGEST_BITS = 8000
DEEPEST = 20  # brackets in brackets

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻₀₁₂₃₄₅₆₇₈₉", "0123456789+-0123456789")
SUPERSCRIPT = re.compile(r"([⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)(?:[/⁄]([₀₁₂₃₄₅₆₇₈₉]+))?")
VULGAR = re.compile(r"(?<=\d)[¼-¾⅐-⅟↉]")  # "3½" without a space would become "31/2"
TEXT_COMMAND = re.compile(
    r"\\(?:text[a-z]*|math(?:rm|bf|it|sf|tt|bb)|mbox|operatorname|boldsymbol|bm|underline) ?\{([^{}]*)\}"
)
REWRITTEN = [  # in this order
    (re.compile(r"\{,\}|,\\[,!;: ]"), ","),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\[,;:]|\\ |~|\\q?quad\b"), " "),
    (re.compile(r"\\([$%#&])"), r"\1"),
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits)(?![a-z])"), ""),
    (re.compile(r"\^ ?(?:\{ ?\\circ ?\}|\\circ)|\\degree|[°º]"), " "),
    (re.compile(r"\\(?:times|cdot)(?![a-z])|[×·⋅∙]"), "×"),
    (re.compile(r"\\(?:approx|simeq|sim)(?![a-z])|≈"), "="),
    (re.compile(r"\\(?:[dtc]|nice|s)frac(?![a-z])"), r"\\frac"),
    (re.compile(r"\\div(?![a-z])|÷"), "/"),
    (re.compile(r"\\[()\[\]]"), " "),
    (re.compile(r"(?<=\d)\*\*(?=[\d(-])"), "^"),
    (re.compile(r"(?<=\d)_(?=\d{3}(?!\d))"), ""),
    (re.compile(r"(?<![A-Za-z0-9})\]_])_(?=\d)"), ""),  # _42_
    (re.compile(r"(?<=[\d}]) ?[xX*] ?(?=10 ?\^)"), "×"),
    (re.compile(r"- ?([$€£¥₹])"), r"\1-"),
    (re.compile(r"[^\S\n]+"), " "),
]
DIGITS = re.compile(
    r"(?:[1-9]\d{0,2}(?:\.\d{3})+,\d{1,2}(?![\d,])"  # 1.234,56
    r"|\d{1,3}(?:\.\d{3}){2,}(?![\d.])"  # 1.234.567
    r"|[1-9]\d{0,2}(?: \d{3})+,\d{1,2}(?![\d,])"  # 1 234,56
    r"|0,\d+(?![\d,])|(?<=€)\d+,\d{2}(?!\d)|\d+,\d{2}(?= ?€)"  # 0,5 and 5,00 €
    r"|(?<![\d,.])(?!(?<=\()\d+,\d+\))\d+,\d{1,2}(?![\d,])"  # 12,5, but not the point (3,4)
    r"|(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|[1-9]\d{0,2}(?: \d{3})+|\d{1,3}(?:['’]\d{3})+|\d+)(?!\d)"
    r"(?:\.\d+|\.(?!\w))?"
    r"|\.\d+)(?:[eE][+-]?\d+(?![\d.]))?"
)
MIXED = re.compile(r" ?(?=\\frac)|(?: and)? (?=(\d{1,3}) ?/ ?(\d{1,3})(?![\d/]))")  # between 3 and 1/2
OVER = re.compile(r" ?/ ?(?=\d|\\frac)")
LABELLED = re.compile(r"\b(?:week|day|month|year|step|part|group|round|question|problem|case) $", re.IGNORECASE)  # 3:5
RATIO = re.compile(r":(\d+)(?![\d:])")
CLOCK = re.compile(r"(?:[01]?\d|2[0-4]):[0-5]\d(?::[0-5]\d)?(?![\d:])")  # 5:30, unless a ratio is spoken of
OF_RATIO = re.compile(r"\b(?:ratios?|odds|scale|proportions?)\b", re.IGNORECASE)
TIMES_POWER = re.compile(r" ?× ?(?=10 ?\^)")
RAISED = re.compile(r" ?\^ ?")
INTEGER = re.compile(r"[+-]?\d+")
SIGN = re.compile(r" ?([+-]?) ?")
PLUS = re.compile(r" ?([+-]) ?(?=[\d.({]|\\frac)")
TIMES = re.compile(r" ?[×*/] ?(-?)(?=[\d.({]|\\frac)|()(?=\(-?[\d.]+\))")
DECIMAL_COMMA = re.compile(r"0,\d+|[\d. ]+,\d{1,2}|\d{1,3}(?:\.\d{3}){2,}")
SCALES = [
    (re.compile(r" ?(?:%|percent\b|per ?cent\b|pct\b)", re.IGNORECASE), Fraction(1, 100)),
    (re.compile(r"[kK](?![A-Za-z])| ?thousand\b|千", re.IGNORECASE), Fraction(10**3)),
    (re.compile(r"M(?![A-Za-z])| ?(?i:million)s?\b|百万"), Fraction(10**6)),
    (re.compile(r" ?billions?\b", re.IGNORECASE), Fraction(10**9)),
    (re.compile(r" ?trillions?\b", re.IGNORECASE), Fraction(10**12)),
    (re.compile(r" ?dozens?\b", re.IGNORECASE), Fraction(12)),
    (re.compile(r" ?[万萬]"), Fraction(10**4)),
    (re.compile(r" ?[亿億]"), Fraction(10**8)),
]


class Number(NamedTuple):
    """A number as it is written, and what a word or sign behind it multiplies it by: 50% is 50 and 1/100."""

    value: Fraction
    scale: Fraction = Fraction(1)


class NoNumber(ValueError):
    """What stands there has no value, or none that anybody meant."""


def plain(text: str) -> str:
    """A text with its digits, fractions, powers, signs and spaces in one form each; LaTeX for layout goes.

    "3½" becomes "3 1/2" and "10²" "10^{2}" before Unicode's own forms would make "31⁄2" and "102" of them.
    """
    if not text.isascii():
        text = VULGAR.sub(r" \g<0>", SUPERSCRIPT.sub(_superscript, text))
        text = "".join(map(_character, text))
        text = unicodedata.normalize("NFKC", text).replace("⁄", "/")
    for _ in range(2):  # \text{\textbf{...}}
        text = TEXT_COMMAND.sub(r" \1 ", text)
    for pattern, form in REWRITTEN:
        text = pattern.sub(form, text)
    return text


def _superscript(match: re.Match) -> str:
    above = match[1].translate(SUPERSCRIPTS)
    return f" {above}/{match[2].translate(SUPERSCRIPTS)}" if match[2] else f"^{{{above}}}"


def _character(character: str) -> str:
    if character in "−﹣－":
        return "-"
    if character in "’＇":
        return "'"
    digit = unicodedata.decimal(character, None) if character > "\x7f" else None
    return character if digit is None else str(digit)


def literal(text: str, at: int, depth: int = 0) -> tuple[Fraction, int]:
    """The number without a sign that begins at `at` of a plain text, and where it ends.

    1,234.5, \\frac{1}{2}, 3 1/2, 2^{10}, 1.5×10^3, 3:4. NoNumber where none begins there, or one without a value.
    """
    if CLOCK.match(text, at) and not _is_ratio(text, at):
        raise NoNumber
    value, end = _primary(text, at, depth)
    if text[at] != "(" and value.denominator == 1 and text[end - 1].isdigit():
        mixed = MIXED.match(text, end)
        if mixed and (mixed[1] is None or int(mixed[1]) < int(mixed[2])):
            part, end = literal(text, mixed.end(), depth + 1)
            return value + part, end
    value, end = _power(text, value, end, depth)
    if match := OVER.match(text, end):
        below, end = _power(text, *_primary(text, match.end(), depth), depth)
        if OVER.match(text, end):
            raise NoNumber  # a date
        value = _divided(value, below)
    elif (match := RATIO.match(text, end)) and not _is_labelled(text, at):
        if len(match[1]) > LONGEST:
            raise NoNumber
        value, end = (_divided(value, Fraction(match[1])) if int(match[1]) else value), match.end()
    if match := TIMES_POWER.match(text, end):
        power, end = _power(text, *_primary(text, match.end(), depth), depth)
        value = _bounded(value * power)
    return value, end


def _is_labelled(text: str, at: int) -> bool:
    return bool(LABELLED.search(text[max(0, at - 12) : at]))


def _is_ratio(text: str, at: int) -> bool:
    """Whether "3:20" is no clock time: a ratio is spoken of, or "Day 3:20" counts days."""
    return _is_labelled(text, at) or bool(OF_RATIO.search(text[max(0, at - 100) : at + 20]))


def _primary(text: str, at: int, depth: int) -> tuple[Fraction, int]:
    if depth > DEEPEST:
        raise NoNumber
    if text.startswith("\\frac", at):
        above, end = _argument(text, at + 5, depth + 1)
        below, end = _argument(text, end, depth + 1)
        return _divided(above, below), end
    if text[at : at + 1] in ("(", "{"):
        value, end = total(text, at + 1, depth + 1)
        if text[end : end + 1] != {"(": ")", "{": "}"}[text[at]]:
            raise NoNumber
        return value, end + 1
    match = DIGITS.match(text, at)
    if match is None or len(match[0]) > LONGEST:
        raise NoNumber
    return _digits(match[0]), match.end()


def _digits(written: str) -> Fraction:
    number, _, exponent = written.lower().partition("e")
    if DECIMAL_COMMA.fullmatch(number):
        number = number.replace(".", "").replace(",", ".")
    if exponent and abs(int(exponent)) > LARGEST_EXPONENT:
        raise NoNumber
    number = re.sub(r"[, '’]", "", number).rstrip(".")
    return Fraction(number) * Fraction(10) ** int(exponent or 0)


def _argument(text: str, at: int, depth: int) -> tuple[Fraction, int]:
    """Of \\frac or ^: in braces, or one digit."""
    at += text[at : at + 1] == " "
    if text[at : at + 1] == "{":
        return _primary(text, at, depth)
    if text.startswith("\\frac", at):
        return _primary(text, at, depth)
    if not text[at : at + 1].isdigit():
        raise NoNumber
    return Fraction(int(text[at])), at + 1


def _power(text: str, value: Fraction, end: int, depth: int) -> tuple[Fraction, int]:
    match = RAISED.match(text, end)
    if match is None:
        return value, end
    if plainly := INTEGER.match(text, match.end()):
        if len(plainly[0]) > LONGEST:
            raise NoNumber
        exponent, end = Fraction(plainly[0]), plainly.end()
    else:
        exponent, end = _primary(text, match.end(), depth + 1)
    if exponent.denominator != 1 or abs(exponent) > LARGEST_EXPONENT or (value == 0 and exponent < 0):
        raise NoNumber
    if max(value.numerator.bit_length(), value.denominator.bit_length()) * abs(exponent) > LARGEST_BITS:
        raise NoNumber
    return value ** int(exponent), end


def total(text: str, at: int, depth: int = 0) -> tuple[Fraction, int]:
    """The value of the sum, product or number, with its sign, that begins at `at` of a plain text, and its end."""
    value, end, sign = Fraction(0), at, SIGN.match(text, at)
    while True:
        part, end = _product(text, sign.end(), depth)
        value = _bounded(value - part if sign[1] == "-" else value + part)
        sign = PLUS.match(text, end)
        if sign is None:
            return value, end + (text[end : end + 1] == " ")


def _product(text: str, at: int, depth: int) -> tuple[Fraction, int]:
    value, end = literal(text, at, depth)
    while match := TIMES.match(text, end):
        part, end = literal(text, match.end(), depth)
        part = -part if match[1] else part
        value = _divided(value, part) if "/" in match[0] else _bounded(value * part)
    return value, end


def _divided(above: Fraction, below: Fraction) -> Fraction:
    if below == 0:
        raise NoNumber
    return _bounded(above / below)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > LARGEST_BITS:
        raise NoNumber
    return value


def scale(text: str, at: int) -> Fraction:
    """What the sign or word at `at` of a text multiplies the number before it by."""
    return next((factor for pattern, factor in SCALES if pattern.match(text, at)), Fraction(1))

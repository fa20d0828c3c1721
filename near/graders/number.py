"""The final number, for maths, found where a person would find it."""

import re
from bisect import bisect_right
from fractions import Fraction
from typing import NamedTuple

from near.graders.arithmetic import NoNumber, Number, literal, plain, scale, total
from near.graders.base import Answer, Compares, Grade
from near.graders.formulas import Formulas
from near.graders.reading import before_remark, boxes, corrected, first_answer, spoken

LONG = 10_000  # characters from a text's end in which the last sentence with a number is looked for
LAST = 50  # numbers of a sentence, and statements of a text, that are looked at from the end
STARTS = re.compile(  # no index, no power, no part of a name
    r"(?<![A-Za-z0-9À-ɏ_^\\])(?<![A-Za-z]-)(?<![A-Za-z0-9]\.)(?<!\d/)(?<![\^_]\{)"
    r"(?:\((?=-?[\d./]+\) ?\^)|\\frac|\.?\d)"
)
STOP = re.compile(r"[^\s]*")
# words, currencies and marks before a number, and its sign
LEAD = re.compile(r"(?:[\s*_`:~$€£¥₹=]|[^\W\d_]+(?=[\s:,=*$]),?)*")
SIGN = re.compile(r"([-+–]?) ?[$€£¥₹]? ?")
# what makes a formula of the number before it, or one of several numbers
FORMULA = re.compile(
    r" ?(?:[+*^×=<>|_]|[/-](?![A-Za-z]{2})|:\d|\\[a-zA-Z]+|[πi∞√]| ?[a-zA-Z](?= ?[+*/^=)-])|[xyznabcktpqruvwe](?= *$))"
    r"|[(\[!]"
)
UNIT = re.compile(r" ?[mgslhLNJWVAKCF](?![a-zA-Z_]| ?[+*=])")
SEVERAL = re.compile(r" ?(?:[,;]|(?:or|and)\b)[^\d]*\d")
OPERATOR = re.compile(r" ?[+*/×÷] ?\(?[$\d]| - \(?[$\d]")
MARK = re.compile(r"####\s*([^\n]*)")
HEADING = re.compile(
    r"[*_]*(?:\d+[.)] +[A-Za-z*]|(?:step|part|case|problem|question|method|example|solution|section|phase|option)\b)",
    re.I,
)
TAG = re.compile(r"<(?:final_?)?answer>([^<]{0,2000})", re.I)
ANSWER = re.compile(
    r"\b(?:answers?|ans|respuesta|antwort|réponse|resposta|risposta|ответ)\b[\"'*]*"
    r"(?:(?:question|problem|part|exercise|#) ?\d+|[^\n.:=\d]){0,60}?"
    r"(?:\b(?:is|are|was|be|es|ist|est|equals|becomes)\b|:|=)"
    r"|(?:答案|答え|정답|答)[^\n。:=\d]{0,12}?(?:是|为|為|:|は|은|는)",
    re.I,
)
CALLED = re.compile(r"[ *$]+(?:is|was|will be|must be) (?:the|our|my) (?:\w+ )?answer\b", re.I)
SAID = re.compile(r"\b(?:(?:should|must|would) be|it is|it['’]s|that['’]s|that is|equals|(?:i|we) get)\b|=", re.I)
NEAR = 3  # words between "the answer is" and its number; further off, it is looked for as in any sentence
DENIED = re.compile(r"(?:\bnot|n['’]t|\bnever|\brather than|\binstead of|不是)(?: [A-Za-z]+)? ?[$€£¥]?$", re.I)
SENTENCE = re.compile(r"(?<=[!?。！？\n])|(?<=\.)(?=\s|$)")
REASON = re.compile(r"\bbecause\b|\bsince\b(?![^\n]*=)|因为", re.I)
CONCLUDES = re.compile(
    r"\b(?:round\w*|so|leav\w+|left|then|therefore|thus|which|mean\w*|giv\w+|or|about|approx\w*)\b|[=≈]", re.I
)
BULLET = re.compile(r"^[ \t]*\(?\d{1,3}[.)][ \t]+(?=\S)", re.MULTILINE)
OTHER = re.compile(r"(?:st|nd|rd|th)\b|[xyz](?![A-Za-z])|\.\d")  # an ordinal, a formula, a version
LABEL = re.compile(r"(?:\b(?:step|page|question|problem|part|chapter|figure|line|equation|case)|#) ?$", re.I)
# a number behind such a word says for how many, how long or where from
ASIDE = re.compile(
    r"(?:\b(?:for|in|after|among|amongst|per|every|each|between|within|over|during|with|from|on)"
    r"|\bof (?:the|his|her|their|these)"
    r"|\bout of|\d of|\bafter \w+ing)(?: (?:the|all|about|these|those|away|up|each of|last|first|next|past))* $",
    re.I,
)
MINUS = re.compile(r"(?:\bnegative|(?:\b(?:is|was|be|equals)|[=:(]|^) ?minus) $|[负負]$", re.I)


class Written(NamedTuple):
    """A number in a text, and where it begins, with its sign, and ends."""

    number: Number
    start: int
    end: int


def final_number(text: str) -> Fraction | None:
    """The number a solution ends with, as it is written: of 50% it is 50."""
    found = read_number(text)
    return None if found is None else found.value


def read_number(text: str) -> Number | None:
    """The number a solution ends with; None where there is none.

    In this order: right behind the last ####, in the last \\boxed{} or <answer> tag, behind "the answer is"; else in
    the last sentence with a number the bold one, or the last one, without those that only say for how many or on which
    page. What a box holds is computed (2^{10}-1); a formula, a root or several numbers are no number.
    """
    text = spoken(text)
    first = first_answer(text)
    tail = corrected(first)
    found = None if tail is None else _correction(plain(tail))
    for part in dict.fromkeys((first, text)):
        found = _final(plain(part)) if found is None else found
    return found


def _final(text: str) -> Number | None:
    for read in (_marked, _boxed, _answered):
        if (found := read(text)) is not None:
            return found[0]
    return _last(text)


def _correction(text: str) -> Number | None:
    """What is stated after "no, actually"; a number that is only mentioned there corrects nothing."""
    for read in (_marked, _boxed, _answered):
        if (found := read(text)) is not None:
            return found[0]
    said = [_behind(text[match.end() : match.end() + 80]) for match in SAID.finditer(text)]
    return next((number for number in reversed(said) if number is not None), None)


def _marked(text: str) -> tuple[Number | None] | None:
    """Right behind the last #### that is no heading; None where there is none."""
    for match in reversed(list(MARK.finditer(text))[-LAST:]):
        if not HEADING.match(match[1]):
            found = _boxed(match[1]) or (_behind(match[1]),)
            if found[0] is not None:
                return found
    return None


def _boxed(text: str) -> tuple[Number | None] | None:
    """What the last box or tag with something in it holds, (None,) where that is no number."""
    marks = boxes(text) + [(match.start(), match[1]) for match in TAG.finditer(text)]
    marks += [(match.start(), match[1]) for match in re.finditer(r"\\boxed (\d+)", text)]
    content = next((content for _, content in sorted(marks, reverse=True) if content.strip()), None)
    if content is None:
        return None
    content = content.strip().rpartition("=")[2].rstrip(" .")
    if (inner := boxes(content)) or not content:
        content = inner[0][1] if inner else ""
    try:
        value, end = total(content[:LONG], LEAD.match(content).end())
    except NoNumber:
        return (None,)
    rest = content[end:]
    if SEVERAL.match(rest) or (FORMULA.match(rest) and not UNIT.match(rest)):
        return (None,)
    lead = LEAD.match(content)[0]
    return (Number(-value if MINUS.search(lead) else value, scale(rest, 0)),)


def _answered(text: str) -> tuple[Number | None] | None:
    """Behind the last "the answer is" with a number."""
    for match in reversed(list(ANSWER.finditer(text))[-LAST:]):
        follow = text[match.end() : match.end() + 300].lstrip()
        end = next((m.start() for m in SENTENCE.finditer(follow) if m.start()), len(follow))
        if (found := _stated(follow[:end])) is not None:
            return (found,)
    found = _is_the_answer(text)
    return None if found is None else (found,)


def _is_the_answer(text: str) -> Number | None:
    """The last number that is called the answer: "42 is the answer"."""
    for match in reversed(list(CALLED.finditer(text))[-LAST:]):
        before = text[max(0, match.start() - 60) : match.start()]
        numbers = _numbers(before)
        if numbers and before[numbers[-1].end :].strip(" *$_") == "":
            return numbers[-1].number
    return None


def _stated(sentence: str) -> Number | None:
    numbers = _numbers(sentence)
    kept = [one for one in numbers if not DENIED.search(sentence[: one.start])] or numbers
    if not kept:
        return None
    first = kept[0]
    if len(sentence[: first.start].split()) > NEAR + (first is not numbers[0]) * NEAR:
        return _last(sentence)
    left, equals, right = sentence[first.end :].rpartition("=")
    if equals and re.search(r"[+*/×÷]| - ", left):
        return _behind(right) or first.number
    if not OPERATOR.match(sentence, first.end):
        return first.number
    try:  # 21 + 21
        value, end = total(sentence, first.start)
    except NoNumber:
        return first.number
    return first.number if sentence[end:].strip(" .$*") else Number(value)


def _behind(text: str) -> Number | None:
    """The number that a text begins with, after words; of an equation, its right side."""
    lead = LEAD.match(text)
    sign = SIGN.match(text, lead.end())
    try:
        value, end = literal(text, sign.end())
    except NoNumber:
        return None
    if OPERATOR.match(text, end) and "=" in text[end:]:
        return _behind(text.rpartition("=")[2])
    negative = sign[1] in ("-", "–") or (not sign[1] and MINUS.search(lead[0]))
    return Number(-value if negative else value, scale(text, end))


def _last(text: str) -> Number | None:
    """Of the last sentence with a number."""
    text = text[-LONG:]
    numbers = _numbers(text)
    before = [one for one in numbers if one.start < len(before_remark(text))]
    numbers = before or numbers
    if not numbers:
        return None
    ends = [match.start() for match in SENTENCE.finditer(text)]
    place = bisect_right(ends, numbers[-1].start)
    begin = ends[place - 1] if place else 0
    results = {one.number for one in numbers if _is_result(text, one)}
    sentence = [one for one in numbers[-LAST:] if one.start >= begin]
    if bold := [one for one in sentence if _is_bold(text, one)]:
        return bold[-1].number
    if reason := REASON.search(text, sentence[0].end):
        sentence = [one for one in sentence if one.start < reason.start()]
        if repeated := [one for one in sentence if one.number in results]:
            return repeated[-1].number
    if (result := _result(text, sentence)) is not None:
        return result.number
    kept = [one for one in sentence if not _passed_over(text, one)] or sentence
    last = kept[-1]
    if last.number not in results and _is_aside(text, last):
        others = [one for one in kept[:-1] if not _is_aside(text, one)]
        others = [one for one in others if one.number in results] if results else others
        last = others[-1] if others else last
    return last.number


def _result(text: str, sentence: list[Written]) -> Written | None:
    """The right side of a sentence's last equation, where nothing is computed or concluded from it there."""
    results = [one for one in sentence if _is_result(text, one)]
    if not results:
        return None
    rest = text[results[-1].end : sentence[-1].end]
    return None if OPERATOR.search(rest) or CONCLUDES.search(rest) else results[-1]


def _numbers(text: str) -> list[Written]:
    """All numbers of a plain text that stand for themselves: no index, no power, no ordinal, no number of a list."""
    found, at = [], 0
    bullets = {match.end(): match.start() for match in BULLET.finditer(text)}
    passed = [(start, end) for end, start in bullets.items()]
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


def _is_result(text: str, one: Written) -> bool:
    return text[max(0, one.start - 8) : one.start].rstrip(" $*").endswith("=")


def _is_bold(text: str, one: Written) -> bool:
    before = re.search(r"\*\*[^*\n\d]{0,20}$", text[max(0, one.start - 24) : one.start])
    after = re.match(r"[^*\n]{0,40}\*\*", text[one.end : one.end + 44])
    line = text.rfind("\n", 0, one.start) + 1
    return bool(before and after and text.count("**", line, one.start) % 2)


def _passed_over(text: str, one: Written) -> bool:
    left = text[max(0, one.start - 20) : one.start]
    return bool(LABEL.search(left) or DENIED.search(left))


def _is_aside(text: str, one: Written) -> bool:
    return bool(ASIDE.search(text[max(0, one.start - 30) : one.start]))


class FinalNumber(Compares):
    """The number that a solution ends with.

    50% is right beside 50% and 0.5, and beside 50, which then counts per cent; 0.5% beside 0.5 only where the question
    asks for per cent. 2 million is right beside 2,000,000, and beside 2, which then counts millions.

    formulas: what is no number, in the reference or in the answer, is compared by math-verify; otherwise a reference
    without a number is left out.
    """

    def __init__(self, formulas: bool = False):
        self.formulas = Formulas() if formulas else None

    def check(self) -> None:
        if self.formulas is not None:
            self.formulas.check()

    def taken(self, text: str) -> object:
        return read_number(text)

    def _grade(self, answer: Answer) -> Grade:
        wanted, found = self.taken(answer.reference), self.taken(answer.text)
        if self.formulas is None or (wanted is not None and found is not None):
            return self._compared(answer, wanted, found)
        wanted, found = self.formulas.read(answer.reference), self.formulas.read(first_answer(spoken(answer.text)))
        if not wanted or not found:
            return self._compared(answer, wanted or None, found or None)
        return Grade(float(self.formulas.same(wanted, found)))

    def same(self, wanted: object, found: object, answer: Answer) -> bool:
        if wanted.value * wanted.scale == found.value * found.scale:
            return True
        if wanted.value != found.value or (wanted.scale != 1 and found.scale != 1):
            return False
        below_one = abs(wanted.value) < 1 and min(wanted.scale, found.scale) < 1
        return not below_one or bool(re.search(r"%|per ?cent|百分", answer.question, re.IGNORECASE))

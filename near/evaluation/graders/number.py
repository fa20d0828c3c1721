"""The final number of a solution, read as a person would."""

import re
from bisect import bisect_right
from fractions import Fraction

from near.common.errors import UserError
from near.evaluation.graders.arithmetic import NoNumber, Number, literal, plain, scale, total
from near.evaluation.graders.base import Answer, Compares, Grade
from near.evaluation.graders.formulas import Formulas
from near.evaluation.graders.reading import before_remark, boxes, corrected, first_answer, spoken
from near.evaluation.graders.spelled import in_digits, spelled
from near.evaluation.graders.written import MINUS, Written
from near.evaluation.graders.written import numbers as written_numbers

FEW = 4  # a number in letters is the answer of a text with up to so many words: "twelve apples"
LONG = 10_000  # characters at a text's end that are searched for the last sentence with a number
LAST = 50  # last numbers of a sentence and last statements of a text that are read
# words, currencies and marks before a number, and its sign
LEAD = re.compile(r"(?:[\s*_`:~$€£¥₹=]|[^\W\d_]+(?=[\s:,=*$]),?)*")
SIGN = re.compile(r"([-+–]?) ?[$€£¥₹]? ?")
# after a number: what makes it a formula, or one of several numbers
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
RESULT = re.compile(r"\b(?:(?:should|must|would) be|it is|it['’]s|that['’]s|that is|equals|(?:i|we) get)\b|=", re.I)
NEAR = 3  # words between "the answer is" and its number, at most; otherwise the sentence is read like any other
DENIED = re.compile(r"(?:\bnot|n['’]t|\bnever|\brather than|\binstead of|不是)(?: [A-Za-z]+)? ?[$€£¥]?$", re.I)
SENTENCE = re.compile(r"(?<=[!?。！？\n])|(?<=\.)(?<!\bi\.e\.)(?<!\be\.g\.)(?=\s|$)")
REASON = re.compile(r"\bbecause\b|\bsince\b(?![^\n]*=)|因为", re.I)
CONCLUDES = re.compile(
    r"\b(?:round\w*|so|leav\w+|left|then|therefore|thus|which|mean\w*|giv\w+|or|about|approx\w*)\b|[=≈]", re.I
)
LABEL = re.compile(
    r"(?:\b(?:step|page|question|problem|part|chapter|figure|line|equation|case)|#) ?$"
    r"|\b(?:on|in|during|by|after|before|until|of|for|at|from|to|since) (?:day|week|month|year|game|round|grade|level|"
    r"hour|minute|night|lap|set|match|quarter|season|room|table|row|bus|floor|box|team|class|lesson|stage|number) $",
    re.I,
)
# before a number that says for how many, how long or from where
ASIDE = re.compile(
    r"(?:\b(?:for|in|after|among|amongst|per|every|each|between|within|over|during|with|from|on|following|including|"
    r"excluding|counting)"
    r"|\bof (?:the|his|her|their|these)"
    r"|\bout of|\d of|\bafter \w+ing)"
    r"(?: (?:the|all|about|these|those|away|up|each of|last|first|next|past|an?|his|her|its|their))*[ $€£¥]*$"
    r"|\b(?:after|following|including) (?:an?|the|\w+ing)(?: (?:an?|the))?(?: \w+){0,2} of [$€£¥]?$"
    r"|\bafter\b[^.,;\n\d]* by [$€£¥]?$"
    r"|\b(?:takes?|took|need(?:s|ed)?|costs?|require[sd]?|spends?|spent)\b[^.,;\n]*\d(?: \w+)? to [a-z]+"
    r"(?: (?:the|all|an?|his|her|its))? [$€£¥]?$"
    r"|[^\W_][.%]? [(\[][^()\[\]]*$",  # in brackets behind it
    re.I,
)
AND_OTHERS = re.compile(r"(?: [^\s.,;:\d]+){0,4} and (?:[^\s.,;:\d]+ )?[$€£¥]?")  # "5 apples and 3 pears"


def final_number(text: str) -> Fraction | None:
    """The number a solution ends with, as written: 50 for 50%."""
    number = read_number(text)
    return None if number is None else number.value


def read_number(text: str) -> Number | None:
    """The number a solution ends with; None if there is none.

    The first that exists: right after the last ####; in the last \\boxed{} or <answer> tag; after "the answer is"; else
    in the last sentence with a number, the bold one, or the last one that does not only say for how many, on which
    page, after which discount or, in brackets, of what. Numbers in letters count if the sentence has no digits ("a
    dozen"). The content of a box is computed (2^{10}-1); a formula, a root, several numbers or a clock time are none.
    """
    text = spoken(text)
    first = first_answer(text)
    tail = corrected(first)
    number = None if tail is None else _correction(plain(tail))
    for part in dict.fromkeys((first, text)):
        number = _final(plain(part)) if number is None else number
    return number


def _final(text: str) -> Number | None:
    for read in (_marked, _boxed, _answered):
        if (result := read(text)) is not None:
            return result[0]
    if len(text.split()) <= FEW and not re.search(r"\d", text) and (word := spelled(text)) is not None:
        return Number(word)
    return _last(_last_in_digits(text))


def _last_in_digits(text: str) -> str:
    """The text; if its last sentence has no digit, its numbers in letters become digits."""
    before = text.rstrip()[-LONG:]
    ends = [match.start() for match in SENTENCE.finditer(before) if match.start() < len(before)]
    begin = ends[-1] if ends else 0
    last = before[begin:]
    return text if re.search(r"\d", last) else before[:begin] + in_digits(last)


def _correction(text: str) -> Number | None:
    """The number stated after "no, actually"; numbers that are only mentioned there correct nothing."""
    for read in (_marked, _boxed, _answered):
        if (result := read(text)) is not None:
            return result[0]
    numbers = [_behind(text[match.end() : match.end() + 80]) for match in RESULT.finditer(text)]
    return next((result for result in reversed(numbers) if result is not None), None)


def _marked(text: str) -> tuple[Number | None] | None:
    """The number right after the last #### that is no heading; None if there is none."""
    for match in reversed(list(MARK.finditer(text))[-LAST:]):
        if not HEADING.match(match[1]):
            result = _boxed(match[1]) or (_behind(match[1]),)
            if result[0] is not None:
                return result
    return None


def _boxed(text: str) -> tuple[Number | None] | None:
    """The number in the last box or tag that is not empty; (None,) if that is no number; None without one."""
    marks = boxes(text) + [(match.start(), match[1]) for match in TAG.finditer(text)]
    marks += [(match.start(), match[1]) for match in re.finditer(r"\\boxed (\d+)", text)]
    content = next((content for _, content in sorted(marks, reverse=True) if content.strip()), None)
    if content is None:
        return None
    content = content.strip().rpartition("=")[2].rstrip(" .")
    if (inner := boxes(content)) or not content:
        content = inner[0][1] if inner else ""
    if not re.search(r"\d", content) and (word := spelled(content)) is not None:
        return (Number(word),)
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
    """The number after the last "the answer is" with one."""
    for match in reversed(list(ANSWER.finditer(text))[-LAST:]):
        follow = text[match.end() : match.end() + 300].lstrip()
        end = next((m.start() for m in SENTENCE.finditer(follow) if m.start()), len(follow))
        if (number := _stated(follow[:end])) is not None:
            return (number,)
    number = _is_the_answer(text)
    return None if number is None else (number,)


def _is_the_answer(text: str) -> Number | None:
    """The last number that is called the answer: "42 is the answer"."""
    for match in reversed(list(CALLED.finditer(text))[-LAST:]):
        before = text[max(0, match.start() - 60) : match.start()]
        numbers = written_numbers(before)
        if numbers and before[numbers[-1].end :].strip(" *$_") == "":
            return numbers[-1].number
    return None


def _stated(sentence: str) -> Number | None:
    if (word := spelled(sentence)) is not None:
        return Number(word)
    if not re.search(r"\d", sentence):
        sentence = in_digits(sentence)
    numbers = written_numbers(sentence)
    candidates = [one for one in numbers if not DENIED.search(sentence[: one.start])] or numbers
    if not candidates:
        return None
    first = candidates[0]
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
    """The number that a text begins with, after words; for an equation, its right side."""
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
    """The number of the last sentence with one."""
    text = text[-LONG:]
    numbers = written_numbers(text)
    end = len(before_remark(text))
    before = [one for one in numbers if one.start < end]
    numbers = before or numbers
    if not numbers:
        return None
    ends = [match.start() for match in SENTENCE.finditer(text)]
    position = bisect_right(ends, numbers[-1].start)
    begin = ends[position - 1] if position else 0
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
    candidates = [one for one in sentence if not _passed_over(text, one)] or sentence
    last = candidates[-1]
    if last.number not in results:
        for one in candidates[:-1]:
            if one.number in results and AND_OTHERS.fullmatch(text, one.end, last.start):
                return one.number
    if last.number not in results and _is_aside(text, last):
        others = [one for one in candidates[:-1] if not _is_aside(text, one)]
        others = [one for one in others if one.number in results] if results else others
        last = others[-1] if others else last
    return last.number


def _result(text: str, sentence: list[Written]) -> Written | None:
    """The right side of a sentence's last equation, if nothing is computed or concluded from it in the sentence."""
    results = [one for one in sentence if _is_result(text, one)]
    if not results:
        return None
    rest = text[results[-1].end : sentence[-1].end]
    return None if OPERATOR.search(rest) or CONCLUDES.search(rest) else results[-1]


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
    return bool(ASIDE.search(text[max(0, one.start - 60) : one.start]))


class FinalNumber(Compares):
    """1 if answer and reference end with the same number.

    50% equals 50% and 0.5, and also 50, as a number of per cent; 0.5% equals 0.5 only if the question mentions per
    cent. 2 million equals 2,000,000, and also 2, as a number of millions.

    Args:
        formulas: compare texts without a number by math-verify; if False, a reference without a number is not graded.
    """

    def __init__(self, formulas: bool = False):
        if not isinstance(formulas, bool):
            raise UserError(f"evaluation.graders.number.formulas={formulas} is not true or false; use one")
        self.formulas = Formulas() if formulas else None

    def check(self) -> None:
        if self.formulas is not None:
            self.formulas.check()

    def value(self, text: str) -> object:
        return read_number(text)

    def _grade(self, answer: Answer) -> Grade:
        expected, actual = self.value(answer.reference), self.value(answer.text)
        if self.formulas is None or (expected is not None and actual is not None):
            return self._compared(answer, expected, actual)
        expected, actual = self.formulas.read(answer.reference), self.formulas.read(first_answer(spoken(answer.text)))
        if not expected or not actual:
            return self._compared(answer, expected or None, actual or None)
        return Grade(float(self.formulas.same(expected, actual)))

    def same(self, expected: Number, actual: Number, answer: Answer) -> bool:
        if expected.value * expected.scale == actual.value * actual.scale:
            return True
        if expected.value != actual.value or (expected.scale != 1 and actual.scale != 1):
            return False
        below_one = abs(expected.value) < 1 and min(expected.scale, actual.scale) < 1
        return not below_one or bool(re.search(r"%|per ?cent|百分", answer.question, re.IGNORECASE))

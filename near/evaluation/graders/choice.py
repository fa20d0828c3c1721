"""The letter that an answer to a multiple-choice question chooses, read as a person would."""

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from near.common.text import normalise
from near.evaluation.graders import choice_patterns as patterns
from near.evaluation.graders.base import Answer, Compares, Grade
from near.evaluation.graders.reading import before_remark, boxes, corrected, first_answer, spoken

Letters = frozenset[str]
UNDECIDED: Letters = frozenset()
FIRST, LAST = 100, 400  # mentions of a text that are read: so many from its start, and from its end
LEFT, RIGHT = 100, 60  # characters before and after a mention that decide what it means


class Mention(NamedTuple):
    """Letters mentioned in a text; none for "A or B". `sure`: they can't be an ordinary word."""

    letters: Letters
    start: int
    end: int
    left: str
    right: str
    sure: bool


def letters(text: str) -> Letters | None:
    """The letters that an answer chooses; None if it chooses none.

    The first that exists: a marked letter (boxed, in tags, [[B]], ####); one that is called the answer or chosen; one
    on a separate line or at the start of the answer; one that is called right; the only bold letter; the only line that
    begins with a letter; the only letter that is mentioned. Of several marked or stated letters, the last counts.
    Denied letters ("not A", "A is wrong"), articles ("A cat"), pronouns and "A or B" do not count.
    """
    text = _without_tags(spoken(unicodedata.normalize("NFKC", text))).strip()
    text = patterns.CHECKBOX.sub(lambda box: box[1] + ("✅" if box[2] in ("x", "X") else "❌"), text)
    first = first_answer(text)
    tail = corrected(first)
    chosen = None if tail is None else _correction(tail)
    for part in dict.fromkeys((before_remark(first), first, text)):
        chosen = _chosen(part) if chosen is None else chosen
    return chosen or None


def _without_tags(text: str) -> str:
    """The text without HTML: bold as in Markdown, blocks on separate lines. An unclosed "<B>" is a letter."""

    def mark(tag: re.Match) -> str:
        name = tag[1].lower()
        if len(name) == 1 and f"</{name}>" not in closed:
            return tag[0]
        if name in ("b", "strong"):
            return "**"
        return "\n" if name in patterns.BLOCKS else ""

    closed = set(re.findall(r"</[a-z]>", text.lower()))
    return patterns.TAGS.sub(mark, text)


def _chosen(text: str) -> Letters | None:
    if (chosen := _marked(text)) is not None:
        return chosen
    plain, lines, mentions = _read(text)
    chosen = _alone(plain, mentions)
    chosen = _stated(mentions) if chosen is None else chosen
    chosen = _ticked(plain) if chosen is None else chosen
    chosen = _line(lines) if chosen is None else chosen
    chosen = _last([m for m in mentions if not _is_called_answer(m)], _is_implied) if chosen is None else chosen
    chosen = _last(mentions, _is_called_answer) if chosen is None else chosen
    chosen = _bold(text) if chosen is None else chosen
    chosen = _opening(lines) if chosen is None else chosen
    return _only(mentions) if chosen is None else chosen


def _correction(text: str) -> Letters | None:
    """The letters stated after "no, actually"; letters that are only mentioned there correct nothing."""
    text = text.lstrip(" ,.:;!?…—–-")
    if (chosen := _marked(text)) is not None:
        return chosen
    plain, _, mentions = _read(text)
    if mentions and mentions[0].start == 0 and patterns.END_RIGHT.match(mentions[0].right):
        return mentions[0].letters
    chosen = _stated(mentions)
    return _last(mentions, _is_implied) if chosen is None else chosen


def _read(text: str) -> tuple[str, list[str], list[Mention]]:
    """The text without formatting, its lines, and its mentions of letters that are not denied."""
    plain = re.sub(r"[^\S\n]+", " ", patterns.FORMAT.sub("", text)).strip()
    plain = patterns.INITIALS.sub("", plain)
    lines = [line.strip() for line in plain.split("\n") if line.strip()]
    return plain, lines, [m for m in _mentions(plain) if not _denied(m)]


def _mentions(text: str) -> list[Mention]:
    mentions: list[Mention] = []
    matches = list(patterns.MENTION.finditer(text))
    for match in matches[:FIRST] + matches[FIRST:][-LAST:]:
        if (one := _mention(text, match)) is None:
            continue
        gap = text[mentions[-1].end : one.start] if mentions else "-"
        if len(gap) < 12 and (joined := _joined(mentions[-1], gap, one) if mentions else None) is not None:
            mentions[-1] = joined
        else:
            mentions.append(one)
    return mentions


def _mention(text: str, match: re.Match) -> Mention | None:
    """The mention of a match; None if it is an ordinary word."""
    letter, right = match["wrapped"] or match["bare"], text[match.end() : match.end() + RIGHT]
    if len(letter) > 1 and list(letter) != sorted(set(letter)):  # "ABD" may be three letters, "BAD" is a word
        return None
    if letter.islower() and letter > "j":
        return None
    left = text[max(0, match.start() - LEFT) : match.start()].rstrip("([{\"'“")
    if match["bare"]:
        if letter == "I" and patterns.PRONOUN_RIGHT.match(right):
            return None
        if letter in "Aa" and _is_article(letter, left, right):
            return None
        if letter.islower() and not patterns.SMALL_RIGHT.match(right) and not patterns.RIGHT_RIGHT.match(right):
            return None
    sure = match[0][0] in "([" and len(match[0]) < 5
    return Mention(frozenset(letter.upper()), match.start(), match.end(), left, right, sure)


def _is_article(letter: str, left: str, right: str) -> bool:
    """Whether "A" begins a noun phrase: never after "option"; after "the answer is" only before a content word."""
    if letter == "A" and patterns.NAMED_MENTION_LEFT.search(left):
        return False
    if letter == "A" and patterns.STATED_LEFT.search(left) and not patterns.COLON_LEFT.search(left):
        return bool(patterns.STATED_ARTICLE_RIGHT.match(right))
    return bool(patterns.ARTICLE_RIGHT.match(right))


def _joined(first: Mention, gap: str, second: Mention) -> Mention | None:
    """One mention of "A and C", "A, C" or "A or C"; None if the two are separate."""
    if patterns.HEDGE.fullmatch(gap):
        chosen = UNDECIDED
    elif not patterns.JOIN.fullmatch(gap):
        return None
    elif patterns.NONE_OF_LEFT.search(first.left):
        chosen = first.letters | second.letters
    elif gap.strip(" )(") in (",", ";") and not _same_list(first, second):
        return None
    elif patterns.STATED_LEFT.search(first.left) and _is_called_answer(second):  # "the answer is B and A is the ..."
        return None
    else:
        chosen = first.letters and first.letters | second.letters
    return first._replace(letters=chosen, end=second.end, right=second.right)


def _same_list(first: Mention, second: Mention) -> bool:
    """Whether "A, B" is one list: not in "not A, B", but in "not A, B or C" and "we rule out A, B"."""
    if patterns.OF_ONE_RIGHT.match(second.right):
        return False
    if not _denied(first):
        return True
    if patterns.DENIED_RIGHT.match(first.right):
        return False
    return bool(patterns.RULED_OUT_LEFT.search(first.left) or patterns.LIST_GOES_ON_RIGHT.match(second.right))


def _denied(mention: Mention) -> bool:
    return bool(patterns.DENIED_LEFT.search(mention.left) or patterns.DENIED_RIGHT.match(mention.right))


def _is_stated(mention: Mention) -> bool:
    ends = patterns.END_RIGHT.match(mention.right)
    return bool(
        patterns.STATED_LEFT.search(mention.left)
        or (ends and patterns.NAMED_LEFT.search(mention.left))
        or (
            (called := patterns.ANSWER_RIGHT.match(mention.right))
            and patterns.PLAINLY_RIGHT.match(mention.right, called.end())
        )
    )


def _is_called_answer(mention: Mention) -> bool:
    """Whether the letter is called the answer, perhaps of something else: "A is the answer to question 2"."""
    return bool(patterns.ANSWER_RIGHT.match(mention.right))


def _is_implied(mention: Mention) -> bool:
    ends = patterns.END_RIGHT.match(mention.right)
    return bool((ends and patterns.IMPLIED_LEFT.search(mention.left)) or patterns.RIGHT_RIGHT.match(mention.right))


def _last(mentions: list[Mention], holds: Callable[[Mention], bool]) -> Letters | None:
    return next((mention.letters for mention in reversed(mentions) if holds(mention)), None)


def _stated(mentions: list[Mention]) -> Letters | None:
    """The last stated letters; if they are undecided ("A or B"), what is implied after them."""
    last = next((last for last in range(len(mentions) - 1, -1, -1) if _is_stated(mentions[last])), None)
    if last is None:
        return None
    return mentions[last].letters or _last(mentions[last + 1 :], _is_implied) or UNDECIDED


def _ticked(text: str) -> Letters | None:
    """The letters of lines that begin with a tick."""
    return frozenset(letter.upper() for letter in patterns.TICKED.findall(text)) or None


def _alone(text: str, mentions: list[Mention]) -> Letters | None:
    """The letters of a text that has nothing else."""
    if len(mentions) != 1:
        return None
    left, right = text[: mentions[0].start], text[mentions[0].end :]
    whole = patterns.ALONE_LEFT.fullmatch(left) and patterns.ALONE_RIGHT.fullmatch(right)
    return mentions[0].letters if whole else None


def _marked(text: str) -> Letters | None:
    """The letters in the last box, tag or double brackets with one, or after ####."""
    marks = boxes(text) + [(m.start(), m["tag"] or m["judge"] or "") for m in patterns.MARKED.finditer(text)]
    for _, content in sorted(marks)[: -LAST - 1 : -1]:
        plain, lines, mentions = _read(content)
        for chosen in (_alone(plain, mentions), _stated(mentions), _line(lines)):
            if chosen is not None:
                return chosen
    headed = {letter.upper() for letter in patterns.HEADED.findall(text)}
    return frozenset(headed) if len(headed) == 1 else None  # several are headings of options


def _line(lines: list[str]) -> Letters | None:
    """The letter that is the whole last or first line, or that begins the first; none if all options are listed."""
    for line in (lines[-1], lines[0]) if lines else ():
        if (chosen := _alone(line, _mentions(line))) is not None:
            return chosen
    if not lines or [match for line in lines for match in patterns.LISTED.findall(line + " ")][:2] == ["A", "B"]:
        return None
    start = next((m for m in _mentions(lines[0]) if m.start <= 1), None) or _named_opening(lines[0])
    if start is not None and (_denied(start) or patterns.END_RIGHT.match(start.right)):
        return None if _denied(start) else start.letters
    first = _opener(lines[0])
    return None if first is None else frozenset(first)


def _named_opening(line: str) -> Mention | None:
    """The letter of "Option B. ...", but not of "Option B: ...", which may be an item of a list."""
    first = next(iter(_mentions(line)), None)
    if first is None or first.right.lstrip(")").startswith(":"):
        return None
    return first if patterns.NAMED_OPENING.fullmatch(line[: first.start]) else None


def _opener(line: str) -> str | None:
    """The letter that a line begins with: "(b) text", "B) text", "B. text", "B, because"."""
    match = patterns.OPENS.match(line)
    letter = match and next(group for group in match.groups() if group)
    return letter.upper() if letter and (letter.isupper() or letter <= "j") else None


def _bold(text: str) -> Letters | None:
    bold = set()
    for match in patterns.BOLD.finditer(text):
        if not patterns.DENIED_RIGHT.match(text[match.end() : match.end() + RIGHT]):
            bold.add(match[1].upper())
    return frozenset(bold) if len(bold) == 1 else None


def _opening(lines: list[str]) -> Letters | None:
    """Of lines that begin with a letter, the only one called right, or the only one not called wrong."""
    opened = [(letter, line) for line in lines if (letter := _opener(line)) is not None]
    candidates = {letter for letter, line in opened if not patterns.BAD.search(line)}
    good = {letter for letter, line in opened if letter in candidates and patterns.GOOD.search(line)}
    return next((frozenset(chosen) for chosen in (good, candidates) if len(chosen) == 1), None)


def _only(mentions: list[Mention]) -> Letters | None:
    """The only letter of the text in brackets, named as an option, or between punctuation."""
    named = {
        mention.letters
        for mention in mentions
        if mention.sure
        or patterns.NAMED_MENTION_LEFT.search(mention.left)
        or (patterns.EDGE_LEFT.search(mention.left) and patterns.EDGE_RIGHT.match(mention.right))
    }
    return named.pop() if len(named) == 1 else None


def options(question: str) -> dict[str, Letters]:
    """Normalised text -> letter of a question's last list of options: "A) Rome (B) Paris C. Oslo"."""
    letter_of: dict[str, Letters] = {}
    marks = list(patterns.OPTION.finditer(question))
    ends = [mark.start() for mark in marks[1:]] + [len(question)]
    for mark, end in zip(marks, ends, strict=False):
        text = normalise(question[mark.end() : end].strip().partition("\n")[0])
        if mark[1] == "A":
            letter_of = {}
        if mark[1] == chr(ord("A") + len(letter_of)):
            letter_of[text] = frozenset(mark[1])
    return letter_of if len(letter_of) > 1 else {}


class Choice(Compares):
    """1 if the answer chooses all letters of the reference and no other. A text without a letter is compared with the
    options that the question lists: "Paris" is B if option B is Paris."""

    def value(self, text: str) -> object:
        return letters(text)

    def _grade(self, answer: Answer) -> Grade:
        return self._compared(
            answer, *(self._chosen(text, answer.question) for text in (answer.reference, answer.text))
        )

    def _chosen(self, text: str, question: str) -> Letters | None:
        chosen = letters(text)
        if chosen is not None:
            return chosen
        text = first_answer(spoken(text)).strip()
        parts = [text, text.partition("\n")[0], text.rpartition("\n")[2], patterns.STATEMENT.split(text)[-1]]
        listed = options(question)
        return next((listed[one] for one in map(normalise, parts) if one in listed), None)

"""The letter of a multiple-choice question, found where a person would find it."""

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from near.evaluation.graders import choice_patterns as patterns
from near.evaluation.graders.base import Answer, Compares, Grade
from near.evaluation.graders.reading import before_remark, boxes, corrected, first_answer, spoken
from near.models.chat_judge import normalise

Letters = frozenset[str]
UNDECIDED: Letters = frozenset()
FIRST, LAST = 100, 400  # mentions of a text that are looked at: from its beginning, and from its end
LEFT, RIGHT = 100, 60  # characters around a mention that decide what it is


class Mention(NamedTuple):
    """Letters of a text, without any where it says "A or B"; `sure`: they can't be an ordinary word."""

    letters: Letters
    start: int
    end: int
    left: str
    right: str
    sure: bool


def letters(text: str) -> Letters | None:
    """The letters that are chosen; None where there are none.

    In this order: what is marked (boxed, in tags, [[B]], ####), what is called the answer or chosen, a line of its own
    or the beginning of the answer, what is called right, the one bold letter, the one line that begins with a letter,
    the one letter that is mentioned. Of several that are marked or stated, the last. A letter that is denied ("not A",
    "A is wrong") is none, nor is an article ("A cat") or a pronoun; of "A or B" none is chosen.
    """
    text = _without_tags(spoken(unicodedata.normalize("NFKC", text))).strip()
    text = patterns.CHECKBOX.sub(lambda box: box[1] + ("✅" if box[2] in ("x", "X") else "❌"), text)
    first = first_answer(text)
    tail = corrected(first)
    found = None if tail is None else _correction(tail)
    for part in dict.fromkeys((before_remark(first), first, text)):
        found = _chosen(part) if found is None else found
    return found or None


def _without_tags(text: str) -> str:
    """Without HTML: bold as in Markdown, a block on a line of its own. "<B>" that nothing closes is a letter."""

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
    if (found := _marked(text)) is not None:
        return found
    plain, lines, mentions = _read(text)
    found = _alone(plain, mentions)
    found = _stated(mentions) if found is None else found
    found = _ticked(plain) if found is None else found
    found = _own_line(lines) if found is None else found
    found = _last([m for m in mentions if not _is_called_answer(m)], _is_said) if found is None else found
    found = _last(mentions, _is_called_answer) if found is None else found
    found = _bold(text) if found is None else found
    found = _opening(lines) if found is None else found
    return _only(mentions) if found is None else found


def _correction(text: str) -> Letters | None:
    """What is stated after "no, actually"; a letter that is only mentioned there corrects nothing."""
    text = text.lstrip(" ,.:;!?…—–-")
    if (found := _marked(text)) is not None:
        return found
    plain, _, mentions = _read(text)
    if mentions and mentions[0].start == 0 and patterns.END_RIGHT.match(mentions[0].right):
        return mentions[0].letters
    found = _stated(mentions)
    return _last(mentions, _is_said) if found is None else found


def _read(text: str) -> tuple[str, list[str], list[Mention]]:
    """A text without formatting, its lines, and the letters in it that are not denied."""
    plain = re.sub(r"[^\S\n]+", " ", patterns.FORMAT.sub("", text)).strip()
    plain = patterns.INITIALS.sub("", plain)
    lines = [line.strip() for line in plain.split("\n") if line.strip()]
    return plain, lines, [m for m in _mentions(plain) if not _denied(m)]


def _mentions(text: str) -> list[Mention]:
    found: list[Mention] = []
    matches = list(patterns.MENTION.finditer(text))
    for match in matches[:FIRST] + matches[FIRST:][-LAST:]:
        if (one := _mention(text, match)) is None:
            continue
        gap = text[found[-1].end : one.start] if found else "-"
        if len(gap) < 12 and (joined := _joined(found[-1], gap, one) if found else None) is not None:
            found[-1] = joined
        else:
            found.append(one)
    return found


def _mention(text: str, match: re.Match) -> Mention | None:
    """None where it is an ordinary word."""
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
    """Whether "A" begins a noun phrase: never behind "option"; behind "the answer is" only before a content word."""
    if letter == "A" and patterns.NAMED_MENTION_LEFT.search(left):
        return False
    if letter == "A" and patterns.STATED_LEFT.search(left) and not patterns.COLON_LEFT.search(left):
        return bool(patterns.STATED_ARTICLE_RIGHT.match(right))
    return bool(patterns.ARTICLE_RIGHT.match(right))


def _joined(first: Mention, gap: str, second: Mention) -> Mention | None:
    """ "A and C", "A, C" or "A or C" as one mention; None where they are two."""
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
    """Whether "A, B" goes on with the same: not "not A, B", but "not A, B or C" and "we rule out A, B"."""
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
    """Of something, perhaps: "A is the answer to question 2"."""
    return bool(patterns.ANSWER_RIGHT.match(mention.right))


def _is_said(mention: Mention) -> bool:
    ends = patterns.END_RIGHT.match(mention.right)
    return bool((ends and patterns.SAID_LEFT.search(mention.left)) or patterns.RIGHT_RIGHT.match(mention.right))


def _last(mentions: list[Mention], holds: Callable[[Mention], bool]) -> Letters | None:
    return next((mention.letters for mention in reversed(mentions) if holds(mention)), None)


def _stated(mentions: list[Mention]) -> Letters | None:
    """The last that is stated; of one that is undecided ("A or B"), what is said after it."""
    place = next((place for place in range(len(mentions) - 1, -1, -1) if _is_stated(mentions[place])), None)
    if place is None:
        return None
    return mentions[place].letters or _last(mentions[place + 1 :], _is_said) or UNDECIDED


def _ticked(text: str) -> Letters | None:
    """The letters of the lines that begin with a tick."""
    return frozenset(letter.upper() for letter in patterns.TICKED.findall(text)) or None


def _alone(text: str, mentions: list[Mention]) -> Letters | None:
    """Of a text that holds nothing else."""
    if len(mentions) != 1:
        return None
    left, right = text[: mentions[0].start], text[mentions[0].end :]
    whole = patterns.ALONE_LEFT.fullmatch(left) and patterns.ALONE_RIGHT.fullmatch(right)
    return mentions[0].letters if whole else None


def _marked(text: str) -> Letters | None:
    """In the last box, tag or double brackets that hold a letter, or behind ####."""
    marks = boxes(text) + [(m.start(), m["tag"] or m["judge"] or "") for m in patterns.MARKED.finditer(text)]
    for _, content in sorted(marks)[: -LAST - 1 : -1]:
        plain, lines, mentions = _read(content)
        for found in (_alone(plain, mentions), _stated(mentions), _own_line(lines)):
            if found is not None:
                return found
    headed = {letter.upper() for letter in patterns.HEADED.findall(text)}
    return frozenset(headed) if len(headed) == 1 else None  # several are the headings of options


def _own_line(lines: list[str]) -> Letters | None:
    """The letter that the last or the first line is, or that the first begins with; none of a list of all options."""
    for line in (lines[-1], lines[0]) if lines else ():
        if (found := _alone(line, _mentions(line))) is not None:
            return found
    if not lines or [match for line in lines for match in patterns.LISTED.findall(line + " ")][:2] == ["A", "B"]:
        return None
    start = next((m for m in _mentions(lines[0]) if m.start <= 1), None) or _named_opening(lines[0])
    if start is not None and (_denied(start) or patterns.END_RIGHT.match(start.right)):
        return None if _denied(start) else start.letters
    first = _opener(lines[0])
    return None if first is None else frozenset(first)


def _named_opening(line: str) -> Mention | None:
    """The letter of "Option B. ...", but not of "Option B: ...", which may be one of a list."""
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
    found = set()
    for match in patterns.BOLD.finditer(text):
        if not patterns.DENIED_RIGHT.match(text[match.end() : match.end() + RIGHT]):
            found.add(match[1].upper())
    return frozenset(found) if len(found) == 1 else None


def _opening(lines: list[str]) -> Letters | None:
    """Of the lines that begin with a letter, the one that is called right, or the only one that is not called wrong."""
    opened = [(letter, line) for line in lines if (letter := _opener(line)) is not None]
    kept = {letter for letter, line in opened if not patterns.BAD.search(line)}
    good = {letter for letter, line in opened if letter in kept and patterns.GOOD.search(line)}
    return next((frozenset(found) for found in (good, kept) if len(found) == 1), None)


def _only(mentions: list[Mention]) -> Letters | None:
    """The one letter of the text that stands in brackets, is named as an option or stands apart."""
    found = {
        mention.letters
        for mention in mentions
        if mention.sure
        or patterns.NAMED_MENTION_LEFT.search(mention.left)
        or (patterns.EDGE_LEFT.search(mention.left) and patterns.EDGE_RIGHT.match(mention.right))
    }
    return found.pop() if len(found) == 1 else None


def options(question: str) -> dict[str, Letters]:
    """What a question's last list of options says, normalised, and the letter of each: "A) Rome (B) Paris C. Oslo"."""
    found: dict[str, Letters] = {}
    marks = list(patterns.OPTION.finditer(question))
    ends = [mark.start() for mark in marks[1:]] + [len(question)]
    for mark, end in zip(marks, ends, strict=False):
        said = normalise(question[mark.end() : end].strip().partition("\n")[0])
        if mark[1] == "A":
            found = {}
        if mark[1] == chr(ord("A") + len(found)):
            found[said] = frozenset(mark[1])
    return found if len(found) > 1 else {}


class Choice(Compares):
    """The letter or letters that are chosen, all of them and no other. An answer or a reference without a letter is
    looked for among the options that the question lists: "Paris" is B where B says so."""

    def taken(self, text: str) -> object:
        return letters(text)

    def _grade(self, answer: Answer) -> Grade:
        return self._compared(
            answer, *(self._chosen(text, answer.question) for text in (answer.reference, answer.text))
        )

    def _chosen(self, text: str, question: str) -> Letters | None:
        found = letters(text)
        if found is not None:
            return found
        text = first_answer(spoken(text)).strip()
        said = [text, text.partition("\n")[0], text.rpartition("\n")[2], patterns.SAYS.split(text)[-1]]
        listed = options(question)
        return next((listed[one] for one in map(normalise, said) if one in listed), None)

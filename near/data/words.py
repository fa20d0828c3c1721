"""Words of a text, as near/data/contamination.py and near/searching/bm25.py compare them."""

import functools
import re
import unicodedata

VERSION = 5  # of `words` and `pieces`, part of the keys of what is computed from them
# Scripts without spaces between words (Han, kana, bopomofo, Thai, Lao, Khmer, Myanmar): each character is a word
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3007\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
# Removed without splitting a word: invisible characters, apostrophes, commas of thousands, spaces around operators
INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
APOSTROPHE = re.compile(r"['’ʼ](?=\w)")
THOUSANDS = re.compile(r",(?<=\d,)(?=\d{3}(?!\d))")
OPERATOR = re.compile(r"(\d) *([-*/]) *(?=\d)")
NUMBER = re.compile(r"\d[\d.:/*-]*")


def words(text: str) -> list[str]:
    """The words of a text: Unicode NFKC, case folded, punctuation dropped.

    A number stays one word with its point, and so does `12-7`, since its sign changes what it means; `+`, `=`, `<`, `>`
    and the like between terms are words for the same reason. A character of a script without spaces is a word.

    >>> words("What's 1,000 + 2.5?")
    ['whats', '1000', '+', '2.5']
    """
    text = OPERATOR.sub(r"\1\2", THOUSANDS.sub("", APOSTROPHE.sub("", _folded(text))))
    return _words(text.isascii()).findall(text)


def pieces(text: str) -> list[str]:
    """The runs of letters and digits of a text, folded as its words are; texts about dates or sums then share some.

    >>> pieces("What's 1974-07-11 + x_2?")
    ['what', 's', '1974', '07', '11', 'x', '2']
    """
    return _runs(text.isascii()).findall(_folded(text))


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    return INVISIBLE.sub("", unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()))


@functools.cache
def _words(ascii_only: bool) -> re.Pattern:
    letter, alone = _letters(ascii_only)
    operator = r"(?<=[\w)\s])[+=<>^%×÷](?=[\s(\w])"
    return re.compile(rf"{letter}+(?:(?<=\d)[.:/*-](?=\d){letter}+)*{alone}|{operator}")


@functools.cache
def _runs(ascii_only: bool) -> re.Pattern:
    letter, alone = _letters(ascii_only)
    return re.compile(f"{letter}+{alone}")


def _letters(ascii_only: bool) -> tuple[str, str]:
    """Patterns: a letter or digit of a word, and an alternative for characters that are words."""
    if ascii_only:
        return "[^\\W_]", ""
    # accents and vowel signs belong to the letter before them; \w leaves them out
    marks = "".join(c for c in map(chr, range(0x300, 0xFFFF)) if unicodedata.category(c)[0] == "M")
    return f"(?:[^\\W_{UNSPACED}]|(?![{UNSPACED}])[{marks}])", f"|[{UNSPACED}]"


def masked(word: str) -> str:
    """The word with its numbers replaced by 0: `12-7` and `3.5` are `0`, `h2o` is `h0o`."""
    return NUMBER.sub("0", word)


def joined(words: list[str]) -> str:
    """Words as a text; no spaces within scripts that have none."""
    return re.sub(f"(?<=[{UNSPACED}]) (?=[{UNSPACED}])", "", " ".join(words))

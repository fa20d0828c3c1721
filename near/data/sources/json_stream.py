"""Rows of a JSON file, read as a stream: memory for one block and one row (or one value beside the rows)."""

import json
import re
from collections.abc import Iterator
from typing import IO

BLOCK = 1 << 20  # characters read at a time
LONGEST = 1 << 28  # characters of a row
DEEPEST = 4  # levels of objects that are searched for lists to suggest
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER_GOES_ON = re.compile(r"\.?|[eE][+-]?")  # the number may continue in the next block
# a lone quote: the string continues in the next block
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]|"', re.DOTALL)


class Missing(Exception):
    """Another value in place of the rows: its kind, the missing name, and dotted names of lists if it is an object."""

    def __init__(self, kind: str, name: str | None, lists: list[str]):
        super().__init__(kind)
        self.kind, self.name, self.lists = kind, name, lists


class TooLong(ValueError):
    """A value longer than LONGEST."""


class JsonText:
    """A JSON text of any length, read value by value. Raises json.JSONDecodeError."""

    def __init__(self, file: IO[str]):
        self.file, self.text, self.at = file, "", 0

    def more(self, size: int | None = None) -> bool:
        """Read on; False at the end of the file. Raises TooLong."""
        if len(self.text) - self.at > LONGEST:
            raise TooLong(f"a value of more than {LONGEST >> 20} million characters")
        block = self.file.read(size or BLOCK)
        self.text, self.at = self.text[self.at :] + block, 0
        return bool(block)

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take(self, expected: str) -> str:
        """Consume the next character, which must be one of `expected`."""
        char = self.peek()
        if not char or char not in expected:
            raise json.JSONDecodeError(f"Expecting '{expected[0]}' delimiter", self.text, self.at)
        self.at += 1
        return char

    def value(self) -> object:
        """Consume and return the next value."""
        self.peek()
        size = BLOCK
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                goes_on = isinstance(value, int | float) and _NUMBER_GOES_ON.fullmatch(self.text, end)
                if end < len(self.text) and not goes_on:
                    self.at = end
                    return value
                if not self.more(size):
                    self.at = len(self.text)
                    return value
            except json.JSONDecodeError:
                if not self.more(size):
                    raise
            size *= 2  # in case the value is longer still

    def skip(self) -> None:
        """Skip the next value; a list or an object is not kept in memory."""
        if self.peek() not in "[{":
            self.value()
            return
        depth, size = 0, BLOCK
        while True:
            for match in _STRUCTURE.finditer(self.text, self.at):
                token = match[0]
                if token == '"':  # the string ends in a later block
                    break
                depth += token in "[{"
                depth -= token in "]}"
                self.at = match.end()
                if not depth:
                    return
            else:
                self.at, size = len(self.text), BLOCK
            if not self.more(size):
                raise json.JSONDecodeError("Expecting ',' delimiter", self.text, self.at)
            size *= 2

    def names(self) -> Iterator[str]:
        """The names of the next object; the caller reads or skips each value."""
        self.take("{")
        if self.peek() == "}":
            self.take("}")
            return
        while True:
            name = self.value() if self.peek() == '"' else self.take('"')
            self.take(":")
            yield name
            if self.take(",}") == "}":
                return


_DECODER = json.JSONDecoder()


def has_lines(file: IO[str]) -> bool:
    """Whether a second object follows the first: one object per line."""
    text = JsonText(file)
    if text.peek() != "{":
        return False
    text.skip()
    return text.peek() == "{"


def rows_at(file: IO[str], key: str | None) -> Iterator[object]:
    """The items of the list at `key` (dotted path of names; None: the whole file is the list).

    Raises Missing if there is no list.
    """
    text = JsonText(file)
    if not text.peek():
        raise json.JSONDecodeError("Expecting value", text.text, text.at)
    names = key.split(".") if key else []
    while names:
        names = _entered(text, names)
    if text.peek() != "[":
        raise _missing(text, None)
    text.take("[")
    if text.peek() == "]":
        text.take("]")
    else:
        while True:
            yield text.value()
            if text.take(",]") == "]":
                break
    if not key and text.peek():
        raise json.JSONDecodeError("Extra data", text.text, text.at)


def _entered(text: JsonText, names: list[str]) -> list[str]:
    """Go to the value of the first of `names` (or of all, if a name has dots); return the remaining names."""
    kind, lists = text.peek(), []
    if kind == "[" and names[0].isdigit():
        text.take("[")
        for _ in range(int(names[0])):
            if text.peek() != "]":
                text.skip()
            if text.peek() == "]":
                raise Missing("list", names[0], [])
            text.take(",")
        return names[1:]
    if kind != "{":
        raise _missing(text, names[0])
    for name in text.names():
        if name == names[0] or name == ".".join(names):
            return names[1:] if name == names[0] else []
        lists.append(name)
        text.skip()
    raise Missing("object", names[0], lists)


def _missing(text: JsonText, name: str | None) -> Missing:
    """The exception for whatever value is in place of `name` or of the rows."""
    kinds = {"{": "object", "[": "list", '"': "string", "t": "boolean", "f": "boolean", "n": "null", "": "nothing"}
    kind = kinds.get(text.peek(), "number")
    return Missing(kind, name, list(_lists(text, DEEPEST)) if kind == "object" else [])


def _lists(text: JsonText, depth: int) -> Iterator[str]:
    """Dotted names of the lists in the next object, down to `depth` levels."""
    for name in text.names():
        if text.peek() == "{" and depth > 1:
            yield from (f"{name}.{inner}" for inner in _lists(text, depth - 1))
            continue
        if text.peek() == "[":
            yield name
        text.skip()

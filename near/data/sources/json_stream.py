"""Rows of a JSON file read as a stream: no more than a block and a row (or a value beside the rows) are held."""

import json
import re
from collections.abc import Iterator
from typing import IO

BLOCK = 1 << 20  # characters read at a time
LONGEST = 1 << 28  # characters of a row
DEEPEST = 4  # levels of objects that are looked through for lists to name
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER_GOES_ON = re.compile(r"\.?|[eE][+-]?")  # what may be the rest of a number in a block to come
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]|"', re.DOTALL)  # a quote alone: a string that goes on


class Missing(Exception):
    """What there is in the place of the rows: its kind, and names that lead to lists where it is an object."""

    def __init__(self, kind: str, name: str | None, lists: list[str]):
        super().__init__(kind)
        self.kind, self.name, self.lists = kind, name, lists


class TooLong(ValueError):
    """A value that is longer than any row may be."""


class JsonText:
    """A JSON text of any length, read value by value. Raises json.JSONDecodeError."""

    def __init__(self, file: IO[str]):
        self.file, self.text, self.at = file, "", 0

    def more(self, size: int | None = None) -> bool:
        if len(self.text) - self.at > LONGEST:
            raise TooLong(f"a value of more than {LONGEST >> 20} million characters")
        block = self.file.read(size or BLOCK)
        self.text, self.at = self.text[self.at :] + block, 0
        return bool(block)

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take(self, expected: str) -> str:
        """The next character, one of `wanted`."""
        char = self.peek()
        if not char or char not in expected:
            raise json.JSONDecodeError(f"Expecting '{expected[0]}' delimiter", self.text, self.at)
        self.at += 1
        return char

    def value(self) -> object:
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
            size *= 2  # should the value be longer than that

    def skip(self) -> None:
        """Pass over a value; a list or an object is never held."""
        if self.peek() not in "[{":
            self.value()
            return
        depth, size = 0, BLOCK
        while True:
            for match in _STRUCTURE.finditer(self.text, self.at):
                token = match[0]
                if token == '"':  # it ends in a block to come
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
        """The names of the object that comes next; each one's value is then to be read or skipped."""
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
    """Whether a file that begins with an object goes on with another one: an object a line."""
    text = JsonText(file)
    if text.peek() != "{":
        return False
    text.skip()
    return text.peek() == "{"


def rows_at(file: IO[str], key: str | None) -> Iterator[object]:
    """The items of the list at `key` (names that lead to it, dots between them; None: the whole file is the list).

    Raises Missing where there is none.
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
    """Go to the value of the first of `names` (or of all, where a name has dots in it); return those that are left."""
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
    """What stands where `name` or the rows were looked for."""
    kinds = {"{": "object", "[": "list", '"': "string", "t": "boolean", "f": "boolean", "n": "null", "": "nothing"}
    kind = kinds.get(text.peek(), "number")
    return Missing(kind, name, list(_lists(text, DEEPEST)) if kind == "object" else [])


def _lists(text: JsonText, depth: int) -> Iterator[str]:
    """The dotted names of the lists in the object that comes next, on at most `depth` levels."""
    for name in text.names():
        if text.peek() == "{" and depth > 1:
            yield from (f"{name}.{inner}" for inner in _lists(text, depth - 1))
            continue
        if text.peek() == "[":
            yield name
        text.skip()

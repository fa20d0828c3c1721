"""A YAML file of another system while it is translated: what was read of it, the overrides so far and what is to be
said."""

import ast
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader  # what those systems read their files with: 1e-4 is a number

from near.app.from_yaml.defaults import changes_nothing, defaults, same
from near.common import secrets
from near.common.errors import UserError, did_you_mean, one_line
from near.common.files import expanded_user, refuse_special

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")  # in quotes
PLAIN = re.compile(r"[A-Za-z_./][\w./:@+-]*", re.ASCII)
PARENTS = 6  # folders above the file in which what it names is looked for


@dataclass(frozen=True)
class Word:
    """An override: `key=text`, or `+key=text` of one that the configuration does not list."""

    key: str
    text: str
    added: bool = False

    def __str__(self) -> str:
        return f"{'+' * self.added}{self.key}={self.text}"


@dataclass
class File:
    """`values`: the file's keys. `typed`: the overrides beside it on the command line, which win."""

    path: Path
    values: dict
    typed: Sequence[str] = ()
    taken: set[str] = field(default_factory=set)
    words: list[Word] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def seed(self) -> object:
        return self.values.get("seed", 42)

    def take(self, key: str, default: object = None) -> object:
        """The file's value for `key`, which is then read; `default` where it has none."""
        self.taken.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def rename(self, old: str, new: str) -> None:
        """Take the value of an older name of `new`, before which it goes."""
        if (value := self.take(old)) is not None:
            self.values[new] = value

    def default(self, key: str) -> object:
        """What `key` is there where a file leaves it out."""
        return defaults()[key]

    def names(self, key: str) -> list[str]:
        """Names written as a list, or in one word with commas."""
        value = self.take(key, [])
        parts = value if isinstance(value, list) else str(value).split(",")
        return [str(part).strip() for part in parts if str(part).strip()]

    def number(self, key: str, default: float, least: float = 0) -> float:
        """A number; UserError for what is none, or too small."""
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            raise UserError(f"{self.path}: {key}={value} is not a number from {least} up")
        return int(value) if float(value).is_integer() else value

    def whole(self, key: str, default: int, least: float = 0) -> int:
        """A whole number; UserError for what is none, or too small."""
        value = self.number(key, default, least)
        if not isinstance(value, int):
            raise UserError(f"{self.path}: {key}={value} is not a whole number")
        return value

    def put(self, key: str, value: object, added: bool = False) -> None:
        """The override `key=value`; a second one of the same key is the last word."""
        self.words = [word for word in self.words if word.key != key]
        self.words.append(Word(key, written(value, f"{self.path}: {key}"), added))

    def skip(self, key: str, reason: str, value: object = True, quiet: tuple = ()) -> None:
        """Name `key` as not honoured, unless its value is its default there, or one of `quiet`."""
        if not changes_nothing(key, value) and not any(same(value, other) for other in quiet):
            self.skipped[key] = reason

    def name(self, key: str, reason: str) -> None:
        """Name `key` as not honoured, whatever its value."""
        self.skipped[key] = reason

    def typed_value(self, key: str) -> str | None:
        """What was typed for `key`, be it a group or an option."""
        for word in self.typed:
            name, _, value = word.lstrip("+").partition("=")
            if name == key:
                return value
        return None

    def typed_number(self, key: str) -> int | None:
        """The whole number that was typed for `key`, the largest of several; None where there is none."""
        texts = (self.typed_value(key) or "").split(",")
        numbers = [int(text) for text in texts if text.strip().isdecimal()]
        return max(numbers) if len(numbers) == len(texts) else None

    def found(self, path: str) -> str | None:
        """`path` where it is: from the current folder, else from one above the file; None where it is nowhere."""
        told = expanded_user(path, str(self.path))
        for base in (Path(), *self.path.resolve().parents[:PARENTS]):
            if (base / told).exists():
                return str(base / told)
        return None


def read(path: Path) -> dict:
    """The keys of a YAML (or JSON) file, or the keywords of DataFlex's offline selector in a Python file.

    Raises UserError for one that is not there, can't be read, or holds no keys.
    """
    refuse_special(path, "from_yaml")
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = _keywords(text) if path.suffix == ".py" else yaml.load(text, get_yaml_loader())
    except UnicodeDecodeError as error:
        raise UserError(f"from_yaml={path} is not UTF-8 ({error.reason})") from error
    except OSError as error:
        names = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        near = did_you_mean(path.name, names) if names else ""
        raise UserError(f"from_yaml={path} can't be read ({(error.strerror or 'no file').lower()}){near}") from error
    except (yaml.YAMLError, ValueError, SyntaxError) as error:
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}" if place else ""
        told = getattr(error, "problem", None) or one_line(error)
        raise UserError(f"from_yaml={path} is not YAML{where} ({told}); mend it") from error
    if not isinstance(values, dict) or not values:
        raise UserError(f"from_yaml={path} holds no keys; it should read like `model_name_or_path: NAME`")
    return {str(key): value for key, value in _number(values).items()}


def _keywords(text: str) -> dict:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith("_Selector"):
            return {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg}
    raise ValueError("no call of an offline selector")


def _number(value: object) -> Any:
    """`value` with the numbers that are written as text, on every level."""
    if isinstance(value, dict):
        return {key: _number(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_number(item) for item in value]
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value.strip()) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_secret(key: str) -> bool:
    return secrets.is_secret(key)


def written(value: object, where: str) -> str:
    """`value` as Hydra reads it on a command line; UserError for one that holds a password."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(written(item, where) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{written(str(k), where)}:{written(v, where)}' for k, v in value.items())}}}"
    text = str(value)
    if secrets.has_secret(text):
        raise UserError(f"{where} holds a password; put it into the environment, or leave it out of the address")
    if PLAIN.fullmatch(text) and text.lower() not in ("null", "true", "false", "nan", "inf") and not _is_number(text):
        return text
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # text, not a reference
    text = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), text)
    return f'"{text}"'

"""A YAML file of another system during its translation: its values, the overrides so far, and notes for the user."""

import ast
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader  # noqa: PLC2701 - the loader of those systems: 1e-4 is a number

from near.app.from_yaml.defaults import changes_nothing, defaults, same
from near.common import secrets
from near.common.errors import UserError, did_you_mean, one_line
from near.common.files import expanded_user, refuse_special

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")  # in quotes
PLAIN = re.compile(r"[A-Za-z_./][\w./:@+-]*", re.ASCII)
PARENTS = 6  # folders above the file in which its paths are searched


@dataclass(frozen=True)
class Word:
    """An override: `key=text`, or `+key=text` for a key that the configuration does not list."""

    key: str
    text: str
    added: bool = False

    def __str__(self) -> str:
        return f"{'+' * self.added}{self.key}={self.text}"


@dataclass
class File:
    """A file that is being translated.

    Attributes:
        path: of the file.
        values: its keys.
        typed: the overrides on the command line, which take precedence.
        used: the keys that were read.
        words: the overrides that the file becomes.
        notes: lines for the user about values that were translated in another way than written.
        skipped: the keys that are not honoured, with the reasons.
    """

    path: Path
    values: dict
    typed: Sequence[str] = ()
    used: set[str] = field(default_factory=set)
    words: list[Word] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def seed(self) -> object:
        return self.values.get("seed", 42)

    def take(self, key: str, default: object = None) -> object:
        """The file's value for `key`, which counts as used from now on; `default` where it has none."""
        self.used.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def rename(self, old: str, new: str) -> None:
        """Use the value of `old`, an older name of `new`, for `new`; it takes precedence."""
        if (value := self.take(old)) is not None:
            self.values[new] = value

    def default(self, key: str) -> object:
        """The other system's default of `key`."""
        return defaults()[key]

    def names(self, key: str) -> list[str]:
        """The names under `key`, written as a list or separated by commas."""
        value = self.take(key, [])
        parts = value if isinstance(value, list) else str(value).split(",")
        return [str(part).strip() for part in parts if str(part).strip()]

    def number(self, key: str, default: float, least: float = 0) -> float:
        """The number under `key`; UserError for another value, or one below `least`."""
        return self.checked(key, self.take(key, default), least)

    def checked(self, key: str, value: object, least: float = 0) -> float:
        """`value`, a number; UserError, which calls it `key`, for anything else, or one below `least`."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            raise UserError(f"{self.path}: {key}={value} is not a number >={least}; set one")
        return int(value) if float(value).is_integer() else value

    def whole(self, key: str, default: int, least: float = 0) -> int:
        """The whole number under `key`; UserError for another value, or one below `least`."""
        value = self.number(key, default, least)
        if not isinstance(value, int):
            raise UserError(f"{self.path}: {key}={value} is not a whole number; use {round(value)}")
        return value

    def mapping(self, key: str, value: object) -> dict:
        """`value`, a mapping, {} for None; UserError, which calls it `key`, for anything else."""
        if value is not None and not isinstance(value, dict):
            raise UserError(f"{self.path}: {key}={value} is not a mapping; write {key}: {{key: value}}")
        return value or {}

    def put(self, key: str, value: object, added: bool = False) -> None:
        """Add the override `key=value`, in place of an earlier one of the same key."""
        self.words = [word for word in self.words if word.key != key]
        self.words.append(Word(key, written(value, f"{self.path}: {key}"), added))

    def skip(self, key: str, reason: str, value: object = True, quiet: tuple = ()) -> None:
        """List `key` as not honoured, unless its value is the other system's default, or one of `quiet`."""
        if not changes_nothing(key, value) and not any(same(value, other) for other in quiet):
            self.skipped[key] = reason

    def skip_always(self, key: str, reason: str) -> None:
        """List `key` as not honoured, whatever its value."""
        self.skipped[key] = reason

    def typed_value(self, key: str) -> str | None:
        """The value that was typed for `key`, a group or an option; None where none was."""
        for word in self.typed:
            name, _, value = word.lstrip("+").partition("=")
            if name == key:
                return value
        return None

    def typed_number(self, key: str) -> int | None:
        """The whole number that was typed for `key`, of several the largest; None where none was."""
        texts = (self.typed_value(key) or "").split(",")
        numbers = [int(text) for text in texts if text.strip().isdecimal()]
        return max(numbers) if len(numbers) == len(texts) else None

    def locate(self, path: str) -> str | None:
        """`path`, relative to the current folder or else to one above the file; None where it exists in neither."""
        relative = expanded_user(path, str(self.path))
        for base in (Path(), *self.path.resolve().parents[:PARENTS]):
            if (base / relative).exists():
                return str(base / relative)
        return None


def read(path: Path) -> dict:
    """The keys of a YAML (or JSON) file, or the keywords of DataFlex's offline selector in a Python file.

    Raises UserError for a file that does not exist, can't be read, or has no keys.
    """
    refuse_special(path, "from_yaml")
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = _keywords(text) if path.suffix == ".py" else yaml.load(text, get_yaml_loader())
    except UnicodeDecodeError as error:
        raise UserError(f"from_yaml={path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        names = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        near = did_you_mean(path.name, names) if names else ""
        raise UserError(f"from_yaml={path} can't be read ({(error.strerror or 'no file').lower()}){near}") from error
    except (yaml.YAMLError, ValueError, SyntaxError) as error:
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}" if place else ""
        problem = getattr(error, "problem", None) or one_line(error)
        raise UserError(f"from_yaml={path} is not YAML{where} ({problem}); fix it") from error
    if not isinstance(values, dict) or not values:
        raise UserError(f"from_yaml={path} has no keys; it should look like `model_name_or_path: NAME`")
    return {str(key): value for key, value in _number(values).items()}


def _keywords(text: str) -> dict:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith("_Selector"):
            return {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg}
    raise ValueError("no call of an offline selector")


def _number(value: object) -> Any:
    """`value` with texts that are numbers as numbers, on every level."""
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


def written(value: object, where: str) -> str:
    """`value` as Hydra reads it on a command line; UserError for one that contains a password."""
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
        raise UserError(f"{where} contains a password; put it into an environment variable, or leave it out")
    if PLAIN.fullmatch(text) and text.lower() not in ("null", "true", "false", "nan", "inf") and not _is_number(text):
        return text
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # text, not a reference
    text = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), text)
    return f'"{text}"'

"""What DataFlex and LLaMA-Factory know of their own keys: every one of them, and the default it has there."""

from functools import cache
from pathlib import Path

import yaml

FILE = Path(__file__).parent / "defaults.yaml"


@cache
def groups() -> dict[str, dict[str, object]]:
    """Default by key, in the groups of the classes that declare them."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # of which C's is ten times as fast
    return yaml.load(FILE.read_text(encoding="utf-8"), loader)  # noqa: S506


@cache
def defaults() -> dict[str, object]:
    """Default by key."""
    return {key: value for keys in groups().values() for key, value in keys.items()}


def changes_nothing(key: str, value: object) -> bool:
    """Whether `value` is what `key` has anyway: its default, or nothing at all. False for an unknown key is nothing."""
    return value is None or value == "" or same(value, defaults().get(key, False))


def same(value: object, other: object) -> bool:
    """Whether two values of a YAML file mean the same: numbers as numbers, names whatever their case, [a, b] as a,b."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, int | float) and isinstance(other, int | float):
        return value == other
    return _plain(value) == _plain(other)


def _plain(value: object) -> str:
    parts = value if isinstance(value, list) else str(value).split(",")
    return ",".join(str(part).strip().lower() for part in parts)

"""The keys of DataFlex and LLaMA-Factory, each with the default that it has there."""

from functools import cache
from pathlib import Path

import yaml

FILE = Path(__file__).parent / "defaults.yaml"


def load(path: Path) -> dict:
    """The content of one of the YAML files beside this module."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times as fast
    return yaml.load(path.read_text(encoding="utf-8"), loader)  # noqa: S506


@cache
def groups() -> dict[str, dict[str, object]]:
    """The default of every key, grouped by the class that declares it."""
    return load(FILE)


@cache
def defaults() -> dict[str, object]:
    """The default of every key."""
    return {key: value for keys in groups().values() for key, value in keys.items()}


def changes_nothing(key: str, value: object) -> bool:
    """Whether `value` is the default of `key`, or empty. For an unknown key, False counts as the default."""
    return value is None or value == "" or same(value, defaults().get(key, False))


def same(value: object, other: object) -> bool:
    """Whether two values of a YAML file mean the same: 3 and 3.0, names in any case, [a, b] and a,b."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, int | float) and isinstance(other, int | float):
        return value == other
    return _plain(value) == _plain(other)


def _plain(value: object) -> str:
    parts = value if isinstance(value, list) else str(value).split(",")
    return ",".join(str(part).strip().lower() for part in parts)

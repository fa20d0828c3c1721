"""The keys of DataFlex's and LLaMA-Factory's YAML files, and what becomes of each: the tables of keys.yaml."""

from dataclasses import dataclass
from pathlib import Path

from near.app.from_yaml.defaults import defaults, groups, load


@dataclass(frozen=True)
class Key:
    """What becomes of a key: one of the first three is set.

    Attributes:
        becomes: the option that it is translated into.
        needless: why it needs nothing here.
        reason: why it is not honoured.
        quiet: values with which a key that is not honoured asks for what happens anyway.
    """

    becomes: str = ""
    needless: str = ""
    reason: str = ""
    quiet: tuple = ()


def _keys(table: dict[str, dict]) -> dict[str, Key]:
    quiet = table.get("same here", {})
    keys = {key: Key(becomes=str(option)) for key, option in table.get("becomes", {}).items()}
    keys |= {key: Key(needless=why) for key, why in _by_key(table.get("needless", {})).items()}
    not_honoured = _by_key(table.get("not honoured", {}))
    return keys | {key: Key(reason=why, quiet=tuple(quiet.get(key, ()))) for key, why in not_honoured.items()}


def _by_key(reasons: dict[str, list[str]]) -> dict[str, str]:
    return {key: why for why, keys in reasons.items() for key in keys}


KINDS = ("selectors", "weighters", "mixers", "reorders", "pipelines")
TABLES = load(Path(__file__).parent / "keys.yaml")
TRAIN, MERGE, OFFLINE = (_keys(TABLES[name]) for name in ("train", "merge", "offline"))
COMPONENTS: dict[str, dict[str, dict[str, Key]]] = {
    kind: {name: _keys(table) for name, table in TABLES[kind].items()} for kind in KINDS
}
TEXT, MULTIMODAL = (TABLES["templates"][kind].split() for kind in ("text", "multimodal"))
FAMILIES: dict[str, str] = _by_key(TABLES["families"])
MEGATRON = "an option of Megatron; parallel decides how processes share the model"


def family(key: str) -> str | None:
    """Why an option of a feature that near does not have is not honoured; None for any other key."""
    if key in groups()["megatron"]:
        return MEGATRON
    return next((why for start, why in FAMILIES.items() if key.startswith(start)), None) if key in defaults() else None

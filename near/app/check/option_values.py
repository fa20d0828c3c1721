"""Whether the values of a configuration's options are of the right type, in bounds and finite."""

import importlib
import math
from collections.abc import Iterator

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError

from near.app.check.option_types import (
    BASE,
    HYDRA_KEYS,
    NUMBERS,
    PLAIN,
    RUNTIME,
    Type,
    below,
    options,
    plain,
    script_of,
)
from near.common.bounds import LARGEST
from near.common.config import is_refused, select
from near.common.errors import did_you_mean

MOST_SHOWN = 12  # choices that a message lists; of more it names near misses


class ShapeFault(str):
    """A fault after which no other check makes sense: a group that is missing, or is not a group."""


def type_faults(cfg: DictConfig) -> list[str]:
    """Faults of values of the wrong type, out of bounds or not finite, and of missing options.

    It changes `cfg`: whole numbers written as 1e3 become integers, and numbers where a text belongs become texts.
    """
    return list(_node_faults(cfg, "", script_of(cfg)))


def _node_faults(node: DictConfig, path: str, target: object) -> Iterator[str]:
    """Faults of a mapping's options, typed by `target`'s keywords."""
    known = options(target, path)
    for key in list(node):
        raw = node._get_node(key)
        if key in HYDRA_KEYS or raw._is_missing() or key in RUNTIME.get(path, ()):
            continue
        if is_refused(raw._value()):  # in a run's config.yaml: it raises where it is read
            continue
        if raw._is_interpolation():
            try:
                if node[key] is None:  # a group that near/app/check/modes.py checks
                    continue
            except InterpolationToMissingValueError:  # the check reports the missing option
                continue
        yield from _value_faults(node, key, below(path, key), known.get(key, plain("any")))
    for name, expected in known.items():
        if expected.required and node._get_node(name) is None and target != BASE:
            full = below(path, name)
            yield ShapeFault(f"{full} is missing; set {full}=..., or leave ~{full} out of the command")


def _value_faults(node: DictConfig | ListConfig, key: str | int, full: str, expected: Type) -> Iterator[str]:
    raw = node._get_node(key)
    if is_refused(raw._value()):
        return
    value = (
        node[key] if raw._is_interpolation() or raw._is_none() else raw if OmegaConf.is_config(raw) else raw._value()
    )
    names = expected.names
    if isinstance(value, DictConfig) and names & {"dict", "group", "any"}:
        yield from _mapping_faults(value, full, expected)
    elif isinstance(value, ListConfig) and names & {"list", "any"}:
        for i in range(len(value)):
            yield from _value_faults(value, i, full, expected.element or plain("any"))
    elif isinstance(value, DictConfig | ListConfig):
        yield _wrong_type(full, value, expected)
    elif any(choice == value and isinstance(choice, bool) == isinstance(value, bool) for choice in expected.choices):
        if isinstance(value, float) and value.is_integer():
            node[key] = next(choice for choice in expected.choices if choice == value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number_faults(node, key, full, expected)
    elif not names & {"None" if value is None else type(value).__name__, "any"}:
        yield _wrong_type(full, value, expected)
    elif isinstance(value, str) and "str" in names:
        yield from _text_faults(value, full, expected)


def _mapping_faults(value: DictConfig, full: str, expected: Type) -> Iterator[str]:
    target = select(value, "_target_") if "_target_" in value else expected.fields
    if target is None and "group" in expected.names and not expected.names & {"any", "dict", "str"} and len(value):
        key = f"{full}._target_"
        yield ShapeFault(f"{key} is missing; set {key}=..., or leave ~{key} out of the command")
    elif target is not None or expected.element is None:
        yield from _node_faults(value, full, target)
    else:
        for key in value:
            yield from _value_faults(value, key, f"{full}.{key}", expected.element)


def _number_faults(node: DictConfig | ListConfig, key: str | int, full: str, expected: Type) -> Iterator[str]:
    value, names = node[key], expected.names
    if not names & {*NUMBERS, "any"}:
        if "str" in names and isinstance(value, int):
            node[key] = str(value)  # a folder may be named 2024
        else:
            yield _wrong_type(full, value, expected)
        return
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{full}={value} is not a finite number; use one"
        return
    whole = "int" in names and ("float" not in names or value > 1)  # int | float: a number of rows, or a share of them
    if whole and isinstance(value, float):
        if not value.is_integer():
            yield f"{full}={value} is not a whole number; use {full}={round(value)}"
            return
        node[key] = value = int(value)  # 1e3
    faults = [bounds.fault(value) for name, bounds in expected.bounds if name == ("int" if whole else "float")]
    if not faults and abs(value) > LARGEST:
        faults = [("too large", f"<={LARGEST:g}")]
    if faults and all(faults):
        yield f"{full}={value} is {faults[0][0]}; use {full}{faults[0][1]}"


def _text_faults(value: str, full: str, expected: Type) -> Iterator[str]:
    if not value and not expected.may_be_empty:
        yield f"{full}='' is not a path or name; give one"
    elif expected.key_of is not None:
        module, _, name = expected.key_of.rpartition(".")
        known = getattr(importlib.import_module(module), name)
        if value not in known:
            yield f"{full}={value} is not known{did_you_mean(value, known)}"


def _wrong_type(full: str, value: object, expected: Type) -> str:
    """The fault of a value of another type."""
    line = f"{full}={value} {_mismatch(full, value, expected)}"
    return ShapeFault(line) if expected.names & {"group", "dict"} else line


def _mismatch(full: str, value: object, expected: Type) -> str:
    names, words = expected.names, [str(choice) for choice in expected.choices]
    if words and not names & (PLAIN | {"list", "dict"}):
        if len(words) <= MOST_SHOWN:
            return f"is not one of {', '.join(words)}"
        return f"is not known{did_you_mean(str(value), words)}"
    if names & NUMBERS.keys():
        return f"is not a {'' if 'float' in names else 'whole '}number" + (
            f" or {', '.join(words)}; use one" if words else "; use one"
        )
    if names >= {"str", "list", "dict"}:
        return "is not a path, a list of paths or {label: path}; give one of them"
    if "str" in names:
        kind = "text" if expected.may_be_empty else "path or name"
        return f"is not a {kind}; " + (f"a list is {full}=[a,b]" if "list" in names else "give one")
    if "bool" in names:
        return "is not true or false" + (f" or {', '.join(words)}" if words else "")
    if "list" in names:
        return f"is not a list; write it like {full}=[{value}]"
    if "group" in names and not (expected.fields and "None" in names):
        return "is not a group of options; set the options below it"
    return "is not a mapping; write it like {name: value}"

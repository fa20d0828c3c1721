"""The types of a configuration's options: read from the signatures of its classes, and from
near/app/check/allowed.py."""

import ast
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import DictConfig, ListConfig, OmegaConf

from near.app.check import allowed
from near.common.config import is_refused, select
from near.common.errors import UserError, did_you_mean
from near.common.signature import Parameter, definition, is_typed_dict, parameters

HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}
MOST_SHOWN = 12  # choices that a message lists; of more only the near misses
LARGEST = 1e15  # of numbers that nothing here types: options of other projects' classes, of DeepSpeed, of vLLM
LIBRARIES = ("near", "transformers", "peft")  # whose annotations are kept to; any other class decides itself
PLAIN = {"int", "float", "bool", "str"}
LISTS = {"list", "List", "tuple", "Tuple", "Sequence", "set"}
MAPPINGS = {"dict", "Dict", "Mapping", "TypedDict", "Group"}


class ShapeFault(str):
    """A fault with which nothing else can be said of a configuration: a group that is gone or none."""


@dataclass(frozen=True)
class Type:
    """A union. `names`: of int, float, bool, str, None, list, dict, group, any; `choices`: literal values; `element`:
    of a list's or mapping's values; `fields`: the target whose keywords a mapping has."""

    names: frozenset[str] = frozenset()
    choices: tuple = ()
    element: "Type | None" = None
    fields: str | None = None

    def __or__(self, other: "Type") -> "Type":
        element, fields = self.element or other.element, self.fields or other.fields
        return Type(self.names | other.names, self.choices + other.choices, element, fields)


ANY = Type(frozenset({"any"}))


def type_faults(cfg: DictConfig) -> list[str]:
    """Values of the wrong type, out of bounds or not finite, and options that are gone; whole numbers written as 1e3
    become such, and texts that YAML reads as numbers become texts again."""
    return list(_node_faults(cfg, "", script_of(cfg)))


def script_of(cfg: DictConfig) -> str:
    """The declaration of the script whose configuration this is; of none where it is only a part of one."""
    known = {name: set(parameters(f"near.app.check.allowed.{name}")[0]) for name in allowed.SCRIPTS}
    name = max(known, key=lambda name: len(known[name] & set(cfg)) - len(set(cfg) - known[name]))
    return f"near.app.check.allowed.{name if len(known[name] & set(cfg)) > len(known[name]) / 2 else 'Base'}"


def _node_faults(node: DictConfig, path: str, target: str | None) -> Iterator[str]:
    """Faults of a mapping's options, typed by `target`'s keywords."""
    known = _parameters(target) | _parameters(allowed.CARRIED.get(path))
    for key in list(node):
        full = f"{path}.{key}" if path else str(key)
        raw = node._get_node(key)
        if key in HYDRA_KEYS or raw._is_missing() or key in allowed.RUNTIME.get(path, ()):
            continue
        if is_refused(raw._value()):  # of a folder's configuration: it raises where it is read
            continue
        if raw._is_interpolation() and node[key] is None:  # a group that near/app/check/modes.py asks for
            continue
        wanted = _type_of(known[key], not str(target).startswith("near.")) if key in known else ANY
        yield from _value_faults(node, key, full, wanted, known.get(key))
    if isinstance(target, str) and target.startswith("near.") and not target.startswith("near.app.check.allowed.Base"):
        yield from _gone(node, path, known)


def _gone(node: DictConfig, path: str, known: dict[str, Parameter]) -> Iterator[str]:
    for name, parameter in known.items():
        full = f"{path}.{name}" if path else name
        if parameter.default is None and name not in node and name not in allowed.RUNTIME.get(path, ()):
            yield ShapeFault(f"{full} is missing; set {full}=..., or leave ~{full} out of the command")


def _parameters(target: str | None) -> dict[str, Parameter]:
    """The typed keywords of a class; none where it decides itself, or can't be loaded (which is said elsewhere)."""
    if not isinstance(target, str) or target.partition(".")[0] not in LIBRARIES:
        return {}
    try:
        return parameters(target)[0]
    except UserError:
        return {}


@functools.cache
def _type_of(parameter: Parameter, foreign: bool) -> Type:
    if parameter.annotation is None:
        value = parameter.default.value if isinstance(parameter.default, ast.Constant) else None
        wanted = Type(frozenset({type(value).__name__ if value is not None else "any"}))
    else:
        wanted = _read(parameter.annotation, parameter.module)
    if foreign and wanted.choices:  # such as peft's pissa_niter_[number of iters]
        wanted |= Type(frozenset({"str"}))
    if isinstance(parameter.default, ast.Constant) and parameter.default.value is None:
        wanted |= Type(frozenset({"None"}))
    return wanted


def _read(node: ast.expr, module: str) -> Type:
    """The type that an annotation names, as `module` knows its names."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _read(ast.parse(node.value, mode="eval").body, module)
        return Type(frozenset({"None"}))
    if isinstance(node, ast.BinOp):
        return _read(node.left, module) | _read(node.right, module)
    if isinstance(node, ast.Subscript):
        name, inner = ast.unparse(node.value).rpartition(".")[2], node.slice
        parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        if name == "Literal":
            return Type(choices=tuple(part.value for part in parts))
        if name in ("Optional", "Union"):
            found = functools.reduce(Type.__or__, (_read(part, module) for part in parts))
            return found | Type(frozenset({"None"})) if name == "Optional" else found
        if name in ("Annotated", "NotRequired", "Required"):
            return _read(parts[0], module)
        if name in LISTS | MAPPINGS:
            return Type(frozenset({"list" if name in LISTS else "dict"}), element=_read(parts[-1], module))
    return _named(ast.unparse(node), module)


def _named(name: str, module: str) -> Type:
    last = name.rpartition(".")[2]
    if last in PLAIN or last in LISTS | MAPPINGS:
        kind = last if last in PLAIN else "list" if last in LISTS else "group" if last == "Group" else "dict"
        return Type(frozenset({kind}))
    if last in ("Any", "object"):
        return Type(frozenset({"any"}))
    if last in ("Path", "PathLike", "dtype"):
        return Type(frozenset({"str"}))
    found = definition(module, name)
    if found is not None and isinstance(found[1], ast.Assign):
        return _read(found[1].value, found[0])
    if found is not None and is_typed_dict(*found):
        return Type(frozenset({"group"}), fields=f"{found[0]}.{last}")
    if module.partition(".")[0] == "near":  # a class, instantiated from its options
        return Type(frozenset({"group"}))
    return Type(frozenset({"group", "str"}))  # or an enumeration


def _value_faults(
    node: DictConfig | ListConfig, key: str | int, full: str, wanted: Type, parameter: Parameter | None = None
) -> Iterator[str]:
    raw = node._get_node(key)
    if is_refused(raw._value()):
        return
    value = (
        node[key] if raw._is_interpolation() or raw._is_none() else raw if OmegaConf.is_config(raw) else raw._value()
    )
    names, words = wanted.names, [c for c in wanted.choices if isinstance(c, str)]
    if isinstance(value, DictConfig):
        if names & {"dict", "group", "any"}:
            yield from _mapping_faults(value, full, wanted)
        else:
            yield _not_so(full, value, wanted)
    elif isinstance(value, ListConfig):
        if not names & {"list", "any"}:
            yield _not_so(full, value, wanted)
        else:
            for i in range(len(value)):
                yield from _value_faults(value, i, full, wanted.element or ANY)
    elif value is None:
        if not names & {"None", "any"}:
            yield _not_so(full, value, wanted)
    elif isinstance(value, bool):
        if not names & {"bool", "any"} and not any(c is value for c in wanted.choices):
            yield _not_so(full, value, wanted)
    elif isinstance(value, int | float):
        yield from _number_faults(node, key, full, wanted, parameter)
    elif isinstance(value, str):
        leaf = full.rpartition(".")[2]
        if words and "str" not in names:
            if value not in words:
                yield _not_so(full, value, wanted)
        elif not names & {"str", "any"}:
            yield _not_so(full, value, wanted)
        elif not value and "str" in names and _ours(parameter) and leaf not in allowed.MAY_BE_EMPTY:
            yield f"{full}='' is not a path or name"
        elif leaf in allowed.NAMES and _ours(parameter) and value not in allowed.NAMES[leaf]:
            yield f"{full}={value} is not known{did_you_mean(value, allowed.NAMES[leaf])}"


def _ours(parameter: Parameter | None) -> bool:
    return parameter is not None and parameter.module.startswith("near.")


def _mapping_faults(value: DictConfig, full: str, wanted: Type) -> Iterator[str]:
    target = select(value, "_target_") if "_target_" in value else wanted.fields
    if target is None and "group" in wanted.names and not wanted.names & {"any", "dict", "str"} and len(value):
        key = f"{full}._target_"
        yield ShapeFault(f"{key} is missing; set {key}=..., or leave ~{key} out of the command")
    elif target is not None or wanted.element is None:
        yield from _node_faults(value, full, target)
    else:
        for key in value:
            yield from _value_faults(value, key, f"{full}.{key}", wanted.element)


def _number_faults(
    node: DictConfig | ListConfig, key: str | int, full: str, wanted: Type, parameter: Parameter | None
) -> Iterator[str]:
    value, names = node[key], wanted.names
    if full in allowed.FRACTIONS:
        names = frozenset({"float"})
    if not names & {"int", "float", "any"}:
        if "str" in names and isinstance(value, int):
            node[key] = str(value)  # a folder may be named 2024
            return
        yield _not_so(full, value, wanted)
        return
    if not math.isfinite(value):
        yield f"{full}={value} is not a finite number"
        return
    if "any" in names:
        if abs(value) > LARGEST:
            yield f"{full}={value} is too large; use {full}<={LARGEST:g}"
        return
    whole = "float" not in names or "int" in names and value > 1  # int | float: a number of rows, or a share of them
    if whole and isinstance(value, float):
        if not value.is_integer():
            yield f"{full}={value} is not a whole number"
            return
        node[key] = value = int(value)  # 1e3
    least, most = bounds(full, "float" not in names, parameter)
    if value < least:
        yield f"{full}={value} is too small; use {full}>={least}"
    elif value > most:
        yield (
            f"{full}={value} is too large; use {full}<={most:g}"
            if most >= 1e9
            else (f"{full}={value} is too large; use {full}<={most}")
        )


def bounds(full: str, whole: bool, parameter: Parameter | None) -> tuple[float, float]:
    """The least and the largest value of option `full`."""
    parts = full.split(".")
    ends = (".".join(parts[i:]) for i in range(len(parts)))
    if (end := next((end for end in ends if end in allowed.BOUNDS), None)) is not None:
        return allowed.BOUNDS[end]
    least, default = (1 if whole else 0), parameter.default if parameter else None
    with_sign = isinstance(default, ast.UnaryOp) and isinstance(default.op, ast.USub)
    value = -default.operand.value if with_sign else default.value if isinstance(default, ast.Constant) else None
    if isinstance(value, int | float):
        least = min(least, value)
    return least, 1_000_000_000


def _not_so(full: str, value: object, wanted: Type) -> str:
    """The line for a value of another type."""
    line = _wanted(full, value, wanted)
    return ShapeFault(line) if wanted.names & {"group", "dict"} else line


def _wanted(full: str, value: object, wanted: Type) -> str:
    names, words = wanted.names, [str(c) for c in wanted.choices]
    if words and not names & (PLAIN | {"list", "dict"}):
        if len(words) <= MOST_SHOWN:
            return f"{full}={value} is not one of {', '.join(words)}"
        return f"{full}={value} is not known{did_you_mean(str(value), words)}"
    if names & {"int", "float"}:
        return f"{full}={value} is not a {'' if 'float' in names else 'whole '}number"
    if names >= {"str", "list", "dict"}:
        return f"{full}={value} is not a path, a list of paths or {{label: path}}"
    if "str" in names:
        kind = "text" if full.rpartition(".")[2] in allowed.MAY_BE_EMPTY else "path or name"
        return f"{full}={value} is not a {kind}" + ("" if "list" not in names else f"; a list is {full}=[a,b]")
    if "bool" in names:
        return f"{full}={value} is not true or false"
    if "list" in names:
        return f"{full}={value} is not a list; write it like {full}=[{value}]"
    if "group" in names and wanted.fields != "near.app.check.allowed.Columns":
        return f"{full}={value} is not a group of options; set the options below it"
    return f"{full}={value} is not a mapping; write it like {{name: value}}"

"""The types, bounds and choices of options, read from the signatures of the classes that have them.

Options that belong to no class are declared as TypedDicts in the package that reads them; the tables below list these.
All is read from source (near/common/signature.py), so that nothing heavy is imported.
"""

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from omegaconf import DictConfig

from near.common.bounds import BILLION, MARKERS, Bounds, KeyOf, MayBeEmpty
from near.common.errors import UserError
from near.common.signature import Parameter, alias_of, bases, constant, definition, is_typed_dict, parameters

SCRIPTS = {  # the declarations of the options at the top of a script's configuration
    "select": "near.selection.options.Select",
    "train": "near.training.options.Train",
    "merge": "near.export.options.Merge",
    "eval": "near.evaluation.options.Eval",
    "report": "near.report.options.Report",
    "verify": "near.selection.options.Verify",
    "diff": "near.report.options.Diff",
}

BASE = "near.common.options.Base"  # of the options of every script

CARRIED = {"trainer": "near.training.options.Carried"}  # options of a group beside those of its class

# bounds of another library's options, for the class of a group
BOUNDED = {"trainer.args": "near.training.options.ArgumentBounds", "finetuning": "near.training.options.AdapterBounds"}

RUNTIME = {"embedder": ("cache_dir",), "trainer": ("model", "job")}  # keywords that the program sets

HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}

FOREIGN = ("transformers", "peft")  # libraries whose annotations count as well

NUMBERS = {"int": 1, "float": 0}  # the least value without bounds

PLAIN = {*NUMBERS, "bool", "str"}

LISTS = {"list", "List", "tuple", "Tuple", "Sequence", "set"}

MAPPINGS = {"dict", "Dict", "Mapping", "TypedDict", "Group"}


@dataclass(frozen=True)
class Type:
    """A union of the values that an option accepts.

    Attributes:
        names: of int, float, bool, str, None, list, dict, group and any.
        choices: literal values.
        bounds: of "int" and "float"; of several for one of them, a value has to satisfy one.
        element: of a list's or mapping's values.
        fields: the class whose keywords are the keys of a mapping.
        key_of: the dotted path of a mapping, of which a text has to be a key.
        may_be_empty: whether a text may be empty.
        required: whether the option has to be present.
    """

    names: frozenset[str] = frozenset()
    choices: tuple = ()
    bounds: tuple[tuple[str, Bounds], ...] = ()
    element: "Type | None" = None
    fields: str | None = None
    key_of: str | None = None
    may_be_empty: bool = False
    required: bool = False

    def __or__(self, other: "Type") -> "Type":
        return Type(
            self.names | other.names,
            self.choices + other.choices,
            self.bounds + other.bounds,
            self.element or other.element,
            self.fields or other.fields,
            self.key_of or other.key_of,
            self.may_be_empty or other.may_be_empty,
        )


def plain(*names: str) -> Type:
    return Type(frozenset(names))


def script_of(cfg: DictConfig) -> str:
    """The declaration of this script's options; BASE for a part of a configuration."""
    known = {target: set(parameters(target)[0]) for target in SCRIPTS.values()}
    target = max(known, key=lambda name: len(known[name] & set(cfg)) - len(set(cfg) - known[name]))
    return target if len(known[target] & set(cfg)) > len(known[target]) / 2 else BASE


@functools.cache
def options(target: object, path: str = "") -> dict[str, Type]:
    """The type of every keyword of the class `target` in the group `path`.

    All annotations count of near's classes and of classes that inherit from them. Of other projects' classes, only
    options with bounds count, and none of classes that can't be loaded: the code that loads them reports that.
    """
    known = dict(_parameters(target))
    for name, parameter in _parameters(BOUNDED.get(path)).items():
        if name in known:
            known[name] = parameter._replace(default=known[name].default)
    types = {name: type_of(parameter) for name, parameter in (known | _parameters(CARRIED.get(path))).items()}
    if not _counts(target):
        types = {name: kind for name, kind in types.items() if kind.bounds or kind.key_of}
    return {name: kind for name, kind in types.items() if name not in RUNTIME.get(path, ())}


def _parameters(target: object) -> dict[str, Parameter]:
    try:
        return parameters(target)[0] if isinstance(target, str) else {}
    except UserError:
        return {}


def _counts(target: object) -> bool:
    """Whether all annotations of a class count."""
    modules = [target, *bases(target)] if isinstance(target, str) else []
    return target is None or any(module.partition(".")[0] in ("near", *FOREIGN) for module in modules)


def below(path: str, key: object) -> str:
    """The dotted name of option `key` of the group `path`; "" is the top."""
    return f"{path}.{key}" if path else str(key)


def typed(node: dict, path: str = "", target: object = None) -> Iterator[tuple[str, Type]]:
    """Dotted names and types of all options of a class, and of the options below them.

    Args:
        node: the options as they are written.
        path: the dotted name of the group.
        target: the class; by default `_target_` of the node.
    """
    known = options(target or node.get("_target_"), path)
    for key in {**known, **node}:
        full, child = below(path, key), node.get(key)
        if key in known:
            yield full, known[key]
        child, fields = child if isinstance(child, dict) else {}, known[key].fields if key in known else None
        if child or fields:
            yield from typed(child, full, child.get("_target_", fields))


@functools.cache
def type_of(parameter: Parameter) -> Type:
    """The type of a keyword; numbers of near's classes and of those of FOREIGN get default bounds."""
    room = parameter.module.partition(".")[0]
    try:
        default = None if parameter.default is None else constant(parameter.default, parameter.module)
    except ValueError:  # it is computed
        default = ...
    if parameter.annotation is not None:
        kind = _read(parameter.annotation, parameter.module)
    else:
        kind = plain("any" if default is None or default is ... else type(default).__name__)
    if room in FOREIGN:  # it accepts more than its annotation lists, such as peft's pissa_niter_[number of iters]
        kind = replace(kind | (plain("str") if kind.choices else Type()), may_be_empty=True)
    if default is None and parameter.default is not None:
        kind |= plain("None")
    if room in ("near", *FOREIGN):
        kind = _bounded(kind, default)
    return replace(kind, required=parameter.default is None and room not in FOREIGN)


def _bounded(kind: Type, default: object = None) -> Type:
    """`kind` with default bounds for numbers that have none; a lower default lowers the bound."""
    missing = {name: NUMBERS[name] for name in sorted(kind.names & NUMBERS.keys() - dict(kind.bounds).keys())}
    if isinstance(default, int | float):
        missing = {name: min(least, default) for name, least in missing.items()}
    bounds = tuple((name, Bounds(least, BILLION)) for name, least in missing.items())
    return replace(kind, bounds=kind.bounds + bounds, element=kind.element and _bounded(kind.element))


def _read(node: ast.expr, module: str) -> Type:
    """The type that an annotation stands for, its names looked up in `module`."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _read(ast.parse(node.value, mode="eval").body, module)
        return plain("None")
    if isinstance(node, ast.BinOp):
        return _read(node.left, module) | _read(node.right, module)
    if isinstance(node, ast.Subscript):
        name, inner = ast.unparse(node.value).rpartition(".")[2], node.slice
        parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        if name == "Literal":
            return _choices(parts, module)
        if name in ("Optional", "Union"):
            kind = functools.reduce(Type.__or__, (_read(part, module) for part in parts))
            return kind | plain("None") if name == "Optional" else kind
        if name in ("Annotated", "NotRequired", "Required", "Final"):
            kind = _read(parts[0], module)
            for part in parts[1:]:
                kind = _marked(kind, part, module)
            return kind
        if name in LISTS | MAPPINGS:
            parts = [part for part in parts if ast.unparse(part) != "..."]
            return Type(frozenset({"list" if name in LISTS else "dict"}), element=_read(parts[-1], module))
    return _named(ast.unparse(node), module)


def _choices(parts: list[ast.expr], module: str) -> Type:
    try:
        values = [constant(part, module) for part in parts]
    except ValueError:  # of an enumeration
        return plain("any")
    return Type(frozenset({"None"} if None in values else ()), tuple(value for value in values if value is not None))


def _marked(kind: Type, node: ast.expr, module: str) -> Type:
    """`kind` with what a part of Annotated[...] adds. UserError for a bound that can't be read, or that bounds no
    number."""
    place = f"{module}: {ast.unparse(node)}"
    module, call = _followed(node, module)
    of, function = _followed(getattr(call, "func", call), module)
    name = getattr(function, "name", ast.unparse(function).rpartition(".")[2])
    if name not in MARKERS or isinstance(function, ast.FunctionDef) and of != MARKERS[name].__module__:
        return kind
    try:
        if not isinstance(call, ast.Call):
            raise TypeError("it is not called")
        words = {word.arg: constant(word.value, module) for word in call.keywords}
        mark = MARKERS[name](*(constant(argument, module) for argument in call.args), **words)
    except (ValueError, TypeError) as error:
        raise UserError(f"{place} can't be read: {error}; write numbers") from error
    if isinstance(mark, KeyOf):
        return replace(kind, key_of=mark.mapping)
    if isinstance(mark, MayBeEmpty):
        return replace(kind, may_be_empty=True)
    numbers = sorted(kind.names & NUMBERS.keys())
    if not numbers:
        raise UserError(f"{place} bounds no number; bound the elements of a list or mapping")
    earlier = [(name, bounds & mark) for name, bounds in kind.bounds]
    return replace(kind, bounds=(*earlier, *((name, mark) for name in numbers if name not in dict(earlier))))


def _followed(node: ast.AST, module: str) -> tuple[str, ast.AST]:
    """The node that a name refers to, with its module, as far as it can be read."""
    while isinstance(node, ast.Name | ast.Attribute) and (at := definition(module, ast.unparse(node))) is not None:
        module, node = at[0], alias_of(at[1]) or at[1]
    return module, node


def _named(name: str, module: str) -> Type:
    last = name.rpartition(".")[2]
    if last == "NoneType":  # of an imported class
        return plain("None")
    if last in PLAIN:
        return plain(last)
    if last in LISTS | MAPPINGS:
        return plain("list" if last in LISTS else "group" if last == "Group" else "dict")
    if last in ("Any", "object"):
        return plain("any")
    if last in ("Path", "PathLike", "dtype"):
        return plain("str")
    at = definition(module, name) or definition(name.rpartition(".")[0], last)  # of an imported class a name is dotted
    if at is not None and (value := alias_of(at[1])) is not None:
        return _read(value, at[0])
    if at is not None and isinstance(at[1], ast.ClassDef) and is_typed_dict(*at):
        return Type(frozenset({"group"}), fields=f"{at[0]}.{at[1].name}")
    if module.partition(".")[0] == "near":  # a class, instantiated from its options
        return plain("group")
    return plain("group", "str")  # or an enumeration

"""The types, bounds and choices of options, read from the signatures of the classes that have them.

Options that no class of ours has are declared as TypedDicts in the room that reads them; the tables below say where.
Everything is read from source (near/common/signature.py), so that nothing heavy is imported.
"""

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from omegaconf import DictConfig

from near.common.bounds import BILLION, MARKERS, Bounds, KeyOf, MayBeEmpty
from near.common.errors import UserError
from near.common.signature import Parameter, alias_of, bases, constant, definition, is_typed_dict, parameters

SCRIPTS = {  # where the options at the top of a script's configuration are declared
    "select": "near.selection.options.Select",
    "train": "near.training.options.Train",
    "merge": "near.export.options.Merge",
    "eval": "near.evaluation.options.Eval",
    "report": "near.report.options.Report",
}

BASE = "near.common.options.Base"  # those of every script

CARRIED = {"trainer": "near.training.options.Carried"}  # options of a group beside those of its class

# bounds of another library's options, for the class of a group
BOUNDED = {"trainer.args": "near.training.options.ArgumentBounds", "finetuning": "near.training.options.AdapterBounds"}

RUNTIME = {"embedder": ("cache_dir",), "trainer": ("model", "job")}  # keywords that the program hands over

HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}

FOREIGN = ("transformers", "peft")  # libraries whose annotations count as well

NUMBERS = {"int": 1, "float": 0}  # the least value without bounds

PLAIN = {*NUMBERS, "bool", "str"}

LISTS = {"list", "List", "tuple", "Tuple", "Sequence", "set"}

MAPPINGS = {"dict", "Dict", "Mapping", "TypedDict", "Group"}


@dataclass(frozen=True)
class Type:
    """A union of what an option may be.

    Attributes:
        names: of int, float, bool, str, None, list, dict, group and any.
        choices: literal values.
        bounds: of "int" and "float"; of several for one of them, one has to hold.
        element: of a list's or mapping's values.
        fields: the class whose keywords a mapping has.
        key_of: the mapping that has a text as its key.
        may_be_empty: whether a text may.
        required: whether the option has to be there.
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
    """Where the options of this script's configuration are declared; BASE for a part of one."""
    known = {target: set(parameters(target)[0]) for target in SCRIPTS.values()}
    target = max(known, key=lambda name: len(known[name] & set(cfg)) - len(set(cfg) - known[name]))
    return target if len(known[target] & set(cfg)) > len(known[target]) / 2 else BASE


@functools.cache
def options(target: object, path: str = "") -> dict[str, Type]:
    """The type of every keyword of the class `target` in the group `path`.

    Of classes of other projects those count that inherit from one of ours, and options with bounds; all others decide
    themselves, which includes classes that can't be loaded: whoever loads them says so.
    """
    known = dict(_parameters(target))
    for name, parameter in _parameters(BOUNDED.get(path)).items():
        if name in known:
            known[name] = parameter._replace(default=known[name].default)
    types = {name: _type_of(parameter) for name, parameter in (known | _parameters(CARRIED.get(path))).items()}
    if not _counts(target):
        types = {name: found for name, found in types.items() if found.bounds or found.key_of}
    return {name: found for name, found in types.items() if name not in RUNTIME.get(path, ())}


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
    """Dotted names and types of all options of the class `target`, which stands at `path`, and of those below `node`,
    its options as they are written."""
    known = options(target or node.get("_target_"), path)
    for key in {**known, **node}:
        full, child = below(path, key), node.get(key)
        if key in known:
            yield full, known[key]
        child, fields = child if isinstance(child, dict) else {}, known[key].fields if key in known else None
        if child or fields:
            yield from typed(child, full, child.get("_target_", fields))


@functools.cache
def _type_of(parameter: Parameter) -> Type:
    """The type of a keyword, with the bounds that numbers of our own classes and those of FOREIGN have anyway."""
    room = parameter.module.partition(".")[0]
    try:
        default = None if parameter.default is None else constant(parameter.default, parameter.module)
    except ValueError:  # it is computed
        default = ...
    if parameter.annotation is not None:
        wanted = _read(parameter.annotation, parameter.module)
    else:
        wanted = plain("any" if default is None or default is ... else type(default).__name__)
    if room in FOREIGN:  # a text may be more than its annotation says, such as peft's pissa_niter_[number of iters]
        wanted = replace(wanted | (plain("str") if wanted.choices else Type()), may_be_empty=True)
    if default is None and parameter.default is not None:
        wanted |= plain("None")
    if room in ("near", *FOREIGN):
        wanted = _bounded(wanted, default)
    return replace(wanted, required=parameter.default is None and room not in FOREIGN)


def _bounded(wanted: Type, default: object = None) -> Type:
    """Bounds for the numbers that have none; they reach down to a default that is lower."""
    missing = {name: NUMBERS[name] for name in sorted(wanted.names & NUMBERS.keys() - dict(wanted.bounds).keys())}
    if isinstance(default, int | float):
        missing = {name: min(least, default) for name, least in missing.items()}
    bounds = tuple((name, Bounds(least, BILLION)) for name, least in missing.items())
    return replace(wanted, bounds=wanted.bounds + bounds, element=wanted.element and _bounded(wanted.element))


def _read(node: ast.expr, module: str) -> Type:
    """The type that an annotation names, as `module` knows its names."""
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
            wanted = functools.reduce(Type.__or__, (_read(part, module) for part in parts))
            return wanted | plain("None") if name == "Optional" else wanted
        if name in ("Annotated", "NotRequired", "Required", "Final"):
            wanted = _read(parts[0], module)
            for part in parts[1:]:
                wanted = _marked(wanted, part, module)
            return wanted
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


def _marked(wanted: Type, node: ast.expr, module: str) -> Type:
    """`wanted` with what a part of Annotated[...] adds. UserError where a bound can't be read, or bounds no number."""
    place = f"{module}: {ast.unparse(node)}"
    module, call = _followed(node, module)
    of, function = _followed(getattr(call, "func", call), module)
    name = getattr(function, "name", ast.unparse(function).rpartition(".")[2])
    if name not in MARKERS or isinstance(function, ast.FunctionDef) and of != MARKERS[name].__module__:
        return wanted
    try:
        if not isinstance(call, ast.Call):
            raise TypeError("it is not called")
        words = {word.arg: constant(word.value, module) for word in call.keywords}
        mark = MARKERS[name](*(constant(argument, module) for argument in call.args), **words)
    except (ValueError, TypeError) as error:
        raise UserError(f"{place} can't be read: {error}; write numbers") from error
    if isinstance(mark, KeyOf):
        return replace(wanted, key_of=mark.mapping)
    if isinstance(mark, MayBeEmpty):
        return replace(wanted, may_be_empty=True)
    numbers = sorted(wanted.names & NUMBERS.keys())
    if not numbers:
        raise UserError(f"{place} bounds no number; bound the elements of a list or mapping")
    earlier = [(name, bounds & mark) for name, bounds in wanted.bounds]
    return replace(wanted, bounds=(*earlier, *((name, mark) for name in numbers if name not in dict(earlier))))


def _followed(node: ast.AST, module: str) -> tuple[str, ast.AST]:
    """What a name stands for, as far as it can be read."""
    while isinstance(node, ast.Name | ast.Attribute) and (found := definition(module, ast.unparse(node))) is not None:
        module, node = found[0], alias_of(found[1]) or found[1]
    return module, node


def _named(name: str, module: str) -> Type:
    last = name.rpartition(".")[2]
    if last in PLAIN:
        return plain(last)
    if last in LISTS | MAPPINGS:
        return plain("list" if last in LISTS else "group" if last == "Group" else "dict")
    if last in ("Any", "object"):
        return plain("any")
    if last in ("Path", "PathLike", "dtype"):
        return plain("str")
    found = definition(module, name) or definition(name.rpartition(".")[0], last)  # at run time a name is whole
    if found is not None and (value := alias_of(found[1])) is not None:
        return _read(value, found[0])
    if found is not None and isinstance(found[1], ast.ClassDef) and is_typed_dict(*found):
        return Type(frozenset({"group"}), fields=f"{found[0]}.{found[1].name}")
    if module.partition(".")[0] == "near":  # a class, instantiated from its options
        return plain("group")
    return plain("group", "str")  # or an enumeration

"""The parameters of a class or function, read from its source without importing it.

Configurations name classes of torch, transformers and peft. Importing those takes seconds, which would delay the error
for a mistyped option; reading the source takes milliseconds. Names without readable source (a compiled module, a name
made at run time) are imported and inspected instead.
"""

import ast
import contextlib
import functools
import importlib
import importlib.util
import inspect
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from near.common.errors import UserError
from near.common.extras import missing_module

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}

OPERATORS |= {ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow, ast.LShift: operator.lshift}


class _Unreadable(Exception):
    pass


class Parameter(NamedTuple):
    """A parameter, as in the source."""

    annotation: ast.expr | None
    default: ast.expr | None  # None: required
    module: str  # the module whose names `annotation` uses


def keywords(target: str) -> set[str] | None:
    """Names of the parameters of `target` ("package.module.Class"); None if it accepts any (**kwargs).

    Raises UserError if there is no such module or attribute.
    """
    known, more = parameters(target)
    return None if more else set(known)


@functools.lru_cache(maxsize=256)
def parameters(target: str) -> tuple[dict[str, Parameter], bool]:
    """The parameters of `target` by name, and whether it has **kwargs. UserError as for `keywords`."""
    module, _, name = target.rpartition(".")
    if not module:
        raise UserError(f"_target_={target} is not a dotted path to a class; write it like package.module.Class")
    try:
        return _read(module, name)
    except _Unreadable:
        return inspected(target, module, name)


def definition(module: str, name: str) -> tuple[str, ast.AST] | None:
    """The module and the node that define `name`, looked up in `module`; None if the source can't be read."""
    try:
        return _definition(module, name)
    except _Unreadable:
        return None


def constant(node: ast.AST, module: str) -> object:
    """The value of an expression of constants, arithmetic, and names of constants looked up in `module`.

    Raises ValueError for any other expression.
    """
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -constant(node.operand, module)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](constant(node.left, module), constant(node.right, module))
    defined = definition(module, ast.unparse(node)) if isinstance(node, ast.Name | ast.Attribute) else None
    if defined is None or (value := alias_of(defined[1])) is None:
        raise ValueError(f"{ast.unparse(node)} is not a constant")
    return constant(value, defined[0])


def alias_of(node: ast.AST) -> ast.expr | None:
    """The value of `Name = ...`, `Name: TypeAlias = ...` or `type Name = ...`; None for a class or function."""
    return getattr(node, "value", None)


def attribute(target: str, name: str) -> object:
    """The constant value of the class attribute `name` of `target` or its bases; None if it is not a constant in the
    source."""
    module, _, cls = target.rpartition(".")
    try:
        module, node = _definition(module, cls)
    except (_Unreadable, UserError):
        return None
    for item in getattr(node, "body", []):
        if name in _names(item):
            return _constant_of(alias_of(item))
    names = [base.id for base in getattr(node, "bases", []) if isinstance(base, ast.Name)]
    values = (attribute(f"{module}.{base}", name) for base in names)
    return next((value for value in values if value is not None), None)


def _constant_of(value: ast.expr | None) -> object:
    try:
        return None if value is None else ast.literal_eval(value)
    except ValueError:
        return None


def class_definition(target: str) -> tuple[str, ast.ClassDef] | None:
    """The module and the node that define class `target`; None if it is not a class or can't be read.

    Nothing is imported. Only `from module import name` is followed, and only outside `if` and `try`.
    """
    module, _, name = target.rpartition(".")
    try:
        module, node = _definition(module, name, in_blocks=False)
    except (_Unreadable, OSError, ValueError, SyntaxError):
        return None
    return (module, node) if isinstance(node, ast.ClassDef) else None


def bases(target: str) -> set[str]:
    """The modules of all base classes of `target` that can be read."""
    modules, (module, node) = set(), class_definition(target) or (None, None)
    for base in getattr(node, "bases", []):
        if isinstance(base, ast.Name) and (parent := class_definition(f"{module}.{base.id}")):
            modules |= {parent[0], *bases(f"{parent[0]}.{parent[1].name}")}
    return modules


def inspected(target: str, module: str, name: str) -> tuple[dict[str, Parameter], bool]:
    try:
        inspected = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        reason = missing_module(error) if isinstance(error, ModuleNotFoundError) else None
        raise UserError(
            f"_target_={target} cannot be loaded: {reason or error}; mend it, or name another class"
        ) from error
    try:
        parameters = inspect.signature(inspected).parameters.values()
    except (TypeError, ValueError):  # compiled, without a signature: accept anything
        return {}, True
    named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    known = {p.name: Parameter(_annotation(p.annotation), _constant(p.default), module) for p in named}
    return known, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _annotation(value: object) -> ast.expr | None:
    """An annotation of an imported class, as a node."""
    if value is inspect.Parameter.empty:
        return None
    try:
        return ast.parse(inspect.formatannotation(value), mode="eval").body
    except SyntaxError:  # such as an object's repr: accept anything
        return None


def _constant(value: object) -> ast.expr | None:
    """A default of an imported class, as a node."""
    if value is inspect.Parameter.empty:
        return None
    return ast.Constant(value if isinstance(value, bool | int | float | str) else None)


def _read(module: str, name: str) -> tuple[dict[str, Parameter], bool]:
    module, node = _definition(module, name)
    if isinstance(node, ast.FunctionDef):
        return _of_function(node, module)
    if not isinstance(node, ast.ClassDef):
        raise _Unreadable(name)
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is not None:
        named, more = _of_function(init, module)
        named.pop("self", None)
        if more and len(node.bases) == 1 and _passes_on(init):
            with contextlib.suppress(_Unreadable):  # of a base that can't be read, accept anything
                inherited, more = _inherited(node, module)
                named = inherited | named
        return named, more
    if any(isinstance(n, ast.FunctionDef) and n.name == "__new__" for n in node.body):
        raise _Unreadable(name)
    return _inherited(node, module)


def _passes_on(init: ast.FunctionDef) -> bool:
    """Whether the only use of an __init__'s **options is super().__init__(**options)."""
    assert init.args.kwarg is not None
    name = init.args.kwarg.arg
    uses = [n for n in ast.walk(init) if isinstance(n, ast.Name) and n.id == name]
    calls = [n for n in ast.walk(init) if isinstance(n, ast.Call) and ast.unparse(n.func) == "super().__init__"]
    passed = [word.value for call in calls for word in call.keywords if word.arg is None]
    return len(uses) == 1 and uses[0] in passed


def _inherited(node: ast.ClassDef, module: str) -> tuple[dict[str, Parameter], bool]:
    """The parameters of a class that come from its bases, and from its own fields."""
    name = node.name
    known: dict[str, Parameter] = {}
    for base in node.bases:
        if isinstance(base, ast.Subscript):  # Generic[...]
            continue
        if not isinstance(base, ast.Name):  # module.Class
            raise _Unreadable(name)
        if base.id not in ("object", "ABC", "Protocol", "TypedDict"):
            try:
                inherited, more = _read(module, base.id)
            except _Unreadable:
                if not _is_dataclass(node):
                    raise
                continue  # a mixin outside the source tree adds no fields to a dataclass
            if more:
                return known | inherited, True
            known |= inherited
    if _is_dataclass(node) or is_typed_dict(module, node):  # its annotations are its parameters
        known |= _fields(node, module)
    return known, False


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(d) for d in node.decorator_list)


def is_typed_dict(module: str, node: ast.AST) -> bool:
    if not isinstance(node, ast.ClassDef):
        return False
    names = [base.id for base in node.bases if isinstance(base, ast.Name)]
    bases = (definition(module, name) for name in names)
    return "TypedDict" in names or any(base is not None and is_typed_dict(*base) for base in bases)


def _fields(node: ast.ClassDef, module: str) -> dict[str, Parameter]:
    """The fields of a TypedDict, or those of a dataclass that its __init__ has."""
    known, optional = {}, any(word.arg == "total" for word in node.keywords)  # a TypedDict's total=False
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            value = ast.unparse(item.value) if item.value else ""
            if "ClassVar" not in ast.unparse(item.annotation) and "init=False" not in value:
                absent = optional or ast.unparse(item.annotation).startswith("NotRequired")
                default = ast.Constant(None) if absent else _field_default(item.value)
                known[item.target.id] = Parameter(item.annotation, default, module)
    return known


def _field_default(value: ast.expr | None) -> ast.expr | None:
    if not isinstance(value, ast.Call):
        return value
    words = {word.arg: word.value for word in value.keywords}
    return words.get("default", words.get("default_factory"))


def _of_function(node: ast.FunctionDef, module: str) -> tuple[dict[str, Parameter], bool]:
    names = [*node.args.posonlyargs, *node.args.args]
    defaults = [None] * (len(names) - len(node.args.defaults)) + list(node.args.defaults)
    pairs = [*zip(names, defaults, strict=True), *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    return {a.arg: Parameter(a.annotation, default, module) for a, default in pairs}, node.args.kwarg is not None


def _definition(module: str, name: str, depth: int = 0, in_blocks: bool = True) -> tuple[str, ast.AST]:
    """The module and the node that define `name`: a class, a function or an alias.

    `from x import name` is followed to x, and `x.name` through the import of x. `in_blocks`: search under `if` and
    `try`, too.
    """
    if depth > 8:
        raise _Unreadable(name)
    path, tree = _parsed(module)
    first, _, rest = name.partition(".")
    for node in _statements(tree.body) if in_blocks else tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == first:
                    source = _absolute(module, path, node)
                    if rest:
                        return _definition(f"{source}.{alias.name}", rest, depth + 1, in_blocks)
                    return _definition(source, alias.name, depth + 1, in_blocks)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                prefix = f"{alias.asname or alias.name}."
                if name.startswith(prefix):
                    return _definition(alias.name, name.removeprefix(prefix), depth + 1, in_blocks)
        elif name in _names(node):
            return module, node
    raise _Unreadable(name)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those under `if TYPE_CHECKING:` and `try:` included."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from _statements(node.body)
            yield from _statements(node.orelse)
        else:
            yield node


def _names(node: ast.stmt) -> list[str]:
    """The names that a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    if getattr(node, "value", None) is None:  # no value to read
        return []
    target = getattr(node, "target", None) or getattr(node, "name", None)  # of `Name: TypeAlias = ...` and `type Name`
    return [ast.unparse(name) for name in ([target] if target else getattr(node, "targets", []))]


def _absolute(module: str, path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module
    parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    parts = parts[: len(parts) - (node.level - 1)]
    return ".".join([*parts, node.module] if node.module else parts)


@functools.lru_cache(maxsize=64)
def _parsed(module: str) -> tuple[Path, ast.Module]:
    """A module's file and syntax tree, without importing its parents."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError) as error:
        raise _Unreadable(module) from error
    if spec is None or spec.origin is None:
        raise _Unreadable(module)
    path = Path(spec.origin)
    for part in rest:
        folder = path.parent
        path = folder / part / "__init__.py"
        if not path.is_file():
            path = folder / f"{part}.py"
    if not path.is_file() or path.suffix != ".py":
        raise _Unreadable(module)
    return path, ast.parse(path.read_text(encoding="utf-8"))

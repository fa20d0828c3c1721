"""Untrusted configurations: a run folder's config.yaml and .hydra/overrides.yaml, which anybody may have written.

They describe a run; they must not decide which code is executed. A value that would is replaced by a reference that
raises UserError when it is read and says what to type instead; values that are never read do no harm. References in
these files, above all to the environment, are replaced in the same way.
"""

import functools
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from near.common.config import CONF, refusal
from near.common.errors import UserError, as_user_error, printable
from near.common.files import read_yaml, read_yaml_list
from near.common.moved import current
from near.common.signature import bases, class_definition

log = logging.getLogger(__name__)

MOST, DEEPEST = 100_000, 50  # values of a file, and levels of nesting
REFERENCE = re.compile(r"(?<!\\)(?:\\\\)*\$\{")  # an unescaped reference
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
# options that run code or send a key, to the value they have unless typed
INERT: dict[tuple[str, ...], object] = {
    ("trust_remote_code",): False,
    ("evaluation", "unsafe"): False,
    ("evaluation", "engine"): {},
    ("embedder", "engine"): {},
    ("server", "api_key_env"): None,
}


DAMAGED = (ValueError, TypeError, RecursionError, yaml.YAMLError, OmegaConfBaseException)


@dataclass(frozen=True)
class _Reader:
    path: Path
    allow: tuple[str, ...]
    retyped: bool  # whether the running script has the keys of the file, so that they can be typed

    def read(self) -> DictConfig:
        return self.config_of(read_yaml(self.path))

    def config_of(self, values: object) -> DictConfig:
        if not isinstance(values, dict):
            raise ValueError(f"it is a {type(values).__name__}, not a mapping")
        count = iter(range(MOST))
        return OmegaConf.create(self._walked(values, (), count))

    def _walked(self, node: object, at: tuple[str, ...], count: Iterator[int]) -> Any:
        if next(count, None) is None or len(at) > DEEPEST:
            raise ValueError(f"more than {MOST:,} values, or {DEEPEST} levels")
        if isinstance(node, dict):
            return {str(key): self._value(value, (*at, str(key)), count) for key, value in node.items()}
        if isinstance(node, list):
            return [self._value(value, (*at, str(i)), count) for i, value in enumerate(node)]
        return node

    def _value(self, value: object, at: tuple[str, ...], count: Iterator[int]) -> object:
        key = ".".join(at)
        for name, inert in INERT.items():
            if at[-len(name) :] == name:
                if value and inert is not None:
                    log.info(
                        printable(f"{self.path}: {key}={value} has no effect unless it is typed for this run", 300)
                    )
                return inert
        if at[-1] == "_target_" and isinstance(value, str):
            value = current(value)
        if at[-1] == "_target_" and (fault := _target_fault(value, at[:-1], self.allow)):
            typed = f", or ++{key}={value}" if self.retyped else ""
            module = str(value).rpartition(".")[0] or "MODULE"
            return self._refused(value, f"{fault}; if you trust it, type allow_targets={module}{typed}")
        if at[-2:] == ("lm_eval", "include_path") and value is not None:
            return self._refused(
                value, f"{key} names task files, which run code; if you trust them, type {key}={value}"
            )
        if isinstance(value, str) and REFERENCE.search(value) and (at, value) != (("cache_dir",), _default_cache()):
            fix = f"type {key}='{value}'" if self.retyped else "train with the value itself"
            return self._refused(
                value, f"{key}={value} is a reference, and references in a folder are not resolved; {fix}"
            )
        return self._walked(value, at, count)

    def _refused(self, value: object, reason: str) -> str:
        return refusal(str(value), printable(f"{self.path}: {reason}", 500))


def read_config(path: Path, allow: object = None, retyped: bool = False) -> DictConfig:
    """The configuration of a run.

    Args:
        path: the run's config.yaml.
        allow: `allow_targets`, the name of a module (or a list of names) whose classes may be instantiated, too.
        retyped: whether the keys can be typed for the running script.

    Raises:
        UserError: the file is damaged.
        OSError: the file can't be read.
    """
    with as_user_error(DAMAGED, f"{path} is damaged", "name another folder"):
        return _Reader(path, allowed_modules(allow), retyped).read()


def config_within(path: Path, values: object, allow: object = None) -> DictConfig:
    """The configuration `values` that the file `path` contains beside other things; see read_config."""
    with as_user_error(DAMAGED, f"{path} is damaged", "name another folder"):
        return _Reader(path, allowed_modules(allow), retyped=True).config_of(values)


def read_overrides(folder: Path) -> list[str]:
    """The overrides of the run in `folder`, as Hydra saved them; [] if they are missing or damaged."""
    return [str(word) for word in read_yaml_list(folder / ".hydra" / "overrides.yaml")]


def allowed_modules(value: object) -> tuple[str, ...]:
    """`allow_targets` (the name of a module or class, a list, or None) as a tuple; UserError for anything else."""
    names = value if isinstance(value, list | tuple | ListConfig) else [] if value is None else [value]
    if odd := [name for name in names if not isinstance(name, str) or not MODULE.fullmatch(name)]:
        raise UserError(f"allow_targets={odd[0]!r} is not the name of a module; write it like allow_targets=[mylab]")
    return tuple(names)


@functools.cache
def _default_cache() -> str:
    """The one reference that is allowed in a run's configuration: this package's default of cache_dir."""
    return yaml.safe_load((CONF / "base.yaml").read_text(encoding="utf-8"))["cache_dir"]


def _target_fault(target: object, place: tuple[str, ...], allow: tuple[str, ...]) -> str | None:
    """Why `target` must not be instantiated at `place`, the keys of its node; None if it may."""
    where = ".".join(place)
    if not isinstance(target, str) or not MODULE.fullmatch(target) or "." not in target:
        return f"{where}._target_={target} is not a dotted path to a class"
    if target in _known(place) or _of_room(target, place):
        return None
    if any(f"{target}.".startswith(f"{name}.") for name in allow):
        definition = class_definition(target)
        if definition is not None and any(
            f"{definition[0]}.{definition[1].name}.".startswith(f"{name}.") for name in allow
        ):
            return None
        return f"{where}._target_={target} is not a class that {target.rpartition('.')[0]} defines"
    return f"{where}._target_={target} is not a class of this package for {where or 'this place'}"


def _group(place: tuple[str, ...]) -> str:
    """The group of classes for `place`: graders have arbitrary names, and selectors may be nested."""
    if place[-2:-1] == ("graders",):
        return "graders"
    whole = ".".join(place)
    return whole if whole in _targets() or not place else place[-1]


COMPONENTS = ("selector", "mixer", "order", "weighter")  # of a plan's stages, whose names are arbitrary


def _known(place: tuple[str, ...]) -> frozenset[str]:
    """The classes in conf/ for `place`."""
    if place[:1] == ("plan",) and len(place) == 2:
        return _targets()["stage"]
    if place[:1] == ("plan",) and place[2:3] == ("by",):
        return frozenset().union(*(_known((group, *place[3:])) for group in COMPONENTS))
    return _targets().get(_group(place), frozenset())


@functools.cache
def _targets() -> dict[str, frozenset[str]]:
    """The classes in conf/, by the place of their node."""
    targets_at: dict[str, set[str]] = {}

    def walk(node: object, place: tuple[str, ...]) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("_target_"), str):
                targets_at.setdefault("graders" if place[-2:-1] == ("graders",) else ".".join(place), set()).add(
                    node["_target_"]
                )
            for key, value in node.items():
                walk(value, (*place, str(key)))

    for path in CONF.rglob("*.yaml"):
        text, parts = path.read_text(encoding="utf-8"), path.relative_to(CONF).parent.parts
        if parts[:1] not in (("hydra",), ("sweeps",)):
            node = yaml.safe_load(text) or {}
            node.pop("hydra", None)
            walk(node, () if "# @package _global_" in text else parts)
    return {place: frozenset(targets) for place, targets in targets_at.items()}


def _of_room(target: str, place: tuple[str, ...]) -> bool:
    """Whether `target` is a class of the package for `place`, and inherits from its base module.

    For example near.selection.selectors.x.Y with a base class in near.selection.selectors.base.
    """
    module, _, name = target.rpartition(".")
    room = module.rpartition(".")[0]
    rooms = {known.rpartition(".")[0].rpartition(".")[0] for known in _known(place)}
    if name.startswith("_") or room not in rooms or not room.startswith("near."):
        return False
    definition = class_definition(target)
    return definition is not None and definition[0] == module and any(base == f"{room}.base" for base in bases(target))

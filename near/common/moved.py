"""Old names of this package: modules of its classes, for earlier configurations and runs, and attributes of contracts.

A run is identified by class names and arguments, never by modules.
"""

from typing import ClassVar

from omegaconf import DictConfig, ListConfig

from near.common.errors import UserError

# old modules or packages to new ones; the longest matching prefix counts
MOVED: dict[str, str] = {
    "near.embedders": "near.embedding.embedders",
    "near.gradient_similarity": "near.selection.gradient_similarity",
    "near.graders": "near.evaluation.graders",
    "near.indexes": "near.searching.indexes",
    "near.jobs": "near.app.jobs",
    "near.mixers": "near.selection.mixers",
    "near.scoring": "near.selection.scoring.scoring",
    "near.secrets": "near.common.secrets",
    "near.selection.selectors.asking": "near.selection.selectors.model",
    "near.selectors": "near.selection.selectors",
    "near.selectors.mix": "near.selection.mixers.selector",
    "near.similarity": "near.selection.similarity",
    "near.trackers": "near.training.trackers",
    "near.trainer": "near.training.trainer",
    "near.weighters": "near.training.weighters",
    "near.weighting": "near.training.weighting",
}


class Contract:
    """Base of the classes that users extend: an attribute with an old name raises UserError in a subclass."""

    renamed: ClassVar[dict[str, str]] = {}  # old names of attributes to new ones

    def __init_subclass__(cls, **options) -> None:
        super().__init_subclass__(**options)
        for old, new in cls.renamed.items():
            if any(old in vars(base) and new not in vars(base) for base in cls.__mro__):  # both names: for all versions
                cls._refuse(old)

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.renamed:
            self._refuse(name)
        super().__setattr__(name, value)

    @classmethod
    def _refuse(cls, old: str) -> None:
        raise UserError(f"{cls.__module__}.{cls.__qualname__}: {old} is now {cls.renamed[old]}; rename it")


def moved_module(error: ModuleNotFoundError) -> str | None:
    """The error line for the import of a module that has moved; None for other modules."""
    old = error.name or ""
    new = current(f"{old}.").rstrip(".")
    return None if new == old else f"{old} is now {new}; change the import (CHANGELOG.md lists renamed classes)"


def current(target: str) -> str:
    """The current dotted path of class `target`.

    >>> current("mylab.selectors.Mine")
    'mylab.selectors.Mine'
    """
    for old in sorted(MOVED, key=len, reverse=True):
        if target.startswith(f"{old}."):
            return MOVED[old] + target.removeprefix(old)
    return target


def update_targets(node: DictConfig | ListConfig) -> None:
    """Replace old class paths in `node`, in place; references are not resolved."""
    for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
        raw = node._get_node(key)
        if isinstance(raw, DictConfig | ListConfig):
            if not raw._is_none() and not raw._is_missing() and not raw._is_interpolation():
                update_targets(raw)
        elif key == "_target_" and isinstance(value := raw._value(), str):
            raw._set_value(current(value))


def class_names(values: object) -> object:
    """A copy of nested plain values with classes of this package as bare names.

    Classes of other packages keep their paths, as two of the same name may differ.
    """
    if isinstance(values, list):
        return [class_names(value) for value in values]
    if not isinstance(values, dict):
        return values
    named = {key: class_names(value) for key, value in values.items()}
    target = named.get("_target_")
    if isinstance(target, str) and target.startswith("near."):
        named["_target_"] = target.rpartition(".")[2]
    return named

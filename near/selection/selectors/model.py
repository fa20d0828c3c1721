"""Selectors that need the model, and the shortlist that limits how many rows it computes."""

import dataclasses
from typing import Any, TypedDict

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from near.common.config import CONF
from near.common.errors import UserError, did_you_mean
from near.selection.round import Round
from near.selection.selectors.base import Selector, SubsetSize


class ShortlistOptions(TypedDict, total=False):
    selector: str | dict
    size: int


class Shortlist:
    """The rows that the model has to score: those that a cheap selector ranks first; all eligible rows without one.

    Args:
        options: {selector, size}: a name under conf/selector or a `_target_` with its options, and how many rows; None:
            no shortlist.
        group: the group that has the option, for error messages.

    Raises:
        UserError: `options` has other keys, or the selector needs the model itself.
    """

    def __init__(self, options: dict | None, group: str):
        self.cheap: Selector | None = None
        if options is None:
            return
        if set(options) != {"selector", "size"}:
            raise UserError(f"{group}.shortlist={dict(options)} is not like {{selector: near, size: 500}}; write it so")
        self.cheap, self.size = cheap_selector(options["selector"]), options["size"]

    @property
    def needs_neighbours(self) -> bool:
        return self.cheap is not None and self.cheap.needs_neighbours

    @property
    def needs_vectors(self) -> bool:
        return self.cheap is not None and self.cheap.needs_vectors

    def rows(self, round: Round) -> np.ndarray:
        """Eligible rows, int64 (m,), ascending."""
        if self.cheap is None:
            return round.eligible
        size = min(self.size, len(round.eligible))
        return np.sort(self.cheap.select(dataclasses.replace(round, size=size)).ids)


class ModelSelector(Selector):
    """A selector that scores rows by the model: those of the pool, or of `shortlist` {selector, size}."""

    def __init__(self, subset_size: SubsetSize | None = None, shortlist: ShortlistOptions | None = None):
        super().__init__(subset_size)
        self.shortlist = Shortlist(shortlist, "selector")

    @property
    def needs_neighbours(self) -> bool:  # type: ignore[override]
        return self.shortlist.needs_neighbours

    @property
    def needs_vectors(self) -> bool:  # type: ignore[override]
        return self.shortlist.needs_vectors

    def rows(self, round: Round) -> np.ndarray:
        """The rows to score: eligible ids, int64 (m,), ascending."""
        return self.shortlist.rows(round)


def cheap_selector(choice: str | dict | Selector) -> Selector:
    """The selector of a shortlist; UserError if it needs the model itself."""
    selector: Any = choice  # Hydra has already instantiated one with a _target_
    if not isinstance(choice, Selector):
        selector = instantiate(named(choice) if isinstance(choice, str) else choice)
    if not isinstance(selector, Selector) or selector.requires or selector.trains_on_queries:
        raise UserError(f"shortlist.selector={choice} is not one that is cheap; use near, random, uot, ...")
    return selector


def named(name: str, option: str = "shortlist.selector") -> DictConfig:
    """The configuration of conf/selector/NAME.yaml. `option`: which has the name, for error messages."""
    known = [p.stem for p in sorted((CONF / "selector").glob("*.yaml"))]
    if name not in known:  # such as a path that leads elsewhere
        raise UserError(f"{option}={name}: no such selector{did_you_mean(name, known)}")
    cfg: Any = OmegaConf.load(CONF / "selector" / f"{name}.yaml")
    parents = [parent for parent in cfg.pop("defaults", []) if parent != "_self_"]
    if any(not isinstance(parent, str) or "@" in parent for parent in parents):
        raise UserError(f"{option}={name} sets more than a selector; use near, random, uot, ...")
    return OmegaConf.merge(*(named(parent, option) for parent in parents), cfg)

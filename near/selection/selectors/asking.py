"""Selectors that ask the model, and the shortlist that spares them most of the pool."""

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
    """The rows that a cheap selector ranks first. selector: a name under conf/selector, or a _target_ with its options;
    size: how many rows."""

    def __init__(self, selector: str | dict, size: int):
        self.size, self.cheap = size, cheap_selector(selector)

    @classmethod
    def of(cls, given: dict | None, where: str) -> "Shortlist | None":
        """The shortlist that `where`.shortlist asks for; UserError where it is not like {selector, size}."""
        if given is None:
            return None
        if set(given) != {"selector", "size"}:
            raise UserError(f"{where}.shortlist={dict(given)} is not like {{selector: near, size: 500}}")
        size = given["size"]
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise UserError(f"{where}.shortlist.size={size} is not a number of rows; use 1 or more")
        return cls(**given)

    def rows(self, round: Round) -> np.ndarray:
        """Eligible rows, int64 (m,), ascending."""
        size = min(self.size, len(round.eligible))
        return np.sort(self.cheap.select(dataclasses.replace(round, size=size)).ids)


class AskingSelector(Selector):
    """A selector that scores rows by the model: those of the pool, or of `shortlist` {selector, size}."""

    def __init__(self, subset_size: SubsetSize | None = None, shortlist: ShortlistOptions | None = None):
        super().__init__(subset_size)
        self.shortlist = Shortlist.of(shortlist, "selector")

    @property
    def needs_neighbours(self) -> bool:  # type: ignore[override]
        return self.shortlist is not None and self.shortlist.cheap.needs_neighbours

    def rows(self, round: Round) -> np.ndarray:
        """The eligible rows to be scored, int64 (m,), ascending."""
        return round.eligible if self.shortlist is None else self.shortlist.rows(round)


def cheap_selector(chosen: str | dict) -> Selector:
    """The selector of a shortlist; UserError for one that asks the model itself."""
    found = chosen  # one with a _target_ has been instantiated with its parent
    if not isinstance(chosen, Selector):
        found = instantiate(named(chosen) if isinstance(chosen, str) else chosen)
    if not isinstance(found, Selector) or found.asks_model or found.trains_on_queries:
        raise UserError(f"shortlist.selector={chosen} is not one that is cheap; use near, random, uot, ...")
    return found


def named(name: str) -> DictConfig:
    """The configuration of conf/selector/NAME.yaml."""
    known = [p.stem for p in sorted((CONF / "selector").glob("*.yaml"))]
    if name not in known:  # such as a path that leads elsewhere
        raise UserError(f"shortlist.selector={name}: no such selector{did_you_mean(name, known)}")
    read: Any = OmegaConf.load(CONF / "selector" / f"{name}.yaml")
    parents = [parent for parent in read.pop("defaults", []) if parent != "_self_"]
    if any(not isinstance(parent, str) or "@" in parent for parent in parents):
        raise UserError(f"shortlist.selector={name} sets more than a selector; use near, random, uot, ...")
    parents = [named(parent) for parent in parents]
    return OmegaConf.merge(*parents, read)

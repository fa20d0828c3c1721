"""The contract of a mixer: what share of a round each source of the pool gets."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from near.common.errors import UserError, did_you_mean
from near.common.moved import Contract
from near.data.rows import BLOCK, Rows
from near.selection.round import Round
from near.selection.selectors.base import Required

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Sources:
    """The sources of a pool: their `names`, ascending, and the eligible `rows` of each, int64 (m,), ascending."""

    names: tuple[str, ...]
    rows: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, pool: Rows, eligible: np.ndarray) -> "Sources":
        """The sources of the `eligible` rows of `pool`, int64 (n,), ascending; UserError if there is only one."""
        numbers: dict[str, int] = {}  # of the sources, in the order of their first rows
        owner = np.empty(len(eligible), dtype=np.int32)  # the number of each row's source
        for start in range(0, len(eligible), BLOCK):
            labels = pool.sources(eligible[start : start + BLOCK]).astype(str)
            names, index = np.unique(labels, return_inverse=True)
            number = np.array([numbers.setdefault(name, len(numbers)) for name in names.tolist()])
            owner[start : start + BLOCK] = number[index]
        if len(numbers) < 2:
            raise UserError(
                f"all {len(eligible)} eligible rows are of one source ({next(iter(numbers))}), so there is nothing "
                "to mix; label them with data.candidates.columns.source=COLUMN or 'data.candidates.path={maths: "
                "a.jsonl, law: b.jsonl}'"
            )
        rows = np.split(eligible[np.argsort(owner, kind="stable")], np.cumsum(np.bincount(owner))[:-1])
        return cls(tuple(sorted(numbers)), tuple(rows[numbers[name]] for name in sorted(numbers)))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> np.ndarray:
        """Eligible rows of each source, float64 (n,)."""
        return np.array([len(rows) for rows in self.rows], dtype=np.float64)

    def narrowed(self, rows: np.ndarray) -> tuple["Sources", np.ndarray]:
        """The same sources with their rows among `rows`, int64 (m,), and which of them have any, bool (n,). One without
        keeps all of its rows, so that a mixer can still measure it."""
        within = tuple(own[np.isin(own, rows)] for own in self.rows)
        alive = np.array([len(own) > 0 for own in within])
        if all(len(a) == len(b) for a, b in zip(within, self.rows, strict=True)):
            return self, alive
        return Sources(self.names, tuple(a if len(a) else b for a, b in zip(within, self.rows, strict=True))), alive

    def uniform(self) -> np.ndarray:
        """Equal shares, float64 (n,)."""
        return np.full(len(self), 1 / len(self))

    def by_name(self, values: np.ndarray) -> dict[str, float]:
        """Numbers of the sources, (n,), by name, rounded for a file."""
        return {name: round(value.item(), 6) for name, value in zip(self.names, values, strict=True)}


class Shares:
    """Shares of the sources.

    Args:
        numbers: by the source's label, in any unit; sources without a number get no share.
        option: where they come from, for error messages.

    Raises:
        UserError: all numbers are 0.
    """

    def __init__(self, numbers: Mapping[str, float], option: str):
        self.option = option
        if not sum(numbers.values()):
            raise UserError(f"{option}={dict(numbers)} gives no source a share; set one above 0")
        self.numbers = {str(name): value for name, value in numbers.items()}

    @classmethod
    def optional(cls, numbers: Mapping[str, float] | None, option: str) -> "Shares | None":
        return None if numbers is None else cls(numbers, option)

    def check(self, sources: Sources) -> None:
        """UserError for a label that no source of the pool has."""
        for name in self.numbers:
            if name not in sources.names:
                raise UserError(
                    f"{self.option}.{name}: the pool has no source of that name{did_you_mean(name, sources.names)}"
                )

    def of(self, sources: Sources) -> np.ndarray:
        """The sources' shares, float64 (n,), with sum 1."""
        shares = np.array([self.numbers.get(name, 0.0) for name in sources.names], dtype=np.float64)
        return shares / shares.sum()


class Mixer(Contract, ABC):
    """A pure function of its configuration, the seed, the round, its state, and of the model if it requires one."""

    renamed = {"asks_model": "requires", "told": "metrics"}

    requires: Required | None = None  # what it takes from round.scorer; None: it does without the model
    initial: Shares | None = None  # of warm-ups

    def check(self, sources: Sources) -> None:
        """Raise UserError for sources that it can't use. Called before a model is loaded."""
        if self.initial is not None:
            self.initial.check(sources)

    def check_model(self, config: "PretrainedConfig") -> None:
        """See Selector.check_model."""
        del config

    def first(self, round: Round, sources: Sources) -> np.ndarray:
        """Shares of the sources in a warm-up, float64 (n,): `initial`, or equal ones."""
        del round
        return sources.uniform() if self.initial is None else self.initial.of(sources)

    @abstractmethod
    def proportions(self, round: Round, sources: Sources) -> np.ndarray:
        """Shares of the sources, float64 (n,), none below 0, with sum 1. Called once a round, except warm-ups."""

    def metrics(self) -> dict[str, np.ndarray]:
        """What the last call measured, for the record: numbers of the sources, float64 (n,), by name."""
        return {}

    def state_dict(self) -> dict[str, np.ndarray]:
        """Arrays that must survive a restart; part of every checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Restore what state_dict returned."""
        del state

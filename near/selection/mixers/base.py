"""The contract of a mixer: what share of a round each source of the pool gets."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from near.common.errors import UserError, did_you_mean
from near.data.rows import BLOCK, Rows
from near.selection.round import Round


@dataclass(frozen=True)
class Sources:
    """The sources of a pool: `names`, ascending, and of each its eligible rows, `rows` int64 (m,), ascending."""

    names: tuple[str, ...]
    rows: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, pool: Rows, eligible: np.ndarray) -> "Sources":
        """UserError for a pool with one source alone."""
        known: dict[str, int] = {}
        owner = np.empty(len(eligible), dtype=np.int32)
        for start in range(0, len(eligible), BLOCK):
            some = pool.sources(eligible[start : start + BLOCK]).astype(str)
            names, own = np.unique(some, return_inverse=True)
            owner[start : start + BLOCK] = np.array([known.setdefault(name, len(known)) for name in names.tolist()])[
                own
            ]
        if len(known) < 2:
            raise UserError(
                f"all {len(eligible)} eligible rows are of one source ({next(iter(known))}), so that there is nothing "
                "to mix; label them with data.candidates.columns.source=COLUMN or 'data.candidates.path={maths: "
                "a.jsonl, law: b.jsonl}'"
            )
        rows = np.split(eligible[np.argsort(owner, kind="stable")], np.cumsum(np.bincount(owner))[:-1])
        names = sorted(known)
        return cls(tuple(names), tuple(rows[known[name]] for name in names))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> np.ndarray:
        """Eligible rows of each source, float64 (n,)."""
        return np.array([len(rows) for rows in self.rows], dtype=np.float64)

    def uniform(self) -> np.ndarray:
        """The same share for each, float64 (n,)."""
        return np.full(len(self), 1 / len(self))

    def told(self, values: np.ndarray) -> dict[str, float]:
        """Numbers of the sources by name, rounded for a file."""
        return {name: round(value.item(), 6) for name, value in zip(self.names, values, strict=True)}


class Shares:
    """Shares by a source's label, in any unit; a source that is left out gets none. `key`: the option they come from.

    Raises UserError for what is no mapping of labels to numbers from 0 on, and for no number above 0.
    """

    def __init__(self, numbers: Mapping[str, float], key: str):
        self.key = key
        if not isinstance(numbers, Mapping):
            raise UserError(f"{key}={numbers} are not like {{maths: 0.5, law: 0.5}}, by source")
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise UserError(f"{key}.{name}={value} is not a number from 0 on")
        if not sum(numbers.values()):
            raise UserError(f"{key}={dict(numbers)} give no source a share; set one above 0")
        self.numbers = {str(name): value for name, value in numbers.items()}

    @classmethod
    def optional(cls, numbers: Mapping[str, float] | None, key: str) -> "Shares | None":
        return None if numbers is None else cls(numbers, key)

    def check(self, sources: Sources) -> None:
        """UserError for a label that no source of the pool has."""
        for name in self.numbers:
            if name not in sources.names:
                raise UserError(
                    f"{self.key}.{name}: the pool has no source of that name{did_you_mean(name, sources.names)}"
                )

    def of(self, sources: Sources) -> np.ndarray:
        """float64 (n,), their sum 1."""
        shares = np.array([self.numbers.get(name, 0.0) for name in sources.names], dtype=np.float64)
        return shares / shares.sum()


class Mixer(ABC):
    """A pure function of its configuration, the seed, the round, its state, and the model if it looks at one."""

    asks_model: str | None = None  # "losses" where the round must bring a model and a `scorer`
    initial: Shares | None = None  # of warm-ups

    def check(self, sources: Sources) -> None:
        """UserError for sources that it can't do with: before a model is loaded."""
        if self.initial is not None:
            self.initial.check(sources)

    def first(self, round: Round, sources: Sources) -> np.ndarray:
        """Shares of the sources in a warm-up, float64 (n,): `initial`, else equal ones."""
        del round
        return sources.uniform() if self.initial is None else self.initial.of(sources)

    @abstractmethod
    def proportions(self, round: Round, sources: Sources) -> np.ndarray:
        """Shares of the sources, float64 (n,), none below 0, their sum 1; asked once a round, warm-ups left out."""

    def told(self) -> dict[str, np.ndarray]:
        """What the last call measured, by what it is: numbers of the sources, float64 (n,). Goes to the record."""
        return {}

    def state_dict(self) -> dict[str, np.ndarray]:
        """What must survive a restart, as arrays; goes into every checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Take back what state_dict gave."""
        del state

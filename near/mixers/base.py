"""The contract of a mixer: what share of a round each source of the pool gets."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from near.data import BLOCK, Rows
from near.errors import UserError
from near.selectors.base import Round


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


class Mixer(ABC):
    """A pure function of its configuration, the seed, the round, its state, and the model if it looks at one."""

    asks_model: str | None = None  # "losses" where the round must bring a model and a `scorer`

    def check(self, sources: Sources) -> None:
        """UserError for sources that it can't do with: before a model is loaded."""
        del sources

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

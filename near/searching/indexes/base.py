"""The contract of an index."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

import numpy as np

from near.common.moved import Contract
from near.common.progress import Progress


class Vectors(Protocol):
    """`n` finite float32 vectors of `dim` numbers. `largest`: the longest length among those read so far."""

    n: int
    dim: int
    largest: float

    def read(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        """Read vectors `rows` (a slice without step, or ascending int64 (m,)) into `out`, float32 (m, dim)."""


class Index(Contract, ABC):
    """Finds the rows of a pool with the largest inner products; for vectors of length 1 these are cosines."""

    renamed = {"built": "structure_key", "told": "figures"}

    exact = False
    launcher: str | None = None  # ray: shards are searched as tasks of a cluster
    structure_key: dict | None = None  # what decides the structure that is built for a pool and cached; None: none is

    def __init__(self):
        self.figures: dict = {}  # of the last search, for the manifest

    @property
    @abstractmethod
    def signature(self) -> dict:
        """All options that decide the result: part of the neighbours' cache key."""

    def check(self) -> None:  # noqa: B027
        """Raise UserError where this machine can't search as configured; called before anything is embedded."""

    @abstractmethod
    def search(
        self,
        queries: np.ndarray,
        pool: Vectors,
        k: int,
        progress: Progress = lambda rows: None,
        cache: Path | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Each query's k nearest rows of the pool.

        Args:
            queries: float32 (n_queries, dim), C-contiguous.
            pool: the vectors to search, read block by block.
            k: 1 to pool.n.
            progress: called with the number of rows done.
            cache: a folder in which a built index is cached for later searches; None: not cached.

        Returns:
            scores float32 (n_queries, k), descending; rows int64 (n_queries, k), ties by lower row, none twice for a
            query and none -1.
        """

"""The contract of an index."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

import numpy as np

from near.common.progress import Progress


class Vectors(Protocol):
    """float32 vectors (n, dim), finite. `largest`: the length of the longest of those that were read so far."""

    n: int
    dim: int
    largest: float

    def read(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        """Put vectors `rows` (a slice without step, or ascending int64 (m,)) into `out`, float32 (m, dim)."""


class Index(ABC):
    """Finds the rows of a pool with the largest inner products. Vectors of unit length: the largest cosines."""

    exact = False
    launcher: str | None = None  # ray: shards are searched as tasks of a cluster
    built: dict | None = None  # what decides the structure that is built of a pool and kept, where there is one

    def __init__(self):
        self.told: dict = {}  # figures of the last search, for the manifest

    @property
    @abstractmethod
    def signature(self) -> dict:
        """What decides the result: part of the key under which neighbours are cached."""

    @abstractmethod
    def search(
        self,
        queries: np.ndarray,
        pool: Vectors,
        k: int,
        progress: Progress = lambda rows: None,
        keep: Path | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 (Q, k) and rows int64 (Q, k) of each query's k neighbours, best first, ties by lower row.

        queries: float32 (Q, D), C-contiguous; k: 1 to pool.n. No row comes twice for a query, and none is -1.
        keep: a folder for what is built of the pool, to be found there by later searches.
        """

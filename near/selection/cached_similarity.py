"""Similarities beyond the neighbour matrix that depend on nothing but rows and a configuration: cached."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from near.common.cached import cached_array
from near.common.files import cache_folder, digest
from near.data.rows import Rows
from near.selection.similarity import Similarity

if TYPE_CHECKING:
    from near.searching.neighbours import Neighbours


class CachedSimilarity(Similarity):
    """Of the queries and the eligible rows of `candidates`. If several processes need the same result at once, the
    first computes it."""

    def __init__(self, cache_dir: str, candidates: Rows, queries: Rows | None, neighbours: "Neighbours | None"):
        super().__init__(neighbours, candidates.eligible(), len(candidates))
        self.cache_dir, self.candidates, self.queries = cache_dir, candidates, queries

    @property
    @abstractmethod
    def signature(self) -> dict:
        """All that decides similarities beside the rows."""

    def means(self) -> np.ndarray:
        return self._cached(self._means_key(), super().means, (self.rows,))

    def density(self, ids: np.ndarray, sigma: float, k: int) -> np.ndarray:
        key_parts = ["density", hashlib.sha256(np.ascontiguousarray(ids)).hexdigest(), sigma, k]
        return self._cached(key_parts, lambda: super(CachedSimilarity, self).density(ids, sigma, k), ids.shape)

    def clusters(self, count: int, seed: int) -> np.ndarray:
        compute = super().clusters
        return self._cached(["clusters", count, seed], lambda: compute(count, seed), (self.rows,))

    def _means_key(self) -> list:
        return ["means", *([] if self.positions is None else self.positions.tolist())]

    def _cached(self, key_parts: list, compute: Callable[[], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """The result of `compute`, from the cache if it is there. key_parts: its name and options."""
        rows = [key_parts, self.candidates.fingerprint, hashlib.sha256(self.ids).hexdigest()]
        queries = []
        if self.queries is not None:
            queries = [self.queries.fingerprint, hashlib.sha256(self.queries.eligible()).hexdigest()]
        key = digest([rows, *queries, self.signature])
        path = cache_folder(self.cache_dir, "similarities", f"{key}.npy")
        return cached_array(path, compute, shape)

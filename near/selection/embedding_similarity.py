"""Similarity by the embedder's vectors, read from the store; results are cached."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig

from near.common.cached import cached_array
from near.common.files import cache_folder, digest
from near.data.rows import Rows
from near.embedding.embed import embed_rows, embedder_of
from near.embedding.store import Store
from near.searching.vectors import StoredVectors
from near.selection.similarity import Similarity

if TYPE_CHECKING:
    from near.searching.neighbours import Neighbours


class EmbeddingSimilarity(Similarity):
    """Similarities of the queries and the eligible rows of `candidates` by the embedder's vectors. If several processes
    need the same result at once, the first computes it."""

    def __init__(self, embedder: DictConfig, cache_dir: str, candidates: Rows, queries: Rows, neighbours: "Neighbours"):
        super().__init__(neighbours, candidates.eligible(), len(candidates))
        self.candidates, self.queries = candidates, queries
        self.embedder, self.cache_dir = embedder, cache_dir

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[StoredVectors, np.ndarray]]:
        """See Similarity.opened. The search has embedded all of them before."""
        embedder = embedder_of(self.embedder, self.cache_dir)
        with Store.of(embedder, self.cache_dir) as store:
            pool = embed_rows(store, embedder, self.candidates, self.ids)
            queries = embed_rows(store, embedder, self.queries, self.queries.eligible(), query=True)
            embedder.close()
            yield StoredVectors(store, pool.offsets), store.read(queries.offsets)

    def means(self) -> np.ndarray:
        return self._cached(["means"], super().means, (self.rows,))

    def density(self, ids: np.ndarray, sigma: float, k: int) -> np.ndarray:
        key_parts = ["density", hashlib.sha256(np.ascontiguousarray(ids)).hexdigest(), sigma, k]
        return self._cached(key_parts, lambda: super(EmbeddingSimilarity, self).density(ids, sigma, k), ids.shape)

    def clusters(self, count: int, seed: int) -> np.ndarray:
        compute = super().clusters
        return self._cached(["clusters", count, seed], lambda: compute(count, seed), (self.rows,))

    def _cached(self, key_parts: list, compute: Callable[[], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """The result of `compute`, from the cache if it is there. key_parts: its name and options."""
        embedder = embedder_of(self.embedder, self.cache_dir)
        rows = [key_parts, self.candidates.fingerprint, hashlib.sha256(self.ids).hexdigest()]
        queries = hashlib.sha256(self.queries.eligible()).hexdigest()
        key = digest([rows, self.queries.fingerprint, queries, embedder.signature])
        path = cache_folder(self.cache_dir, "similarities", f"{key}.npy")
        return cached_array(path, compute, shape)

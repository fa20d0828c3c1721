"""Similarity by the embedder's vectors, read from the store; what is computed of them is kept in the cache."""

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
    """Of the eligible rows of `candidates` and the queries, by the embedder's vectors; of several
    processes that ask for the same at once the first computes it."""

    def __init__(self, embedder: DictConfig, cache_dir: str, candidates: Rows, queries: Rows, neighbours: "Neighbours"):
        super().__init__(neighbours, candidates.eligible(), len(candidates))
        self.candidates, self.queries = candidates, queries
        self.embedder, self.cache_dir = embedder, cache_dir

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[StoredVectors, np.ndarray]]:
        """See Similarity.opened; the search has embedded them all."""
        embedder = embedder_of(self.embedder, self.cache_dir)
        with Store.of(embedder, self.cache_dir) as store:
            pool = embed_rows(store, embedder, self.candidates, self.ids)
            asked = embed_rows(store, embedder, self.queries, self.queries.eligible(), query=True)
            embedder.close()
            yield StoredVectors(store, pool.offsets), store.read(asked.offsets)

    def means(self) -> np.ndarray:
        return self._cached(["means"], super().means, (self.rows,))

    def density(self, ids: np.ndarray, sigma: float, k: int) -> np.ndarray:
        what = ["density", hashlib.sha256(np.ascontiguousarray(ids)).hexdigest(), sigma, k]
        return self._cached(what, lambda: super(EmbeddingSimilarity, self).density(ids, sigma, k), ids.shape)

    def clusters(self, count: int, seed: int) -> np.ndarray:
        work = super().clusters
        return self._cached(["clusters", count, seed], lambda: work(count, seed), (self.rows,))

    def _cached(self, what: list, work: Callable[[], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """What `work` gives, from the cache where it was computed before."""
        embedder = embedder_of(self.embedder, self.cache_dir)
        made_of = [what, self.candidates.fingerprint, hashlib.sha256(self.ids).hexdigest()]
        asked = hashlib.sha256(self.queries.eligible()).hexdigest()
        key = digest([made_of, self.queries.fingerprint, asked, embedder.signature])
        path = cache_folder(self.cache_dir, "similarities", f"{key}.npy")
        return cached_array(path, work, shape)

"""Similarity by the embedder's vectors, read from the store; results are cached."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig

from near.data.rows import Rows
from near.embedding.embed import embed_rows, embedder_of
from near.embedding.store import Store
from near.searching.vectors import StoredVectors
from near.selection.cached_similarity import CachedSimilarity

if TYPE_CHECKING:
    from near.searching.neighbours import Neighbours


class EmbeddingSimilarity(CachedSimilarity):
    """Similarities of the queries and the eligible rows of `candidates` by the embedder's vectors."""

    def __init__(self, embedder: DictConfig, cache_dir: str, candidates: Rows, queries: Rows, neighbours: "Neighbours"):
        super().__init__(cache_dir, candidates, queries, neighbours)
        self.embedder = embedder

    @property
    def signature(self) -> dict:
        return embedder_of(self.embedder, self.cache_dir).signature

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[StoredVectors, np.ndarray]]:
        """See Similarity.opened. The search has embedded all of them before."""
        embedder = embedder_of(self.embedder, self.cache_dir)
        with Store.of(embedder, self.cache_dir) as store:
            pool = embed_rows(store, embedder, self.candidates, self.ids)
            queries = embed_rows(store, embedder, self.queries, self.queries.eligible(), query=True)
            embedder.close()
            yield StoredVectors(store, pool.offsets), store.read(queries.offsets)

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

    def __init__(
        self,
        embedder: DictConfig,
        cache_dir: str,
        candidates: Rows,
        queries: Rows | None,
        neighbours: "Neighbours | None",
    ):
        super().__init__(cache_dir, candidates, queries, neighbours)
        self.embedder = embedder

    @property
    def signature(self) -> dict:
        return embedder_of(self.embedder, self.cache_dir).signature

    def embed(self) -> None:
        """Embed the rows, so that no embedder is loaded later beside the model that is trained."""
        with self.opened():
            pass

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[StoredVectors, np.ndarray]]:
        """See Similarity.opened. The search has embedded all of them before; without queries, the first call does."""
        embedder = embedder_of(self.embedder, self.cache_dir)
        with Store.of(embedder, self.cache_dir) as store:
            pool = embed_rows(store, embedder, self.candidates, self.ids)
            queries = np.empty((0, 0), dtype=np.float32)
            if self.queries is not None:
                embedded = embed_rows(store, embedder, self.queries, self.queries.eligible(), query=True)
                queries = store.read(embedded.offsets)
            embedder.close()
            yield StoredVectors(store, pool.offsets), queries

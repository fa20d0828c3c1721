"""Similarity by words (`similarity=bm25`) beyond the neighbour matrix; results are cached."""

import contextlib
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from near.data.rows import Rows
from near.embedding.embedders.base import normalised
from near.searching.bm25 import Bm25, Postings
from near.selection.cached_similarity import CachedSimilarity

if TYPE_CHECKING:
    from near.searching.neighbours import Neighbours

DIM = 1024  # of a row's vector


class WordSimilarity(CachedSimilarity):
    """Means are of BM25 scores as shares of what a query's words can give (Neighbours.similarities). Two rows are as
    similar as the cosine of their words' weights in BM25."""

    def __init__(self, bm25: Bm25, cache_dir: str, candidates: Rows, queries: Rows, neighbours: "Neighbours"):
        super().__init__(cache_dir, candidates, queries, neighbours)
        self.bm25 = bm25

    @property
    def signature(self) -> dict:
        return {**self.bm25.signature, "dim": DIM}

    def means(self) -> np.ndarray:
        return self._cached(self._means_key(), self._means, (self.rows,))

    def _means(self) -> np.ndarray:
        counts = self.bm25.counts(self.queries)
        counts = counts if self.positions is None else [counts[i] for i in self.positions]
        postings = self.bm25.postings(self.candidates, self.ids, sorted(set().union(*counts)))
        weights: dict[str, float] = {}
        for times in counts:
            for word, count in times.items():
                weights[word] = weights.get(word, 0.0) + count / (postings.most(times) * len(counts))
        sums = np.zeros(len(self.ids))
        for word, weight in weights.items():
            postings.add(word, weight, sums)
        means = np.full(self.rows, np.nan, dtype=np.float32)
        means[self.ids] = sums
        return means

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple["WordVectors", np.ndarray]]:
        """See Similarity.opened. There are no vectors of queries: `means` needs none."""
        yield WordVectors(self.bm25.postings(self.candidates, self.ids)), np.empty((0, DIM), dtype=np.float32)


class WordVectors:
    """The words' weights of each row, with random signs in DIM random places (feature hashing: Weinberger et al. 2009,
    arXiv 0902.2206), scaled to length 1. See near.searching.indexes.base.Vectors."""

    dim, largest = DIM, 1.01

    def __init__(self, postings: Postings):
        from scipy import sparse

        shape = (postings.count, len(postings.numbers))
        by_word = sparse.csc_array((postings.weights, postings.rows, postings.starts), shape=shape)
        self._weights, self.n = by_word.tocsr(), postings.count
        codes = np.array([zlib.crc32(word.encode()) for word in postings.numbers], dtype=np.int64)
        signs, numbers = 1.0 - 2.0 * (codes & 1), np.arange(len(codes))
        self._places = sparse.csr_array((signs, (numbers, (codes >> 1) % DIM)), shape=(len(codes), DIM))

    def read(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        out[:] = normalised((self._weights[rows] @ self._places).toarray())

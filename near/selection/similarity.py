"""How alike queries and rows of the pool are, beyond the neighbour matrix: what some selectors ask for."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from near.searching.indexes.base import Vectors

if TYPE_CHECKING:
    from near.searching.neighbours import Neighbours

BLOCK = 16_384  # vectors read at a time
HELD = 1 << 26  # similarities held at a time
SAMPLED = 256  # rows a cluster that centres are made from


class Similarity(ABC):
    """Cosines of unit vectors of queries and rows: embeddings, or gradients of the model.

    neighbours: the matrix, (Q, max_K). ids: int64 (m,), ascending: the rows of the pool (of `rows`) that have vectors.
    """

    def __init__(self, neighbours: "Neighbours", ids: np.ndarray, rows: int):
        self.neighbours, self.ids, self.rows = neighbours, ids, rows

    @abstractmethod
    def opened(self) -> contextlib.AbstractContextManager[tuple[Vectors, np.ndarray]]:
        """The vectors of rows `ids`, in their order, and the queries', float32 (Q, dim)."""

    def means(self) -> np.ndarray:
        """The mean similarity of every row of the pool to all queries, float32 (n,); NaN where a row has no vector."""
        found = np.full(self.rows, np.nan, dtype=np.float32)
        with self.opened() as (vectors, queries):
            target = queries.mean(axis=0, dtype=np.float64).astype(np.float32)
            for positions, block in _blocks(vectors, np.arange(vectors.n)):
                found[self.ids[positions]] = block @ target
        return found

    def density(self, ids: np.ndarray, sigma: float, k: int) -> np.ndarray:
        """Of each of the rows `ids` (distinct, int64 (m,)) the sum of the kernel max(0, 1 - d^2 / sigma^2) over its k
        nearest among `ids`, itself included; d is the Euclidean distance of unit vectors, d^2 = 2 - 2 s. float64 (m,).
        """
        order = np.argsort(ids)
        places, found = np.searchsorted(self.ids, ids[order]), np.empty(len(ids))
        own = max(1, min(BLOCK, HELD // len(ids)))  # rows whose similarities to all others are held
        with self.opened() as (vectors, _):
            for start in range(0, len(places), own):
                mine = np.empty((len(places[start : start + own]), vectors.dim), dtype=np.float32)
                vectors.read(places[start : start + own], mine)
                kernel = np.empty((len(mine), len(places)), dtype=np.float32)
                for others, block in _blocks(vectors, places):
                    np.matmul(mine, block.T, out=kernel[:, others])
                kernel[np.arange(len(mine)), np.arange(start, start + len(mine))] = 1.0  # a row is at its own place
                _to_kernel(kernel, sigma)
                for row in np.flatnonzero(np.count_nonzero(kernel, axis=1) > k):  # most have fewer near ones than k
                    kernel[row].partition(len(places) - k)
                    kernel[row, : len(places) - k] = 0
                found[order[start : start + own]] = kernel.sum(axis=1, dtype=np.float64)
        return found

    def clusters(self, count: int, seed: int) -> np.ndarray:
        """Spherical k-means (FAISS's) of all vectors: the cluster of every row of the pool, int64 (n,), -1 where it has
        no vector. Centres are made from at most SAMPLED random rows for each."""
        import faiss

        found = np.full(self.rows, -1, dtype=np.int64)
        with self.opened() as (vectors, _):
            drawn = np.random.default_rng(seed).choice(vectors.n, min(vectors.n, SAMPLED * count), replace=False)
            sample = np.empty((len(drawn), vectors.dim), dtype=np.float32)
            vectors.read(np.sort(drawn), sample)
            means = faiss.Kmeans(
                vectors.dim, count, niter=20, seed=seed % 2**31, spherical=True, min_points_per_centroid=1
            )
            means.train(sample)
            for positions, block in _blocks(vectors, np.arange(vectors.n)):
                found[self.ids[positions]] = np.argmax(block @ means.centroids.T, axis=1)
        return found


class VectorSimilarity(Similarity):
    """Of vectors that are at hand."""

    def __init__(self, vectors: Vectors, queries: np.ndarray, ids: np.ndarray, rows: int, neighbours: "Neighbours"):
        super().__init__(neighbours, ids, rows)
        self._vectors, self._queries = vectors, queries

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[Vectors, np.ndarray]]:
        yield self._vectors, self._queries


class FromEmbeddings:
    """`similarity=embeddings`: the neighbour matrix of the embedder's vectors, the same in every round."""

    asks_model: str | None = None


def _to_kernel(similarities: np.ndarray, sigma: float) -> None:
    """max(0, 1 - d^2 / sigma^2) in the place of similarities, d^2 = 2 - 2 s: a copy would double what is held."""
    np.subtract(1, similarities, out=similarities)
    np.maximum(similarities, 0, out=similarities)
    similarities *= -2 / sigma**2
    similarities += 1
    np.maximum(similarities, 0, out=similarities)


def _blocks(vectors: Vectors, places: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Vectors at `places`, ascending, block by block, with where in `places` they stand."""
    buffer = np.empty((min(BLOCK, len(places)), vectors.dim), dtype=np.float32)
    for start in range(0, len(places), BLOCK):
        some = places[start : start + BLOCK]
        vectors.read(some, buffer[: len(some)])
        yield slice(start, start + len(some)), buffer[: len(some)]

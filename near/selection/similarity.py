"""Similarities of queries and rows of the pool beyond the neighbour matrix, which some selectors need."""

import contextlib
import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from near.searching.indexes.base import Vectors

if TYPE_CHECKING:
    from near.searching.neighbours import Neighbours

BLOCK = 16_384  # vectors read at a time
MAX_KERNEL = 1 << 26  # similarities in memory at a time
SAMPLED = 256  # rows per cluster that centres are computed from


class Similarity(ABC):
    """Cosines of unit vectors of queries and rows: embeddings, or gradients of the model.

    Args:
        neighbours: the matrix, (n_queries, max_K); None: there are no queries.
        ids: the rows of the pool that have vectors, int64 (m,), ascending.
        rows: rows of the pool.
    """

    def __init__(self, neighbours: "Neighbours | None", ids: np.ndarray, rows: int):
        self.neighbours, self.ids, self.rows = neighbours, ids, rows
        self.positions: np.ndarray | None = None  # of the queries that count, int64 (m,); None: all

    @abstractmethod
    def opened(self) -> contextlib.AbstractContextManager[tuple[Vectors, np.ndarray]]:
        """The vectors of rows `ids`, in their order, and of all queries, float32 (Q, dim); Q = 0 without queries."""

    def of_queries(self, positions: np.ndarray) -> "Similarity":
        """The same with the queries at `positions`, int64 (m,), alone."""
        part = copy.copy(self)
        part.positions = positions if self.positions is None else self.positions[positions]
        part.neighbours = None if self.neighbours is None else self.neighbours.of_queries(positions)
        return part

    def means(self) -> np.ndarray:
        """The mean similarity of every row of the pool to all queries, float32 (n,); NaN where a row has no vector."""
        means = np.full(self.rows, np.nan, dtype=np.float32)
        with self.opened() as (vectors, queries):
            queries = queries if self.positions is None else queries[self.positions]
            target = queries.mean(axis=0, dtype=np.float64).astype(np.float32)  # (dim,)
            for positions, block in _blocks(vectors, np.arange(vectors.n)):
                means[self.ids[positions]] = block @ target
        return means

    def density(self, ids: np.ndarray, sigma: float, k: int) -> np.ndarray:
        """How many of the rows `ids` lie near each of them, float64 (m,).

        The sum of the kernel max(0, 1 - d^2 / sigma^2) over a row's k nearest among `ids`, itself included; d is the
        Euclidean distance of unit vectors, d^2 = 2 - 2 s.

        Args:
            ids: distinct rows with vectors, int64 (m,).
            sigma: the kernel's width.
            k: neighbours that count.
        """
        order = np.argsort(ids)
        positions, density = np.searchsorted(self.ids, ids[order]), np.empty(len(ids))
        step = max(1, min(BLOCK, MAX_KERNEL // len(ids)))  # rows whose similarities to all others are in memory
        with self.opened() as (vectors, _):
            for start in range(0, len(positions), step):
                rows = np.empty((len(positions[start : start + step]), vectors.dim), dtype=np.float32)
                vectors.read(positions[start : start + step], rows)
                kernel = np.empty((len(rows), len(positions)), dtype=np.float32)
                for others, block in _blocks(vectors, positions):
                    np.matmul(rows, block.T, out=kernel[:, others])
                kernel[np.arange(len(rows)), np.arange(start, start + len(rows))] = 1.0  # of a row and itself, exactly
                _to_kernel(kernel, sigma)
                for row in np.flatnonzero(np.count_nonzero(kernel, axis=1) > k):  # most rows have fewer near ones
                    kernel[row].partition(len(positions) - k)
                    kernel[row, : len(positions) - k] = 0
                density[order[start : start + step]] = kernel.sum(axis=1, dtype=np.float64)
        return density

    def clusters(self, count: int, seed: int) -> np.ndarray:
        """The cluster of every row of the pool, int64 (n,), -1 where it has no vector.

        FAISS's spherical k-means of all vectors; centres are computed from at most SAMPLED random rows each.
        """
        import faiss

        clusters = np.full(self.rows, -1, dtype=np.int64)
        with self.opened() as (vectors, _):
            drawn = np.random.default_rng(seed).choice(vectors.n, min(vectors.n, SAMPLED * count), replace=False)
            sample = np.empty((len(drawn), vectors.dim), dtype=np.float32)
            vectors.read(np.sort(drawn), sample)
            means = faiss.Kmeans(
                vectors.dim, count, niter=20, seed=seed % 2**31, spherical=True, min_points_per_centroid=1
            )
            means.train(sample)
            for positions, block in _blocks(vectors, np.arange(vectors.n)):
                clusters[self.ids[positions]] = np.argmax(block @ means.centroids.T, axis=1)
        return clusters


class VectorSimilarity(Similarity):
    """Similarities of vectors that are already available."""

    def __init__(
        self, vectors: Vectors, queries: np.ndarray, ids: np.ndarray, rows: int, neighbours: "Neighbours | None"
    ):
        super().__init__(neighbours, ids, rows)
        self._vectors, self._queries = vectors, queries

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[Vectors, np.ndarray]]:
        yield self._vectors, self._queries


class FromEmbeddings:
    """`similarity=embeddings`: the neighbour matrix of the embedder's vectors, the same in every round."""

    requires: str | None = None

    def apply(self, round: Any, max_K: int | None) -> Any:
        """`round` with neighbours and similarity; here it has them already."""
        del max_K
        return round


def _to_kernel(similarities: np.ndarray, sigma: float) -> None:
    """Replace similarities s by max(0, 1 - d^2 / sigma^2), d^2 = 2 - 2 s, in place: a copy would double the memory."""
    np.subtract(1, similarities, out=similarities)
    np.maximum(similarities, 0, out=similarities)
    similarities *= -2 / sigma**2
    similarities += 1
    np.maximum(similarities, 0, out=similarities)


def _blocks(vectors: Vectors, positions: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Read vectors `positions`, ascending, block by block, float32 (m, dim), each with its slice of `positions`."""
    buffer = np.empty((min(BLOCK, len(positions)), vectors.dim), dtype=np.float32)
    for start in range(0, len(positions), BLOCK):
        part = positions[start : start + BLOCK]
        vectors.read(part, buffer[: len(part)])
        yield slice(start, start + len(part)), buffer[: len(part)]

"""Exact search with FAISS, the pool read block by block."""

from collections.abc import Callable, Iterator

import faiss
import numpy as np


class Flat:
    """Inner product with every row of the pool; `block_rows` rows are held in memory at a time."""

    def __init__(self, block_rows: int = 100_000):
        self.block_rows = block_rows

    @property
    def signature(self) -> dict:
        return {"index": "flat", "exact": True}

    def search(
        self,
        queries: np.ndarray,
        read: Callable[[int, int], np.ndarray],
        n: int,
        k: int,
        progress: Callable[[int], object] = lambda rows: None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k rows with the largest inner product for each query.

        queries: float32 (Q, D); `read(start, stop)` gives rows of the pool, float32 (stop - start, D); n: rows of the
        pool, at least k. Returns scores float32 (Q, k) and rows int64 (Q, k), best first, ties by lower row.
        """
        best_scores = np.empty((len(queries), 0), dtype=np.float32)
        best_rows = np.empty((len(queries), 0), dtype=np.int64)
        for start, stop in _blocks(n, self.block_rows):
            block = read(start, stop)
            scores, rows = _block_best(queries, block, min(k, stop - start))
            best_scores = np.concatenate([best_scores, scores], axis=1)
            best_rows = np.concatenate([best_rows, rows + start], axis=1)
            order = np.lexsort((best_rows, -best_scores), axis=1)[:, :k]
            best_scores = np.take_along_axis(best_scores, order, axis=1)
            best_rows = np.take_along_axis(best_rows, order, axis=1)
            progress(stop - start)
        return best_scores, best_rows


def _blocks(n: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, n, size):
        yield start, min(start + size, n)


def _block_best(queries: np.ndarray, block: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """FAISS's k best of one block. Where rows tie at the k-th place FAISS may keep any of them; one more neighbour
    shows whether that can have happened, and those queries are done again by hand."""
    wide = min(k + 1, len(block))
    scores, rows = faiss.knn(queries, block, wide, metric=faiss.METRIC_INNER_PRODUCT)
    if wide > k:
        for q in np.flatnonzero(scores[:, k] == scores[:, k - 1]):
            last = scores[q, k - 1]
            tied = np.flatnonzero(block @ queries[q] >= last - 1e-5)  # a superset; FAISS's own scores decide below
            own, found = faiss.knn(queries[q : q + 1], block[tied], len(tied), metric=faiss.METRIC_INNER_PRODUCT)
            order = np.lexsort((tied[found[0]], -own[0]))[:k]
            scores[q, :k], rows[q, :k] = own[0][order], tied[found[0]][order]
    return scores[:, :k], rows[:, :k].astype(np.int64)

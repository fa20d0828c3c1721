"""Equal vectors tie, and ties go to the lower row: near ties are settled by products that don't depend on position.

A BLAS rounds a product by where it stands in the matrix: of equal vectors, up to 3e-7 apart were seen. So neighbours
whose scores are closer than that are scored again in float64, whose rounding is lost in float32, and sorted again.
"""

from typing import TYPE_CHECKING

import numpy as np

from near.indexes.topk import pack, unpack, whole
from near.vectors import Vectors

if TYPE_CHECKING:
    from near.indexes.flat import Flat

CLOSE = 1e-6  # of the vectors' lengths: scores nearer to each other are settled
SLACK = 64  # neighbours found beyond the k-th, among which may be some that tie with it
MOST = 8192  # rows that may tie: of more, which are kept is the BLAS's rounding
HELD = 1 << 22  # keys of queries with many ties that are searched again together
CHUNK = 4096  # vectors read, and products taken, at a time
DENSE = 30  # times faster a matrix product is for each of its entries than taking one by itself


def with_slack(k: int, n: int) -> int:
    """How many neighbours to find so that k can be settled."""
    return min(k + SLACK, n)


def settle(index: "Flat", queries: np.ndarray, pool: Vectors, keys: np.ndarray, k: int):
    """Scores float32 (Q, k) and rows int64 (Q, k) of each query's k best, ties by lower row, out of `keys`: uint64
    (Q, with_slack(k)), best first. Queries for which more rows tie are searched again."""
    scores, rows = whole(keys)
    width = keys.shape[1]
    close = CLOSE * pool.largest * np.linalg.norm(queries, axis=1)
    most = min(max(2 * width, MOST), index.most(width), pool.n)
    open_ = np.flatnonzero(scores[:, -1] >= scores[:, k - 1] - close) if width < most else np.arange(0)
    settled = _settled(queries, pool, scores, rows, k, close)
    for start in range(0, len(open_), max(1, HELD // most)):
        some = open_[start : start + max(1, HELD // most)]
        wide = whole(index.best(queries, pool, most, 0, pool.n, only=some))
        for mine, other in zip(settled, _settled(queries[some], pool, *wide, k, close[some]), strict=True):
            mine[some] = other
    return settled


def _settled(queries, pool, scores, rows, k, close):
    """The k best of what was found, float32 (Q, k) and int64 (Q, k), where scores closer than `close` (Q,) are new."""
    close = close[:, None]
    near = np.diff(scores, axis=1) >= -close
    tied = np.zeros(scores.shape, dtype=bool)
    tied[:, :-1] |= near
    tied[:, 1:] |= near
    tied[:, k:] &= scores[:, k:] >= scores[:, k - 1 : k] - close
    query, column = np.nonzero(tied)
    if len(query):
        scores[query, column] = _products(queries, pool, query, rows[query, column])
        keys = pack(scores, rows)
        keys.sort(axis=1)
        scores, rows = unpack(np.ascontiguousarray(keys[:, ::-1]))
    return np.ascontiguousarray(scores[:, :k]), np.ascontiguousarray(rows[:, :k])


def _products(queries, pool: Vectors, query: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Inner products of queries[query] and vectors `row` of the pool, float32 (m,)."""
    wanted, where = np.unique(row, return_inverse=True)
    order, found = np.argsort(where, kind="stable"), np.empty(len(row), dtype=np.float32)
    ends = np.searchsorted(where[order], np.arange(0, len(wanted) + CHUNK, CHUNK))
    vectors = np.empty((min(CHUNK, len(wanted)), pool.dim), dtype=np.float32)
    for first, a, b in zip(range(0, len(wanted), CHUNK), ends[:-1], ends[1:], strict=False):
        some = wanted[first : first + CHUNK]
        pool.read(some, vectors[: len(some)])
        chunk, at = vectors[: len(some)], order[a:b]
        asked, which = np.unique(query[at], return_inverse=True)
        if len(at) * DENSE > len(some) * len(asked):
            every = queries[asked].astype(np.float64) @ chunk.T.astype(np.float64)
            found[at] = every[which, where[at] - first]
            continue
        for start in range(0, len(at), CHUNK):
            own = at[start : start + CHUNK]
            found[own] = (chunk[where[own] - first].astype(np.float64) * queries[query[own]]).sum(axis=1)
    return found

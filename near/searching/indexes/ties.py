"""Equal vectors tie, and ties go to the lower row: near ties are settled by products that don't depend on position.

A BLAS rounds a product by where it stands in the matrix: of equal vectors, up to 3e-7 apart were seen. So neighbours
whose scores are closer than that are scored again in float64, whose rounding is lost in float32, and sorted again.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from near.common.threads import one_blas_thread, threads_to_use
from near.searching.indexes.base import Vectors
from near.searching.indexes.topk import pack, rows_of, unpack, whole

CLOSE = 1e-6  # of the vectors' lengths: scores nearer to each other are settled
SLACK = 64  # neighbours found beyond the k-th, among which may be some that tie with it
MOST = 8192  # rows that may tie: of more, which are kept is the BLAS's rounding
HELD = 1 << 22  # keys of queries with many ties that are searched again together
GROUP = 64  # queries settled at a time: few enough that their scores stay in a core's cache
CHUNK = 4096  # vectors read at a time
SINGLE = 512  # products taken one by one at a time
DENSE = 30  # times faster a matrix product is for each of its entries than taking one by itself


def with_slack(k: int, n: int) -> int:
    """How many neighbours to find so that k can be settled."""
    return min(k + SLACK, n)


def settle(again, most: int, queries: np.ndarray, pool: Vectors, keys: np.ndarray, k: int):
    """Scores float32 (Q, k) and rows int64 (Q, k) of each query's k best, ties by lower row, out of `keys`: uint64
    (Q, with_slack(k)), best first. Queries for which more rows tie are searched again."""
    width = keys.shape[1]
    close = CLOSE * pool.largest * np.linalg.norm(queries, axis=1)
    most = min(max(2 * width, MOST), most, pool.n)
    *settled, open_ = _settled(queries, pool, keys, k, close)
    if width >= most:
        return tuple(settled)
    for start in range(0, len(open_), max(1, HELD // most)):
        some = open_[start : start + max(1, HELD // most)]
        wide = again(some, most)
        *again, _ = _settled(queries[some], pool, wide, k, close[some])
        for mine, other in zip(settled, again, strict=True):
            mine[some] = other
    return tuple(settled)


def _settled(queries, pool, keys, k, close):
    """The k best of what was found, float32 (Q, k) and int64 (Q, k), where scores closer than `close` (Q,) are new; and
    the queries, int64 (m,), for which rows that were not found may tie with the k-th."""
    groups = [slice(a, a + GROUP) for a in range(0, len(keys), GROUP)]
    scores, rows = np.empty((len(keys), k), dtype=np.float32), np.empty((len(keys), k), dtype=np.int64)

    def tied(group: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Queries and columns of what is close to another one, the rows there, and which queries may lack some."""
        found, own = whole(keys[group])
        limits = close[group, None]
        near = np.diff(found, axis=1) >= -limits
        both = np.zeros(found.shape, dtype=bool)
        both[:, :-1] |= near
        both[:, 1:] |= near
        last = found[:, k - 1 : k] - limits
        both[:, k:] &= found[:, k:] >= last
        query, column = np.nonzero(both)
        return query + group.start, column, own[query, column], np.flatnonzero(found[:, -1:] >= last) + group.start

    def sort(group: slice, query: np.ndarray, column: np.ndarray, products: np.ndarray) -> None:
        again = keys[group].copy()
        again[query - group.start, column] = pack(products, rows_of(again[query - group.start, column]))
        again.sort(axis=1, kind="stable")  # which is quick where most is in order
        scores[group], rows[group] = unpack(again[:, : -k - 1 : -1])

    with one_blas_thread(), ThreadPoolExecutor(threads_to_use()) as workers:
        parts = list(workers.map(tied, groups))
        query, column, row, short = (np.concatenate(part) for part in zip(*parts, strict=True))
        products = _products(queries, pool, query, row, workers)
        ends = np.cumsum([len(part[0]) for part in parts])[:-1]
        list(workers.map(sort, groups, *(np.split(part, ends) for part in (query, column, products))))
    return scores, rows, short


def _products(queries, pool: Vectors, query: np.ndarray, row: np.ndarray, workers: ThreadPoolExecutor) -> np.ndarray:
    """Inner products of queries[query] and vectors `row` of the pool, float32 (m,)."""
    wanted, where = np.unique(row, return_inverse=True)
    order, found = np.argsort(where, kind="stable"), np.empty(len(row), dtype=np.float32)
    ends = np.searchsorted(where[order], np.arange(0, len(wanted) + CHUNK, CHUNK))

    def multiply(number: int) -> None:
        """All pairs whose vectors are those of one chunk."""
        first, at = number * CHUNK, order[ends[number] : ends[number + 1]]
        some = wanted[first : first + CHUNK]
        chunk = buffers[number % threads, : len(some)]
        pool.read(some, chunk)
        asked, which = np.unique(query[at], return_inverse=True)
        if len(at) * DENSE > len(chunk) * len(asked):
            every = queries[asked].astype(np.float64) @ chunk.T.astype(np.float64)
            found[at] = every[which, where[at] - first]
            return
        for start in range(0, len(at), SINGLE):
            own = at[start : start + SINGLE]
            pairs = np.multiply(chunk[where[own] - first], queries[query[own]], dtype=np.float64)
            found[own] = pairs.sum(axis=1)

    threads = threads_to_use()
    buffers = np.empty((threads, min(CHUNK, len(wanted)), pool.dim), dtype=np.float32)
    running: list = [None] * threads
    for number in range(len(ends) - 1):
        if running[number % threads]:
            running[number % threads].result()  # its buffer is free again
        running[number % threads] = workers.submit(multiply, number)
    for work in filter(None, running):
        work.result()
    return found

"""Equal vectors must tie, and ties go to the lower row: near ties are settled with products that ignore position.

A BLAS rounds an inner product differently by its position in the matrix: scores of equal vectors up to 3e-7 apart were
seen. So neighbours with near scores are scored again in float64, rounded to float32, and sorted again.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from near.common.threads import one_blas_thread, threads_to_use
from near.searching.indexes.base import Vectors
from near.searching.indexes.topk import pack, rows_of, unpack, whole

CLOSE = 1e-6  # scores that differ by less, relative to the vectors' lengths, are settled
SLACK = 64  # neighbours searched beyond the k-th, as they may tie with it
MAX_TIES = 8192  # rows that may tie with the k-th; of more, the BLAS's rounding decides
MAX_KEYS = 1 << 22  # keys in memory when queries with many ties are searched again
GROUP = 64  # queries settled at a time: few enough that their scores stay in a core's cache
CHUNK = 4096  # vectors read at a time
SINGLE = 512  # pairs multiplied at a time
DENSE = 30  # how much faster one entry of a matrix product is than one pair


def with_slack(k: int, n: int) -> int:
    """How many neighbours to search for so that ties at the k-th can be settled."""
    return min(k + SLACK, n)


def settle(
    search_again, queries: np.ndarray, pool: Vectors, keys: np.ndarray, k: int, close: float = CLOSE, products=None
):
    """Each query's k best rows, ties by lower row.

    Args:
        search_again: (query ids int64 (m,), width) -> keys uint64 (m, width); called for queries with more ties.
        queries: float32 (n_queries, dim).
        keys: uint64 (n_queries, with_slack(k)), best first, from a search of `pool`.
        close: scores of unit vectors that differ by less are settled.
        products: (queries int64 (m,), rows int64 (m,)) -> inner products float32 (m,), computed in float64; None: here.

    Returns:
        scores float32 (n_queries, k), descending; rows int64 (n_queries, k).
    """
    width = keys.shape[1]
    limits = close * pool.largest * np.linalg.norm(queries, axis=1)
    most = min(max(2 * width, MAX_TIES), pool.n)
    *settled, unsettled = _settled(queries, pool, keys, k, limits, products)
    if width >= most:
        return tuple(settled)
    for start in range(0, len(unsettled), max(1, MAX_KEYS // most)):
        group = unsettled[start : start + max(1, MAX_KEYS // most)]
        wide = search_again(group, most)
        of_group = products and (lambda query, row, group=group: products(group[query], row))
        *again, _ = _settled(queries[group], pool, wide, k, limits[group], of_group)
        for result, part in zip(settled, again, strict=True):
            result[group] = part
    return tuple(settled)


def _settled(queries, pool, keys, k, close, multiply=None):
    """The k best rows by `keys`, with scores closer to each other than `close`, (n_queries,), computed again
    by `multiply` (None: `_products`).

    Returns:
        scores float32 (n_queries, k); rows int64 (n_queries, k); the queries, int64 (m,), for which rows beyond `keys`
        may tie with the k-th.
    """
    groups = [slice(a, a + GROUP) for a in range(0, len(keys), GROUP)]
    scores, rows = np.empty((len(keys), k), dtype=np.float32), np.empty((len(keys), k), dtype=np.int64)

    def tied(group: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Queries, columns and rows of scores that are close to another one; and queries that may have more of them."""
        group_scores, group_rows = whole(keys[group])
        limits = close[group, None]
        is_close = np.diff(group_scores, axis=1) >= -limits  # (n_group, width - 1)
        is_tied = np.zeros(group_scores.shape, dtype=bool)
        is_tied[:, :-1] |= is_close
        is_tied[:, 1:] |= is_close
        last = group_scores[:, k - 1 : k] - limits
        is_tied[:, k:] &= group_scores[:, k:] >= last
        query, column = np.nonzero(is_tied)
        more = np.flatnonzero(group_scores[:, -1:] >= last)
        return query + group.start, column, group_rows[query, column], more + group.start

    def sort(group: slice, query: np.ndarray, column: np.ndarray, products: np.ndarray) -> None:
        again = keys[group].copy()
        again[query - group.start, column] = pack(products, rows_of(again[query - group.start, column]))
        again.sort(axis=1, kind="stable")  # of equal scores the lower row is the larger key
        scores[group], rows[group] = unpack(again[:, : -k - 1 : -1])

    with one_blas_thread(), ThreadPoolExecutor(threads_to_use()) as workers:
        parts = list(workers.map(tied, groups))
        query, column, row, short = (np.concatenate(part) for part in zip(*parts, strict=True))
        products = multiply(query, row) if multiply else _products(queries, pool, query, row, workers)
        ends = np.cumsum([len(part[0]) for part in parts])[:-1]
        list(workers.map(sort, groups, *(np.split(part, ends) for part in (query, column, products))))
    return scores, rows, short


def _products(queries, pool: Vectors, query: np.ndarray, row: np.ndarray, workers: ThreadPoolExecutor) -> np.ndarray:
    """Inner products of queries[query] and vectors `row` of the pool, both int64 (m,); float32 (m,)."""
    rows, row_of = np.unique(row, return_inverse=True)
    order, products = np.argsort(row_of, kind="stable"), np.empty(len(row), dtype=np.float32)
    ends = np.searchsorted(row_of[order], np.arange(0, len(rows) + CHUNK, CHUNK))

    def multiply(number: int) -> None:
        """Compute all products with the vectors of one chunk."""
        first, at = number * CHUNK, order[ends[number] : ends[number + 1]]
        chunk_rows = rows[first : first + CHUNK]
        chunk = buffers[number % threads, : len(chunk_rows)]
        pool.read(chunk_rows, chunk)
        chunk_queries, query_of = np.unique(query[at], return_inverse=True)
        if len(at) * DENSE > len(chunk) * len(chunk_queries):
            all_products = queries[chunk_queries].astype(np.float64) @ chunk.T.astype(np.float64)
            products[at] = all_products[query_of, row_of[at] - first]
            return
        for start in range(0, len(at), SINGLE):
            pairs = at[start : start + SINGLE]
            terms = np.multiply(chunk[row_of[pairs] - first], queries[query[pairs]], dtype=np.float64)  # (n_pairs, dim)
            products[pairs] = terms.sum(axis=1)

    threads = threads_to_use()
    buffers = np.empty((threads, min(CHUNK, len(rows)), pool.dim), dtype=np.float32)
    running: list = [None] * threads
    for number in range(len(ends) - 1):
        if running[number % threads]:
            running[number % threads].result()  # its buffer is free again
        running[number % threads] = workers.submit(multiply, number)
    for work in filter(None, running):
        work.result()
    return products

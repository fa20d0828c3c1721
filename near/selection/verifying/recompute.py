"""Scores of some queries, computed again: of the rows that a matrix names, and of the rest of the pool as far as the
time allows."""

import contextlib
from dataclasses import dataclass, field

import numpy as np

from near.common.errors import UserError
from near.data.rows import Rows
from near.embedding.embedders.base import Embedder
from near.embedding.missing import Lookup, RowTexts, embed_missing, look_up
from near.embedding.store import Store
from near.searching.bm25 import Bm25
from near.searching.indexes.base import Index
from near.searching.vectors import StoredVectors
from near.selection.verifying.time_limit import OutOfTime, TimeLimit

NUMBERS = 1 << 25  # of vectors in memory at a time
STORED, EMBEDDED, LATE = 1, 2, 3  # where a vector is from
MOST = 64  # queries in one step, so that the limit is kept


@dataclass
class Recomputed:
    """Scores of some queries.

    Attributes:
        queries: positions in the matrix of those that were computed.
        scores: of each the scores of its rows there, float32 (k,); NaN for a row that is not here, or for which there
            was no time.
        best: of each the best rows of those that were searched, ids here int64 (k,) and scores float32 (k,), best
            first; empty if nothing was searched.
        searched: rows that were searched.
        origin: uint8 (n_pool,), where the vector of each row that was needed is from: STORED, EMBEDDED now, or LATE:
            there was no time; 0: it was not needed. Empty without vectors.
    """

    queries: list[int] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    best: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    searched: int = 0
    origin: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.uint8))


@dataclass(frozen=True)
class Wanted:
    """What is to be computed again.

    Attributes:
        order: int64 (m,), positions of queries in the matrix, those to take first in front.
        query_ids: int64 (n_queries,), the row here of each query of the matrix.
        ids: int64 (n_queries, k), the row here of each neighbour; -1: none. Rows are read one by one.
        pool, queries: the data here.
    """

    order: np.ndarray
    query_ids: np.ndarray
    ids: "MappedIds"
    pool: Rows
    queries: Rows


@dataclass(frozen=True)
class MappedIds:
    """The rows of a memory-mapped matrix `ids`, int64 (n_queries, k), as ids here: `here` int64 (n_pool_there,)."""

    ids: np.ndarray
    here: np.ndarray

    @property
    def width(self) -> int:
        return self.ids.shape[1]

    def of(self, positions: np.ndarray | list[int]) -> np.ndarray:
        """int64 (m, k)."""
        return self.here[np.asarray(self.ids[positions])]


def by_vectors(wanted: Wanted, embedder: Embedder, index: Index, cache_dir: str, clock: TimeLimit) -> Recomputed:
    """By embeddings. Vectors that are in the store are read; others are embedded and stored.

    The rows that the matrix names come first and take at most half of the time; loading a model takes none of it.
    """
    result = Recomputed(origin=np.zeros(len(wanted.pool), dtype=np.uint8))
    with Store.of(embedder, cache_dir) as store:
        half = TimeLimit(clock.limit / 2)
        vectors = _of_named_rows(wanted, store, embedder, half, result)
        clock.pause(half.paused)
        with contextlib.suppress(OutOfTime):
            _search(wanted, store, embedder, index, clock, result, vectors)
        embedder.close()
    return result


def _of_named_rows(
    wanted: Wanted, store: Store, embedder: Embedder, clock: TimeLimit, result: Recomputed
) -> np.ndarray:
    """Add the scores of the rows that the matrix names; returns the queries' vectors, float32 (n_done, dim)."""
    done, size, vectors = 0, 1, []
    while done < len(wanted.order) and clock.left():
        positions, started = wanted.order[done : done + size], clock.seconds
        query_ids, ids = wanted.query_ids[positions], wanted.ids.of(positions)
        has_vector, queries = _embedded(store, embedder, wanted.queries, query_ids, True, clock, result)
        if not has_vector.all():
            break
        rows = np.unique(ids[ids >= 0])
        has_vector, pool = _embedded(store, embedder, wanted.pool, rows, False, clock, result)
        rows = rows[has_vector]
        if not len(rows):
            break
        for query, of_query, position in zip(queries, ids, positions, strict=True):
            at = np.minimum(np.searchsorted(rows, of_query), len(rows) - 1)
            is_there = rows[at] == of_query
            scores = np.full(len(of_query), np.nan, dtype=np.float32)
            scores[is_there] = pool[at[is_there]].astype(np.float64) @ query.astype(np.float64)
            result.queries.append(int(position))
            result.scores.append(scores)
        vectors.append(queries)
        done += len(positions)
        each = max(1e-6, (clock.seconds - started) / len(positions))
        fit = max(1, NUMBERS // max(1, wanted.ids.width * queries.shape[1]))
        in_time = max(1, int(min(1e6, clock.left() / each)))
        size = min(4 * size, in_time, fit, MOST)
    return np.concatenate(vectors) if vectors else np.empty((0, 0), dtype=np.float32)


def _embedded(
    store: Store, embedder: Embedder, rows: Rows, ids: np.ndarray, query: bool, clock: TimeLimit, result: Recomputed
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of as many of the rows `ids`, int64 (n,), as there is time for.

    Returns:
        bool (n,), which rows have one; float32 (m, dim), their vectors.
    """
    read = RowTexts(rows, ids, embedder, query)
    lookup = look_up(store, read, len(ids), embedder.chunk)
    offsets = _completed(lookup, store, read, embedder, clock, None if query else result)
    return offsets >= 0, store.read(offsets[offsets >= 0])


def _completed(
    lookup: Lookup, store: Store, read: RowTexts, embedder: Embedder, clock: TimeLimit, result: Recomputed | None
) -> np.ndarray:
    """Embed missing texts as long as there is time, loading the model aside.

    Args:
        result: where the origin of the vectors is noted; None for queries.

    Returns:
        the offsets of all rows, int64 (n,), negative for those without a vector.
    """
    offsets = lookup.offsets
    was_stored = offsets >= 0
    if len(lookup.missing):
        started = clock.seconds
        embedder.dim  # noqa: B018 load the model
        clock.pause(clock.seconds - started)
        with contextlib.suppress(OutOfTime):
            embed_missing(store, lookup, read, embedder, clock.progress)
    offsets = np.where(offsets < 0, offsets[np.where(offsets < 0, -1 - offsets, 0)], offsets)  # repeats of a text
    if result is not None:
        origin = np.where(was_stored, STORED, np.where(offsets >= 0, EMBEDDED, LATE))
        before = result.origin[read.ids]
        result.origin[read.ids] = np.where(np.isin(before, (STORED, EMBEDDED)), before, origin)
    return offsets


def _search(
    wanted: Wanted,
    store: Store,
    embedder: Embedder,
    index: Index,
    clock: TimeLimit,
    result: Recomputed,
    vectors: np.ndarray,
) -> None:
    """Search the pool for the queries that were computed: all eligible rows, or those whose vectors are there when the
    time is over."""
    if not result.queries:
        return
    eligible = wanted.pool.eligible()
    read = RowTexts(wanted.pool, eligible, embedder)
    lookup = look_up(store, read, len(eligible), embedder.chunk, clock.progress)
    offsets = _completed(lookup, store, read, embedder, clock, result)
    rows, offsets = eligible[offsets >= 0], offsets[offsets >= 0]
    if not len(rows):
        return
    pool = StoredVectors(store, offsets)
    width = min(wanted.ids.width, pool.n)
    scores, positions = index.search(np.ascontiguousarray(vectors), pool, width)
    result.best = list(zip(rows[positions], scores, strict=True))
    result.searched = len(rows)


def by_words(wanted: Wanted, words: Bm25, clock: TimeLimit) -> Recomputed:
    """By BM25, from the words of the whole pool; nothing if that takes longer than the limit."""
    result, eligible = Recomputed(), wanted.pool.eligible()
    mask = np.ones(len(wanted.queries), dtype=bool)
    mask[wanted.query_ids[wanted.order]] = False
    sample = wanted.queries.without(mask)  # those alone are read
    sampled = sample.eligible()
    if len(sampled) != len(wanted.order):
        raise UserError("some of the queries may not be used here; compare data.queries")
    counts = dict(zip(sampled.tolist(), words.counts(sample), strict=True))
    try:
        postings = words.postings(wanted.pool, eligible, sorted(set().union(*counts.values())), clock.progress)
    except OutOfTime:
        return result
    for position in wanted.order:
        sums = np.zeros(len(eligible))
        for word, count in counts[int(wanted.query_ids[position])].items():
            postings.add(word, count, sums)
        sums = sums.astype(np.float32)
        ids = wanted.ids.of([position])[0]
        at = np.minimum(np.searchsorted(eligible, ids), len(eligible) - 1)
        is_here = (ids >= 0) & (eligible[at] == ids)
        best = np.lexsort((eligible, -sums))[: wanted.ids.width]
        result.queries.append(int(position))
        result.scores.append(np.where(is_here, sums[at], np.nan).astype(np.float32))
        result.best.append((eligible[best], sums[best]))
        if not clock.left():
            break
    result.searched = len(eligible)
    return result

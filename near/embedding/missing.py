"""Texts that are not in the store: find them, and embed them chunk by chunk, shared by several processes."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from near.common.errors import UserError
from near.common.keys import Sorted, hashed
from near.common.progress import Progress
from near.common.text import plural
from near.data.rows import Rows
from near.embedding.embedders.base import Embedder
from near.embedding.store import Store

log = logging.getLogger(__name__)

WAIT, LONGEST_WAIT = 0.2, 3.0  # seconds between checks of what other processes are embedding
LEFT = 1 << 18  # texts claimed by other processes that are looked up at a time
Read = Callable[[np.ndarray], list[str]]  # positions, int64 (m,) -> texts


@dataclass
class Lookup:
    """Where the vectors of n texts are in the store, and which are missing.

    Attributes:
        offsets: int64 (n,), each text's offset; -1 - p for a missing text whose first position is p.
        missing: int64 (m,), these first positions, ascending.
        distinct: how many texts differ.
    """

    offsets: np.ndarray
    missing: np.ndarray
    distinct: int


def look_up(store: Store, read: Read, n: int, chunk: int, progress: Progress = lambda n: None) -> Lookup:
    """Look up texts 0 to n - 1, reading `chunk` of them at a time. Takes 37 bytes of memory a text at its peak."""
    high, low = np.empty(n, dtype=np.uint64), np.empty(n, dtype=np.uint64)
    for start in range(0, n, chunk):
        stop = min(start + chunk, n)
        high[start:stop], low[start:stop] = hashed(read(np.arange(start, stop))).T
        progress(stop - start)
    keys = Sorted(high, low)
    del high, low
    stored, order, begins = store.offsets(keys), keys.order, keys.begins
    del keys
    offsets, last = np.empty(n, dtype=np.int64), 0
    for start in range(0, n, chunk):  # repeats of a text get what its first position has
        at, first = order[start : start + chunk], begins[start : start + chunk]
        value = np.where(stored[start : start + chunk] < 0, -1 - at, stored[start : start + chunk])
        source = np.maximum.accumulate(np.where(first, np.arange(1, len(at) + 1), 0))
        value = np.concatenate([[last], value])[source]
        offsets[at], last = value, value[-1]
    distinct = int(np.count_nonzero(begins))
    del stored, order, begins
    missing = [np.empty(0, dtype=np.int64)]
    for start in range(0, n, chunk):
        positions = np.arange(start, min(start + chunk, n))
        missing.append(positions[offsets[positions] == -1 - positions])
    return Lookup(offsets, np.concatenate(missing), distinct)


def embed_missing(
    store: Store, lookup: Lookup, read: Read, embedder: Embedder, progress: Progress = lambda n: None
) -> int:
    """Embed the missing texts, sharing them with other processes; returns how many texts this process embedded.

    Chunks are the missing texts in order, `embedder.chunk` at a time, so a restart forms the same chunks. A chunk that
    another process has claimed is left to it; if that process dies, this one takes it over. Afterwards `lookup` has an
    offset for every text.
    """
    embedded, missing, wait = 0, lookup.missing, WAIT
    lookup.missing = missing[:0]
    if len(missing):
        embedder.dim  # noqa: B018 load the model before claiming the first chunk
    while len(missing):
        left, worked = [], False
        for positions, is_ours, offsets in _embed_chunks(store, missing, read, embedder, progress):
            lookup.offsets[positions[is_ours]] = offsets
            embedded, worked = embedded + len(offsets), worked or len(offsets) > 0
            left.append(positions[~is_ours])
        left = np.concatenate(left)
        if len(left) and not worked:
            if wait == WAIT:
                log.info(f"waiting for {plural(len(left), 'text')} that another process is embedding")
            time.sleep(wait)
            wait = min(1.5 * wait, LONGEST_WAIT)
        parts = [left[:0]]
        for start in range(0, len(left), LEFT):
            part = left[start : start + LEFT]
            again = look_up(store, lambda at, part=part: read(part[at]), len(part), embedder.chunk)
            is_stored = again.offsets >= 0
            lookup.offsets[part[is_stored]] = again.offsets[is_stored]
            parts.append(part[~is_stored])
            progress(int(is_stored.sum()))
        missing = np.concatenate(parts)
    repeats = np.flatnonzero(lookup.offsets < 0)
    lookup.offsets[repeats] = lookup.offsets[-1 - lookup.offsets[repeats]]
    return embedded


def _embed_chunks(
    store: Store, missing: np.ndarray, read: Read, embedder: Embedder, progress: Progress
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Embed the texts at `missing` that are ours, chunk by chunk: while the model embeds one, a thread reads, claims
    and tokenises the next, and another writes the one before.

    Yields:
        of each chunk, in order, when it is stored: its positions int64 (n,); bool (n,), which texts were embedded; the
        offsets of their vectors, int64 (m,).
    """
    chunks = [missing[start : start + embedder.chunk] for start in range(0, len(missing), embedder.chunk)]

    def claimed(number: int) -> _Claimed:
        return _claimed(store, read(chunks[number]), embedder)

    ready: Future | None = None
    writing: tuple[np.ndarray, _Claimed, Future] | None = None
    with ThreadPoolExecutor(1, "tokeniser") as ahead, ThreadPoolExecutor(1, "writer") as behind:
        try:
            ready = ahead.submit(claimed, 0)
            for number, positions in enumerate(chunks):
                claim, ready = ready.result(), None
                with contextlib.ExitStack() as stack:
                    stack.callback(claim.close)
                    ready = ahead.submit(claimed, number + 1) if number + 1 < len(chunks) else None
                    vectors = _vectors(claim, embedder, progress)
                    stack.pop_all()  # the writer closes it
                    before, writing = writing, (positions, claim, behind.submit(_stored, store, claim, vectors))
                if before is not None:
                    yield before[0], before[1].is_ours, before[2].result()
            if writing is not None:
                before, writing = writing, None
                yield before[0], before[1].is_ours, before[2].result()
        finally:
            if ready is not None and not ready.cancel():
                with contextlib.suppress(Exception):  # the error that ends the work is another one
                    ready.result().close()


def embed_chunk(
    store: Store, texts: list[str], embedder: Embedder, progress: Progress = lambda n: None
) -> tuple[np.ndarray, np.ndarray]:
    """Embed and store those of `texts` that no other process has claimed or stored.

    Returns:
        bool (n,): which texts were embedded; int64 (m,): the offsets of their vectors.
    """
    with contextlib.closing(_claimed(store, texts, embedder)) as claim:
        return claim.is_ours, _stored(store, claim, _vectors(claim, embedder, progress))


@dataclass
class _Claimed:
    """Texts that this process embeds.

    Attributes:
        keys: of the texts of a chunk, uint64 (n, 2).
        is_ours: bool (n,), those to embed here.
        prepared: these texts, as the embedder needs them.
        close: ends the claim.
    """

    keys: np.ndarray
    is_ours: np.ndarray
    prepared: Any
    close: Callable[[], object]


def _claimed(store: Store, texts: list[str], embedder: Embedder) -> _Claimed:
    keys = hashed(texts)
    with contextlib.ExitStack() as stack:
        is_ours = stack.enter_context(store.claim(keys))
        ours = [t for t, m in zip(texts, is_ours, strict=True) if m]
        prepared = embedder.prepare(ours) if ours else None
        return _Claimed(keys, is_ours, prepared, stack.pop_all().close)


def _vectors(claim: _Claimed, embedder: Embedder, progress: Progress) -> np.ndarray | None:
    """Vectors of the claimed texts, float32 (m, dim); None if there are none."""
    count = int(claim.is_ours.sum())
    if not count:
        return None
    vectors = np.asarray(embedder.embed_prepared(claim.prepared, progress))
    if vectors.shape != (count, embedder.dim):
        raise UserError(
            f"embedder {type(embedder).__name__} returned an array of {vectors.shape} for {count} texts; "
            f"return float32 ({count}, {embedder.dim})"
        )
    return vectors


def _stored(store: Store, claim: _Claimed, vectors: np.ndarray | None) -> np.ndarray:
    """Offsets of the vectors, int64 (m,), once they are stored; the claim ends."""
    with contextlib.closing(claim):
        return np.empty(0, dtype=np.int64) if vectors is None else store.add(claim.keys[claim.is_ours], vectors)


@dataclass(frozen=True)
class RowTexts:
    """Reads the texts of rows `ids`, int64 (n,), as they are embedded: as documents or as queries. Cheap to pickle."""

    rows: Rows
    ids: np.ndarray
    embedder: Embedder
    query: bool = False

    def __call__(self, positions: np.ndarray) -> list[str]:
        chats = self.rows.chats(self.ids[positions])
        return [self.embedder.query(c) if self.query else self.embedder.document(c) for c in chats]

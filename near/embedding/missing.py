"""What the store lacks of some texts, embedded chunk by chunk by however many processes."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from near.common.keys import Sorted, hashed
from near.common.progress import Progress
from near.data.rows import Rows
from near.embedding.embedders.base import Embedder
from near.embedding.store import Store

log = logging.getLogger(__name__)

WAIT, LONGEST_WAIT = 0.2, 3.0  # seconds between looks at what other processes are embedding
LEFT = 1 << 18  # texts of other processes looked up at a time
Read = Callable[[np.ndarray], list[str]]  # positions, int64 (m,), to their texts


@dataclass
class Looked:
    """What the store holds of n texts.

    `places` int64 (n,): where each text's vector is, or for one that is not stored -1 - p, p being the first position
    with that text. `missing` int64 (m,): those first positions, ascending. `distinct`: how many texts differ.
    """

    places: np.ndarray
    missing: np.ndarray
    distinct: int


def look_up(store: Store, read: Read, n: int, chunk: int, progress: Progress = lambda n: None) -> Looked:
    """Look up texts 0 to n - 1, reading `chunk` of them at a time; holds 37 bytes a text at its peak."""
    high, low = np.empty(n, dtype=np.uint64), np.empty(n, dtype=np.uint64)
    for start in range(0, n, chunk):
        stop = min(start + chunk, n)
        high[start:stop], low[start:stop] = hashed(read(np.arange(start, stop))).T
        progress(stop - start)
    keys = Sorted(high, low)
    del high, low
    found, order, begins = store.places(keys), keys.order, keys.begins
    del keys
    places, last = np.empty(n, dtype=np.int64), 0
    for start in range(0, n, chunk):  # a run's members get what its first one has
        at, first = order[start : start + chunk], begins[start : start + chunk]
        value = np.where(found[start : start + chunk] < 0, -1 - at, found[start : start + chunk])
        source = np.maximum.accumulate(np.where(first, np.arange(1, len(at) + 1), 0))
        value = np.concatenate([[last], value])[source]
        places[at], last = value, value[-1]
    distinct = int(np.count_nonzero(begins))
    del found, order, begins
    missing = [np.empty(0, dtype=np.int64)]
    for start in range(0, n, chunk):
        own = np.arange(start, min(start + chunk, n))
        missing.append(own[places[own] == -1 - own])
    return Looked(places, np.concatenate(missing), distinct)


def embed_missing(
    store: Store, looked: Looked, read: Read, embedder: Embedder, progress: Progress = lambda n: None
) -> int:
    """Embed what is missing, together with all other processes that do so; returns how many texts this one embedded.

    Chunks are the missing texts in order, `embedder.chunk` at a time, so that a restart forms the same ones again.
    A chunk that another process has claimed is left to it, and taken over should it die. `looked` is whole afterwards.
    """
    embedded, missing, wait = 0, looked.missing, WAIT
    looked.missing = missing[:0]
    if len(missing):
        embedder.dim  # noqa: B018 loads the model before the first chunk is claimed
    while len(missing):
        left, worked = [], False
        for start in range(0, len(missing), embedder.chunk):
            positions = missing[start : start + embedder.chunk]
            mine, places = embed_chunk(store, read(positions), embedder, progress)
            looked.places[positions[mine]] = places
            embedded, worked = embedded + len(places), worked or len(places) > 0
            left.append(positions[~mine])
        left = np.concatenate(left)
        if len(left) and not worked:
            if wait == WAIT:
                log.info(f"waiting for {len(left)} texts that another process is embedding")
            time.sleep(wait)
            wait = min(1.5 * wait, LONGEST_WAIT)
        parts = [left[:0]]
        for start in range(0, len(left), LEFT):
            part = left[start : start + LEFT]
            again = look_up(store, lambda at, part=part: read(part[at]), len(part), embedder.chunk)
            there = again.places >= 0
            looked.places[part[there]] = again.places[there]
            parts.append(part[~there])
            progress(int(there.sum()))
        missing = np.concatenate(parts)
    repeats = np.flatnonzero(looked.places < 0)
    looked.places[repeats] = looked.places[-1 - looked.places[repeats]]
    return embedded


def embed_chunk(
    store: Store, texts: list[str], embedder: Embedder, progress: Progress = lambda n: None
) -> tuple[np.ndarray, np.ndarray]:
    """Embed and store those of `texts` that no other process has claimed or stored: which they are, bool (n,), and the
    places of their vectors."""
    keys = hashed(texts)
    with store.claim(keys) as mine:
        if not mine.any():
            return mine, np.empty(0, dtype=np.int64)
        vectors = embedder.embed([t for t, m in zip(texts, mine, strict=True) if m], progress)
        return mine, store.add(keys[mine], vectors)


@dataclass(frozen=True)
class RowTexts:
    """Reads what is embedded of rows `ids` (int64 (n,)), as candidates or as queries. Cheap to pickle."""

    rows: Rows
    ids: np.ndarray
    embedder: Embedder
    query: bool = False

    def __call__(self, positions: np.ndarray) -> list[str]:
        chats = self.rows.chats(self.ids[positions])
        return [self.embedder.query(c) if self.query else self.embedder.document(c) for c in chats]

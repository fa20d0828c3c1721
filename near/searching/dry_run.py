"""`dry_run=true`: what embedding and searching would cost. Nothing is stored."""

import logging
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from near.common.batches import spread
from near.common.cost import StageCost
from near.common.files import cache_folder, digest
from near.common.processes import world_size
from near.common.text import plural
from near.common.timing import Clock, ProcessClock, measured, peak_memory
from near.data.rows import Rows
from near.embedding.embed import embedder_of
from near.embedding.embedders.base import Embedder
from near.embedding.missing import Lookup, RowTexts, look_up
from near.embedding.store import Store
from near.models.hub import download_of
from near.searching.bm25 import Bm25
from near.searching.find import cached_neighbours, matrix_key, width_of
from near.searching.indexes.base import Index
from near.searching.indexes.flat import BLOCK_ROWS, TILE
from near.searching.settings import SearchSettings
from near.searching.vectors import ArrayVectors

log = logging.getLogger(__name__)

COUNTED = 2000  # texts whose tokens are counted; the sum of more texts is estimated from these
SEARCHED = 16_384  # random vectors that are searched to measure the time
COMPARED = 1000  # rows whose words are compared to measure the time
WORDS_BYTES = 2200  # memory that similarity=bm25 takes for a row of 100 words, most of them also words of queries
ROW_BYTES = 50  # memory that a row of the pool takes at most while it is looked up and embedded (bench/memory.py)


def missing_embedder(search: SearchSettings) -> str | None:
    """The embedding model that would be downloaded first; None if there is none, or it is here."""
    model = search.embedder.get("model")
    if search.words is not None or not isinstance(model, str):
        return None
    return download_of(model, search.embedder.get("revision"), search.cache_dir)


def stages_of(
    search: SearchSettings, candidates: Rows, queries: Rows, timed: bool, start: str = "dry run"
) -> dict[str, StageCost]:
    """The stages of a search, by name. Logs rows, distinct texts and what is stored already.

    Args:
        timed: measure seconds; needs the embedding model.
        start: of the first line of the log.
    """
    n, m = len(candidates.eligible()), len(queries.eligible())
    rows = f"{start}: {plural(n, 'candidate')}, {plural(m, 'query', 'queries')}"
    width = width_of(search.max_K, n)
    if search.words is None and missing_embedder(search) is not None:  # whose name in the store is by its files
        log.info(rows)
        return {"embedding": StageCost(rows=n + m, disk=None), "search": StageCost(rows=n, disk=2 * m * width * 12)}
    key = digest(["search", matrix_key(search, candidates, queries, 0)])
    if cached_neighbours(search, candidates, queries) is not None:
        log.info(f"{rows}; their neighbours are in the cache")
        done = {"seconds": 0.0, "low": 0.0, "high": 0.0, "note": "in the cache already"}
        return {"search": StageCost(rows=n, key=key, **done)}
    if search.words is not None:
        log.info(f"{rows}; nothing is embedded")
        return {"search": _of_words(search.words, candidates, queries, width, timed, key)}
    embedder = embedder_of(search.embedder, search.cache_dir)
    stages = {"embedding": _embedding(embedder, search, candidates, queries, timed, rows)}
    method = search.method()
    dim = embedder.dim if _is_light(embedder, timed) else None
    stages["search"] = _searching(method.index, dim, n, m, width, timed, key)
    embedder.close()
    return stages


def _is_light(embedder: Embedder, timed: bool) -> bool:
    """Whether the embedder's dimensions may be read: for one with a model, that loads it."""
    return timed or embedder.model is None


def _embedding(
    embedder: Embedder, search: SearchSettings, candidates: Rows, queries: Rows, timed: bool, rows: str
) -> StageCost:
    started = time.perf_counter()
    parts = list(_looked_up(embedder, search, candidates, queries))
    looking = time.perf_counter() - started
    distinct, missing = sum(lookup.distinct for _, lookup in parts), sum(len(lookup.missing) for _, lookup in parts)
    log.info(f"{rows}, {plural(distinct, 'distinct text')}, {distinct - missing} stored already")
    key = digest(["embedding", candidates.fingerprint, queries.fingerprint, embedder.signature])
    note = f"{distinct - missing} of {distinct} texts stored already"
    if not missing:
        log.info("to embed: nothing")
        return StageCost(rows=0, tokens=0, seconds=looking, low=looking, high=looking, note=note, key=key)
    if embedder.launcher is not None:
        note += f"; seconds of one process: those of embedder.launcher={embedder.launcher} share them"
    tokens, counted, each = None, "", {}
    if not timed:
        log.info(f"to embed: {plural(missing, 'text')}")
    else:
        started = time.perf_counter()
        disk = missing * (embedder.dim * np.dtype(embedder.store_dtype).itemsize + 16)  # loads the model
        loading = time.perf_counter() - started
        sample = _sample(parts, COUNTED)
        lengths = embedder.lengths(sample)
        tokens = round(lengths.sum() * missing / len(sample)) or None
        if tokens:
            counted = f", {'' if len(sample) == missing else 'about '}{tokens} tokens"
        log.info(f"to embed: {plural(missing, 'text')}{counted}")
        units = lengths if tokens else np.ones(len(sample), dtype=np.int64)

        def work(count: int) -> float:
            part = spread(units, count)
            embedder.embed([sample[i] for i in part])
            return float(units[part].sum())

        rate = measured(work, len(sample), _clock())
        total = float(units.sum()) * missing / len(sample) / world_size()
        each = {**rate.seconds(total, looking + loading), "memory": rate.memory or None, "disk": disk}
    each = each or {"disk": missing * (embedder.dim * 4 + 16) if _is_light(embedder, timed) else None}
    return StageCost(rows=missing, tokens=tokens, note=note, key=key, **each)


def _clock() -> Clock:
    """What measures the embedder, which has loaded torch if it runs on an accelerator."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.accelerator.is_available():
        return ProcessClock()
    from near.models.budget import clock_of

    return clock_of(torch.accelerator.current_accelerator())


def _looked_up(
    embedder: Embedder, search: SearchSettings, candidates: Rows, queries: Rows
) -> Iterator[tuple[RowTexts, Lookup]]:
    """The texts of the pool and of the queries, and which of them are missing in the store."""
    space_exists = cache_folder(search.cache_dir, "embeddings", digest(embedder.space)).is_dir()
    with (
        tempfile.TemporaryDirectory() as empty,
        Store(search.cache_dir if space_exists else empty, embedder.space) as store,
    ):
        for rows, query in ((candidates, False), (queries, True)):
            read = RowTexts(rows, rows.eligible(), embedder, query)
            yield read, look_up(store, read, len(read.ids), embedder.chunk)


def _sample(parts: list[tuple[RowTexts, Lookup]], size: int) -> list[str]:
    """At most `size` of the missing texts, drawn at random; the same ones every time."""
    rng = np.random.default_rng(0)
    total, texts = sum(len(lookup.missing) for _, lookup in parts), []
    for read, lookup in parts:
        share = min(len(lookup.missing), -(-size * len(lookup.missing) // max(total, 1)))
        texts += read(np.sort(rng.choice(lookup.missing, share, replace=False))) if share else []
    return [texts[i] for i in rng.permutation(len(texts))[:size]]


def _searching(index: Index, dim: int | None, n: int, m: int, width: int, timed: bool, key: str) -> StageCost:
    """The search of n rows for m queries: measured on random vectors, which take as long as others."""
    disk, memory, each = 2 * m * width * 12, None, {}
    if dim is not None:
        # exact search reads one block while it searches another, and keeps twice the neighbours; a built index has all
        block_rows = getattr(index, "block_rows", n)
        block = min(n, 2 * (BLOCK_ROWS if block_rows == "auto" else block_rows)) * dim * 4
        memory = n * ROW_BYTES + block + m * (2 * width + TILE) * 8 + disk // 2
    if timed:
        index.check()
        part = min(n, SEARCHED)
        rng = np.random.default_rng(0)
        pool = ArrayVectors(rng.standard_normal((part, dim), dtype=np.float32), normalise=True)
        some = rng.standard_normal((m, dim), dtype=np.float32)
        some /= np.linalg.norm(some, axis=1, keepdims=True)

        def work(rows: int) -> float:
            index.search(some, pool, min(width, part))
            return part

        each = measured(work, 1, ProcessClock()).seconds(n / world_size())
    note = "an index is built: at least so long" if index.structure_key is not None else ""
    before = peak_memory() if timed else 0
    return StageCost(rows=n, memory=memory and memory + before, disk=disk, note=note, key=key, **each)


def _of_words(words: Bm25, candidates: Rows, queries: Rows, width: int, timed: bool, key: str) -> StageCost:
    ids, m = candidates.eligible(), len(queries.eligible())
    disk, each = 2 * m * width * 12, {}
    if timed:
        part = np.sort(np.random.default_rng(0).choice(ids, min(COMPARED, len(ids)), replace=False))

        def work(count: int) -> float:
            words.search(candidates, part[:count], queries, min(width, count))
            return count

        each = measured(work, len(part), ProcessClock()).seconds(len(ids))
    return StageCost(rows=len(ids), memory=len(ids) * WORDS_BYTES + disk, disk=disk, key=key, **each)

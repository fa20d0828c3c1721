"""`dry_run=true`: log what a selection or a training would do and cost. Nothing is stored."""

import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from near.common.files import cache_folder, digest
from near.common.text import plural
from near.data.rows import Rows
from near.embedding.embed import embedder_of
from near.embedding.embedders.base import Embedder
from near.embedding.missing import Lookup, RowTexts, look_up
from near.embedding.store import Store
from near.searching.find import width_of
from near.searching.indexes.flat import BLOCK_ROWS, TILE
from near.searching.settings import SearchSettings

log = logging.getLogger(__name__)

SAMPLE = 64  # texts embedded to measure the time
COUNTED = 2000  # texts whose tokens are counted; the sum of more texts is estimated from these
SECONDS = 20.0  # stop embedding the sample after so long
WORDS_BYTES = 2200  # memory that similarity=bm25 takes for a row of 100 words, most of them also words of queries
ROW_BYTES = 50  # memory that a row of the pool takes at most while it is looked up and embedded (bench/memory.py)


def report(search: SearchSettings, candidates: Rows, queries: Rows | None, dedup: str, training: bool = False) -> None:
    """Log rows, distinct texts, texts already stored, tokens to embed, estimated time, disk and memory.

    Args:
        queries: None if the candidates alone are embedded.
        dedup: data.dedup.
        training: it is train.py's dry run, which logs its own first and last lines.
    """
    if search.words is not None and queries is not None:
        return _of_words(search, candidates, queries, training)
    embedder, cache_dir, index = embedder_of(search.embedder, search.cache_dir), search.cache_dir, search.index
    texts = [RowTexts(candidates, candidates.eligible(), embedder)]
    if queries is not None:
        texts.append(RowTexts(queries, queries.eligible(), embedder, query=True))
    space_exists = cache_folder(cache_dir, "embeddings", digest(embedder.space)).is_dir()
    with (
        tempfile.TemporaryDirectory() as empty,
        Store(cache_dir if space_exists else empty, embedder.space) as store,
    ):
        parts = [(read, look_up(store, read, len(read.ids), embedder.chunk)) for read in texts]
    n, m = len(texts[0].ids), sum(len(read.ids) for read in texts[1:])
    distinct, missing = sum(lookup.distinct for _, lookup in parts), sum(len(lookup.missing) for _, lookup in parts)
    start = "embedding" if training else "dry run"
    log.info(
        f"{start}: {plural(n, 'candidate')}, {plural(m, 'query', 'queries')}, "
        f"{plural(distinct, 'distinct text')}, {distinct - missing} stored already"
    )
    sample = _sample(parts, COUNTED)
    if missing:
        tokens, exact = _tokens(embedder, sample, missing)
        counted = f", {'' if exact else 'about '}{tokens} tokens" if tokens else ""
        log.info(f"to embed: {plural(missing, 'text')}{counted}")
        seconds, measured = _seconds(embedder, sample, missing)
        log.info(f"embedding: about {_duration(seconds)}, from {plural(measured, 'text')} measured")
    else:
        log.info("to embed: nothing")
    embedder.close()
    width = width_of(search.max_K, n)
    matrix = m * width * 12
    disk = missing * (embedder.dim * np.dtype(embedder.store_dtype).itemsize + 16) + 2 * matrix
    free = shutil.disk_usage(_existing(Path(cache_dir))).free
    short = "" if disk < free else f"; that is too little, free {_size(disk - free)}"
    log.info(f"disk: {_size(disk)} of {_size(free)} free{short}")
    # exact search reads one block while it searches another, and keeps twice the neighbours; a built index holds all
    rows = index.get("block_rows", n)
    block = min(n, 2 * (BLOCK_ROWS if rows == "auto" else rows)) * embedder.dim * 4
    memory = n * ROW_BYTES + block + m * (2 * width + TILE) * 8 + matrix + embedder.chunk * embedder.dim * 4
    log.info(f"memory: {_size(memory)} beside the embedding model, {_size(block)} of it vectors being searched")
    if dedup == "near":
        log.info("data.dedup=near is not counted: near duplicates are known only once rows are embedded")
    if not training:
        log.info("nothing was stored; leave out dry_run=true to start")


def _of_words(search: SearchSettings, candidates: Rows, queries: Rows, training: bool) -> None:
    n, m = len(candidates.eligible()), len(queries.eligible())
    start = "comparing words" if training else "dry run"
    log.info(f"{start}: {plural(n, 'candidate')}, {plural(m, 'query', 'queries')}; nothing is embedded")
    matrix = 2 * m * width_of(search.max_K, n) * 12
    log.info(f"disk: {_size(matrix)}; memory: about {_size(n * WORDS_BYTES + matrix)}")
    if not training:
        log.info("nothing was stored; leave out dry_run=true to start")


def _sample(parts: list[tuple[RowTexts, Lookup]], size: int) -> list[str]:
    """At most `size` of the missing texts, drawn at random; the same ones every time."""
    rng = np.random.default_rng(0)
    total, texts = sum(len(lookup.missing) for _, lookup in parts), []
    for read, lookup in parts:
        share = min(len(lookup.missing), -(-size * len(lookup.missing) // max(total, 1)))
        texts += read(np.sort(rng.choice(lookup.missing, share, replace=False))) if share else []
    return [texts[i] for i in rng.permutation(len(texts))[:size]]


def _tokens(embedder: Embedder, sample: list[str], missing: int) -> tuple[int, bool]:
    """Tokens of `missing` texts, and whether they were all counted rather than estimated from the sample."""
    counted = int(embedder.lengths(sample).sum())
    return (counted, True) if len(sample) == missing else (round(counted * missing / len(sample)), False)


def _seconds(embedder: Embedder, sample: list[str], missing: int) -> tuple[float, int]:
    """Estimated seconds for `missing` texts, and how many texts were timed. Scaled by tokens where there are any."""
    lengths = embedder.lengths(sample).astype(float) + 1e-9
    embedder.embed(sample[:4])  # the first call of a model takes longer
    done, took, share = 0, 0.0, 0.0
    while done < min(SAMPLE, len(sample)) and took < SECONDS:
        part = sample[done : done + 16]
        started = time.perf_counter()
        embedder.embed(part)
        took += time.perf_counter() - started
        share += lengths[done : done + len(part)].sum() / lengths.sum()
        done += len(part)
    return took / share * missing / len(sample), done


def _existing(path: Path) -> Path:
    path = path.expanduser().resolve()
    return path if os.path.exists(path) else _existing(path.parent)


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("bytes", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"

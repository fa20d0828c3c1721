"""`dry_run=true`: what a selection or a training would do and cost, before anything long starts. Nothing is stored."""

import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from near.common.files import cache_folder, digest
from near.data.rows import Rows
from near.embedding.embedders.base import Embedder
from near.embedding.missing import Looked, RowTexts, look_up
from near.embedding.store import Store
from near.searching.find import width_of
from near.searching.indexes.flat import TILE

log = logging.getLogger(__name__)

SAMPLE = 64  # texts embedded to measure the time
COUNTED = 2000  # texts whose tokens are counted; of more the sum is estimated from these
SECONDS = 20.0  # after which no more of the sample is embedded
ROW_BYTES = 50  # memory a row of the pool takes while it is looked up and embedded, at most (bench/memory.py)


def report(cfg: DictConfig, candidates: Rows, queries: Rows, training: bool = False) -> None:
    """Log rows, distinct texts, what is stored already, tokens, estimated time, disk and memory."""
    embedder: Embedder = instantiate(cfg.embedder, cache_dir=cfg.cache_dir)
    pool = RowTexts(candidates, candidates.eligible(), embedder)
    asked = RowTexts(queries, queries.eligible(), embedder, query=True)
    there = cache_folder(cfg.cache_dir, "embeddings", digest(embedder.space)).is_dir()
    with tempfile.TemporaryDirectory() as nowhere, Store(cfg.cache_dir if there else nowhere, embedder.space) as store:
        parts = [(read, look_up(store, read, len(read.ids), embedder.chunk)) for read in (pool, asked)]
    n, m = len(pool.ids), len(asked.ids)
    distinct, missing = sum(looked.distinct for _, looked in parts), sum(len(looked.missing) for _, looked in parts)
    start = "embedding" if training else "dry run"
    log.info(f"{start}: {n} candidates, {m} queries, {distinct} distinct texts, {distinct - missing} stored already")
    sample = _sample(parts, COUNTED)
    if missing:
        tokens, exact = _tokens(embedder, sample, missing)
        counted = f", {'' if exact else 'about '}{tokens} tokens" if tokens else ""
        log.info(f"to embed: {missing} texts{counted}")
        seconds, measured = _seconds(embedder, sample, missing)
        log.info(f"embedding: about {_duration(seconds)}, from {measured} texts measured")
    else:
        log.info("to embed: nothing")
    embedder.close()
    width = width_of(cfg.max_K, n)
    matrix = m * width * 12
    disk = missing * (embedder.dim * np.dtype(embedder.store_dtype).itemsize + 16) + 2 * matrix
    free = shutil.disk_usage(_existing(Path(cfg.cache_dir))).free
    short = "" if disk < free else f"; that is too little, free {_size(disk - free)}"
    log.info(f"disk: {_size(disk)} of {_size(free)} free{short}")
    # searched: one block while the next is read, and twice the neighbours; an index that is built holds all vectors
    block = min(n, 2 * cfg.index.block_rows if "block_rows" in cfg.index else n) * embedder.dim * 4
    held = n * ROW_BYTES + block + m * (2 * width + TILE) * 8 + matrix + embedder.chunk * embedder.dim * 4
    log.info(f"memory: {_size(held)} beside the embedding model, {_size(block)} of it vectors that are searched")
    if cfg.data.dedup == "near":
        log.info("data.dedup=near is not counted: it is found from the vectors")
    if not training:
        log.info("nothing was stored; leave out dry_run=true to start")


def _sample(parts: list[tuple[RowTexts, Looked]], size: int) -> list[str]:
    """Missing texts drawn at random, the same ones every time."""
    rng = np.random.default_rng(0)
    total, texts = sum(len(looked.missing) for _, looked in parts), []
    for read, looked in parts:
        share = min(len(looked.missing), -(-size * len(looked.missing) // max(total, 1)))
        texts += read(np.sort(rng.choice(looked.missing, share, replace=False))) if share else []
    return [texts[i] for i in rng.permutation(len(texts))[:size]]


def _tokens(embedder: Embedder, sample: list[str], missing: int) -> tuple[int, bool]:
    counted = int(embedder.lengths(sample).sum())
    return (counted, True) if len(sample) == missing else (round(counted * missing / len(sample)), False)


def _seconds(embedder: Embedder, sample: list[str], missing: int) -> tuple[float, int]:
    """Estimated seconds for `missing` texts, by their tokens where the embedder has any, and how many were timed."""
    lengths = embedder.lengths(sample).astype(float) + 1e-9
    embedder.embed(sample[:4])  # the first call of a model takes longer
    done, took, share = 0, 0.0, 0.0
    while done < min(SAMPLE, len(sample)) and took < SECONDS:
        part = sample[done : done + 16]
        begun = time.perf_counter()
        embedder.embed(part)
        took += time.perf_counter() - begun
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

"""Near duplicates (`data.dedup=near`): rows whose vector is close to that of an earlier row that stays."""

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from omegaconf import DictConfig

from near.common.cached import cached, existing
from near.common.errors import UserError
from near.common.files import cache_folder, digest, write_npy
from near.common.progress import bar
from near.common.text import plural
from near.data.rows import Rows
from near.embedding.embed import embed_rows, embedder_of
from near.embedding.store import Store

log = logging.getLogger(__name__)

VERSION = 1
EXACT_ROWS = 100_000  # compare every pair of up to so many distinct texts; beyond, an HNSW graph finds the pairs
BLOCK = 1024
LINKS, BREADTH = 32, 128  # of the graph: links of a vector, candidates visited in a search


def without_near_duplicates(
    pool: Rows, data: DictConfig, embedder: DictConfig, cache_dir: str, compute: bool = True
) -> Rows:
    """With `data.dedup=near`: `pool` without near duplicates by the embedder and data.dedup_threshold; else `pool`.

    Args:
        data, embedder: groups of the configuration.
        compute: False: raise UserError instead of computing duplicates that are not in the cache.
    """
    if data.dedup != "near":
        return pool
    model = embedder_of(embedder, cache_dir)
    eligible = pool.eligible()
    key_parts = [VERSION, pool.fingerprint, hashlib.sha256(eligible).hexdigest(), model.signature]
    folder = cache_folder(cache_dir, "dedup", digest([*key_parts, data.dedup_threshold, EXACT_ROWS]))
    duplicates = existing(folder, _read)
    if duplicates is None and not compute:
        raise UserError("the near duplicates (data.dedup=near) are no longer in the cache; select or train again")
    if duplicates is None:
        with Store.of(model, cache_dir) as store:
            offsets = embed_rows(store, model, pool, eligible).offsets  # shared by all processes
            model.close()

            def make(new: Path) -> None:
                write_npy(new / "duplicates.npy", eligible[_duplicates(store, offsets, data.dedup_threshold)])

            duplicates = cached(folder, make, _read)
    log.info(
        f"candidates: {plural(len(duplicates), 'row')} left out: similarity to an earlier row is above "
        f"data.dedup_threshold={data.dedup_threshold}"
    )
    excluded = np.zeros(len(pool), dtype=bool) if pool.excluded is None else pool.excluded.copy()
    excluded[duplicates] = True
    return pool.without(excluded)


def _read(folder: Path) -> np.ndarray:
    return np.load(folder / "duplicates.npy", allow_pickle=False)


def _duplicates(store: Store, offsets: np.ndarray, threshold: float) -> np.ndarray:
    """Positions, int64 ascending, whose text equals an earlier one or is near an earlier one that stays."""
    first = np.sort(np.unique(offsets, return_index=True)[1])
    exact, started = len(first) <= EXACT_ROWS, time.perf_counter()
    method = f"every pair compared, as up to {EXACT_ROWS}" if exact else f"an HNSW graph, as beyond {EXACT_ROWS}"
    log.info(f"data.dedup=near: {plural(len(first), 'distinct text')}, {method}")
    with bar(len(first), "near duplicates") as progress:
        is_kept = greedy(lambda a, b: store.read(offsets[first[a:b]]), len(first), threshold, exact, progress.update)
    log.info(f"data.dedup=near: {time.perf_counter() - started:.1f} s")
    return np.setdiff1d(np.arange(len(offsets)), first[is_kept])


def greedy(
    read: Callable[[int, int], np.ndarray],
    n: int,
    threshold: float,
    exact: bool,
    progress: Callable[[int], object] = lambda rows: None,
) -> np.ndarray:
    """Keep each of n vectors, in order, whose inner product with every earlier kept one is at most `threshold`.

    Args:
        read: (a, b) -> vectors a to b, float32 (b - a, dim).
        exact: compare with all kept vectors, in float32; otherwise with those that a graph of float16 vectors finds,
            which may miss one and may differ between runs, as several threads build it.

    Returns:
        bool (n,): which vectors are kept.
    """
    keep, index = np.zeros(n, dtype=bool), None
    for start in range(0, n, BLOCK):
        block = read(start, min(start + BLOCK, n))
        if index is None:
            index = _index(block.shape[1], exact)
        keep_block = np.ones(len(block), dtype=bool)
        if index.ntotal:
            keep_block = index.search(block, 1)[0][:, 0] <= threshold
        left = np.flatnonzero(keep_block)
        close = np.tril(block[left] @ block[left].T > threshold, -1)  # (n_left, n_left): to earlier rows of the block
        for row in np.flatnonzero(close.any(axis=1)):
            keep_block[left[row]] = not keep_block[left[np.flatnonzero(close[row])]].any()
        keep[start : start + len(block)] = keep_block
        index.add(block[keep_block])
        progress(len(block))
    return keep


def _index(dim: int, exact: bool):
    if exact:
        return faiss.IndexFlatIP(dim)
    index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_fp16, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = index.hnsw.efConstruction = BREADTH
    index.is_trained = True  # float16 learns nothing from data
    return index

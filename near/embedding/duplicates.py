"""Near duplicates: rows whose vector is close to that of an earlier row that is kept (`data.dedup=near`)."""

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from near.common.cached import cached, existing
from near.common.errors import UserError
from near.common.files import cache_folder, digest, write_npy
from near.common.progress import bar
from near.data.rows import Rows
from near.embedding.embed import embed_rows
from near.embedding.embedders.base import Embedder
from near.embedding.store import Store

log = logging.getLogger(__name__)

VERSION = 1
EXACT_ROWS = 100_000  # distinct texts up to which every pair is compared; beyond, an HNSW graph finds the pairs
BLOCK = 1024
LINKS, BREADTH = 32, 128  # of the graph: neighbours a vector is linked to, candidates looked at while searching


def without_near_duplicates(cfg: DictConfig, pool: Rows, compute: bool = True) -> Rows:
    """`pool` without the rows that are near duplicates under cfg.embedder and data.dedup_threshold, where
    `data.dedup=near`; computed once, then taken from the cache. compute=False: UserError where they are not there."""
    if cfg.data.dedup != "near":
        return pool
    embedder: Embedder = instantiate(cfg.embedder, cache_dir=cfg.cache_dir)
    eligible = pool.eligible()
    made_of = [VERSION, pool.fingerprint, hashlib.sha256(eligible).hexdigest(), embedder.signature]
    folder = cache_folder(cfg.cache_dir, "dedup", digest([*made_of, cfg.data.dedup_threshold, EXACT_ROWS]))
    duplicates = existing(folder, _read)
    if duplicates is None and not compute:
        raise UserError("the near duplicates (data.dedup=near) are not in the cache any more; select or train again")
    if duplicates is None:
        with Store(cfg.cache_dir, embedder.space, embedder.store_dtype, embedder.model) as store:
            places = embed_rows(store, embedder, pool, eligible).places  # by all processes together
            embedder.close()

            def make(new: Path) -> None:
                write_npy(new / "duplicates.npy", eligible[_duplicates(store, places, cfg.data.dedup_threshold)])

            duplicates = cached(folder, make, _read)
    log.info(
        f"candidates: {len(duplicates)} rows left out, their similarity to an earlier row is above "
        f"data.dedup_threshold={cfg.data.dedup_threshold}"
    )
    excluded = np.zeros(len(pool), dtype=bool) if pool.excluded is None else pool.excluded.copy()
    excluded[duplicates] = True
    return pool.without(excluded)


def _read(folder: Path) -> np.ndarray:
    return np.load(folder / "duplicates.npy", allow_pickle=False)


def _duplicates(store: Store, places: np.ndarray, threshold: float) -> np.ndarray:
    """Positions, int64 ascending, whose text is that of an earlier position or near a kept one."""
    first = np.sort(np.unique(places, return_index=True)[1])
    exact, begun = len(first) <= EXACT_ROWS, time.perf_counter()
    how = f"every pair compared, as up to {EXACT_ROWS}" if exact else f"an HNSW graph, as beyond {EXACT_ROWS}"
    log.info(f"data.dedup=near: {len(first)} distinct texts, {how}")
    with bar(len(first), "near duplicates") as progress:
        kept = greedy(lambda a, b: store.read(places[first[a:b]]), len(first), threshold, exact, progress.update)
    log.info(f"data.dedup=near: {time.perf_counter() - begun:.1f} s")
    return np.setdiff1d(np.arange(len(places)), first[kept])


def greedy(
    read: Callable[[int, int], np.ndarray],
    n: int,
    threshold: float,
    exact: bool,
    progress: Callable[[int], object] = lambda rows: None,
) -> np.ndarray:
    """bool (n,): which of n vectors are kept, in order, each unless its inner product with one kept before is above
    `threshold`. `read(a, b)` gives vectors a to b, float32 (b - a, D).

    exact: with all that are kept, in float32; otherwise with those that a graph of float16 vectors finds, which may
    miss one, and may differ between runs (it is built by several threads).
    """
    kept, index = np.zeros(n, dtype=bool), None
    for start in range(0, n, BLOCK):
        block = read(start, min(start + BLOCK, n))
        if index is None:
            index = _index(block.shape[1], exact)
        alone = np.ones(len(block), dtype=bool)
        if index.ntotal:
            alone = index.search(block, 1)[0][:, 0] <= threshold
        open_ = np.flatnonzero(alone)
        within = np.tril(block[open_] @ block[open_].T > threshold, -1)
        for row in np.flatnonzero(within.any(axis=1)):
            alone[open_[row]] = not alone[open_[np.flatnonzero(within[row])]].any()
        kept[start : start + len(block)] = alone
        index.add(block[alone])
        progress(len(block))
    return kept


def _index(dim: int, exact: bool):
    if exact:
        return faiss.IndexFlatIP(dim)
    index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_fp16, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = index.hnsw.efConstruction = BREADTH
    index.is_trained = True  # float16 learns nothing from data
    return index

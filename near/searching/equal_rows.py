"""Rows of the pool that an embedder can't tell from a row that is evaluated: near/data/leakage.py compares words, this
what they come to, such as the same words in another order."""

import hashlib
import logging

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from near.common.cached import cached_array, existing
from near.common.files import cache_folder, digest
from near.common.processes import is_main
from near.data.rows import Rows
from near.embedding.embed import embed_rows
from near.embedding.store import Store
from near.searching.indexes.base import Vectors
from near.searching.vectors import StoredVectors

log = logging.getLogger(__name__)

EQUAL = 1e-5  # cosine below 1 that is rounding: two float32 vectors are the same
BLOCK = 8192  # rows of the pool that are compared at a time
MOST = 2000  # rows of a set that are looked for


def warn_of_equal(cfg: DictConfig, candidates: Rows, sets: list[Rows]) -> None:
    """Log how many eligible candidates have the vector of a row of `sets`, all embedded as documents are. Every process
    of a job calls this; what was compared before is not compared again."""
    for rows in sets:
        equal, looked_for = _equal(cfg, candidates, rows)
        if len(equal) and is_main():
            part = "" if looked_for == len(rows.eligible()) else f" (its first {looked_for} rows were looked for)"
            log.warning(
                f"candidates: {len(equal)} rows have cosine 1 to a row of {rows.name}{part} and are kept, first row "
                f"{equal[0]}; look whether they give its answer away"
            )


def _equal(cfg: DictConfig, candidates: Rows, rows: Rows) -> tuple[np.ndarray, int]:
    """Ids of the candidates, int64 (m,), and how many rows were looked for."""
    embedder = instantiate(cfg.embedder, cache_dir=cfg.cache_dir)
    ids, wanted = candidates.eligible(), rows.eligible()[:MOST]
    digests = [hashlib.sha256(np.ascontiguousarray(part)).hexdigest() for part in (ids, wanted)]
    key = digest(["equal", candidates.fingerprint, rows.fingerprint, digests, embedder.signature])
    path = cache_folder(cfg.cache_dir, "similarities", f"{key}.npy")
    if (equal := existing(path, np.load)) is not None:
        return equal, len(wanted)
    with Store(cfg.cache_dir, embedder.space, embedder.store_dtype, embedder.model) as store:
        pool, others = (embed_rows(store, embedder, r, i) for r, i in ((candidates, ids), (rows, wanted)))
        embedder.close()
        equal = ids[same_direction(StoredVectors(store, pool.places), store.read(others.places))]
    return cached_array(path, lambda: equal), len(wanted)


def same_direction(pool: Vectors, others: np.ndarray) -> np.ndarray:
    """Positions of the pool's unit vectors that are one of `others`, float32 (m, dim), ascending int64."""
    found = [np.empty(0, dtype=np.int64)]
    block = np.empty((min(BLOCK, pool.n), pool.dim), dtype=np.float32)
    for start in range(0, pool.n, BLOCK):
        some = block[: min(BLOCK, pool.n - start)]
        pool.read(slice(start, start + len(some)), some)
        highest = (some @ others.T).max(axis=1)  # (rows, m) -> (rows,)
        found.append(start + np.flatnonzero(highest >= 1 - EQUAL))
    return np.concatenate(found)

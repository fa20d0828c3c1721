"""Rows of the pool with the same vector as a row that is evaluated. near/data/leakage.py compares words; vectors also
show, for example, the same words in another order."""

import hashlib
import logging

import numpy as np
from omegaconf import DictConfig

from near.common.cached import cached_array, existing
from near.common.errors import UserError
from near.common.files import cache_folder, digest
from near.common.processes import is_main
from near.common.text import plural
from near.data.rows import Rows
from near.embedding.embed import embed_rows, embedder_of
from near.embedding.embedders.base import Embedder
from near.embedding.store import Store
from near.searching.indexes.base import Vectors
from near.searching.vectors import StoredVectors

log = logging.getLogger(__name__)

EQUAL = 1e-5  # two float32 vectors with a cosine above 1 - EQUAL are the same: the rest is rounding
BLOCK = 8192  # rows of the pool that are compared at a time
MOST = 2000  # rows of a set that are compared for equality, at most; and at a time
PAIRS = 1_000_000  # close pairs of rows, at most


def warn_of_equal(candidates: Rows, sets: list[Rows], embedder: DictConfig, cache_dir: str) -> None:
    """Warn of eligible candidates with the vector of a row of `sets`; all rows are embedded as documents.

    Every process of a job calls this. Results are cached.
    """
    for rows in sets:
        equal, compared = _equal(candidates, rows, embedder_of(embedder, cache_dir), cache_dir)
        if len(equal) and is_main():
            part = "" if compared == len(rows.eligible()) else f" (compared: its first {plural(compared, 'row')})"
            log.warning(
                f"candidates: {plural(len(equal), 'row')} with cosine 1 to a row of {rows.name}{part}, kept, first row "
                f"{equal[0]}; check whether they give away its answer"
            )


def _equal(candidates: Rows, rows: Rows, embedder: Embedder, cache_dir: str) -> tuple[np.ndarray, int]:
    """Ids of the equal candidates, int64 (m,), and how many of `rows` were compared."""
    ids, row_ids = candidates.eligible(), rows.eligible()[:MOST]
    digests = [hashlib.sha256(np.ascontiguousarray(part)).hexdigest() for part in (ids, row_ids)]
    key = digest(["equal", candidates.fingerprint, rows.fingerprint, digests, embedder.signature])
    path = cache_folder(cache_dir, "similarities", f"{key}.npy")
    if (equal := existing(path, np.load)) is not None:
        return equal, len(row_ids)
    with Store.of(embedder, cache_dir) as store:
        pool, others = (embed_rows(store, embedder, r, i) for r, i in ((candidates, ids), (rows, row_ids)))
        embedder.close()
        equal = ids[same_direction(StoredVectors(store, pool.offsets), store.read(others.offsets))]
    return cached_array(path, lambda: equal), len(row_ids)


def same_direction(pool: Vectors, others: np.ndarray) -> np.ndarray:
    """Positions, int64 ascending, of the pool's unit vectors that equal one of `others`, float32 (m, dim)."""
    return np.unique(close_pairs(pool, others, 1 - EQUAL)[0])


def close_pairs(pool: Vectors, others: np.ndarray, cosine: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs of unit vectors with a cosine of at least `cosine`.

    Args:
        others: float32 (m, dim).

    Returns:
        positions in the pool and in `others`, int64 (n_pairs,) each, and the cosines, float32 (n_pairs,).

    Raises:
        UserError: there are more than PAIRS.
    """
    found, count = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))], 0
    block = np.empty((min(BLOCK, pool.n), pool.dim), dtype=np.float32)
    for start in range(0, pool.n, BLOCK):
        rows = block[: min(BLOCK, pool.n - start)]
        pool.read(slice(start, start + len(rows)), rows)
        for first in range(0, len(others), MOST):
            cosines = rows @ others[first : first + MOST].T  # (n_block, at most MOST)
            at, other = np.nonzero(cosines >= cosine)
            found.append((start + at, first + other, cosines[at, other]))
            count += len(at)
            if count > PAIRS:
                raise UserError(
                    f"data.decontaminate.cosine={cosine}: more than {PAIRS} pairs of rows are that close; raise it"
                )
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))

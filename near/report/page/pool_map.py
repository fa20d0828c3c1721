"""The pool on a plane: rows whose vectors are alike lie close together (t-SNE, van der Maaten and Hinton 2008, over the
first 50 principal components). Kept in the cache, as laying out 20,000 rows takes a minute or two."""

import hashlib
import logging
import time

import numpy as np

from near.common.cached import cached_array
from near.common.errors import UserError
from near.common.files import cache_folder, digest
from near.report.page.pool import Pool, stored_vectors
from near.report.page.taken import Taken

log = logging.getLogger(__name__)

VERSION = 1
COMPONENTS = 50
TELL = 3000  # rows from which on it takes long enough to be said


def rows_shown(pool: Pool, taken: list[Taken], limit: int) -> np.ndarray:
    """Ids of the rows on the map, int64 ascending, at most `limit`: those taken first, then the queries' nearest, then
    others at random."""
    eligible = pool.rows.eligible()
    rng = np.random.default_rng(0)
    wanted = [np.concatenate([t.ids for t in taken] + [np.empty(0, dtype=np.int64)])]
    if pool.neighbours is not None:
        wanted.append(pool.neighbours.ids[:, :20].ravel())
    wanted.append(eligible if len(eligible) <= limit else rng.choice(eligible, limit, replace=False))
    found = np.empty(0, dtype=np.int64)
    for ids in wanted:
        ids = np.setdiff1d(ids[ids < len(pool.rows)], found)
        room = limit - len(found)
        found = np.concatenate([found, ids if len(ids) <= room else rng.choice(ids, room, replace=False)])
    return np.sort(found)


def laid_out(pool: Pool, ids: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions in `ids` of the rows that are placed, int64 (m,), their places float32 (m, 2) and those of all queries
    (q, 2), within [-1, 1]. UserError where the store does not hold the rows' vectors."""
    asked = np.empty(0, dtype=np.int64) if pool.queries is None else pool.queries.eligible()
    there, vectors, queries, space = stored_vectors(pool, ids, asked)
    if len(there) < 3:
        raise UserError(f"a map of {len(there)} rows shows nothing")
    together = np.concatenate([vectors, queries]) if len(queries) else vectors
    made_of = [VERSION, method, space, hashlib.sha256(np.ascontiguousarray(together)).hexdigest()]
    path = cache_folder(pool.search.cache_dir, "maps", f"{digest(made_of)}.npy")
    places = cached_array(path, lambda: METHODS[method](together), (len(together), 2))
    return there, places[: len(there)], places[len(there) :]


def _pca(vectors: np.ndarray) -> np.ndarray:
    return _scaled(_components(vectors, 2))


def _components(vectors: np.ndarray, count: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    count = min(count, *vectors.shape)
    found = PCA(count, random_state=0, svd_solver="covariance_eigh").fit_transform(vectors)
    return found if found.shape[1] > 1 else np.pad(found, ((0, 0), (0, 1)))


def _tsne(vectors: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE

    if len(vectors) >= TELL:
        log.info(f"map: laying out {len(vectors)} rows, once (map=pca is quicker)")
    begun = time.perf_counter()
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    layout = TSNE(2, init="pca", perplexity=perplexity, max_iter=500, random_state=0)
    places = _scaled(layout.fit_transform(_components(vectors, COMPONENTS)))
    if len(vectors) >= TELL:
        log.info(f"map: laid out in {time.perf_counter() - begun:.0f} s")
    return places


def _scaled(places: np.ndarray) -> np.ndarray:
    """Into [-1, 1], with equal scales."""
    places = places - (places.min(axis=0) + places.max(axis=0)) / 2
    return (places / max(float(np.abs(places).max()), 1e-12)).astype(np.float32)


METHODS = {"tsne": _tsne, "pca": _pca}

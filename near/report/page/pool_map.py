"""The pool on a plane: rows whose vectors are alike lie close together (t-SNE, van der Maaten and Hinton 2008, over the
first 50 principal components). The layout is cached: 20,000 rows take a minute or two."""

import base64
import hashlib
import logging
import time
from dataclasses import dataclass

import numpy as np

from near.common.cached import cached_array
from near.common.errors import UserError
from near.common.files import cache_folder, digest
from near.common.text import plural
from near.report.page.browser import texts
from near.report.page.pool import Pool, stored_vectors
from near.report.page.taken import Taken

log = logging.getLogger(__name__)

VERSION = 1
COMPONENTS = 50
LOGGED = 3000  # rows; fewer are laid out too quickly to log it


@dataclass(frozen=True)
class PoolMap:
    """Rows and queries on a plane.

    Attributes:
        ids: int64 (m,), rows of the pool.
        rows: float32 (m, 2), their coordinates, within [-1, 1].
        queries: float32 (q, 2), those of the queries; (0, 2) where their vectors are not stored.
    """

    ids: np.ndarray
    rows: np.ndarray
    queries: np.ndarray


def pool_map(pool: Pool, taken: list[Taken], limit: int, method: str) -> PoolMap:
    """The map of at most `limit` rows by `method`, a key of METHODS. UserError where it can't be drawn."""
    ids = rows_shown(pool, taken, limit)
    stored, coordinates, queries = laid_out(pool, ids, method)
    return PoolMap(ids[stored], coordinates, queries)


def rows_shown(pool: Pool, taken: list[Taken], limit: int) -> np.ndarray:
    """Ids of the rows on the map, int64 (m,) ascending, m <= `limit`: first the rows that were taken, then the queries'
    nearest, then random others."""
    eligible = pool.rows.eligible()
    rng = np.random.default_rng(0)
    preferred = [np.concatenate([t.ids for t in taken] + [np.empty(0, dtype=np.int64)])]
    if pool.neighbours is not None:
        preferred.append(pool.neighbours.ids[:, :20].ravel())
    preferred.append(eligible if len(eligible) <= limit else rng.choice(eligible, limit, replace=False))
    chosen = np.empty(0, dtype=np.int64)
    for ids in preferred:
        ids = np.setdiff1d(ids[ids < len(pool.rows)], chosen)
        room = limit - len(chosen)
        chosen = np.concatenate([chosen, ids if len(ids) <= room else rng.choice(ids, room, replace=False)])
    return np.sort(chosen)


def laid_out(pool: Pool, ids: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The coordinates of rows and queries on the map.

    Args:
        pool: whose rows and queries they are.
        ids: int64 (n,), of rows of the pool.
        method: a key of METHODS.

    Returns:
        Positions in `ids` of the rows that have a vector, int64 (m,); their coordinates, float32 (m, 2); and those of
        all queries, float32 (q, 2). Coordinates lie within [-1, 1].

    Raises:
        UserError: the vectors of too many rows are not in the store, or fewer than three are.
    """
    query_ids = np.empty(0, dtype=np.int64) if pool.queries is None else pool.queries.eligible()
    stored, vectors, queries, space = stored_vectors(pool, ids, query_ids)
    if len(stored) < 3:
        raise UserError(f"a map of {plural(len(stored), 'row')} shows nothing")
    together = np.concatenate([vectors, queries]) if len(queries) else vectors  # (m + q, dim)
    key_parts = [VERSION, method, space, hashlib.sha256(np.ascontiguousarray(together)).hexdigest()]
    path = cache_folder(pool.search.cache_dir, "maps", f"{digest(key_parts)}.npy")
    coordinates = cached_array(path, lambda: METHODS[method](together), (len(together), 2))
    return stored, coordinates[: len(stored)], coordinates[len(stored) :]


def _pca(vectors: np.ndarray) -> np.ndarray:
    return _scaled(_components(vectors, 2))


def _components(vectors: np.ndarray, count: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    count = min(count, *vectors.shape)
    components = PCA(count, random_state=0, svd_solver="covariance_eigh").fit_transform(vectors)
    return components if components.shape[1] > 1 else np.pad(components, ((0, 0), (0, 1)))


def _tsne(vectors: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE

    if len(vectors) >= LOGGED:
        log.info(f"map: laying out {plural(len(vectors), 'row')}, once (map=pca is faster)")
    started = time.perf_counter()
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    layout = TSNE(2, init="pca", perplexity=perplexity, max_iter=500, random_state=0)
    coordinates = _scaled(layout.fit_transform(_components(vectors, COMPONENTS)))
    if len(vectors) >= LOGGED:
        log.info(f"map: laid out in {time.perf_counter() - started:.0f} s")
    return coordinates


def _scaled(points: np.ndarray) -> np.ndarray:
    """`points` (n, 2) moved into [-1, 1], both axes on one scale."""
    points = points - (points.min(axis=0) + points.max(axis=0)) / 2
    return (points / max(float(np.abs(points).max()), 1e-12)).astype(np.float32)


METHODS = {"tsne": _tsne, "pca": _pca}


def sources_shown(pool: Pool, shown: PoolMap) -> tuple[list[str], np.ndarray]:
    """The sources of the rows on the map, by how many rows they have; the index of each row's source, uint16 (m,)."""
    names, numbers = np.unique(pool.rows.sources(shown.ids).astype(str), return_inverse=True)
    order = np.argsort(-np.bincount(numbers), kind="stable")
    rank = np.empty(len(order), dtype=np.uint16)
    rank[order] = np.arange(len(order))
    return [str(names[i]) for i in order], rank[numbers]


def map_data(pool: Pool, shown: PoolMap, taken: list[Taken], length: int, colours: dict[str, str], marked: str) -> dict:
    """The map as the page's scripts read it.

    Coordinates as int16 and ids as int32 in base64: 20,000 rows take about 300 kB beside their texts.

    Args:
        length: characters to which texts are cut.
        colours: of the sources.
        marked: a sentence on what is marked.
    """
    names, numbers = sources_shown(pool, shown)
    groups = []
    for one in taken:
        at = np.flatnonzero(np.isin(shown.ids, one.ids))
        place = np.searchsorted(one.ids, shown.ids[at])
        groups.append({"at": _packed(at, np.int32), "runs": one.runs[place].tolist(), "all": len(one.ids)})
    query_ids = [] if pool.queries is None else pool.queries.eligible()[: len(shown.queries)]
    return {
        "of": len(pool.rows.eligible()),
        "embedder": pool.embedder,
        "marked": marked,
        "ids": _packed(shown.ids, np.int32),
        "x": _packed(np.round(shown.rows[:, 0] * 32000), np.int16),
        "y": _packed(np.round(shown.rows[:, 1] * 32000), np.int16),
        "source": _packed(numbers, np.uint16),
        "sources": [[name, colours[name]] for name in names],
        "text": texts(pool.rows, shown.ids, length),
        "taken": groups,
        "queries": {
            "x": _packed(np.round(shown.queries[:, 0] * 32000), np.int16),
            "y": _packed(np.round(shown.queries[:, 1] * 32000), np.int16),
            "text": texts(pool.queries, np.asarray(query_ids), length) if len(query_ids) else [],
        },
    }


def _packed(array: np.ndarray, dtype: type) -> str:
    return base64.b64encode(np.ascontiguousarray(array.astype(np.dtype(dtype).newbyteorder("<"))).tobytes()).decode()

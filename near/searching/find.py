"""Selection: rows and queries to vectors, every query's nearest rows, and the files that hold them."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from near.common import secrets
from near.common.cluster import cluster
from near.common.config import differences
from near.common.errors import UserError
from near.common.files import cache_folder, digest, folder_aside, write_json, write_npy
from near.common.locks import lock_file, locked
from near.common.outputs import remove_folder
from near.common.processes import is_main, rank_shown
from near.common.progress import bar
from near.common.sweep import swept
from near.data.rows import Rows
from near.embedding.embed import Embedded, embed_rows
from near.embedding.embedders.base import Embedder
from near.embedding.store import Store
from near.searching.equal_rows import EQUAL
from near.searching.indexes.base import Index, Vectors
from near.searching.neighbours import SCHEMA_VERSION, Neighbours, _digests, _first, _read
from near.searching.shards import clear, put_together, search_shards, shards_of
from near.searching.vectors import StoredVectors

log = logging.getLogger(__name__)

AS_NEEDED = 1000  # columns of a matrix whose max_K is null, before its selector turns out to need more

MATRIX = ("top_indices.npy", "top_scores.npy", "typical_scores.npy", "manifest.json")  # files of one in the cache


def width_of(max_K: int | None, candidates: int) -> int:
    """Columns of the matrix of a pool of so many candidates. null: as needed, that is AS_NEEDED or the whole pool."""
    if max_K is None:
        return min(AS_NEEDED, candidates)
    if max_K > candidates:
        raise UserError(f"max_K={max_K} is more than the {candidates} candidates; use max_K<={candidates}")
    return max_K


def widths(max_K: int | None, candidates: int, reach: int) -> Iterator[int]:
    """The columns to try until a matrix holds `reach` distinct rows: one number where max_K is typed; else doubled, up
    to the whole pool.

    >>> list(widths(None, 5000, 3000))
    [1000, 2000, 3000]
    """
    width = width_of(max_K, candidates)
    yield width
    enough = min(reach, candidates)  # with so many columns every single query holds enough
    while max_K is None and width < enough:
        width = min(2 * width, enough)
        yield width


def _check_same(folder: Path, manifest: dict, made_of: dict, width: int | None) -> None:
    """UserError where `folder` holds another selection than that of `made_of` with `width` columns (None: any)."""
    keys = ("schema_version", "candidates", "eligible_digest", "queries", "embedder", "index")
    before, now = ({key: parts.get(key) for key in keys} for parts in (manifest, json.loads(json.dumps(made_of))))
    if differing := differences(before, now):
        how = f" ({differing[0]})" if "embedder" in manifest else ""
        raise UserError(f"{folder} holds another selection{how}; set overwrite=true or another output_dir")
    if width is not None and (there := manifest.get("max_K")) != width:
        raise UserError(
            f"{folder} holds another selection (max_K was {there}, now {width}); output_dir={folder}-max_K-{width} "
            "keeps both (no text is embedded again), overwrite=true replaces it"
        )


def find_neighbours(
    cfg: DictConfig, candidates: Rows, queries: Rows, reach: int = 0, existing: tuple[Path, dict] | None = None
) -> Neighbours:
    """The neighbour matrix of `cfg`: from the cache where the same one was made before, else embedded and searched.

    reach: distinct rows that a selector may take from it; with max_K=null it is made wide enough for them.
    existing: a folder and the manifest of the selection in it; another one is refused before anything is embedded.
    """
    eligible = len(candidates.eligible())
    embedder: Embedder = instantiate(cfg.embedder, cache_dir=cfg.cache_dir)
    index = instantiate(cfg.index)
    made_of = _made_of(embedder, index, candidates, queries)
    key = digest(made_of)
    made_of = secrets.without_values(made_of)
    if existing is not None:
        _check_same(*existing, made_of, cfg.max_K)
    searched = False
    for width in widths(cfg.max_K, eligible, reach):
        cached = _cached(cfg, key, width)
        searched |= cached is None
        whole = cached or _search(cfg, width, made_of, key, embedder, index, candidates, queries)
        read = _first(whole, width)
        if reach and len(np.unique(read.ids)) >= reach:
            break
    if not searched:
        log.info(f"neighbours: found in the cache ({key[:12]}), embedded 0 texts")
    _say_equal(read)
    if cfg.max_K is None:
        log.info(f"max_K: the {width} nearest of {eligible} candidates for each query, as needed")
    manifest = {**read.manifest, "max_K": width, "key": digest([key, width])}
    return dataclasses.replace(read, manifest=manifest, found=not searched)


def _say_equal(neighbours: Neighbours) -> None:
    """Say how many rows have a query's own vector: what leaves leaks out compares words, this what they come to."""
    equal = neighbours.scores >= 1 - EQUAL
    if equal.any() and is_main():
        rows, queries = len(np.unique(neighbours.ids[equal])), int(equal.any(axis=1).sum())
        log.warning(
            f"candidates: {rows} rows have cosine 1 to a query ({queries} of {len(equal)} queries) and are kept; "
            "look whether they give its answer away"
        )


def kept_neighbours(cfg: DictConfig, candidates: Rows, queries: Rows) -> Neighbours | None:
    """The matrix of `cfg` if it was made before, and nothing is computed; None otherwise."""
    embedder = instantiate(cfg.embedder, cache_dir=cfg.cache_dir)
    width = width_of(cfg.max_K, len(candidates.eligible()))
    found = _cached(cfg, digest(_made_of(embedder, instantiate(cfg.index), candidates, queries)), width)
    return None if found is None else _first(found, width)


def _made_of(embedder: Embedder, index: Index, candidates: Rows, queries: Rows) -> dict:
    """What decides a matrix, its width apart."""
    eligible = candidates.eligible()
    made_of = {
        "schema_version": SCHEMA_VERSION,
        "candidates": {"fingerprint": candidates.fingerprint, "rows": len(candidates), "eligible": len(eligible)},
        "eligible_digest": hashlib.sha256(eligible).hexdigest()[:32],
        "queries": {"fingerprint": queries.fingerprint, "rows": len(queries)},
        "embedder": embedder.signature,
        "index": index.signature,
    }
    if len(asked := queries.eligible()) < len(queries):  # which are, depends on whether answers are needed
        made_of["queries"]["eligible_digest"] = hashlib.sha256(asked).hexdigest()[:32]
    return made_of


def _cached(cfg: DictConfig, key: str, least: int) -> Neighbours | None:
    """The narrowest matrix of `key` in the cache with `least` columns; one that is damaged is named and removed.

    There is a folder for each width, written once, so that nobody reads a matrix while it is replaced.
    """
    folders = {int(p.name.split("-")[1]): p for p in cache_folder(cfg.cache_dir, "neighbours").glob(f"{key}-*")}
    for width in sorted(w for w in folders if w >= least):
        try:
            return _read(folders[width])
        except UserError as error:
            log.warning(f"{error}: it is searched again")
            remove_folder(folders[width], MATRIX)
    return None


def _search(
    cfg: DictConfig,
    least: int,
    made_of: dict,
    key: str,
    embedder: Embedder,
    index: Index,
    candidates: Rows,
    queries: Rows,
) -> Neighbours:
    """Embed, search and keep what is found, together with all processes that do the same."""
    eligible = candidates.eligible()
    others = [int(k) for k in swept("max_K") if isinstance(k, int | float) and k == int(k)]
    width = max([least, *(k for k in others if k <= len(eligible))])
    folder = cache_folder(cfg.cache_dir, "neighbours", f"{key}-{width}")
    with (
        cluster() if "ray" in (embedder.launcher, index.launcher) else contextlib.nullcontext(),
        Store(cfg.cache_dir, embedder.space, embedder.store_dtype, embedder.model) as store,
    ):
        pool, asked, figures = _embed(store, embedder, candidates, eligible, queries)
        begun = time.perf_counter()
        vectors, asked = StoredVectors(store, pool.places), store.read(asked.places)
        unfinished = cache_folder(cfg.cache_dir, "neighbours", f".{key}-{width}.part")
        shards = shards_of(index, asked, vectors, width, unfinished, folder / "manifest.json")
        with bar(len(eligible), "searching", "row") as progress:
            if shards is not None:
                if is_main():
                    log.info(f"searching in {len(shards)} shards")
                search_shards(shards, progress.update)
                progress.update(progress.total - progress.n)  # what others searched
            with locked(lock_file(cfg.cache_dir, key)):  # of several processes the first one puts it together
                if found := _cached(cfg, key, least):
                    return found
                if shards is not None:
                    scores, rows = put_together(shards, width)
                else:
                    made = {k: v for k, v in made_of.items() if k not in ("queries", "index")}
                    keep = cache_folder(cfg.cache_dir, "indexes", digest([made, index.built]))
                    scores, rows = index.search(asked, vectors, width, progress.update, keep)
                figures |= {"search_seconds": round(time.perf_counter() - begun, 3), **index.told}
                with folder_aside(folder, replace=True) as new:
                    write_npy(new / "top_indices.npy", eligible[rows])
                    write_npy(new / "top_scores.npy", scores)
                    write_npy(new / "typical_scores.npy", typical_scores(asked, vectors))
                    manifest = {**made_of, "searched_max_K": width, "figures": figures}
                    write_json(new / "manifest.json", {**manifest, "sha256": _digests(new)})
                clear(unfinished)
    return _read(folder)


def _embed(store: Store, embedder: Embedder, candidates: Rows, eligible: np.ndarray, queries: Rows):
    begun = time.perf_counter()
    pool = embed_rows(store, embedder, candidates, eligible)
    asked = embed_rows(store, embedder, queries, queries.eligible(), query=True)
    seconds = time.perf_counter() - begun
    embedder.close()
    check_alike(pool, asked)
    _tell(embedder, pool, asked, len(eligible), seconds)
    figures = {
        "distinct_texts": pool.distinct,
        "query_texts": asked.distinct,
        "embedded": pool.now + asked.now,
        "tokens": embedder.tokens,
        "truncated": embedder.truncated,
        "embed_seconds": round(seconds, 3),
    }
    return pool, asked, figures


def check_alike(pool: Embedded, asked: Embedded) -> None:
    """UserError unless candidates and queries can be compared."""
    if pool.signature != asked.signature:
        told = "; ".join(differences(pool.signature, asked.signature))
        raise UserError(f"candidates and queries were embedded differently ({told}); embed both with one embedder")


def _tell(embedder: Embedder, pool: Embedded, asked: Embedded, rows: int, seconds: float) -> None:
    """Say what this process embedded and what was there already."""
    now, found = pool.now + asked.now, pool.distinct - pool.now
    log.info(
        f"{rank_shown()}embedded {now} texts, found {found} of the pool's {pool.distinct} distinct texts in the store "
        f"({seconds:.1f} s); {1 - pool.distinct / rows:.1%} of its rows repeat a text"
    )
    if embedder.tokens:
        share = embedder.padding / (embedder.tokens + embedder.padding)
        log.info(f"{embedder.tokens} tokens embedded, {share:.1%} padding beside them; {embedder.truncated} texts cut")


SAMPLE = 1000  # rows of the pool that say what similarity a query has with just any row


def typical_scores(queries: np.ndarray, pool: Vectors) -> np.ndarray:
    """Each query's median similarity with rows drawn from the whole pool, float32 (Q,); always the same rows."""
    drawn = np.random.default_rng(0).choice(pool.n, min(SAMPLE, pool.n), replace=False, shuffle=False)
    sample = np.empty((len(drawn), pool.dim), dtype=np.float32)
    pool.read(np.sort(drawn), sample)
    return np.median(queries @ sample.T, axis=1).astype(np.float32)

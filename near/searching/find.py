"""Every query's nearest rows: embed rows and queries, search, and cache the matrix in files."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from near.common import secrets
from near.common.cluster import cluster
from near.common.config import differences
from near.common.errors import UserError
from near.common.files import cache_folder, digest, folder_aside, provenance, write_npy
from near.common.locks import lock_file, locked
from near.common.outputs import remove_folder
from near.common.processes import is_main, rank_shown
from near.common.progress import bar
from near.common.records import SelectionManifest
from near.common.sweep import swept
from near.common.text import plural
from near.data.rows import Rows
from near.embedding.embed import Embedded, embed_rows
from near.embedding.embedders.base import Embedder
from near.embedding.store import Store
from near.searching.bm25 import Bm25
from near.searching.equal_rows import EQUAL
from near.searching.indexes.base import Index, Vectors
from near.searching.neighbours import SCHEMA_VERSION, Neighbours, first_columns, matrix_digests, read_matrix
from near.searching.settings import SearchSettings, Vectorised
from near.searching.shards import clear, put_together, search_shards, shards_of
from near.searching.vectors import StoredVectors

log = logging.getLogger(__name__)

AS_NEEDED = 1000  # columns of the first matrix where max_K is null; it is widened while the selector needs more

# files of a cached matrix
MATRIX = ("top_indices.npy", "top_scores.npy", "typical_scores.npy", "query_scales.npy", "manifest.json")


def width_of(max_K: int | None, candidates: int) -> int:
    """Columns of the matrix of a pool with `candidates` rows; None: AS_NEEDED, or all rows of a smaller pool."""
    if max_K is None:
        return min(AS_NEEDED, candidates)
    if max_K > candidates:
        raise UserError(f"max_K={max_K} is more than the {plural(candidates, 'candidate')}; use max_K<={candidates}")
    return max_K


def widths(max_K: int | None, candidates: int, reach: int) -> Iterator[int]:
    """Numbers of columns to try until a matrix holds `reach` distinct rows: max_K alone where it is set, else doubled
    until every query has `reach` neighbours, or all candidates.

    >>> list(widths(None, 5000, 3000))
    [1000, 2000, 3000]
    """
    width = width_of(max_K, candidates)
    yield width
    enough = min(reach, candidates)  # with so many columns each query alone reaches enough rows
    while max_K is None and width < enough:
        width = min(2 * width, enough)
        yield width


def check_same(folder: Path, existing: SelectionManifest, new: SelectionManifest, width: int | None) -> None:
    """UserError where the selection in `folder` differs from `new`, or has not `width` columns (None: any)."""
    keys = ("schema_version", "candidates", "eligible_digest", "queries", "embedder", "index", "similarity")
    values = (existing.to_json(), json.loads(json.dumps(new.to_json())))
    before, now = ({key: manifest.get(key) for key in keys} for manifest in values)
    if differing := differences(before, now):
        how = f" ({differing[0]})" if existing.embedder is not None or existing.similarity is not None else ""
        raise UserError(f"{folder} holds another selection{how}; set overwrite=true or another output_dir")
    if width is not None and (previous_K := existing.max_K) != width:
        raise UserError(
            f"{folder} holds another selection (max_K was {previous_K}, now {width}); "
            f"output_dir={folder}-max_K-{width} keeps both (no text is embedded again), overwrite=true replaces it"
        )


def find_neighbours(
    search: SearchSettings,
    candidates: Rows,
    queries: Rows,
    reach: int = 0,
    existing: tuple[Path, SelectionManifest] | None = None,
) -> Neighbours:
    """The neighbour matrix: read from the cache, or embedded and searched.

    Args:
        candidates: the pool; its eligible rows are searched.
        queries: rows to find neighbours for.
        reach: distinct rows that a selector may take; with max_K=null the matrix is made wide enough for them (and with
            search.by_task for so many of each task).
        existing: an output folder and the manifest of the selection in it.

    Returns:
        Neighbours with max_K columns; `cached` where nothing had to be searched.

    Raises:
        UserError: max_K is more than the candidates, or `existing` is another selection; before anything is embedded.
    """
    eligible = len(candidates.eligible())
    cache_dir, method = search.cache_dir, search.method()
    key_parts = _key_parts(method, candidates, queries)
    key = digest(key_parts)
    key_parts = secrets.without_values(key_parts)
    if existing is not None:
        check_same(*existing, SelectionManifest.from_json(key_parts, "the search"), search.max_K)
    tasks, searched = [slice(None)], False
    if search.by_task:
        task = queries.sources(queries.eligible())
        tasks = [task == name for name in set(task)]
    for width in widths(search.max_K, eligible, reach):
        matrix = _cached(cache_dir, key, width)
        searched |= matrix is None
        if matrix is None:
            compute = _search if isinstance(method, Vectorised) else _search_words
            matrix = compute(cache_dir, width, key_parts, key, method, candidates, queries)
        neighbours = first_columns(matrix, width)
        if reach and min(len(np.unique(neighbours.ids[of])) for of in tasks) >= reach:
            break
    if not searched:
        log.info(f"neighbours: read from the cache ({key[:12]}), embedded 0 texts")
    if neighbours.scales is None:
        _warn_of_equal(neighbours)
    else:
        _warn_of_no_words(neighbours, queries)
    if search.max_K is None:
        log.info(f"max_K: the {width} nearest of {plural(eligible, 'candidate')} for each query, as needed")
    manifest = dataclasses.replace(neighbours.manifest, max_K=width, key=_with_width(key, width))
    return dataclasses.replace(neighbours, manifest=manifest, cached=not searched)


def _warn_of_equal(neighbours: Neighbours) -> None:
    """Warn of candidates with a query's vector: data.leakage compares words, so it misses the same words reordered."""
    equal = neighbours.scores >= 1 - EQUAL
    if equal.any() and is_main():
        rows, queries = len(np.unique(neighbours.ids[equal])), int(equal.any(axis=1).sum())
        log.warning(
            f"candidates: {plural(rows, 'row')} with cosine 1 to a query ({queries} of "
            f"{plural(len(equal), 'query', 'queries')}), kept; check whether they give away its answer"
        )


def _warn_of_no_words(neighbours: Neighbours, queries: Rows) -> None:
    """Warn of queries that share words with fewer rows than the matrix has columns."""
    scores = neighbours.scores
    none, few = scores[:, 0] <= 0, scores[:, -1] <= 0
    total = plural(len(scores), "query", "queries")
    if none.any() and is_main():
        log.warning(
            f"bm25: {int(none.sum())} of {total} without a word of any row, first query "
            f"{queries.eligible()[none.argmax()]}: their neighbours are the pool's first rows, with score 0"
        )
    elif few.any() and is_main():
        log.info(
            f"bm25: {int(few.sum())} of {total} with words of fewer than {scores.shape[1]} rows; the other neighbours "
            "have score 0, in the pool's order"
        )


def cached_neighbours(search: SearchSettings, candidates: Rows, queries: Rows) -> Neighbours | None:
    """The matrix if it is in the cache, else None. Nothing is computed."""
    width = width_of(search.max_K, len(candidates.eligible()))
    neighbours = _cached(search.cache_dir, digest(_key_parts(search.method(), candidates, queries)), width)
    return None if neighbours is None else first_columns(neighbours, width)


def matrix_key(search: SearchSettings, candidates: Rows, queries: Rows, width: int) -> str:
    """The manifest's key of a matrix with `width` columns. Nothing is computed."""
    return _with_width(digest(_key_parts(search.method(), candidates, queries)), width)


def _with_width(key: str, width: int) -> str:
    return digest([key, width])


def _key_parts(method: Bm25 | Vectorised, candidates: Rows, queries: Rows) -> dict:
    """What a matrix's cache key is computed from: all that decides its rows, except the width."""
    if isinstance(method, Vectorised):
        return matrix_key_parts(*method, candidates, queries)
    return {**_rows_key_parts(candidates, queries), "similarity": method.signature}


def matrix_key_parts(embedder: Embedder, index: Index, candidates: Rows, queries: Rows) -> dict:
    """`_key_parts` of a matrix of vectors."""
    return {**_rows_key_parts(candidates, queries), "embedder": embedder.signature, "index": index.signature}


def _rows_key_parts(candidates: Rows, queries: Rows) -> dict:
    eligible = candidates.eligible()
    key_parts = {
        "schema_version": SCHEMA_VERSION,
        "candidates": {"fingerprint": candidates.fingerprint, "rows": len(candidates), "eligible": len(eligible)},
        "eligible_digest": hashlib.sha256(eligible).hexdigest()[:32],
        "queries": {"fingerprint": queries.fingerprint, "rows": len(queries)},
    }
    if len(eligible_queries := queries.eligible()) < len(
        queries
    ):  # which rows are eligible depends on whether answers are needed
        key_parts["queries"]["eligible_digest"] = hashlib.sha256(eligible_queries).hexdigest()[:32]
    return key_parts


def _cached(cache_dir: str, key: str, least: int) -> Neighbours | None:
    """The narrowest cached matrix of `key` with `least` columns or more. A damaged one is logged and removed.

    Each width has its own folder, written once, so that nobody reads a matrix while it is replaced.
    """
    folders = {int(p.name.split("-")[1]): p for p in cache_folder(cache_dir, "neighbours").glob(f"{key}-*")}
    for width in sorted(w for w in folders if w >= least):
        try:
            return read_matrix(folders[width])
        except UserError as error:
            log.warning(f"{error}: searching again")
            remove_folder(folders[width], MATRIX)
    return None


def _search(
    cache_dir: str,
    least: int,
    key_parts: dict,
    key: str,
    method: Vectorised,
    candidates: Rows,
    queries: Rows,
) -> Neighbours:
    """Embed, search and cache the matrix, sharing the work with all processes that do the same."""
    embedder, index = method
    index.check()
    eligible = candidates.eligible()
    width = _searched_width(least, len(eligible))
    folder = cache_folder(cache_dir, "neighbours", f"{key}-{width}")
    with (
        cluster() if "ray" in (embedder.launcher, index.launcher) else contextlib.nullcontext(),
        Store.of(embedder, cache_dir) as store,
    ):
        pool, query_vectors, figures = _embed(store, embedder, candidates, eligible, queries)
        started = time.perf_counter()
        vectors, query_vectors = StoredVectors(store, pool.offsets), store.read(query_vectors.offsets)
        unfinished = cache_folder(cache_dir, "neighbours", f".{key}-{width}.part")
        shards = shards_of(index, query_vectors, vectors, width, unfinished, folder / "manifest.json")
        with bar(len(eligible), "searching", "row") as progress:
            if shards is not None:
                if is_main():
                    log.info(f"searching in {plural(len(shards), 'shard')}")
                search_shards(shards, progress.update)
                progress.update(progress.total - progress.n)  # shards of other processes
            with locked(lock_file(cache_dir, key)):  # the first process to get here merges the shards
                if cached := _cached(cache_dir, key, least):
                    return cached
                if shards is not None:
                    scores, rows = put_together(shards, width)
                else:
                    index_parts = {k: v for k, v in key_parts.items() if k not in ("queries", "index")}
                    keep = cache_folder(cache_dir, "indexes", digest([index_parts, index.structure_key]))
                    scores, rows = index.search(query_vectors, vectors, width, progress.update, keep)
                figures |= {"search_seconds": round(time.perf_counter() - started, 3), **index.figures}
                typical = typical_scores(query_vectors, vectors)
                _write(folder, key_parts, figures, eligible[rows], scores, typical_scores=typical)
                clear(unfinished)
    return read_matrix(folder)


def _search_words(
    cache_dir: str, least: int, key_parts: dict, key: str, method: Bm25, candidates: Rows, queries: Rows
) -> Neighbours:
    """Compare all rows by their words, and cache the matrix. Of several processes, the first one does all of it."""
    eligible = candidates.eligible()
    width = _searched_width(least, len(eligible))
    folder = cache_folder(cache_dir, "neighbours", f"{key}-{width}")
    with locked(lock_file(cache_dir, key)):
        if cached := _cached(cache_dir, key, least):
            return cached
        started = time.perf_counter()
        with bar(len(eligible), "reading words", "row") as progress:
            scores, rows, scales = method.search(candidates, eligible, queries, width, progress.update)
        figures = {"embedded": 0, "truncated": 0, "search_seconds": round(time.perf_counter() - started, 3)}
        _write(folder, key_parts, figures, eligible[rows], scores, query_scales=scales)
    return read_matrix(folder)


def _searched_width(least: int, rows: int) -> int:
    """The columns to search: `least`, or the most that another job of the sweep needs, of a pool of `rows`."""
    others = [int(k) for k in swept("max_K") if isinstance(k, int | float) and k == int(k)]
    return max([least, *(k for k in others if k <= rows)])


def _write(
    folder: Path, key_parts: dict, figures: dict, ids: np.ndarray, scores: np.ndarray, **of_queries: np.ndarray
) -> None:
    """Write a matrix into the cache. of_queries: further arrays, one number for each query, by the name of the file."""
    with folder_aside(folder, replace=True) as new:
        for name, array in {"top_indices": ids, "top_scores": scores, **of_queries}.items():
            write_npy(new / f"{name}.npy", array)
        made = {"searched_max_K": ids.shape[1], "figures": figures, "sha256": matrix_digests(new)}
        manifest = SelectionManifest.from_json({**key_parts, **made, **provenance()}, folder)
        manifest.write(new / "manifest.json")


def _embed(store: Store, embedder: Embedder, candidates: Rows, eligible: np.ndarray, queries: Rows):
    started = time.perf_counter()
    pool = embed_rows(store, embedder, candidates, eligible)
    embedded_queries = embed_rows(store, embedder, queries, queries.eligible(), query=True)
    seconds = time.perf_counter() - started
    embedder.close()
    check_alike(pool, embedded_queries)
    _log_embedding(embedder, pool, embedded_queries, len(eligible), seconds)
    figures = {
        "distinct_texts": pool.distinct,
        "query_texts": embedded_queries.distinct,
        "embedded": pool.now + embedded_queries.now,
        "tokens": embedder.tokens,
        "truncated": embedder.truncated,
        "embed_seconds": round(seconds, 3),
        "batch_tokens": embedder.tokens_per_batch,
    }
    return pool, embedded_queries, figures


def check_alike(pool: Embedded, queries: Embedded) -> None:
    """UserError unless candidates and queries were embedded the same way."""
    if pool.signature != queries.signature:
        differing = "; ".join(differences(pool.signature, queries.signature))
        raise UserError(f"candidates and queries were embedded differently ({differing}); embed both with one embedder")


def _log_embedding(embedder: Embedder, pool: Embedded, queries: Embedded, rows: int, seconds: float) -> None:
    """Log how many texts this process embedded, how many others did, and how many were stored before."""
    now, before = pool.now + queries.now, pool.distinct - pool.missing
    others = pool.missing + queries.missing - now
    elsewhere = f" and {others} by other processes" if others > 0 else ""
    log.info(
        f"{rank_shown()}embedded {plural(now, 'text')} ({seconds:.1f} s){elsewhere}; {before} of the pool's "
        f"{pool.distinct} distinct texts were embedded before, {1 - pool.distinct / rows:.1%} of its rows repeat a text"
    )
    if embedder.tokens:
        share = embedder.padding / (embedder.tokens + embedder.padding)
        log.info(
            f"{plural(embedder.tokens, 'token')} embedded, {share:.1%} padding; "
            f"{plural(embedder.truncated, 'text')} cut"
        )


SAMPLE = 1000  # random rows of the pool that show what similarity a query has with just any row


def typical_scores(queries: np.ndarray, pool: Vectors) -> np.ndarray:
    """Each query's median similarity with SAMPLE random rows of the pool (always the same ones), float32 (n_queries,).

    Args:
        queries: float32 (n_queries, dim), L2-normalised.
        pool: vectors of the same dim.
    """
    drawn = np.random.default_rng(0).choice(pool.n, min(SAMPLE, pool.n), replace=False, shuffle=False)
    sample = np.empty((len(drawn), pool.dim), dtype=np.float32)
    pool.read(np.sort(drawn), sample)
    return np.median(queries @ sample.T, axis=1).astype(np.float32)  # (n_queries, n_sample) -> (n_queries,)

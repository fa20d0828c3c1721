"""Selection: rows and queries to vectors, every query's nearest rows, and the files that hold them."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from near import secrets
from near.config import differences, public
from near.data import Rows, given, load
from near.dedup import without_near_duplicates
from near.embedders.base import Embedder
from near.embedding import Embedded, bar, embed_rows
from near.equal_rows import EQUAL, warn_of_equal
from near.errors import UserError
from near.export import Export
from near.files import cache_folder, digest, file_digest, folder_aside, provenance, read_json, write_json, write_npy
from near.indexes.base import Index
from near.locks import lock_file, locked
from near.outputs import claim, remove, remove_folder
from near.pool import held_out, load_pool
from near.processes import is_main, rank_shown
from near.ray_launcher import cluster
from near.shards import clear, put_together, search_shards, shards_of
from near.store import Store
from near.summary import summarise, typical_scores
from near.sweep import swept
from near.vectors import StoredVectors

log = logging.getLogger(__name__)

SCHEMA_VERSION = 3
AS_NEEDED = 1000  # columns of a matrix whose max_K is null, before its selector turns out to need more


MATRIX = ("top_indices.npy", "top_scores.npy", "typical_scores.npy", "manifest.json")  # files of one in the cache


@dataclass(frozen=True)
class Neighbours:
    """ids int64 (n_queries, max_K): rows of the pool, best first, ties by lower id; scores float32, cosine.

    typical: float32 (n_queries,), each query's similarity with just any row; found: nothing had to be searched.
    """

    ids: np.ndarray
    scores: np.ndarray
    manifest: dict
    typical: np.ndarray | None = None
    found: bool = False


def select(cfg: DictConfig, output_dir: Path) -> None:
    """What select.py does: write top_indices.npy, top_scores.npy and manifest.json into `output_dir`, and the subset
    that is asked for: that alone where its selector needs no neighbours."""
    target = output_dir / "manifest.json"
    export = Export(cfg, output_dir)
    before = read_json(target) if target.exists() and not cfg.overwrite else None
    queries = None
    if export.needs_matrix or given(cfg.data, "queries"):
        answer = export.needs.answers or cfg.embedder.embed != "prompt"
        queries = load(cfg.data, "queries", cfg.cache_dir, answer=answer)
    candidates = load_pool(cfg, queries)
    export.check(candidates)
    if not export.needs_matrix:
        return export.without_matrix(candidates, queries)
    width_of(cfg.max_K, len(candidates.eligible()))
    if cfg.dry_run:
        from near.dry_run import report

        return report(cfg, candidates, queries) if is_main() else None
    candidates = without_near_duplicates(cfg, candidates)
    reach = 0 if export.selector is None else export.selector.reach([cfg.n])
    neighbours = find_neighbours(cfg, candidates, queries, reach, (output_dir, before) if before else None)
    warn_of_equal(cfg, candidates, held_out(cfg, None, cfg.embedder.embed != "prompt"))
    export.pick(candidates, queries, neighbours)
    if not is_main():
        return
    with locked(lock_file(cfg.cache_dir, digest(str(output_dir.resolve())))):
        if target.exists() and not cfg.overwrite:  # another run may just have written it
            _check_same(output_dir, read_json(target), neighbours.manifest, neighbours.ids.shape[1])
        with export.prepared(neighbours.manifest["key"], candidates, queries, neighbours) as place:
            claim(output_dir, "select")
            remove(output_dir, "manifest.json")  # it is written last: where it is, the files are whole and its own
            write_npy(output_dir / "top_indices.npy", neighbours.ids)
            write_npy(output_dir / "top_scores.npy", neighbours.scores)
            manifest = {**neighbours.manifest, "sha256": _digests(output_dir)}
            write_json(target, {**manifest, **place(), **provenance(), "config": public(cfg)})
    summarise(neighbours, candidates, queries)
    log.info(f"wrote {output_dir / 'top_indices.npy'} ({' x '.join(map(str, neighbours.ids.shape))})")


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


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of a matrix's files."""
    names = ("top_indices.npy", "top_scores.npy", "typical_scores.npy")
    return {name: file_digest(folder / name) for name in names if (folder / name).is_file()}


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


def read_neighbours(path: str | Path, candidates: Rows, queries: Rows, max_K: int | None) -> Neighbours:
    """The first `max_K` columns (None: all) of a matrix that select.py wrote, refused unless it was made for this pool
    and these queries and is wide enough."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if path.name not in ("top_indices.npy", folder.name):
        raise UserError(f"indices_path={path}: give the top_indices.npy that select.py wrote, or its folder")
    for name in ("top_indices.npy", "top_scores.npy", "manifest.json"):
        if not (folder / name).is_file():
            raise UserError(f"indices_path={path}: no {name} in {folder}; give a top_indices.npy that select.py wrote")
    neighbours = _read(folder)
    for name, rows in (("candidates", candidates), ("queries", queries)):
        made_for = neighbours.manifest.get(name)
        if not isinstance(made_for, dict):
            raise UserError(f"{folder / 'manifest.json'} does not say which {name} it was made for; select again")
        if made_for.get("fingerprint") != rows.fingerprint:
            raise UserError(
                f"indices_path={path} was made for other {name} ({str(made_for.get('fingerprint'))[:12]}, "
                f"{made_for.get('rows')} rows) than data.{name} ({rows.fingerprint[:12]}, {len(rows)} rows); "
                "run select.py on these"
            )
    width = neighbours.ids.shape[1]
    max_K = width if max_K is None else max_K
    if width < max_K:
        raise UserError(
            f"indices_path={path} holds {width} neighbours a query, fewer than max_K={max_K}; use max_K<={width}"
        )
    if neighbours.ids.max() >= len(candidates):
        raise UserError(
            f"indices_path={path} names row {neighbours.ids.max()} of a pool of {len(candidates)}; select again"
        )
    return _first(neighbours, max_K)


def _first(neighbours: Neighbours, max_K: int) -> Neighbours:
    """Each query's first `max_K` neighbours, in memory of their own."""
    parts = (np.array(a[:, :max_K]) for a in (neighbours.ids, neighbours.scores))
    return dataclasses.replace(neighbours, **dict(zip(("ids", "scores"), parts, strict=True)))


def _read(folder: Path) -> Neighbours:
    try:
        ids, scores = (np.load(folder / f"top_{name}.npy", "r", allow_pickle=False) for name in ("indices", "scores"))
        typical = np.load(path, allow_pickle=False) if (path := folder / "typical_scores.npy").is_file() else None
        manifest = read_json(folder / "manifest.json")
        digests = _digests(folder)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(
            f"the selection in {folder} is damaged ({error}); delete the folder and select again"
        ) from error
    if not isinstance(manifest.get("sha256"), dict) or not digests.keys() <= manifest["sha256"].keys():
        raise UserError(f"{folder / 'manifest.json'} holds no digests of its files; select again")
    if any(digests.get(n) != d for n, d in manifest["sha256"].items()):
        raise UserError(f"the selection in {folder} is damaged (its bytes changed); delete the folder and select again")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{folder / 'manifest.json'} has schema {manifest.get('schema_version')}, not {SCHEMA_VERSION}")
    if ids.dtype != np.int64 or ids.ndim != 2 or ids.shape != scores.shape or ids.size and ids.min() < 0:
        raise UserError(f"{folder / 'top_indices.npy'} is not an int64 matrix of row ids like its scores; select again")
    if scores.dtype.kind != "f" or not all(map(_is_ranked, *_blocks(ids, scores))):
        raise UserError(
            f"{folder / 'top_scores.npy'} is not a matrix of finite numbers, or a row of {folder / 'top_indices.npy'} "
            "names an id twice; select again"
        )
    return Neighbours(ids, scores, manifest, typical)


def _blocks(*arrays: np.ndarray) -> list[list[np.ndarray]]:
    """Of each array its blocks of rows, as few at a time as fit into memory easily."""
    rows = max(1, (1 << 22) // max(1, arrays[0].shape[1]))
    return [[array[i : i + rows] for i in range(0, len(array), rows)] for array in arrays]


def _is_ranked(ids: np.ndarray, scores: np.ndarray) -> bool:
    """Whether scores are finite and no row of ids has one twice."""
    ordered = np.sort(ids, axis=1)
    return bool(np.isfinite(scores).all() and (ordered[:, 1:] != ordered[:, :-1]).all())

"""The same search and selection from Python: `near.search` and `near.select`, on arrays or on data sets of rows."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from near.check import check
from near.config import CONF, register_resolvers
from near.data import load
from near.dedup import without_near_duplicates
from near.errors import UserError, one_line
from near.pool import load_pool
from near.selection import Neighbours, find_neighbours
from near.selectors.base import Round, Subset, checked, selector_of
from near.vectors import ArrayVectors

Rows = np.ndarray | str | os.PathLike | datasets.Dataset | Sequence[dict] | Sequence[str]


def search(
    queries: Rows,
    candidates: Rows,
    max_K: int = 1000,
    *,
    index: str = "flat",
    normalise: bool = True,
    overrides: Sequence[str] = (),
    cache_dir: str | os.PathLike | None = None,
) -> Neighbours:
    """Every query's `max_K` nearest candidates.

    queries, candidates: either vectors, as arrays (n, D) of numbers, memory maps, or the paths of such .npy files; or
    rows, as a datasets.Dataset, dicts in any format that select.py reads, or texts, which are then embedded.
    index: flat (exact), ivf or hnsw. normalise: for vectors; scores are cosines, otherwise inner products.
    overrides: what select.py takes on its command line, such as "embedder=qwen3", "index.block_rows=20000".
    cache_dir: for rows and built indexes; default $NEAR_CACHE or .cache.

    Returns Neighbours: ids int64 (n_queries, max_K), best first, ties by lower id, and scores float32. Ids are
    positions in `candidates`. Raises UserError for what can't be searched. A pool that is not in memory is read in
    blocks, so that memory does not grow with it.

    >>> near.search(np.eye(3)[:1], np.eye(3), 2).ids
    array([[0, 1]])
    """
    vectors = _both(queries, candidates)
    cfg = _configured("select", [f"max_K={max_K}", f"index={index}", *overrides], cache_dir)
    return _search_vectors(cfg, *vectors, normalise) if vectors else _search_rows(cfg, queries, candidates)[0]


def select(
    queries: Rows,
    candidates: Rows,
    n: int,
    max_K: int = 1000,
    *,
    selector: str = "near",
    seed: int = 42,
    index: str = "flat",
    normalise: bool = True,
    overrides: Sequence[str] = (),
    cache_dir: str | os.PathLike | None = None,
) -> Subset:
    """The `n` candidates that a selector picks for the queries: a Subset of `ids` int64 (up to n,), in its order, and
    `scores` where the selector has any. Parameters as for `search`; max_K is at most the number of candidates.

    >>> near.select(target, pool, 5000).ids            # pool.select(ids) is the subset of a datasets.Dataset
    """
    if n < 1:
        raise UserError(f"n={n} is no number of rows; use 1 or more")
    vectors = _both(queries, candidates)
    words = [f"max_K={max_K}", f"selector={selector}", f"seed={seed}", f"index={index}", *overrides]
    cfg = _configured("train", words, cache_dir)
    picker, neighbours, pool = selector_of(cfg.selector), None, None
    if vectors:
        total = _vectors(vectors[1], "candidates", normalise).n
        eligible = np.arange(total)
        if picker.needs_neighbours:
            neighbours = _search_vectors(cfg, *vectors, normalise)
    elif picker.needs_neighbours:
        neighbours, pool = _search_rows(cfg, queries, candidates)
        eligible, total = pool.eligible(), len(pool)
    else:
        total = len(candidates)
        eligible = np.arange(total)
    if n > len(eligible):
        raise UserError(f"n={n} is more than the {len(eligible)} candidates; use n<={len(eligible)}")
    asked = Round.alone(n, seed, eligible, total, pool=pool, neighbours=neighbours)
    return checked(picker.select(asked), asked, selector)


def _configured(script: str, overrides: Sequence[str], cache_dir: str | os.PathLike | None) -> DictConfig:
    register_resolvers()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(script, overrides=["data=files", *overrides])
    except HydraException as error:
        raise UserError(f"overrides: {one_line(error)}") from error
    if cache_dir is not None:
        cfg.cache_dir = os.fspath(cache_dir)
    check(_with_paths(cfg, ".", "."), list(overrides))
    return cfg


def _with_paths(cfg: DictConfig, candidates: str, queries: str) -> DictConfig:
    return OmegaConf.merge(cfg, {"data": {"candidates": {"path": candidates}, "queries": {"path": queries}}})


def _both(queries: Rows, candidates: Rows) -> tuple | None:
    """Both as arrays where they are vectors, None where they are rows."""
    found = [_as_array(value) for value in (queries, candidates)]
    if (found[0] is None) != (found[1] is None):
        raise UserError("queries and candidates must be of one kind: give vectors for both, or rows for both")
    return None if found[0] is None else tuple(found)


def _as_array(value: Rows) -> np.ndarray | None:
    if isinstance(value, str | os.PathLike):
        try:
            return np.load(value, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise UserError(f"{value} is not a readable .npy file of vectors ({error})") from error
    if (
        isinstance(value, datasets.Dataset)
        or isinstance(value, Sequence)
        and len(value)
        and isinstance(value[0], dict | str)
    ):
        return None
    try:
        return value if isinstance(value, np.ndarray) else np.asarray(value)
    except (ValueError, TypeError) as error:
        raise UserError(f"a {type(value).__name__} is neither vectors nor rows; give an array or a Dataset") from error


def _vectors(array: np.ndarray, name: str, normalise: bool) -> ArrayVectors:
    return ArrayVectors(array, name, normalise)


def _search_vectors(cfg: DictConfig, queries: np.ndarray, candidates: np.ndarray, normalise: bool) -> Neighbours:
    asked, pool = _vectors(queries, "queries", normalise), _vectors(candidates, "candidates", normalise)
    if asked.dim != pool.dim:
        raise UserError(f"queries have {asked.dim} dimensions, candidates {pool.dim}; embed both with one embedder")
    if cfg.max_K > pool.n:
        raise UserError(f"max_K={cfg.max_K} is more than the {pool.n} candidates; use max_K<={pool.n}")
    held = np.empty((asked.n, asked.dim), dtype=np.float32)
    asked.read(slice(0, asked.n), held)
    index = instantiate(cfg.index)
    scores, rows = index.search(held, pool, cfg.max_K)
    return Neighbours(rows, scores, {"index": index.signature, "max_K": cfg.max_K, "figures": dict(index.told)})


def _search_rows(cfg: DictConfig, queries: Rows, candidates: Rows):
    with tempfile.TemporaryDirectory(prefix="near-") as folder:
        paths = [_saved(rows, Path(folder, name)) for name, rows in (("pool", candidates), ("target", queries))]
        cfg = _with_paths(cfg, *paths)
        asked = load(cfg.data, "queries", cfg.cache_dir, answer=cfg.embedder.embed != "prompt")
        pool = without_near_duplicates(cfg, load_pool(cfg, asked))
        return find_neighbours(cfg, pool, asked), pool


def _saved(rows: Rows, folder: Path) -> str:
    """Rows as a data set on disk, from which they are read like any other source."""
    if not isinstance(rows, datasets.Dataset):
        texts = isinstance(rows[0], str)
        rows = datasets.Dataset.from_dict({"text": list(rows)}) if texts else datasets.Dataset.from_list(list(rows))
    rows.save_to_disk(str(folder))
    return str(folder)

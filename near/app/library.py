"""The same search and selection from Python: `near.search` and `near.select`, on arrays or on data sets of rows."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import datasets
import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from near.app.check.check import check
from near.app.installed import check_installed
from near.common.config import CONF, register_resolvers
from near.common.errors import UserError, as_user_error, missing_choice, one_line
from near.common.files import refuse_special, write_jsonl
from near.common.records import SelectionManifest
from near.common.text import plural
from near.data.columns import columns_of
from near.searching.bm25 import Bm25
from near.searching.find import width_of, widths
from near.searching.material import Material, load_queries
from near.searching.neighbours import Neighbours
from near.searching.settings import SearchSettings
from near.searching.vectors import ArrayVectors
from near.selection.beyond import similarity_of
from near.selection.round import Round, Subset, checked
from near.selection.selectors.base import Selector, selector_of
from near.selection.similarity import VectorSimilarity

Rows: TypeAlias = np.ndarray | str | os.PathLike | datasets.Dataset | Sequence[dict] | Sequence[str]


def search(
    queries: Rows,
    candidates: Rows,
    max_K: int | None = None,
    *,
    index: str = "flat",
    normalise: bool = True,
    overrides: Sequence[str] = (),
    cache_dir: str | os.PathLike | None = None,
) -> Neighbours:
    """Every query's `max_K` nearest candidates; None: the nearest 1,000, or all of a smaller pool.

    Args:
        queries: vectors (n_queries, D), as an array of numbers, a memory map, or the path of such a .npy file; or rows,
            as a datasets.Dataset, dicts in any format that select.py reads, or texts, which are then embedded.
        candidates: the pool, of the same kind.
        max_K: neighbours of each query.
        index: flat (exact), ivf or hnsw.
        normalise: of vectors: scores are cosines; otherwise they are inner products.
        overrides: options of select.py, such as "embedder=qwen3", "index.block_rows=20000".
        cache_dir: of rows: for their embeddings and neighbours; default $NEAR_CACHE or .cache. Vectors are not cached.

    Returns:
        Neighbours: ids int64 (n_queries, max_K), best first, ties by lower id; scores float32 of that shape. Ids are
        positions in `candidates`. Of rows, those whose prompt is a query's are left out (`data.leakage=keep` keeps
        them). A pool that is not in memory is read in blocks, so that memory does not grow with it.

    Raises:
        UserError: these can't be searched.

    >>> near.search(np.eye(3)[:1], np.eye(3), 2).ids
    array([[0, 1]])
    """
    vectors = _both(queries, candidates)
    cfg = _configured([_word("max_K", max_K), f"index={index}", *overrides], cache_dir)
    if vectors:
        return _search_vectors(cfg, *vectors, normalise)
    with _loaded(cfg, queries, candidates) as (_, search, material):
        return material.neighbours(search)


def select(
    queries: Rows,
    candidates: Rows,
    n: int,
    max_K: int | None = None,
    *,
    selector: str = "near",
    seed: int = 42,
    index: str = "flat",
    normalise: bool = True,
    overrides: Sequence[str] = (),
    cache_dir: str | os.PathLike | None = None,
) -> Subset:
    """The `n` candidates that a selector picks for the queries.

    Args:
        queries: as for `search`, like all that are not listed here.
        n: how many candidates.
        max_K: how many neighbours of each query the selector sees; None: as many as `n` needs.
        selector: its name in conf/selector/.
        seed: of random choices.

    Returns:
        Subset: ids int64 (up to n,), in the selector's order, and scores where the selector has any.

    Raises:
        UserError: these can't be searched, or fewer than `n` candidates may be selected.

    >>> near.select(target, pool, 5000).ids            # pool.select(ids) is the subset of a datasets.Dataset
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise UserError(f"n={n!r} is not a number of rows; use a whole number from 1")
    vectors = _both(queries, candidates)
    words = [_word("max_K", max_K), f"n={n}", f"selector={selector}", f"seed={seed}", f"index={index}", *overrides]
    cfg = _configured(words, cache_dir)
    picker, known = selector_of(cfg.selector), {}
    if picker.requires or picker.only_in_training or instantiate(cfg.similarity).requires:
        raise UserError(f"selector={selector} needs a model, or picks in training alone; use select.py or train.py")
    if vectors and (picker.columns or picker.needs_queries or picker.budgets is not None):
        raise UserError(f"selector={selector} reads more of rows than vectors; give rows")
    if vectors:
        total = ArrayVectors(vectors[1], "candidates").n
        eligible = np.arange(total)
        if picker.needs_neighbours or picker.needs_vectors:
            known["neighbours"] = _search_vectors(cfg, *vectors, normalise, picker.reach([int(n)]))
            pool = ArrayVectors(vectors[1], "candidates", normalise)
            query_vectors = _in_memory(ArrayVectors(vectors[0], "queries", normalise))
            known["similarity"] = VectorSimilarity(pool, query_vectors, eligible, total, known["neighbours"])
    else:
        with _loaded(cfg, queries, candidates) as (data, search, material):
            rows, pool = material.queries, material.candidates
            known, total, eligible = {"queries": rows, "pool": pool}, len(pool), pool.eligible()
            known["columns"] = columns_of(data, pool, picker.columns, search.cache_dir)
            known["query_columns"] = columns_of(data, rows, picker.query_columns, search.cache_dir)
            picker.check_pool(pool, eligible)
            picker.check_columns(known["columns"], eligible)
            picker.check_queries(rows, [int(n)])
            if picker.needs_neighbours:
                known["neighbours"] = material.neighbours(search, picker.reach([int(n)]))
                known["similarity"] = similarity_of(search, pool, rows, known["neighbours"])
            elif picker.needs_vectors:
                known["similarity"] = similarity_of(search, pool, None, None)
            return _picked(picker, selector, Round.alone(int(n), seed, eligible, total, **known))
    return _picked(picker, selector, Round.alone(int(n), seed, eligible, total, **known))


def _picked(picker: Selector, name: str, round: Round) -> Subset:
    if round.size > (most := len(round.eligible)):
        raise UserError(f"n={round.size} is more than the {plural(most, 'row')} that may be selected; use n<={most}")
    return checked(picker.select(round), round, name)


def _configured(overrides: Sequence[str], cache_dir: str | os.PathLike | None) -> DictConfig:
    register_resolvers()
    if wrong := next((word for word in overrides if not isinstance(word, str)), None):
        raise UserError(f"overrides: {wrong!r} is not an override; give strings such as 'embedder=qwen3'")
    if not isinstance(cache_dir, str | os.PathLike | None):
        raise UserError(f"cache_dir={cache_dir!r} is not a path; give a folder's")
    if "${" in os.fspath(cache_dir or ""):
        raise UserError(f"cache_dir={cache_dir} contains ${{, which configurations resolve; name another folder")
    surrounding, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None  # the caller may run under Hydra
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("select", overrides=["data=files", *overrides])
        if cache_dir is not None:
            cfg.cache_dir = os.fspath(cache_dir)
        check(_with_paths(cfg, ".", "."), list(overrides))
    except MissingConfigException as error:
        raise UserError(missing_choice(error)) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"overrides: {one_line(error)}") from error
    finally:
        GlobalHydra.instance().hydra = surrounding
    return cfg


def _with_paths(cfg: DictConfig, candidates: str, queries: str) -> DictConfig:
    return OmegaConf.merge(cfg, {"data": {"candidates": {"path": candidates}, "queries": {"path": queries}}})


def _both(queries: Rows, candidates: Rows) -> tuple[np.ndarray, np.ndarray] | None:
    """Both as arrays where they are vectors, None where they are rows."""
    arrays = [_as_array(value) for value in (queries, candidates)]
    if (arrays[0] is None) != (arrays[1] is None):
        raise UserError("queries and candidates must be of one kind: give vectors for both, or rows for both")
    return None if arrays[0] is None else tuple(arrays)


def _as_array(value: Rows) -> np.ndarray | None:
    if isinstance(value, str | os.PathLike):
        refuse_special(value)
        what = f"{value} is not a readable .npy file of vectors"
        with as_user_error((ValueError, OSError, EOFError), what, "save it with numpy.save"):
            return np.load(value, mmap_mode="r", allow_pickle=False)
    if (
        isinstance(value, datasets.Dataset)
        or isinstance(value, Sequence)
        and len(value)
        and isinstance(value[0], dict | str)
    ):
        return None
    try:
        return value if isinstance(value, np.ndarray) else np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"a {type(value).__name__} is neither vectors nor rows; give an array or a Dataset") from error


def _word(key: str, value: object) -> str:
    """An override; None is Hydra's null."""
    return f"{key}={'null' if value is None else value}"


def _search_vectors(
    cfg: DictConfig, queries: np.ndarray, candidates: np.ndarray, normalise: bool, reach: int = 0
) -> Neighbours:
    query_vectors, pool = ArrayVectors(queries, "queries", normalise), ArrayVectors(candidates, "candidates", normalise)
    if isinstance(instantiate(cfg.similarity), Bm25):
        raise UserError("similarity=bm25 compares the words of rows, and these are vectors; give rows or texts")
    if query_vectors.dim != pool.dim:
        raise UserError(
            f"queries have {plural(query_vectors.dim, 'dimension')}, candidates {pool.dim}; embed both with one "
            "embedder"
        )
    width_of(cfg.max_K, pool.n)
    in_memory = _in_memory(query_vectors)
    index = instantiate(cfg.index)
    for width in widths(cfg.max_K, pool.n, reach):
        scores, rows = index.search(in_memory, pool, width)
        if reach and len(np.unique(rows)) >= reach:
            break
    return Neighbours(rows, scores, SelectionManifest(index=index.signature, max_K=width, figures=dict(index.figures)))


def _in_memory(vectors: ArrayVectors) -> np.ndarray:
    """All of `vectors`, float32 (n, dim)."""
    array = np.empty((vectors.n, vectors.dim), dtype=np.float32)
    vectors.read(slice(0, vectors.n), array)
    return array


@contextlib.contextmanager
def _loaded(cfg: DictConfig, queries: Rows, candidates: Rows) -> Iterator[tuple]:
    """The options of the data, the search, and the queries and the pool, as select.py loads them."""
    check_installed("select", cfg)
    with tempfile.TemporaryDirectory(prefix="near-") as folder:
        sources = {"candidates": candidates, "queries": queries}
        cfg = _with_paths(cfg, *(_saved(rows, Path(folder, name), name) for name, rows in sources.items()))
        search = SearchSettings.of(cfg, cfg.cache_dir)
        loaded = load_queries(cfg.data, search.cache_dir, True, search.reads_answers)
        yield cfg.data, search, Material.load(cfg.data, loaded, search.cache_dir).distinct(cfg.data, search)


def _saved(rows: Rows, path: Path, name: str) -> str:
    """The path of `rows` on disk, from which they are read like any other source."""
    if not len(rows):
        raise UserError(f"{name}: no row; give at least one")
    if isinstance(rows, datasets.Dataset):
        what, fix = f"{name}: the data set can't be saved", "give its rows as dicts"
        with as_user_error((TypeError, ValueError), what, fix), _quiet():
            rows.save_to_disk(str(path))
        return str(path)
    kind = type(rows[0])
    if wrong := next((row for row in rows if not isinstance(row, kind)), None):
        raise UserError(f"{name}: rows are {kind.__name__} and {type(wrong).__name__}; give rows of one kind")
    path = path.with_suffix(".jsonl")
    with as_user_error((TypeError, ValueError), f"{name}: a row is not JSON", "give a datasets.Dataset"):
        write_jsonl(path, ({"text": row} if isinstance(row, str) else dict(row) for row in rows))
    return str(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars of `datasets`; they come back if they were on."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()

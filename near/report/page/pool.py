"""The pool and the queries as the runs of a report had them: loaded again by a run's own configuration. Nothing is
embedded for a report; what the store does not hold is not shown."""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from near.common.errors import UserError, one_line
from near.common.files import cache_folder, digest
from near.common.run_folder import CONFIG
from near.data.rows import Rows
from near.embedding.embed import embedder_of, reads_answers
from near.embedding.missing import RowTexts, look_up
from near.embedding.store import Store
from near.report.compare import Group
from near.report.runs import Run
from near.searching.find import SearchSettings
from near.searching.material import Material, load_queries
from near.selection.needs import needs_of
from near.selection.selectors.base import selector_of

if TYPE_CHECKING:
    from near.searching.neighbours import Neighbours


@dataclass
class Pool:
    """`search`: of the run that it was loaded by; `fingerprint`: as that run kept it; `queries` and `neighbours` are
    None where no run had them."""

    search: SearchSettings
    fingerprint: str
    rows: Rows
    queries: Rows | None
    neighbours: "Neighbours | None"

    @property
    def embedder(self) -> str:
        """Whose vectors these are."""
        embedder = self.search.embedder
        return str(embedder.get("model") or embedder["_target_"].rpartition(".")[2])


def pool_of(groups: list[Group], read_config: Callable[[Path], DictConfig]) -> Pool:
    """The pool that most runs selected from. UserError where it can't be loaded as it was."""
    runs = [run for group in groups for run in group.runs.values() if run.pool is not None]
    if not runs:
        raise UserError("no run says which pool it selected from")
    most = Counter(run.pool for run in runs).most_common(1)[0][0]
    runs = [run for run in runs if run.pool == most]
    best, fault = None, UserError("its configuration is gone")
    for run in _different(runs):
        try:
            with _quiet():
                found = _loaded(run, most, read_config)
        except (UserError, OSError, ValueError, HydraException, OmegaConfBaseException) as error:
            fault = error
            continue
        if found.neighbours is not None:
            return found
        best = best or found
    if best is None:
        raise UserError(f"the pool can't be shown: {one_line(fault)}")
    return best


def _different(runs: list[Run]) -> list[Run]:
    """One run of each selector: what they load is decided by that."""
    return list({run.selector: run for run in reversed(runs)}.values())


def _loaded(run: Run, fingerprint: str, read_config: Callable[[Path], DictConfig]) -> Pool:
    path = run.files / CONFIG
    if not path.is_file():
        raise UserError(f"{path} is gone")
    cfg = read_config(path)
    search = SearchSettings.of(cfg, cfg.cache_dir)
    needs = needs_of(cfg, selector_of(cfg.selector))
    answers = bool(run.metrics.get("selection_saw_them")) or needs.answers or reads_answers(cfg.embedder)
    queries = load_queries(cfg.data, search.cache_dir, False, answers)
    material = Material.load(cfg.data, queries, search.cache_dir)
    rows = material.candidates
    pools = [rows] if queries is None else [rows, rows.followed_by(queries)]
    if fingerprint not in [pool.fingerprint for pool in pools]:
        raise UserError(f"the rows of {cfg.data.candidates.path} are not those that were selected from")
    if run.labels is not None and run.labels not in [pool.labels for pool in pools]:
        raise UserError(
            f"the sources of {cfg.data.candidates.path} have other labels than when they were selected from"
        )
    if not needs.trains_on_queries:
        material = material.distinct(cfg.data, search, compute=False)
    neighbours = material.neighbours(search, compute=False) if queries is not None and needs.neighbours else None
    return Pool(search, fingerprint, material.candidates, queries, neighbours)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What loading tells was told when the run began."""
    logger = logging.getLogger("near")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def stored_vectors(pool: Pool, ids: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
    """Vectors of pool rows `ids` and of queries `asked` as far as the store holds them: positions in `ids` int64 (m,),
    vectors float32 (m, dim), vectors of all queries float32 (q, dim), and the space. UserError where too few are there.
    """
    cache_dir = pool.search.cache_dir
    embedder = embedder_of(pool.search.embedder, cache_dir)
    if not cache_folder(cache_dir, "embeddings", digest(embedder.space)).is_dir():
        raise UserError("these rows were never embedded")
    with Store.of(embedder, cache_dir) as store:
        looked = look_up(store, RowTexts(pool.rows, ids, embedder), len(ids), embedder.chunk)
        there = np.flatnonzero(looked.offsets >= 0)
        if len(there) < 0.9 * len(ids):
            raise UserError(f"the store holds vectors of {len(there)} of {len(ids)} rows")
        vectors, queries = store.read(looked.offsets[there]), np.empty((0, 0), dtype=np.float32)
        if len(asked):
            places = look_up(store, RowTexts(pool.queries, asked, embedder, query=True), len(asked), embedder.chunk)
            if (places.offsets >= 0).all():
                queries = store.read(places.offsets)
    return there, vectors, queries, embedder.space

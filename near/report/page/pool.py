"""The pool and the queries of the runs of a report, loaded again by a run's configuration. Nothing is embedded for a
report: rows whose vectors are not in the store are left out."""

from collections import Counter
from collections.abc import Callable
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
from near.common.text import plural
from near.data.rows import Rows
from near.embedding.embed import embedder_of
from near.embedding.missing import RowTexts, look_up
from near.embedding.store import Store
from near.report.compare import Group
from near.report.runs import Run, quiet
from near.searching.material import Material, load_queries
from near.searching.settings import SearchSettings
from near.selection.needs import needs_of
from near.selection.plan.choice import selection_of

if TYPE_CHECKING:
    from near.searching.neighbours import Neighbours


@dataclass
class Pool:
    """The pool that the runs selected from.

    Attributes:
        data: the group `data` of the run by which it was loaded.
        search: of that run.
        fingerprint: of the rows, as that run recorded it.
        rows: the candidates.
        queries: None where no run has any.
        neighbours: the matrix; None where no run has one.
    """

    data: DictConfig
    search: SearchSettings
    fingerprint: str
    rows: Rows
    queries: Rows | None
    neighbours: "Neighbours | None"

    @property
    def similarity(self) -> str:
        """The name of what compared queries and rows, for the page."""
        return self.embedder if self.search.words is None else "BM25"

    @property
    def embedder(self) -> str:
        """The name of the embedder, for the page."""
        embedder = self.search.embedder
        return str(embedder.get("model") or embedder["_target_"].rpartition(".")[2])


def pool_of(groups: list[Group], read_config: Callable[[Path], DictConfig]) -> Pool:
    """The pool that most runs selected from.

    Args:
        groups: the selections.
        read_config: reads and checks a run's config.yaml.

    Raises:
        UserError: its rows can't be loaded, or have changed since.
    """
    runs = [run for group in groups for run in group.runs.values() if run.pool is not None]
    if not runs:
        raise UserError("no run records which pool it selected from")
    most = Counter(run.pool for run in runs).most_common(1)[0][0]
    runs = [run for run in runs if run.pool == most]
    best, fault = None, UserError("no run has its config.yaml any more")
    for run in _different(runs):
        try:
            with quiet():
                pool = loaded(run, most, read_config)
        except (UserError, OSError, ValueError, HydraException, OmegaConfBaseException) as error:
            fault = error
            continue
        if pool.neighbours is not None:
            return pool
        best = best or pool
    if best is None:
        raise UserError(f"the pool can't be shown: {one_line(fault)}")
    return best


def _different(runs: list[Run]) -> list[Run]:
    """One run of each selector, which decides what a run loads."""
    return list({run.selector: run for run in reversed(runs)}.values())


def loaded(run: Run, fingerprint: str, read_config: Callable[[Path], DictConfig]) -> Pool:
    path = run.files / CONFIG
    if not path.is_file():
        raise UserError(f"{path} is missing")
    cfg = read_config(path)
    search = SearchSettings.of(cfg, cfg.cache_dir)
    needs = needs_of(cfg, selection_of(cfg, weighers=False))
    answers = run.metrics.selection_saw_them or needs.answers or search.reads_answers
    queries = load_queries(cfg.data, search.cache_dir, False, answers)
    material = Material.load(cfg.data, queries, search.cache_dir)
    rows = material.candidates
    pools = [rows] if queries is None else [rows, rows.followed_by(queries)]
    if fingerprint not in [pool.fingerprint for pool in pools]:
        raise UserError(f"the rows of {cfg.data.candidates.path} have changed since they were selected from")
    if run.labels is not None and run.labels not in [pool.labels for pool in pools]:
        raise UserError(
            f"the sources of {cfg.data.candidates.path} have changed their labels since they were selected from"
        )
    if not needs.trains_on_queries:
        material = material.distinct(cfg.data, search, compute=False)
    neighbours = material.neighbours(search, compute=False) if queries is not None and needs.neighbours else None
    return Pool(cfg.data, search, fingerprint, material.candidates, queries, neighbours)


def stored_vectors(
    pool: Pool, ids: np.ndarray, query_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
    """The vectors of rows and queries that are in the store.

    Args:
        pool: whose rows and queries they are.
        ids: int64 (n,), of rows of the pool.
        query_ids: int64 (q,), of queries.

    Returns:
        Positions in `ids` of the rows that have a vector, int64 (m,); their vectors, float32 (m, dim); the queries'
        vectors, float32 (q, dim), or (0, 0) where one is missing; and the space.

    Raises:
        UserError: fewer than 90% of the rows have a vector.
    """
    cache_dir = pool.search.cache_dir
    embedder = embedder_of(pool.search.embedder, cache_dir)
    if not cache_folder(cache_dir, "embeddings", digest(embedder.space)).is_dir():
        raise UserError("these rows were never embedded")
    with Store.of(embedder, cache_dir) as store:
        offsets = look_up(store, RowTexts(pool.rows, ids, embedder), len(ids), embedder.chunk).offsets  # (n,)
        stored = np.flatnonzero(offsets >= 0)
        if len(stored) < 0.9 * len(ids):
            raise UserError(f"the store has vectors of {len(stored)} of {plural(len(ids), 'row')}")
        vectors, queries = store.read(offsets[stored]), np.empty((0, 0), dtype=np.float32)
        if len(query_ids):
            query_texts = RowTexts(pool.queries, query_ids, embedder, query=True)
            offsets = look_up(store, query_texts, len(query_ids), embedder.chunk).offsets  # (q,)
            if (offsets >= 0).all():
                queries = store.read(offsets)
    return stored, vectors, queries, embedder.space

"""The pool for selection: candidates without leaks and, by default, without duplicates."""

import logging

import numpy as np
from omegaconf import DictConfig

from near.common.errors import UserError
from near.common.keys import Sorted
from near.common.text import plural
from near.data.contamination import without_contaminated
from near.data.leakage import leaks
from near.data.loading import benchmarks, is_set, load, more_sets
from near.data.rows import Rows

log = logging.getLogger(__name__)


def load_pool(data: DictConfig, queries: Rows | None, cache_dir: str) -> Rows:
    """Load data.candidates and exclude leaks and repeated rows; ids stay, and the counts are logged.

    Excluded are rows whose prompt is that of a query or an eval row (`data.leakage=drop`, see near/data/leakage.py),
    rows that repeat an earlier one (`data.dedup=exact`; for `near` see near/embedding/duplicates.py), and rows that
    resemble a held-out one (`data.decontaminate.action=drop`, see near/data/contamination.py).

    Raises:
        UserError: no row is left.
    """
    pool = load(data, "candidates", cache_dir)
    excluded, leaked, shared = np.zeros(len(pool), dtype=bool), np.zeros(len(pool), dtype=bool), 0
    sets = held_out(data, queries, cache_dir)
    for rows in sets:
        leaked_here, shared_here = leaks(pool, rows)
        leaked, shared = leaked | leaked_here, max(shared, shared_here)
    count = int((leaked & pool.usable()).sum())
    if data.leakage == "drop":
        excluded |= leaked
        if count:
            log.info(f"candidates: {plural(count, 'row')} left out with the prompt of a query or an eval row (leakage)")
    elif count:
        log.warning(
            f"candidates: {plural(count, 'row')} with the prompt of a query or an eval row kept, as data.leakage=keep"
        )
    if shared:
        log.info(
            f"candidates: {plural(shared, 'row')} kept that share the last of several turns with a query or an eval row"
        )
    if data.dedup != "none" and (repeated := _exclude_repeats(pool, excluded)):
        log.info(f"candidates: {plural(repeated, 'row')} left out as a repeat of an earlier row")
    if excluded.any() and not (pool.usable() & ~excluded).any():
        raise UserError("data.candidates: every row is one of the queries or eval rows; set data.leakage=keep if meant")
    return without_contaminated(pool.without(excluded), [*sets, *benchmark_sets(data, cache_dir)], data, cache_dir)


def held_out(data: DictConfig, queries: Rows | None, cache_dir: str, answer: bool = False) -> list[Rows]:
    """The rows that must not be in the pool: the queries and all evaluation sets. `answer`: see `load`."""
    rows = [queries] if queries is not None else []
    parts = (["eval"] if is_set(data, "eval") else []) + list(more_sets(data).values())
    return rows + [load(data, part, cache_dir, answer) for part in parts]


def benchmark_sets(data: DictConfig, cache_dir: str) -> list[Rows]:
    """The rows of data.decontaminate.benchmarks."""
    return [load(data, part, cache_dir, answer=False) for part in benchmarks(data).values()]


def without_prompts_of(rows: Rows, held_out: Rows, leakage: str) -> Rows:
    """`rows` without those that leak `held_out`, unless `leakage` is "keep"; the count is logged. `held_out`: all rows
    of its set count, those of another part of it, too."""
    excluded = leaks(rows, held_out)[0] if leakage == "drop" else np.zeros(len(rows), dtype=bool)
    if rows.excluded is not None:
        excluded &= ~rows.excluded  # those are counted already
    if count := int((excluded & rows.usable()).sum()):
        log.info(
            f"{rows.name}: {plural(count, 'row')} not trained on, as {held_out.name} rows have the same prompts "
            "(leakage)"
        )
    if rows.excluded is not None:
        excluded |= rows.excluded
    if not (rows.usable() & ~excluded).any():
        raise UserError(f"data.{rows.name}: every row is one of data.{held_out.name}; set data.leakage=keep if meant")
    return rows.without(excluded)


def _exclude_repeats(pool: Rows, excluded: np.ndarray) -> int:
    """Mark in `excluded` the usable rows that repeat the messages of an earlier one; return their number."""
    rows = np.flatnonzero(pool.usable() & ~excluded)
    high, low = np.empty(len(rows), dtype=np.uint64), np.empty(len(rows), dtype=np.uint64)
    for start, keys in pool.keys("key"):
        first, last = np.searchsorted(rows, [start, start + len(keys)])
        high[first:last], low[first:last] = keys[rows[first:last] - start].T
    ordered = Sorted(high, low)
    repeats = rows[ordered.order[~ordered.begins]]
    excluded[repeats] = True
    return len(repeats)

"""The pool that may be selected from: candidates without leaks and, by choice, without duplicates."""

import logging

import numpy as np
from omegaconf import DictConfig

from near.data import Rows, given, load, more_sets
from near.errors import UserError
from near.keys import Sorted

log = logging.getLogger(__name__)


def load_pool(cfg: DictConfig, queries: Rows | None) -> Rows:
    """data.candidates, with rows no longer eligible whose prompt is one of a query or an eval row (`data.leakage=drop`)
    and rows that repeat an earlier one (`data.dedup=exact`; for `near` see near/dedup.py). Ids stay; how many and why
    is said."""
    pool = load(cfg.data, "candidates", cfg.cache_dir)
    excluded = np.zeros(len(pool), dtype=bool)
    if cfg.data.leakage == "drop":
        held_out = [queries] if queries is not None else []
        if given(cfg.data, "eval"):
            held_out.append(load(cfg.data, "eval", cfg.cache_dir, answer=False))
        held_out += [load(cfg.data, part, cfg.cache_dir, answer=False) for part in more_sets(cfg.data).values()]
        for rows in held_out:
            _exclude_prompts(pool, rows, excluded)
        if leaks := int((excluded & pool.usable()).sum()):
            log.info(f"candidates: {leaks} rows left out, their prompts are those of queries or eval rows (leakage)")
    if cfg.data.dedup != "none" and (repeated := _exclude_repeats(pool, excluded)):
        log.info(f"candidates: {repeated} rows left out, they repeat an earlier row")
    if excluded.any() and not (pool.usable() & ~excluded).any():
        raise UserError("data.candidates: every row is one of the queries or eval rows; set data.leakage=keep if meant")
    return pool.without(excluded)


def without_prompts_of(rows: Rows, held_out: Rows, leakage: str) -> Rows:
    """`rows` without those whose prompt is one of `held_out`'s, unless `leakage` is keep; how many is said."""
    excluded = np.zeros(len(rows), dtype=bool)
    if leakage == "drop":
        _exclude_prompts(rows, held_out, excluded)
    if leaks := int((excluded & rows.usable()).sum()):
        log.info(
            f"{rows.name}: {leaks} rows are not trained on, their prompts are those of {held_out.name} rows (leakage)"
        )
    if not (rows.usable() & ~excluded).any():
        raise UserError(f"data.{rows.name}: every row is one of data.{held_out.name}; set data.leakage=keep if meant")
    return rows.without(excluded)


def _exclude_prompts(pool: Rows, held_out: Rows, excluded: np.ndarray) -> None:
    """Mark in `excluded` the rows of `pool` that have the prompt of an eligible row of `held_out`."""
    eligible = held_out.usable()
    found = [keys[eligible[start : start + len(keys)]] for start, keys in held_out.keys("prompt_key")]
    high, low = np.concatenate(found).T
    known = Sorted(np.ascontiguousarray(high), np.ascontiguousarray(low))
    for start, keys in pool.keys("prompt_key"):
        excluded[start : start + len(keys)] |= known.find(keys) >= 0


def _exclude_repeats(pool: Rows, excluded: np.ndarray) -> int:
    """Mark in `excluded` the usable rows whose messages are those of an earlier one; return how many they are."""
    rows = np.flatnonzero(pool.usable() & ~excluded)
    high, low = np.empty(len(rows), dtype=np.uint64), np.empty(len(rows), dtype=np.uint64)
    for start, keys in pool.keys("key"):
        first, last = np.searchsorted(rows, [start, start + len(keys)])
        high[first:last], low[first:last] = keys[rows[first:last] - start].T
    keys = Sorted(high, low)
    repeats = rows[keys.order[~keys.begins]]
    excluded[repeats] = True
    return len(repeats)

"""The pool that may be selected from: candidates without leaks and, by choice, without duplicates."""

import logging

import numpy as np
from omegaconf import DictConfig

from near.data import Rows, given, load
from near.errors import UserError

log = logging.getLogger(__name__)


def load_pool(cfg: DictConfig, queries: Rows | None) -> Rows:
    """data.candidates, with rows no longer eligible whose prompt is one of a query or an eval row (`data.leakage=drop`)
    and rows that repeat an earlier one (`data.dedup=exact`). Ids stay; how many and why is said."""
    pool = load(cfg.data, "candidates", cfg.cache_dir)
    excluded, usable = np.zeros(len(pool), dtype=bool), pool.usable()
    if cfg.data.leakage == "drop":
        held_out = [queries] if queries is not None else []
        if given(cfg.data, "eval"):
            held_out.append(load(cfg.data, "eval", cfg.cache_dir, answer=False))
        for rows in held_out:
            excluded |= np.isin(pool.keys("prompt_key"), rows.keys("prompt_key")[rows.eligible()])
        if leaks := int((excluded & usable).sum()):
            log.info(f"candidates: {leaks} rows left out, their prompts are those of queries or eval rows (leakage)")
    if cfg.data.dedup == "exact":
        candidates = np.flatnonzero(usable & ~excluded)
        _, first = np.unique(pool.keys("key")[candidates], return_index=True)
        repeated = np.setdiff1d(candidates, candidates[first])
        excluded[repeated] = True
        if len(repeated):
            log.info(f"candidates: {len(repeated)} rows left out, they repeat an earlier row")
    pool = pool.without(excluded)
    if not len(pool.eligible()):
        raise UserError("data.candidates: every row is one of the queries or eval rows; set data.leakage=keep if meant")
    return pool

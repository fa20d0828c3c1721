"""The data of a selection: the pool, the queries, and every query's nearest rows of the pool."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from near.data.loading import is_set, load
from near.data.pool import load_pool
from near.data.rows import Rows
from near.embedding.duplicates import without_near_duplicates
from near.searching.find import cached_neighbours, find_neighbours
from near.searching.neighbours import Neighbours, read_neighbours


def load_queries(cfg: DictConfig, needed: bool, answers: bool = False) -> Rows | None:
    """The rows of data.queries; None where it is not set and they are not needed.

    Args:
        needed: load them even if data.queries is not set, which is then an error.
        answers: every query must end with an answer; so it must where the embedder reads answers.
    """
    if not needed and not is_set(cfg.data, "queries"):
        return None
    return load(cfg.data, "queries", cfg.cache_dir, answer=answers or cfg.embedder.embed != "prompt")


@dataclass(frozen=True)
class Material:
    """candidates: the pool without leaks and exact repeats; queries: None where there are none."""

    candidates: Rows
    queries: Rows | None

    @classmethod
    def load(cls, cfg: DictConfig, queries: Rows | None) -> "Material":
        """Load the pool of `cfg`; nothing is embedded. UserError where data can't be loaded."""
        return cls(load_pool(cfg, queries), queries)

    def distinct(self, cfg: DictConfig, compute: bool = True) -> "Material":
        """The same without near duplicates (data.dedup=near). May embed the pool, so all processes of a run call it;
        with compute=False it raises UserError instead."""
        return dataclasses.replace(self, candidates=without_near_duplicates(cfg, self.candidates, compute))

    def neighbours(
        self, cfg: DictConfig, reach: int = 0, existing: tuple[Path, dict] | None = None, compute: bool = True
    ) -> Neighbours | None:
        """The matrix: read from `indices_path` if it is set, else from the cache, else embedded and searched.

        Args:
            reach: see find_neighbours.
            existing: see find_neighbours.
            compute: False: return None instead of embedding and searching.
        """
        if cfg.get("indices_path") is not None:
            return read_neighbours(cfg.indices_path, self.candidates, self.queries, cfg.max_K)
        if not compute:
            return cached_neighbours(cfg, self.candidates, self.queries)
        return find_neighbours(cfg, self.candidates, self.queries, reach, existing)

"""What a selection is made of: the pool, the queries, and every query's nearest rows of the pool."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from near.data.loading import is_set, load
from near.data.pool import load_pool
from near.data.rows import Rows
from near.embedding.duplicates import without_near_duplicates
from near.searching.find import find_neighbours, kept_neighbours
from near.searching.neighbours import Neighbours, read_neighbours


def load_queries(cfg: DictConfig, needed: bool, answers: bool = False) -> Rows | None:
    """The queries where data.queries names some or they are `needed`; None otherwise. answers: every query must end
    with an answer; it must too where the embedder reads answers."""
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
        """With the pool of `cfg`. Nothing is embedded. UserError for what can't be loaded."""
        return cls(load_pool(cfg, queries), queries)

    def distinct(self, cfg: DictConfig, compute: bool = True) -> "Material":
        """The same without near duplicates (data.dedup=near). It may embed the pool: all processes of a run call it.
        compute=False: UserError in the place of that."""
        return dataclasses.replace(self, candidates=without_near_duplicates(cfg, self.candidates, compute))

    def neighbours(
        self, cfg: DictConfig, reach: int = 0, existing: tuple[Path, dict] | None = None, compute: bool = True
    ) -> Neighbours | None:
        """The matrix: of `indices_path` where one is given, else from the cache, else embedded and searched;
        compute=False: None in the place of that. reach, existing: as find_neighbours takes them."""
        if cfg.get("indices_path") is not None:
            return read_neighbours(cfg.indices_path, self.candidates, self.queries, cfg.max_K)
        if not compute:
            return kept_neighbours(cfg, self.candidates, self.queries)
        return find_neighbours(cfg, self.candidates, self.queries, reach, existing)

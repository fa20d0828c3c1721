"""The data of a selection: the pool, the queries, and every query's nearest rows of the pool."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from near.common.records import SelectionManifest
from near.data.loading import is_set, load
from near.data.pool import benchmark_sets, held_out, load_pool
from near.data.rows import Rows
from near.embedding.duplicates import without_near_duplicates
from near.searching.contamination import without_similar
from near.searching.find import cached_neighbours, find_neighbours
from near.searching.neighbours import Neighbours, read_neighbours
from near.searching.settings import SearchSettings


def load_queries(data: DictConfig, cache_dir: str, needed: bool, answers: bool) -> Rows | None:
    """The rows of data.queries; None where it is not set and they are not needed.

    Args:
        needed: load them even if data.queries is not set, which is then an error.
        answers: every query must end with an answer.
    """
    return load(data, "queries", cache_dir, answer=answers) if needed or is_set(data, "queries") else None


@dataclass(frozen=True)
class Material:
    """candidates: the pool without leaks and exact repeats; queries: None where there are none."""

    candidates: Rows
    queries: Rows | None

    @classmethod
    def load(cls, data: DictConfig, queries: Rows | None, cache_dir: str) -> "Material":
        """Load the pool; nothing is embedded. UserError where data can't be loaded."""
        return cls(load_pool(data, queries, cache_dir), queries)

    def distinct(self, data: DictConfig, search: SearchSettings, compute: bool = True) -> "Material":
        """The same without near duplicates (data.dedup=near) and compared with held-out rows by embeddings
        (data.decontaminate.cosine). May embed the pool, so all processes of a run call it; with compute=False it raises
        UserError instead."""
        cache_dir = search.cache_dir
        pool = without_near_duplicates(self.candidates, data, search.embedder, cache_dir, compute)
        if data.get("decontaminate") and data.decontaminate.cosine is not None:
            sets = held_out(data, self.queries, cache_dir) + benchmark_sets(data, cache_dir)
            pool = without_similar(pool, sets, data, search.embedder, cache_dir, compute)
        return dataclasses.replace(self, candidates=pool)

    def neighbours(
        self,
        search: SearchSettings,
        reach: int = 0,
        existing: tuple[Path, SelectionManifest] | None = None,
        compute: bool = True,
    ) -> Neighbours | None:
        """The matrix: read from search.indices_path if it is set, else from the cache, else embedded and searched.

        Args:
            reach: see find_neighbours.
            existing: see find_neighbours.
            compute: False: return None instead of embedding and searching.
        """
        if search.indices_path is not None:
            return read_neighbours(search.indices_path, self.candidates, self.queries, search.max_K)
        if not compute:
            return cached_neighbours(search, self.candidates, self.queries)
        return find_neighbours(search, self.candidates, self.queries, reach, existing)

"""How neighbours are searched: the settings, and what compares the rows."""

from dataclasses import dataclass
from typing import NamedTuple

from hydra.utils import instantiate
from omegaconf import DictConfig

from near.embedding.embed import embedder_of, reads_answers
from near.embedding.embedders.base import Embedder
from near.searching.bm25 import Bm25
from near.searching.indexes.base import Index


@dataclass(frozen=True)
class SearchSettings:
    """How neighbours are found.

    Attributes:
        embedder, index: groups of the configuration; of no use with `words`.
        words: compares rows by their words; None: by the embedder's vectors.
        by_task: the selector takes rows for each task of the queries (their sources); each needs enough of them.
        max_K: columns of the matrix; None: as many as are needed.
        cache_dir: the folder of the cache.
        indices_path: a matrix that was saved, to read instead; None: search.
    """

    embedder: DictConfig
    index: DictConfig
    max_K: int | None
    cache_dir: str
    indices_path: str | None = None
    words: Bm25 | None = None
    by_task: bool = False

    @classmethod
    def of(cls, cfg: DictConfig, cache_dir: str) -> "SearchSettings":
        """The search that `cfg` sets."""
        similarity = instantiate(cfg.similarity)
        words = similarity if isinstance(similarity, Bm25) else None
        by_task = _has_budgets(cfg.get("selector"))
        return cls(cfg.embedder, cfg.index, cfg.max_K, cache_dir, cfg.get("indices_path"), words, by_task)

    @property
    def reads_answers(self) -> bool:
        """Whether rows are compared with their answers."""
        return reads_answers(self.words or self.embedder)

    def method(self) -> "Bm25 | Vectorised":
        """What compares the rows; no model is loaded."""
        if self.words is not None:
            return self.words
        # the class that conf/index/*.yaml names: indexes/flat.py unless index=... is set
        return Vectorised(embedder_of(self.embedder, self.cache_dir), instantiate(self.index))


def _has_budgets(selector: object) -> bool:
    """Whether a selector, or one within it (of a shortlist, or one whose parts it takes), has budgets for tasks."""
    if not isinstance(selector, DictConfig):
        return False
    return selector.get("budgets") is not None or any(map(_has_budgets, selector.values()))


class Vectorised(NamedTuple):
    """A search among vectors."""

    embedder: Embedder
    index: Index

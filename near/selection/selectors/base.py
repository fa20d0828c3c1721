"""The contract of a selector."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from near.common.bounds import between
from near.common.errors import UserError
from near.common.moved import Contract
from near.selection.round import Round, Subset
from near.selection.selectors.tasks import Budgets, check_budgets

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from near.data.rows import Rows


# the most distinct rows of a round: a number of them (int), or a share of the eligible rows (float, up to 1.0)
SubsetSize = Annotated[int | float, between(1e-9, 1e9)]


def number_of(size: SubsetSize, rows: int) -> int:
    """A number of rows that is given as such, or as a share of `rows`: at least one."""
    return max(1, int(size * rows + 0.5)) if isinstance(size, float) else size


Required = Literal["losses", "gradients", "expert loads"]  # of rows: what the model has to compute


class Selector(Contract, ABC):
    """A pure function of its configuration, the seed, the round, and of the model if it requires one."""

    renamed = {"asks_model": "requires"}

    needs_queries = False  # whether it reads round.queries
    reads_query_sources = False  # whether it reads their sources, which are tasks
    needs_neighbours = False  # whether it reads round.neighbours and round.similarity
    needs_vectors = False  # whether it reads the pool's vectors of round.similarity alone, and so needs no target
    requires: Required | None = None  # what it takes from round.scorer; None: it does without the model
    only_in_training: str | None = None  # the reason if select.py can't use it
    columns: tuple[str, ...] = ()  # further columns of the pool that it reads from round.columns
    query_columns: tuple[str, ...] = ()  # of the queries, from round.query_columns
    budgets: Budgets | None = None  # of the queries' tasks
    ranks = True  # whether the order of its rows means anything
    has_scores = True  # whether its rows have scores in every round but warm-ups
    orders_choose = False  # whether it takes rows as they come, so that an order may choose those of a round
    trains_on_queries = False  # whether it selects the queries themselves, whose ids follow the pool's

    def __init__(self, subset_size: SubsetSize | None = None):
        """subset_size: the most distinct rows of a round: a number of them (int), or a share of the eligible rows
        (float, up to 1.0); None: one for each draw."""
        self.subset_size = subset_size

    def most(self, eligible: int) -> int | None:
        """`subset_size` as a number of rows, for a pool with `eligible` eligible rows."""
        return None if self.subset_size is None else number_of(self.subset_size, eligible)

    def reach(self, sizes: list[int]) -> int:
        """How many distinct rows of the matrix rounds of at most `sizes` rows need; max_K=null makes it so wide."""
        return max(sizes, default=0)

    def check(self, queries: "Rows", scoring: DictConfig) -> None:
        """Raise UserError for queries, or settings of `scoring`, that it can't use.

        Called before training, for selectors that require gradients.
        """
        del queries, scoring

    def check_pool(self, pool: "Rows", eligible: np.ndarray) -> None:
        """Raise UserError for a pool that it can't use. Called before a model is loaded."""
        del pool, eligible

    def check_model(self, config: "PretrainedConfig") -> None:
        """Raise UserError for a model that it can't use. Called before one is loaded, for selectors with `requires`.

        config: transformers' configuration of the model.
        """
        del config

    def check_queries(self, queries: "Rows | None", sizes: Sequence[int]) -> None:
        """Raise UserError for queries that it can't use in rounds of `sizes` rows. Called before a model is loaded."""
        if self.budgets is not None and queries is not None:
            tasks = sorted(set(queries.sources(queries.eligible())))
            check_budgets(self.budgets, tasks, sizes)

    def scored_rows(self, n: int, size: int) -> int:
        """How many of `n` rows the model scores for a round of `size` rows."""
        del size
        return n

    def check_columns(self, columns: Mapping[str, list], eligible: np.ndarray) -> None:
        """Raise UserError for columns (round.columns) that it can't use. Called before a model is loaded."""
        del columns, eligible

    @abstractmethod
    def select(self, round: Round) -> Subset:
        """1 to `round.size` distinct eligible ids; the same on every process."""

    def warm_up(self, round: Round) -> Subset:
        """The rows of a warm-up round: `round.size` random ones without replacement; all rows if there are no more."""
        size = min(round.size, len(round.eligible))
        return Subset(round.rng().choice(round.eligible, size=size, replace=False))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Arrays that must survive a restart; part of every checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Restore what state_dict returned."""
        del state


def selector_of(cfg: DictConfig) -> Selector:
    """Instantiate the group `selector` of a configuration; UserError if it is another kind of class."""
    selector = instantiate(cfg)
    if not isinstance(selector, Selector):
        raise UserError(
            f"selector._target_={cfg._target_} is not a selector; its class must inherit "
            "near.selection.selectors.base.Selector"
        )
    return selector

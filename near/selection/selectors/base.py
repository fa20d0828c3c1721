"""The contract of a selector."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from near.common.bounds import between
from near.common.errors import UserError
from near.selection.round import Round, Subset

if TYPE_CHECKING:
    from near.data.rows import Rows


# the most distinct rows of a round: a number of them (int), or a share of the eligible rows (float, up to 1.0)
SubsetSize = Annotated[int | float, between(1e-9, 1e9)]


class Selector(ABC):
    """A pure function of its configuration, the seed, the round, and the model if it looks at one."""

    needs_neighbours = False  # whether the round must bring the neighbour matrix, and how alike rows are (`similarity`)
    asks_model: str | None = None  # what of the model it asks a round's `scorer` for: "losses" or "gradients"
    only_in_training: str | None = None  # why select.py can't pick by it
    trains_on_queries = False  # whether its rows are the queries, whose ids then follow the pool's

    def __init__(self, subset_size: SubsetSize | None = None):
        """subset_size: the most distinct rows of a round: a number of them (int), or a share of the eligible rows
        (float, up to 1.0); None: one for each draw."""
        self.subset_size = subset_size

    def most(self, eligible: int) -> int | None:
        """`subset_size` in rows, of a pool with `eligible` ones."""
        if isinstance(self.subset_size, float):
            return max(1, int(self.subset_size * eligible + 0.5))
        return self.subset_size

    def reach(self, sizes: list[int]) -> int:
        """Distinct rows of the matrix that rounds of at most `sizes` rows may take: how wide max_K=null has to be."""
        return max(sizes, default=0)

    def check(self, queries: "Rows", scoring: DictConfig) -> None:
        """UserError for queries, or settings of `scoring`, that it can't do with: before anything is trained. Called
        for selectors that ask the model for gradients."""
        del queries, scoring

    def check_pool(self, pool: "Rows", eligible: np.ndarray) -> None:
        """UserError for a pool that it can't do with: before a model is loaded."""
        del pool, eligible

    @abstractmethod
    def select(self, round: Round) -> Subset:
        """1 to `round.size` distinct eligible ids; the same on every process."""

    def warm_up(self, round: Round) -> Subset:
        """Rows of a warm-up, a round that is not the selector's own: `round.size` random ones without replacement; all
        rows where there are no more."""
        size = min(round.size, len(round.eligible))
        return Subset(round.rng().choice(round.eligible, size=size, replace=False))

    def state_dict(self) -> dict[str, np.ndarray]:
        """What must survive a restart, as arrays; goes into every checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Take back what state_dict gave."""
        del state


def selector_of(cfg: DictConfig) -> Selector:
    """The selector that the group `selector` of a configuration names; UserError for another kind of class."""
    found = instantiate(cfg)
    if not isinstance(found, Selector):
        raise UserError(f"selector._target_={cfg._target_} is not a selector (near.selection.selectors.base.Selector)")
    return found

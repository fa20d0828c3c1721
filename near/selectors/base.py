"""The contract of a selector."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from near.errors import UserError

if TYPE_CHECKING:
    from near.data import Rows
    from near.selection import Neighbours
    from near.similarity import Similarity


@dataclass(frozen=True)
class Subset:
    """`ids`: int64, distinct eligible rows of the pool, in the selector's order; `scores`: float32, one each.

    `order`: int64 (round.draws,), the draws as they are to be trained, of these ids and no others; None: the sampler's
    (near/sampler.py), which passes over them evenly. `mix`: numbers of sources by what they are, where rows were picked
    by source; goes to the record.
    """

    ids: np.ndarray
    scores: np.ndarray | None = None
    order: np.ndarray | None = None
    mix: dict[str, dict[str, float]] | None = None


@dataclass(frozen=True)
class Round:
    """What a selector is told. `size`: the most rows it may return; `draws`: how many rows are trained in the round;
    `previous`: the subsets of the rounds before; `trained`: how often each row of the pool was trained so far, (n,).

    `update` of `updates`: which of the selector's own rounds this is, warm-ups not counted, from 0. `similarity`: how
    alike queries and rows are beyond the matrix; `scorer`: what the model says of rows.
    """

    index: int
    count: int
    step: int
    size: int
    seed: int
    eligible: np.ndarray
    draws: int
    trained: np.ndarray
    previous: tuple[np.ndarray, ...] = ()
    pool: "Rows | None" = None
    queries: "Rows | None" = None
    neighbours: "Neighbours | None" = None
    similarity: "Similarity | None" = None
    update: int = 0
    updates: int = 1
    scorer: object = None
    model: object = None
    optimizer: object = None
    collator: object = None
    accelerator: object = None

    @classmethod
    def alone(cls, size: int, seed: int, eligible: np.ndarray, rows: int, **known: object) -> "Round":
        """The only round there is, of a pool of `rows`: a selection outside training."""
        trained = np.zeros(rows, dtype=np.int64)
        return cls(
            index=0, count=1, step=0, size=size, seed=seed, eligible=eligible, draws=size, trained=trained, **known
        )

    def rng(self) -> np.random.Generator:
        """A generator of this seed and round: the same numbers on every process and after a restart."""
        return np.random.default_rng((self.seed, self.index))


class Selector(ABC):
    """A pure function of its configuration, the seed, the round, and the model if it looks at one."""

    needs_neighbours = False  # whether the round must bring the neighbour matrix, and how alike rows are (`similarity`)
    asks_model: str | None = None  # what of the model it asks a round's `scorer` for: "losses" or "gradients"
    only_in_training: str | None = None  # why select.py can't pick by it
    trains_on_queries = False  # whether its rows are the queries, whose ids then follow the pool's

    def __init__(self, subset_size: int | float | None = None):
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
        raise UserError(f"selector._target_={cfg._target_} is not a selector (near.selectors.base.Selector)")
    return found


def checked(subset: Subset, round: Round, name: str) -> Subset:
    """`subset`, or a UserError that says how it breaks the contract."""
    ids = np.asarray(subset.ids)
    if ids.dtype != np.int64 or ids.ndim != 1:
        raise UserError(f"selector {name} returned ids of {ids.dtype} {ids.shape}; they must be int64 in one dimension")
    if not 1 <= len(ids) <= round.size:
        raise UserError(
            f"selector {name} returned {len(ids)} rows in round {round.index}; it may return 1 to {round.size}"
        )
    if len(np.unique(ids)) != len(ids):
        raise UserError(f"selector {name} returned {len(ids) - len(np.unique(ids))} rows twice in round {round.index}")
    strangers = np.setdiff1d(ids, round.eligible)
    if len(strangers):
        raise UserError(f"selector {name} returned row {strangers[0]}, which is not eligible, in round {round.index}")
    if subset.order is not None:
        order = np.asarray(subset.order)
        if (
            order.dtype != np.int64
            or order.shape != (round.draws,)
            or not np.array_equal(np.unique(order), np.sort(ids))
        ):
            raise UserError(
                f"selector {name} returned an order of {order.dtype} {order.shape} in round {round.index}; it must be "
                f"int64 ({round.draws},) and hold every row of its ids and no other"
            )
    return subset

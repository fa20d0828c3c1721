"""What a selector is given for a round, and what it returns."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from near.common.errors import UserError

if TYPE_CHECKING:
    from near.data.rows import Rows
    from near.searching.neighbours import Neighbours
    from near.selection.scoring.scoring import Scorer
    from near.selection.similarity import Similarity


@dataclass(frozen=True)
class Subset:
    """`ids`: int64, distinct eligible rows of the pool, in the selector's order; `scores`: float32, one each.

    `order`: int64 (round.draws,), the draws as they are to be trained, of these ids and no others; None: the sampler's
    (near/training/rounds/sampler.py), which passes over them evenly. `mix`: numbers of sources by what they are, where
    rows were picked by source; goes to the record.
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
    scorer: "Scorer | None" = None
    model: Any = None
    optimizer: Any = None
    collator: Any = None
    accelerator: Any = None

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

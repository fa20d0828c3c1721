"""What a selector receives for a round, and what it returns."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from near.common.errors import UserError
from near.common.text import plural

if TYPE_CHECKING:
    from near.data.rows import Rows
    from near.searching.neighbours import Neighbours
    from near.selection.scoring.scoring import Scorer
    from near.selection.similarity import Similarity


@dataclass(frozen=True)
class Subset:
    """What a selector picks.

    Attributes:
        ids: int64 (m,), distinct eligible rows of the pool, in the selector's order.
        scores: float32 (m,).
        order: int64 (round.draws,), the draws in training order, of all of these ids and no others; None: the sampler
            (near/training/rounds/sampler.py) passes over the ids evenly.
        mix: if rows were picked by source: numbers of the sources by their name, such as proportions; for the record.
        stages: of a plan: what each stage did (RoundRecord in near/common/records.py); for the record.
        fidelity: of a selector that approximates another one: how well (RoundRecord); for the record.
    """

    ids: np.ndarray
    scores: np.ndarray | None = None
    order: np.ndarray | None = None
    mix: dict[str, dict[str, float]] | None = None
    stages: list[dict[str, Any]] | None = None
    fidelity: dict[str, Any] | None = None


@dataclass(frozen=True)
class Round:
    """What a selector receives.

    Attributes:
        index, count: which round of how many, from 0, warm-ups included.
        step: the optimizer step at which the round starts.
        size: the most rows that may be selected.
        seed: of the run.
        eligible: int64, ascending: the rows of the pool that may be selected.
        draws: how many rows the round trains.
        trained: int64 (n_pool,), how often each row of the pool was trained before.
        previous: the subsets of earlier rounds, int64 each.
        pool, queries: the rows themselves.
        columns, query_columns: for selectors that name some: a list (n_pool,) or (n_queries,) each, None for a row
            without a value.
        neighbours: the neighbour matrix, for selectors with `needs_neighbours`.
        similarity: similarities of queries and rows beyond that matrix; of rows alone for selectors with
            `needs_vectors`.
        query_ids: the queries of that matrix, int64 (n_queries,); None: the eligible ones.
        update, updates: which of the rounds without warm-ups, from 0, and how many there are.
        scorer: losses and gradients of rows, for selectors with `requires`.
        tokens: the tokens of rows, int64 (m,) by int64 (m,), as they are trained; None outside training.
        stream: of a stage of a plan that acts on what others left: of other random numbers than theirs.
        model, optimizer, collator, accelerator: of the training as it runs.
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
    columns: Mapping[str, list] = field(default_factory=dict)
    query_columns: Mapping[str, list] = field(default_factory=dict)
    neighbours: "Neighbours | None" = None
    similarity: "Similarity | None" = None
    query_ids: np.ndarray | None = None
    update: int = 0
    updates: int = 1
    scorer: "Scorer | None" = None
    tokens: Callable[[np.ndarray], np.ndarray] | None = None
    stream: tuple[int, ...] = ()
    model: Any = None
    optimizer: Any = None
    collator: Any = None
    accelerator: Any = None

    @classmethod
    def alone(cls, size: int, seed: int, eligible: np.ndarray, rows: int, **context: object) -> "Round":
        """The single round of a selection outside training, from a pool of `rows`; `context`: further attributes."""
        trained = np.zeros(rows, dtype=np.int64)
        return cls(
            index=0, count=1, step=0, size=size, seed=seed, eligible=eligible, draws=size, trained=trained, **context
        )

    def tasks(self) -> np.ndarray:
        """The task of each query of the neighbours, its source: object (n_queries,) of str."""
        return self.queries.sources(self._query_ids())

    def of_queries(self, positions: np.ndarray) -> "Round":
        """This round for some of the neighbours' queries, at `positions`, int64 (m,)."""
        parts = {name: getattr(self, name) for name in ("neighbours", "similarity")}
        parts = {name: part.of_queries(positions) for name, part in parts.items() if part is not None}
        return dataclasses.replace(self, query_ids=self._query_ids()[positions], **parts)

    def _query_ids(self) -> np.ndarray:
        return self.queries.eligible() if self.query_ids is None else self.query_ids

    def rng(self) -> np.random.Generator:
        """A generator for this seed, round and stream: the same numbers on every process and after a restart."""
        return np.random.default_rng((self.seed, self.index, *self.stream))


def checked(subset: Subset, round: Round, name: str) -> Subset:
    """Return `subset`, or raise UserError if it breaks the contract. `name`: of the selector, for the message."""
    if not isinstance(subset, Subset):
        raise UserError(
            f"selector {name} returned a {type(subset).__name__}; return near.selection.round.Subset(ids=...)"
        )
    ids = np.asarray(subset.ids)
    if ids.dtype != np.int64 or ids.ndim != 1:
        raise UserError(f"selector {name} returned ids of {ids.dtype} {ids.shape}; they must be int64 in one dimension")
    if not 1 <= len(ids) <= round.size:
        raise UserError(
            f"selector {name} returned {plural(len(ids), 'row')} in round {round.index}; it may return 1 to "
            f"{round.size}"
        )
    if len(np.unique(ids)) != len(ids):
        raise UserError(
            f"selector {name} returned {plural(len(ids) - len(np.unique(ids)), 'row')} twice in round "
            f"{round.index}; return distinct ones"
        )
    ineligible = np.setdiff1d(ids, round.eligible)
    if len(ineligible):
        raise UserError(
            f"selector {name} returned row {ineligible[0]}, which is not eligible, in round {round.index}; use "
            "ids of round.eligible"
        )
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
        subset = dataclasses.replace(subset, order=order)
    return dataclasses.replace(subset, ids=ids)

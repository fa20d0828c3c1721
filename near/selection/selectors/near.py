"""NEAR: the rows nearest to the target, query by query."""

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from near.common.bounds import between
from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector, SubsetSize
from near.selection.selectors.ranking import drawn
from near.selection.selectors.tasks import Budgets, by_task, plain_budgets

if TYPE_CHECKING:
    from near.searching.neighbours import Neighbours


class Near(Selector):
    """Walks the neighbour matrix column by column: every query's nearest row, then every query's second nearest, ...,
    skipping rows already taken, until the round is full. If the matrix has fewer distinct rows, all of them.

    >>> matrix [[5, 2, 7],
    ...         [5, 9, 2]]   and size 3   ->   5, 2, 9

    policy, from round to round:
        repeat: the same rows, the nearest.
        advance: the next rows of the walk that no earlier round took; if all were taken, those taken least often, from
            the beginning.
        sample: drawn without replacement, new in every round, with probability in proportion to exp(s / temperature),
            s being a row's highest similarity to any query (near/selection/selectors/ranking.py).
    budgets: rows of each task of the queries, in turn (near/selection/selectors/tasks.py); None: each query has its
        turn.
    mix: the share of a round that is filled with random rows, new in every round; they come last.
    """

    needs_neighbours = True

    def __init__(
        self,
        subset_size: SubsetSize | None = None,
        policy: Literal["repeat", "advance", "sample"] = "repeat",
        temperature: Annotated[float, between(1e-4, 1e6)] = 0.05,
        mix: Annotated[float, between(0, 0.999)] = 0.0,
        budgets: Budgets | None = None,
    ):
        super().__init__(subset_size)
        self.budgets = plain_budgets(budgets)
        self.policy, self.temperature, self.mix = policy, temperature, mix
        self._walked: tuple | None = None  # a matrix, and what `walk` returns for it: the same in every round

    def reach(self, sizes: list[int]) -> int:
        """With `advance` every round takes rows that none before it took."""
        return sum(sizes) if self.policy == "advance" else super().reach(sizes)

    def select(self, round: Round) -> Subset:
        size = max(1, round.size - round_half_up(self.mix * round.size))
        nearest = by_task(self.budgets, round, size, lambda part: Subset(*self._near(part, size)))
        ids, scores = nearest.ids, nearest.scores
        if not self.mix:
            return Subset(ids, scores)
        share = round.size - size
        if len(ids) < size:  # the matrix has no more rows; fewer random ones keep the share
            share = round_half_up(len(ids) * self.mix / (1 - self.mix))
        others = np.setdiff1d(round.eligible, ids)
        random = np.random.default_rng((round.seed, round.index, 2)).permutation(others)
        random = random[: min(share, round.size - len(ids))]
        unknown = np.full(len(random), np.nan, dtype=np.float32)
        return Subset(np.concatenate([ids, random]), np.concatenate([scores, unknown]))

    def _near(self, round: Round, size: int) -> tuple[np.ndarray, np.ndarray]:
        """At most `size` rows of the matrix in the policy's order, int64 (m,), and their similarities, float32 (m,)."""
        if self._walked is None or self._walked[0] is not round.neighbours:
            self._walked = round.neighbours, *walk(round.neighbours, len(round.trained))
        _, rows, scores = self._walked
        allowed = np.isin(rows, round.eligible)
        rows, scores = rows[allowed], scores[allowed]
        if self.policy == "sample":
            order = drawn(scores / self.temperature, round, size)
        elif self.policy == "advance":
            times = np.zeros(len(round.trained), dtype=np.int64)  # how often earlier rounds took each row of the pool
            for ids in round.previous:
                times[ids] += 1
            order = np.argsort(times[rows], kind="stable")
        else:
            order = np.arange(len(rows))
        return rows[order[:size]], scores[order[:size]]


def walk(neighbours: "Neighbours", n: int) -> tuple[np.ndarray, np.ndarray]:
    """Walk the neighbour matrix column by column.

    Args:
        neighbours: the matrix, (n_queries, max_K).
        n: rows of the pool.

    Returns:
        the distinct rows of the matrix in the order in which the walk first meets them, int64 (m,); each one's highest
        similarity to any query, float32 (m,).
    """
    (queries, width), similarities = neighbours.ids.shape, neighbours.similarities
    first, best = np.full(n, queries * width), np.full(n, -np.inf, dtype=np.float32)
    for column in reversed(range(width)):
        ids = neighbours.ids[:, column]
        first[ids[::-1]] = column * queries + np.arange(queries)[::-1]  # the last assignment, of the first query, stays
        np.maximum.at(best, ids, similarities[:, column])
    rows = np.flatnonzero(first < queries * width)
    rows = rows[np.argsort(first[rows])]
    return rows, best[rows]


def round_half_up(value: float) -> int:
    return int(value + 0.5)

"""Unbalanced optimal transport from the queries to the rows: rows that receive most are taken."""

import logging
from typing import Annotated

import numpy as np

from near.common.bounds import between
from near.common.processes import is_main
from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector, SubsetSize

log = logging.getLogger(__name__)

STEPS, ENOUGH = 1000, 1e-6  # of Sinkhorn's iterations; largest relative change of a scaling at which they end


class Uot(Selector):
    """UOT of Nayak et al. 2026 (arXiv 2602.14696), solved by scaling (Chizat et al. 2018, arXiv 1607.05816):

        min_T <T, C> + epsilon KL(T | a b') + reg_queries KL(T 1 | a) + reg_rows KL(T' 1 | b)

    with cost C = (1 - s) / 2, mass a = 1/Q for each query and b = 1/n for each eligible row. reg_queries=None: each
    query gives all its mass. A row's score is what it receives. Only pairs of the neighbour matrix carry mass: with
    max_K the whole pool it is the paper's problem.
    """

    needs_neighbours = True

    def __init__(
        self,
        subset_size: SubsetSize | None = None,
        epsilon: Annotated[float, between(1e-9, 1e9)] = 0.01,
        reg_queries: Annotated[float, between(1e-12, 1e9)] | None = None,
        reg_rows: Annotated[float, between(1e-12, 1e9)] = 0.0001,
    ):
        super().__init__(subset_size)
        self.epsilon, self.reg_queries, self.reg_rows = epsilon, reg_queries, reg_rows

    def select(self, round: Round) -> Subset:
        ids, scores = round.neighbours.ids, round.neighbours.scores.astype(np.float64)
        query, column = np.nonzero(np.isin(ids, round.eligible))
        rows, place = np.unique(ids[query, column], return_inverse=True)
        queries, source = np.unique(query, return_inverse=True)
        if not len(rows):
            return Subset(rows)
        cost = (1 - scores[query, column]) / 2
        plan = transport(source, place, cost, (1 / len(queries), 1 / len(round.eligible)), self)
        received = np.bincount(place, plan)
        nearest = np.full(len(rows), np.inf)
        np.minimum.at(nearest, place, cost)
        order = np.lexsort((rows, nearest, -received))[: round.size]  # masses that underflow go by the least cost
        return Subset(rows[order], received[order].astype(np.float32))


def transport(
    source: np.ndarray, place: np.ndarray, cost: np.ndarray, masses: tuple[float, float], how: Uot
) -> np.ndarray:
    """The plan's entries, float64 (m,), for the pairs of query `source` (ascending) and row `place` with `cost`, all
    (m,); both are numbered without gaps.

    masses: of each query and of each row; how: epsilon, reg_queries, reg_rows. Scalings are logarithms, which no small
    epsilon makes underflow.
    """
    eps, (log_a, log_b) = how.epsilon, np.log(masses)
    power = 1.0 if how.reg_queries is None else 1 / (1 + eps / how.reg_queries)
    row_power = 1 / (1 + eps / how.reg_rows)
    kernel = log_a + log_b - cost / eps
    by_row = np.argsort(place, kind="stable")
    kernel_by_row, source_by_row = kernel[by_row], source[by_row]
    queries, rows = (np.flatnonzero(np.diff(p, prepend=-1)) for p in (source, place[by_row]))  # where each one begins
    u, v = np.zeros(len(queries)), np.zeros(len(rows))
    for _ in range(STEPS):
        before = u, v
        u = power * (log_a - log_sums(kernel + v[place], queries))
        v = row_power * (log_b - log_sums(kernel_by_row + u[source_by_row], rows))
        change = max(np.abs(new - old).max() for new, old in zip((u, v), before, strict=True))
        if change < ENOUGH:
            break
    else:
        if is_main():
            log.warning(
                f"uot: still moving by {change:.1e} after {STEPS} iterations; a larger selector.epsilon settles"
            )
    u = power * (log_a - log_sums(kernel + v[place], queries))  # so that queries' masses are exact
    return np.exp(kernel + u[source] + v[place])


def log_sums(values: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """log(sum(exp(values))) of each of the stretches that begin at `begins`, float64 (len(begins),)."""
    top = np.maximum.reduceat(values, begins)
    sizes = np.diff(begins, append=len(values))
    return np.log(np.add.reduceat(np.exp(values - np.repeat(top, sizes)), begins)) + top

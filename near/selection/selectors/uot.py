"""Unbalanced optimal transport from the queries to the rows: the rows that receive most are selected."""

import logging
from typing import Annotated

import numpy as np

from near.common.bounds import between
from near.common.processes import is_main
from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector, SubsetSize
from near.selection.selectors.tasks import Budgets, by_task, plain_budgets

log = logging.getLogger(__name__)

STEPS, TOLERANCE = 1000, 1e-6  # Sinkhorn's iterations, at most; largest relative change of a scaling at which they end


class Uot(Selector):
    """UOT of Nayak et al. 2026 (arXiv 2602.14696), solved by scaling (Chizat et al. 2018, arXiv 1607.05816):

        min_T <T, C> + epsilon KL(T | a b') + reg_queries KL(T 1 | a) + reg_rows KL(T' 1 | b)

    with cost C = (1 - s) / 2, mass a = 1/Q for each query and b = 1/n for each eligible row. reg_queries=None: each
    query gives all its mass. A row's score is the mass that it receives. Only pairs of the neighbour matrix carry mass;
    with max_K the whole pool it is the paper's problem.
    """

    needs_neighbours = True

    def __init__(
        self,
        subset_size: SubsetSize | None = None,
        epsilon: Annotated[float, between(1e-9, 1e9)] = 0.01,
        reg_queries: Annotated[float, between(1e-12, 1e9)] | None = None,
        reg_rows: Annotated[float, between(1e-12, 1e9)] = 0.0001,
        budgets: Budgets | None = None,
    ):
        super().__init__(subset_size)
        self.budgets = plain_budgets(budgets)
        self.epsilon, self.reg_queries, self.reg_rows = epsilon, reg_queries, reg_rows

    def select(self, round: Round) -> Subset:
        return by_task(self.budgets, round, round.size, self._transported)

    def _transported(self, round: Round) -> Subset:
        ids, scores = round.neighbours.ids, round.neighbours.similarities.astype(np.float64)
        query, column = np.nonzero(np.isin(ids, round.eligible))
        rows, target = np.unique(ids[query, column], return_inverse=True)
        queries, source = np.unique(query, return_inverse=True)
        if not len(rows):
            return Subset(rows)
        cost = (1 - scores[query, column]) / 2  # (n_pairs,)
        plan = transport(source, target, cost, (1 / len(queries), 1 / len(round.eligible)), self)
        received = np.bincount(target, plan)  # (n_rows,)
        nearest = np.full(len(rows), np.inf)
        np.minimum.at(nearest, target, cost)
        order = np.lexsort((rows, nearest, -received))[: round.size]  # masses that underflow are ordered by least cost
        return Subset(rows[order], received[order].astype(np.float32))


def transport(
    source: np.ndarray, target: np.ndarray, cost: np.ndarray, masses: tuple[float, float], how: Uot
) -> np.ndarray:
    """The plan's entry for each pair of a query and a row, float64 (n_pairs,).

    Scalings are logarithms, so that a small epsilon does not make them underflow.

    Args:
        source: the query of each pair, int64 (n_pairs,), ascending, numbered without gaps.
        target: the row of each pair, int64 (n_pairs,), numbered without gaps.
        cost: float64 (n_pairs,).
        masses: of each query, and of each row.
        how: for its epsilon, reg_queries and reg_rows.
    """
    eps, (log_a, log_b) = how.epsilon, np.log(masses)
    power = 1.0 if how.reg_queries is None else 1 / (1 + eps / how.reg_queries)
    row_power = 1 / (1 + eps / how.reg_rows)
    kernel = log_a + log_b - cost / eps
    by_row = np.argsort(target, kind="stable")
    kernel_by_row, source_by_row = kernel[by_row], source[by_row]
    queries, rows = (np.flatnonzero(np.diff(p, prepend=-1)) for p in (source, target[by_row]))  # where each one starts
    u, v = np.zeros(len(queries)), np.zeros(len(rows))
    for _ in range(STEPS):
        before = u, v
        u = power * (log_a - log_sums(kernel + v[target], queries))
        v = row_power * (log_b - log_sums(kernel_by_row + u[source_by_row], rows))
        change = max(np.abs(new - old).max() for new, old in zip((u, v), before, strict=True))
        if change < TOLERANCE:
            break
    else:
        if is_main():
            log.warning(f"uot: not converged in {STEPS} iterations (change {change:.1e}); raise selector.epsilon")
    u = power * (log_a - log_sums(kernel + v[target], queries))  # so that queries' masses are exact
    return np.exp(kernel + u[source] + v[target])


def log_sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """log(sum(exp(values))) of each of the segments that start at `starts`, float64 (len(starts),)."""
    top = np.maximum.reduceat(values, starts)
    sizes = np.diff(starts, append=len(values))
    return np.log(np.add.reduceat(np.exp(values - np.repeat(top, sizes)), starts)) + top

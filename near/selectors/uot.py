"""Unbalanced optimal transport from the queries to the rows: rows that receive most are taken."""

import logging

import numpy as np
from scipy.sparse import csr_matrix

from near.processes import is_main
from near.selectors.base import Round, Selector, Subset

log = logging.getLogger(__name__)

STEPS, ENOUGH = 1000, 1e-6  # of Sinkhorn's iterations; relative change of the scalings at which they end


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
        subset_size: int | float | None = None,
        epsilon: float = 0.01,
        reg_queries: float | None = None,
        reg_rows: float = 0.0001,
    ):
        super().__init__(subset_size)
        self.epsilon, self.reg_queries, self.reg_rows = epsilon, reg_queries, reg_rows

    def select(self, round: Round) -> Subset:
        ids, scores = round.neighbours.ids, round.neighbours.scores.astype(np.float64)
        query, column = np.nonzero(np.isin(ids, round.eligible))
        rows, place = np.unique(ids[query, column], return_inverse=True)
        queries, source = np.unique(query, return_inverse=True)
        cost = (1 - scores[query, column]) / 2
        masses = 1 / len(queries), 1 / len(round.eligible)
        plan = transport(source, place, cost, (len(queries), len(rows)), masses, self)
        received = np.bincount(place, plan, minlength=len(rows))
        nearest = np.full(len(rows), np.inf)
        np.minimum.at(nearest, place, cost)
        order = np.lexsort((rows, nearest, -received))[: round.size]  # masses that underflow go by the least cost
        return Subset(rows[order], received[order].astype(np.float32))


def transport(
    source: np.ndarray, place: np.ndarray, cost: np.ndarray, shape: tuple[int, int], masses: tuple[float, float], how
) -> np.ndarray:
    """The plan's entries, float64 (m,), for the pairs of query `source` and row `place` with `cost`, all (m,).

    masses: of each query and of each row; how: epsilon, reg_queries, reg_rows. Every query's least cost is taken off
    first, so that small epsilons do not underflow: a query's scaling takes it up.
    """
    eps, (a, b) = how.epsilon, masses
    least = np.full(shape[0], np.inf)
    np.minimum.at(least, source, cost)
    kernel = csr_matrix((a * b * np.exp((least[source] - cost) / eps), (source, place)), shape=shape)
    back = kernel.T.tocsr()
    power = 1.0 if how.reg_queries is None else how.reg_queries / (how.reg_queries + eps)
    row_power = how.reg_rows / (how.reg_rows + eps)
    u, v = np.ones(shape[0]), np.ones(shape[1])
    tiny, taken_off = np.finfo(np.float64).tiny, np.exp((power - 1) * least / eps)
    for _ in range(STEPS):
        before = u, v
        u = (a / np.maximum(kernel @ v, tiny)) ** power * taken_off
        v = (b / np.maximum(back @ u, tiny)) ** row_power
        change = max(
            np.abs(new - old).max() / max(np.abs(new).max(), tiny) for new, old in zip((u, v), before, strict=True)
        )
        if change < ENOUGH:
            break
    else:
        if is_main():
            log.warning(
                f"uot: still moving by {change:.1e} after {STEPS} iterations; a larger selector.epsilon settles"
            )
    u = (a / np.maximum(kernel @ v, tiny)) ** power * taken_off  # so that queries' masses are exact
    entries = a * b * np.exp((least[source] - cost) / eps)
    return u[source] * entries * v[place]

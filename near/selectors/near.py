"""NEAR: the rows nearest to the target, query by query."""

import numpy as np

from near.selectors.base import Round, Selector, Subset


class Near(Selector):
    """Walks the neighbour matrix column by column: every query's nearest row, then every query's second nearest, ...,
    skipping rows already taken, until the round is full. A matrix with fewer distinct rows gives what it has.

    >>> matrix [[5, 2, 7],
    ...         [5, 9, 2]]   and size 3   ->   5, 2, 9
    """

    needs_neighbours = True

    def select(self, round: Round) -> Subset:
        walk = round.neighbours.ids.T.ravel()
        scores = round.neighbours.scores.T.ravel()
        allowed = np.isin(walk, round.eligible)
        walk, scores = walk[allowed], scores[allowed]
        _, first = np.unique(walk, return_index=True)
        first = np.sort(first)[: round.size]
        return Subset(walk[first], scores[first])

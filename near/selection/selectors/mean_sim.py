"""Rows by their mean similarity to all queries: the baseline without coverage."""

import numpy as np

from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector
from near.selection.selectors.ranking import best


class MeanSim(Selector):
    """The rows with the highest mean similarity to all queries, of the whole pool: max_K does not bound it. A target of
    several kinds is missed by it in the middle."""

    needs_neighbours = True

    def select(self, round: Round) -> Subset:
        means = round.similarity.means()[round.eligible]
        known = np.isfinite(means)
        return best(round.eligible[known], means[known], round.size)

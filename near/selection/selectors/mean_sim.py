"""Rows by their mean similarity to all queries: the baseline without coverage."""

import numpy as np

from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector
from near.selection.selectors.ranking import best


class MeanSim(Selector):
    """The rows of the whole pool with the highest mean similarity to all queries; max_K does not bound it. Of a target
    with several kinds of queries, it selects rows in the middle that are near to none."""

    needs_neighbours = True

    def select(self, round: Round) -> Subset:
        means = round.similarity.means()[round.eligible]
        embedded = np.isfinite(means)
        return best(round.eligible[embedded], means[embedded], round.size)

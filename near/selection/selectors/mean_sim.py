"""Rows by their mean similarity to all queries: the baseline without coverage."""

import numpy as np

from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector, SubsetSize
from near.selection.selectors.ranking import best
from near.selection.selectors.tasks import Budgets, by_task, plain_budgets


class MeanSim(Selector):
    """The rows of the whole pool with the highest mean similarity to all queries; max_K does not bound it. Of a target
    with several kinds of queries, it selects rows in the middle that are near to none."""

    needs_neighbours = True

    def __init__(self, subset_size: SubsetSize | None = None, budgets: Budgets | None = None):
        super().__init__(subset_size)
        self.budgets = plain_budgets(budgets)

    def select(self, round: Round) -> Subset:
        return by_task(self.budgets, round, round.size, self._by_mean)

    def _by_mean(self, round: Round) -> Subset:
        means = round.similarity.means()[round.eligible]
        embedded = np.isfinite(means)
        return best(round.eligible[embedded], means[embedded], round.size)

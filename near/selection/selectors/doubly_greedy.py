"""Rows by their highest similarity to any query, whichever it is."""

import numpy as np

from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector, SubsetSize
from near.selection.selectors.near import walk
from near.selection.selectors.ranking import best
from near.selection.selectors.tasks import Budgets, by_task, plain_budgets


class DoublyGreedy(Selector):
    """The doubly greedy algorithm of Nayak et al. 2026 (arXiv 2602.14696): greedy over rows and over queries. A query
    whose rows are all close can take the whole round; `near` gives every query its turn."""

    needs_neighbours = True

    def __init__(self, subset_size: SubsetSize | None = None, budgets: Budgets | None = None):
        super().__init__(subset_size)
        self.budgets = plain_budgets(budgets)

    def select(self, round: Round) -> Subset:
        return by_task(self.budgets, round, round.size, self._greedy)

    def _greedy(self, round: Round) -> Subset:
        rows, scores = walk(round.neighbours, len(round.trained))
        allowed = np.isin(rows, round.eligible)
        return best(rows[allowed], scores[allowed], round.size)

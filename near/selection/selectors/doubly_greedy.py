"""Rows by their highest similarity to any query, whichever it is."""

import numpy as np

from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector
from near.selection.selectors.near import walk
from near.selection.selectors.ranking import best


class DoublyGreedy(Selector):
    """The doubly greedy algorithm of Nayak et al. 2026 (arXiv 2602.14696): greedy over rows and over queries. A query
    whose rows are all close can take the whole round; `near` gives every query its turn."""

    needs_neighbours = True

    def select(self, round: Round) -> Subset:
        rows, scores = walk(round.neighbours, len(round.trained))
        allowed = np.isin(rows, round.eligible)
        return best(rows[allowed], scores[allowed], round.size)

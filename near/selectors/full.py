"""The whole pool in seeded order: ordinary fine-tuning under the same number of steps."""

import numpy as np

from near.selectors.base import Round, Selector, Subset


class Full(Selector):
    """Goes on from round to round: the rows trained least often so far, each pass over the pool in an order of its own.

    Warm-up rows count as trained, so that over the whole run every row comes once before any comes twice.
    """

    def select(self, round: Round) -> Subset:
        eligible = round.eligible
        seen = np.zeros(len(eligible), dtype=np.int64)
        for ids in round.previous:
            seen[np.searchsorted(eligible, ids)] += 1
        place = np.empty(len(eligible), dtype=np.int64)  # within the pass that a row is due in
        for turn in np.unique(seen):
            due = seen == turn
            place[due] = np.random.default_rng((round.seed, turn)).permutation(len(eligible))[due]
        order = np.lexsort((place, seen))
        return Subset(eligible[order[: round.size]])

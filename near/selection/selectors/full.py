"""The whole pool in seeded order: ordinary fine-tuning under the same number of steps."""

import numpy as np

from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector


class Full(Selector):
    """Goes on from round to round: the rows trained least often so far, each pass over the pool in an order of its own.

    Warm-up rows count, so that over the whole run every row comes once before any comes twice; with more draws
    than rows the sampler's last, shorter pass takes the first rows of the subset, those trained least.
    """

    def select(self, round: Round) -> Subset:
        trained = round.trained[round.eligible]
        place = np.empty(len(round.eligible), dtype=np.int64)  # within the pass that a row is due in
        for turn in np.unique(trained):
            due = trained == turn
            place[due] = np.random.default_rng((round.seed, turn)).permutation(len(due))[due]
        return Subset(round.eligible[np.lexsort((place, trained))[: round.size]])

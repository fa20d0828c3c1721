"""The whole pool in seeded order: ordinary fine-tuning under the same number of steps."""

from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector
from near.selection.selectors.ranking import least_trained_first


class Full(Selector):
    """Continues from round to round: the rows trained least often so far, each pass over the pool in another order.

    Warm-up rows count, so that over the whole run every row comes once before any comes twice. With more draws than
    rows, the sampler's last, shorter pass takes the first rows of the subset, those trained least. With `order`, the
    order arranges the whole pool, and each round trains the next rows.
    """

    orders_choose = True
    has_scores = False

    def select(self, round: Round) -> Subset:
        order = least_trained_first(round.trained[round.eligible], round.seed)
        return Subset(round.eligible[order[: round.size]])

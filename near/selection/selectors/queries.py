"""The target set itself: the measure for any selection from a pool."""

from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector


class Queries(Selector):
    """The queries and nothing else, also in warm-ups, in a new order each round. Their ids follow the pool's."""

    trains_on_queries = True
    has_scores = False
    only_in_training = "trains on the queries themselves and picks nothing from the pool"

    def select(self, round: Round) -> Subset:
        return Subset(round.rng().permutation(round.eligible)[: round.size])

"""Random rows: the baseline every selector has to beat, drawn as warm-ups are."""

from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector


class Random(Selector):
    """`round.size` rows without replacement, new in each round; all rows where there are no more."""

    ranks = False
    has_scores = False

    def select(self, round: Round) -> Subset:
        return self.warm_up(round)

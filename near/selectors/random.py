"""Random rows: the baseline every selector has to beat, and the warm-up of all of them."""

from near.selectors.base import Round, Selector, Subset


class Random(Selector):
    """`round.size` rows without replacement, new in each round; all rows where there are no more."""

    def select(self, round: Round) -> Subset:
        size = min(round.size, len(round.eligible))
        return Subset(round.rng().choice(round.eligible, size=size, replace=False))

"""The first rows of the pool, in its order: for data that is sorted already."""

from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector


class First(Selector):
    """The first eligible rows of the pool, the same in every round. (DataFlex's example of a selector, custom.)"""

    has_scores = False

    def select(self, round: Round) -> Subset:
        return Subset(round.eligible[: round.size])

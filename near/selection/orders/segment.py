"""Chosen rows at the beginning and at the end, random order between."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from near.common.bounds import Share
from near.common.errors import UserError
from near.selection.orders.base import Order

End = Literal["low", "high"]  # of the ranking: its beginning or its end


@dataclass(eq=False, kw_only=True)
class Segment(Order):
    """Segment ordering (Dai et al. 2026, Demystifying Data Organization for Enhanced LLM Training): the share `first`
    of the rows, from one end of the ranking, is trained first, the share `last` is trained last, and the others between
    them; each of the three is shuffled. If both come from the same end, they share its rows at random.

    >>> 10 rows, first 0.2 and last 0.2   ->   0 1 | 5 4 7 6 2 3 | 9 8

    The authors' code always ranks ascending, and scales shares that add up to more than 1; DataFlex heeds `ascending`,
    as here. Here such shares are refused.

    first, last: shares of the rows, rounded down.
    first_from, last_from: the end of the ranking that they are taken from; with ascending=false `low` is the end with
        the high numbers.
    """

    first: Share = 0.1
    last: Share = 0.1
    first_from: End = "low"
    last_from: End = "high"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first + self.last > 1:
            raise UserError(f"order.first={self.first} and order.last={self.last} add up to more than 1; lower one")

    def positions(self, n: int, rng: np.random.Generator) -> np.ndarray:
        first, last = (int(n * share + 1e-9) for share in (self.first, self.last))  # 0.29 * 100 is below 29
        ranks = np.arange(n)
        if self.first_from == self.last_from:
            ends, middle = _taken(ranks, first + last, self.first_from)
            ends = rng.permutation(ends)
            front, back = ends[:first], ends[first:]
        else:
            front, rest = _taken(ranks, first, self.first_from)
            back, middle = _taken(rest, last, self.last_from)
        return np.concatenate([rng.permutation(part) for part in (front, middle, back)])


def _taken(ranks: np.ndarray, count: int, end: End) -> tuple[np.ndarray, np.ndarray]:
    """`count` ranks from an end, and the other ones."""
    at = count if end == "low" else len(ranks) - count
    return (ranks[:at], ranks[at:]) if end == "low" else (ranks[at:], ranks[:at])

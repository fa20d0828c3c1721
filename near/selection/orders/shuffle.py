"""Random order: the baseline that every other order has to beat."""

from dataclasses import dataclass

import numpy as np

from near.selection.orders.base import Order


@dataclass(eq=False, kw_only=True)
class Shuffle(Order):
    """A seeded shuffle, another one for each round and pass. It reads no numbers.

    DataFlex's shuffle ranks nothing, either; it shuffles all rows once, with one seed.
    """

    scored = False

    def positions(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(n)

"""The curriculum several times over, each time on other rows."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from near.common.bounds import between
from near.selection.orders.base import Order

Layers = Annotated[int, between(1, 1_000_000)]


def folded(n: int, layers: int) -> np.ndarray:
    """Ranks 0, L, 2L, ..., then 1, L + 1, ..., of `n` rows in L layers, int64 (n,)."""
    return np.concatenate([np.arange(layer, n, layers) for layer in range(layers)])


@dataclass(eq=False, kw_only=True)
class Folding(Order):
    """Folding ordering (Dai et al. 2025, Data Efficacy for Language Model Training): every `layers`-th row of the
    ranking, once from each of the first `layers` rows, so that each layer passes through the whole ranking.

    >>> 7 rows in 3 layers   ->   0 3 6 | 1 4 | 2 5
    """

    layers: Layers = 3

    def positions(self, n: int, rng: np.random.Generator) -> np.ndarray:
        del rng
        return folded(n, self.layers)

"""The curriculum up and down, each time on other rows."""

from dataclasses import dataclass

import numpy as np

from near.selection.orders.base import Order
from near.selection.orders.folding import Layers


def zigzagged(n: int, layers: int) -> np.ndarray:
    """The layers of `folded`, every second one backwards, int64 (n,)."""
    return np.concatenate([np.arange(layer, n, layers)[:: -1 if layer % 2 else 1] for layer in range(layers)])


@dataclass(eq=False, kw_only=True)
class Zigzag(Order):
    """Zig-zag ordering (Dai et al. 2026, Demystifying Data Organization for Enhanced LLM Training): folding with every
    second layer backwards, so that the number does not jump where two layers meet.

    >>> 7 rows in 3 layers   ->   0 3 6 | 4 1 | 2 5

    An earlier version of the authors' code halves every layer, one half down and one up; their present code and
    DataFlex do what is done here.
    """

    layers: Layers = 3

    def positions(self, n: int, rng: np.random.Generator) -> np.ndarray:
        del rng
        return zigzagged(n, self.layers)

"""The curriculum in sections, going up and down where two sections meet."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from near.common.bounds import between
from near.selection.orders.folding import Layers
from near.selection.orders.stair import Sections
from near.selection.orders.zigzag import zigzagged


@dataclass(eq=False, kw_only=True)
class Saw(Sections):
    """SAW (Dai et al. 2026, Demystifying Data Organization for Enhanced LLM Training): sections that meet in zig-zags.

    >>> 10 rows, 2 sections, radius 0.2, 2 layers   ->   0 1 2 | 3 5 | 6 4 | 7 8 9

    The authors' code merges regions that overlap. DataFlex refuses them, and those that only touch, too.
    """

    sections: Annotated[int, between(1, 1_000_000)] = 3
    radius: Annotated[float, between(0, 0.5)] = 0.075
    layers: Layers = 2

    def positions(self, n: int, rng: np.random.Generator) -> np.ndarray:
        del rng
        return self.in_sections(n, zigzagged)

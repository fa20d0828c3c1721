"""The curriculum in sections, with several passes through the rows where two sections meet."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from near.common.bounds import between
from near.common.errors import UserError
from near.selection.orders.base import Order
from near.selection.orders.folding import Layers, folded


@dataclass(eq=False, kw_only=True)
class Sections(Order):
    """The ranking, except around the `sections` - 1 points that cut it into equal sections: the rows up to `radius`
    before and after such a point are arranged in `layers`.

    radius: a share of all rows; 2 radius sections <= 1, so that the regions do not overlap.
    """

    sections: Annotated[int, between(1, 1_000_000)] = 2
    radius: Annotated[float, between(0, 0.5)] = 0.225
    layers: Layers = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sections > 1 and 2 * self.radius * self.sections > 1 + 1e-9:
            raise UserError(
                f"order.radius={self.radius} makes the regions of order.sections={self.sections} overlap; use at most "
                f"{1 / (2 * self.sections):.4g}"
            )

    def in_sections(self, n: int, arrange: Callable[[int, int], np.ndarray]) -> np.ndarray:
        """The arrangement, int64 (n,). arrange: of so many rows in so many layers (folded, zigzagged)."""
        ranks, radius = np.arange(n), round(n * self.radius)
        end = 0
        for section in range(1, self.sections):
            point = round(n * section / self.sections)
            start, end = max(end, point - radius), min(n, point + radius)  # rounding may make regions meet
            ranks[start:end] = start + arrange(end - start, self.layers)
        return ranks


@dataclass(eq=False, kw_only=True)
class Stair(Sections):
    """STR (Dai et al. 2026, Demystifying Data Organization for Enhanced LLM Training): sections that meet in folds.

    >>> 10 rows, 2 sections, radius 0.2, 2 layers   ->   0 1 2 | 3 5 | 4 6 | 7 8 9

    The authors' code merges regions that overlap. DataFlex refuses them, and those that only touch, too.
    """

    def positions(self, n: int, rng: np.random.Generator) -> np.ndarray:
        del rng
        return self.in_sections(n, folded)

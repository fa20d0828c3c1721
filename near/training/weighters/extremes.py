"""Most weight for both ends of the batch's losses."""

import torch

from near.training.weighters.base import Weighter


class Extremes(Weighter):
    """f(h) = |h|."""

    def score(self, h: torch.Tensor) -> torch.Tensor:
        return h.abs()

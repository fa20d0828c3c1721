"""Most weight for the middle of the batch's losses: rows neither known already nor too hard."""

import torch

from near.training.weighters.base import Weighter


class Quadratic(Weighter):
    """f(h) = 1 - h^2 / delta^2."""

    def score(self, h: torch.Tensor) -> torch.Tensor:
        return 1 - (h / self.delta) ** 2

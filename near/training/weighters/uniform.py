"""The plain Trainer's weights: the baseline of the other weighters."""

import torch

from near.training.weighters.base import Weighter


class Uniform(Weighter):
    """f(h) = 0.

    (DataFlex's `uniform` uses f(h) = h: a batch's largest loss has exp(2) times the weight of its smallest.)
    """

    def score(self, h: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(h)

"""Less weight for what the model knows already, up to the middle of the batch's losses."""

import torch

from near.training.weighters.base import Weighter


class LinUpper(Weighter):
    """f(h) = min(h + delta, delta): rising until the middle, even above it, so that outliers get no more than others.
    The paper's best."""

    def score(self, h: torch.Tensor) -> torch.Tensor:
        return (h + self.delta).clamp(max=self.delta)

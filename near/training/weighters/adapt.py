"""ADAPT: rows like the target get a larger weight, by the model's own representation of them."""

from typing import Annotated

import torch

from near.common.bounds import more_than
from near.training.weighters.states import StateWeighter


class Adapt(StateWeighter):
    """ADAPT (Zhao et al. 2026, arXiv 2605.05227): a learning rate for each row,

        w_i = sigmoid(mean over the target's rows a of cos(z_i, z_a) / tau)

    with z the mean of the last layer's states, the i-th token's weighted by i. It is a factor of the row's token
    losses, between 0 and 1 and not relative to other rows, so a batch trains with less than the plain Trainer's rate.

    The formula is that of DataFlex's code, which also adds up the rows' mean losses without dividing by their number.

    clip: the largest weight; None: 1.
    """

    def __init__(
        self,
        tau: Annotated[float, more_than(0)] = 1.0,
        clip: Annotated[float, more_than(0)] | None = None,
        refresh: int = 50,
        target_rows: int | None = None,
    ):
        super().__init__(refresh, target_rows)
        self.tau, self.clip = tau, clip

    def factors(self, vectors: torch.Tensor, target: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        weights = torch.sigmoid(vectors @ target / self.tau)  # (n,): a mean of cosines is one with the mean vector
        return weights if self.clip is None else weights.clamp(max=self.clip)

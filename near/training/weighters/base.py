"""The contract of a weighter: how much each row of a batch counts, by its loss."""

from abc import ABC, abstractmethod
from typing import Annotated

import torch

from near.common.bounds import between


class Weighter(ABC):
    """Weights of rows by their losses (Sow et al. 2025, Dynamic Loss-Based Sample Reweighting for Improved LLM
    Pretraining): of a batch's losses, made h in [-delta, delta] by their least and largest,

        w_i  in proportion to  tokens_i exp(f(h_i) / r)

    which is what maximises sum_i w_i f(h_i) - r KL(w || tokens). The paper's rows are all of one length; with others,
    the plain Trainer weighs each token alike, a row by its tokens, and so does an even f here.

    delta: how far apart losses are set; r: how close weights stay to the plain Trainer's, infinitely close at infinity.
    """

    def __init__(
        self, delta: Annotated[float, between(1e-6, 1e6)] = 1.0, r: Annotated[float, between(1e-3, 1e6)] = 1.0
    ):
        self.delta, self.r = delta, r

    @abstractmethod
    def score(self, h: torch.Tensor) -> torch.Tensor:
        """f, float32 (B,), of losses in [-delta, delta]."""

    def __call__(self, losses: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Factors of the rows' token losses, float32 (B,); their mean over tokens is 1.

        losses: the mean over each row's answer tokens, float32 (B,); tokens: how many these are, (B,); a row without
        any is left out of account.
        """
        known = tokens > 0
        low, high = losses[known].min(), losses[known].max()
        h = self.delta * (2 * losses - low - high) / (high - low).clamp(min=1e-6)
        found = self.score(h) / self.r
        found = torch.exp(found - found[known].max()) * known  # less the largest: no overflow, and the same shares
        return found * (tokens.sum() / (tokens * found).sum())

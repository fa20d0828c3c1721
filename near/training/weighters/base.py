"""The contract of a weighter: the weight of each row of a batch, by its loss or by more than that."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch

from near.common.bounds import between

if TYPE_CHECKING:
    from near.training.row_states import RowStates


class RowWeighter(ABC):
    """Factors of the token losses of a batch's rows. The same on every process."""

    needs_target = False  # whether it compares rows with the target, data.queries

    @abstractmethod
    def weigh(self, losses: torch.Tensor, tokens: torch.Tensor, rows: "RowStates") -> torch.Tensor:
        """Factors of the rows of all processes, float32 (n,), none below 0.

        Args:
            losses: the mean over each row's answer tokens, float32 (n,).
            tokens: the number of these tokens, (n,); rows without any are ignored.
            rows: their hidden states, and those of the target; computed only when they are read.
        """

    def state_dict(self) -> dict[str, np.ndarray]:
        """Arrays that must survive a restart; part of every checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Restore what state_dict returned."""
        del state


def per_token(weights: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Weights of rows, (n,), scaled so that their mean over tokens is 1. tokens: of each row, (n,)."""
    return weights * (tokens.sum() / (tokens * weights).sum())


class Weighter(RowWeighter):
    """Weights of rows by their losses (Sow et al. 2025, Dynamic Loss-Based Sample Reweighting for Improved LLM
    Pretraining). A batch's losses are scaled linearly to h in [-delta, delta]; then

        w_i  in proportion to  tokens_i exp(f(h_i) / r)

    which maximises sum_i w_i f(h_i) - r KL(w || tokens). In the paper all rows have the same length. Otherwise the
    plain Trainer weights every token alike, that is a row by its tokens, and a constant f does the same here.

    Args:
        delta: the bound of the scaled losses.
        r: how close weights stay to the plain Trainer's; equal to them in the limit of large r.
    """

    def __init__(
        self, delta: Annotated[float, between(1e-6, 1e6)] = 1.0, r: Annotated[float, between(1e-3, 1e6)] = 1.0
    ):
        self.delta, self.r = delta, r

    @abstractmethod
    def score(self, h: torch.Tensor) -> torch.Tensor:
        """f(h), float32 (B,), of scaled losses h, float32 (B,), in [-delta, delta]."""

    def weigh(self, losses: torch.Tensor, tokens: torch.Tensor, rows: "RowStates | None" = None) -> torch.Tensor:
        return self(losses, tokens)

    def __call__(self, losses: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Factors of the rows' token losses.

        Args:
            losses: the mean over each row's answer tokens, float32 (B,).
            tokens: the number of these tokens, (B,); rows without any are ignored.

        Returns:
            float32 (B,); the mean over tokens is 1.
        """
        known = tokens > 0
        low, high = losses[known].min(), losses[known].max()
        h = self.delta * (2 * losses - low - high) / (high - low).clamp(min=1e-6)
        scores = self.score(h) / self.r  # (B,)
        # minus the largest: no overflow, the same shares
        return per_token(torch.exp(scores - scores[known].max()) * known, tokens)

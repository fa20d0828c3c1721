"""What weighters have in common that compare the rows of a batch with the target by the model's hidden states."""

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch

from near.training.weighters.base import RowWeighter

if TYPE_CHECKING:
    from near.training.row_states import Pooling, RowStates


class StateWeighter(RowWeighter):
    """The target (data.queries) is one vector, the mean over its rows, computed anew with the current model every
    `refresh` optimizer steps. Vectors of a batch are computed at every step, by one more forward pass without dropout.

    Args:
        refresh: optimizer steps.
        target_rows: how many of the target's rows each refresh averages, in turn; None: all.
    """

    needs_target = True
    pooling: "Pooling" = "weighted_mean"
    layer = -1  # whose states are pooled
    unit = True  # whether rows' vectors have length 1
    unit_target = True  # whether those of the target's rows have, before the mean

    def __init__(self, refresh: int, target_rows: int | None):
        self.refresh, self.target_rows = refresh, target_rows
        self._target: torch.Tensor | None = None  # (dim,)
        self._refreshed = self._next = 0  # the step of the last refresh, and the first row of the next one

    def weigh(self, losses: torch.Tensor, tokens: torch.Tensor, rows: "RowStates") -> torch.Tensor:
        vectors, target = rows.vectors(self.pooling, self.layer, self.unit), self.target(rows)
        with torch.autocast(losses.device.type, enabled=False):
            return self.factors(vectors, target.to(vectors.device), tokens)

    @abstractmethod
    def factors(self, vectors: torch.Tensor, target: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """See RowWeighter.weigh. vectors: of the rows, float32 (n, dim); target: float32 (dim,)."""

    def target(self, rows: "RowStates") -> torch.Tensor:
        """The mean vector of the target, float32 (dim,)."""
        if self._target is None or rows.step - self._refreshed >= self.refresh:
            count = min(self.target_rows or rows.target_rows, rows.target_rows)
            positions = (self._next + np.arange(count)) % rows.target_rows
            self._target = rows.target_mean(positions, self.pooling, self.layer, self.unit_target)
            self._refreshed, self._next = rows.step, (self._next + count) % rows.target_rows
        return self._target

    def state_dict(self) -> dict[str, np.ndarray]:
        if self._target is None:
            return {}
        numbers = np.array([self._refreshed, self._next])
        return {"target": self._target.cpu().numpy(), "numbers": numbers}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self._target, self._refreshed, self._next = None, 0, 0
        if "target" in state:
            self._target = torch.as_tensor(state["target"])
            self._refreshed, self._next = (int(number) for number in state["numbers"])

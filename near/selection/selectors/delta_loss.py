"""Rows by how much training has lowered their loss, through a window that slides with the rounds."""

from typing import Annotated

import numpy as np

from near.common.bounds import between
from near.selection.round import Round, Subset
from near.selection.selectors.base import SubsetSize
from near.selection.selectors.model import ModelSelector, ShortlistOptions
from near.selection.selectors.ranking import drawn

OUTSIDE = 0.025  # weight of rows outside the window, 1 inside
STEEPNESS = 10.0  # of the sigmoid that moves the window, over rounds from 0 to 1


class DeltaLoss(ModelSelector):
    """The seed system's (DataFlex) delta_loss selector. Its first round is random and records every row's loss. Later
    rounds order rows by that loss minus the loss now, the largest drop first, and draw without replacement with
    weight 1 in a window of `window_size` (a share of the rows) and 0.025 outside. The window starts at
    sigmoid(10 (t - 1/2)) of its way, t being 1 in the last round, and ends before rows whose loss has risen."""

    requires = "losses"
    only_in_training = "compares rounds of training"
    has_scores = False  # not in its first round

    def __init__(
        self,
        subset_size: SubsetSize | None = None,
        shortlist: ShortlistOptions | None = None,
        window_size: Annotated[float, between(1e-9, 1)] = 0.2,
    ):
        super().__init__(subset_size, shortlist)
        self.window_size = window_size
        self._first: tuple[np.ndarray, np.ndarray] | None = None  # rows and their losses in the first round

    def select(self, round: Round) -> Subset:
        if self._first is None:
            ids = self.rows(round)
            self._first = ids, round.scorer.losses(round.model, ids)
            return Subset(round.rng().permutation(ids)[: round.size])
        ids, before = self._first
        if not (left := np.isin(ids, round.eligible)).all():  # in a plan, filters may take rows away
            ids, before = ids[left], before[left]
            if not len(ids):
                return self.warm_up(round)
        drops = before - round.scorer.losses(round.model, ids)
        order = np.argsort(-drops, kind="stable")
        start, stop = window(round.update, round.updates, len(ids), self.window_size)
        stop = min(stop, int((drops >= 0).sum()))
        weights = np.full(len(ids), OUTSIDE)
        weights[order[start:stop]] = 1.0
        chosen = drawn(np.log(weights), round)
        return Subset(ids[chosen], drops[chosen])

    def state_dict(self) -> dict[str, np.ndarray]:
        if self._first is None:
            return {}
        return dict(zip(("first_rows", "first_losses"), self._first, strict=True))

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self._first = (state["first_rows"], state["first_losses"]) if "first_rows" in state else None


def window(update: int, updates: int, rows: int, size: float) -> tuple[int, int]:
    """Start and stop of the window among `rows` ordered rows, in the selection `update` (from 1) of `updates`.

    size: a share of the rows.
    """
    share = update / max(1, updates - 1)
    start = (rows - size * rows) / (1 + np.exp(-STEEPNESS * (share - 0.5)))
    return int(start), int(start + size * rows)

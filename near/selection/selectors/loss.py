"""Rows by how well the model knows them already: drawn with more weight where its loss is low, medium or high."""

from typing import Annotated, Literal, get_args

import numpy as np

from near.common.bounds import Share, between
from near.common.errors import UserError
from near.selection.round import Round, Subset
from near.selection.selectors.base import SubsetSize
from near.selection.selectors.model import ModelSelector, ShortlistOptions
from near.selection.selectors.ranking import drawn

Focus = Literal["low", "medium", "high"]


class Loss(ModelSelector):
    """The seed system's (DataFlex) loss selector: two quantiles of the losses cut the rows into low, medium and high.
    Rows are drawn without replacement with weight `focus_weight` in the group of `focus` and 1 in the others, to the
    power of 1 / `temperature`; new in every round."""

    requires = "losses"

    def __init__(
        self,
        subset_size: SubsetSize | None = None,
        shortlist: ShortlistOptions | None = None,
        focus: Focus = "high",
        focus_weight: Annotated[float, between(1e-9, 1e9)] = 5.0,
        quantiles: tuple[Share, Share] = (0.33, 0.66),
        temperature: Annotated[float, between(1e-4, 1e6)] = 1.0,
    ):
        super().__init__(subset_size, shortlist)
        if len(quantiles) != 2 or not 0 <= quantiles[0] <= quantiles[1] <= 1:
            raise UserError(
                f"selector.quantiles={list(quantiles)} are not two ascending shares; write them like [0.33,0.66]"
            )
        self.focus, self.focus_weight = focus, focus_weight
        self.quantiles, self.temperature = tuple(quantiles), temperature

    def select(self, round: Round) -> Subset:
        ids = self.rows(round)
        losses = round.scorer.losses(round.model, ids)
        group = np.digitize(losses, np.quantile(losses, self.quantiles), right=True)  # 0 low, 1 medium, 2 high
        weights = np.where(group == get_args(Focus).index(self.focus), self.focus_weight, 1.0)
        order = drawn(np.log(weights) / self.temperature, round)
        return Subset(ids[order], losses[order])

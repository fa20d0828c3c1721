"""The stage of a plan that weights rows by their losses, or by more than these."""

from near.common.bounds import Positive
from near.common.errors import UserError
from near.selection.plan.stages import Stage, Step
from near.training.weighters.base import RowWeighter


class Weigh(Stage):
    """Weights the rows of each batch from optimizer step `start` on, except in warm-ups; with period=2, in every second
    round from there. Weights are of the batch's own losses, so there is no result to keep.

    whole_step: see DynamicWeightTrainer.
    """

    kind = "weigh"

    def __init__(self, by: RowWeighter, start: Step = 0, period: Positive = 1, whole_step: bool = False):
        super().__init__(by, start, period)
        if not isinstance(by, RowWeighter):
            raise UserError(f"by={by} of a weigh stage is not a weighter; use weighter=linupper, quadratic, ...")
        self.whole_step = whole_step

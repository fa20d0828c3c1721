"""The Hugging Face Trainer on the whole pool with a weight for every row of a batch, by its loss."""

from typing import Annotated

from transformers import TrainingArguments

from near.common.bounds import between
from near.training.job import Job
from near.training.trainer import StaticTrainer
from near.training.weighters.base import RowWeighter
from near.training.weighters.stage import Weigh


class DynamicWeightTrainer(StaticTrainer):
    """The plain Trainer on the whole pool for `train_step` steps, the first `warmup_step` of them unweighted. (These
    are not `args.warmup_steps`, the learning rate's warm-up.) It is trainer=static with a plan of one weigh stage.

    Weights are computed among the rows of one forward pass over all processes. With gradient accumulation, each such
    batch has the share of the step that its tokens have. `whole_step`: among all rows of a step, whose losses are then
    computed ahead of it, without dropout, by one more forward pass.

    A loss that the model adds by itself (a mixture of experts' balance) is left out of weighted steps.
    """

    def __init__(
        self,
        *,
        args: TrainingArguments,
        warmup_step: Annotated[int, between(0, 100_000_000)],
        train_step: Annotated[int, between(1, 100_000_000)],
        weighter: RowWeighter,
        whole_step: bool = False,
        model=None,
        job: Job = None,
    ):
        args.max_steps = train_step
        self.warmup_step, self.weighter = warmup_step, weighter
        job.weighers = [Weigh(weighter, start=warmup_step, whole_step=whole_step)]
        super().__init__(args=args, model=model, job=job)

"""The Hugging Face Trainer with a weight for every row of a batch, by its loss. One hook, no loop of our own."""

from typing import Annotated

import torch
from transformers import TrainingArguments

from near.common.bounds import between
from near.common.errors import UserError
from near.models.losses import answer_losses, by_row
from near.training.job import Job
from near.training.trainer import StaticTrainer
from near.training.weighters.base import Weighter


class DynamicWeightTrainer(StaticTrainer):
    """The plain Trainer on the whole pool for `train_step` steps, the first `warmup_step` of them unweighted. (These
    are not `args.warmup_steps`, the learning rate's warm-up.)

    The rows that are weighed against each other are those that all processes go through at once; with gradient
    accumulation each such batch keeps its share of the step, which is its tokens. `whole_step`: all rows of a step
    instead, whose losses are then asked for ahead of it, without dropout: one forward pass more.

    What a model adds to its loss by itself (a mixture of experts' balance) is left out once rows are weighted.
    """

    def __init__(
        self,
        *,
        args: TrainingArguments,
        warmup_step: Annotated[int, between(0, 100_000_000)],
        train_step: Annotated[int, between(1, 100_000_000)],
        weighter: Weighter,
        whole_step: bool = False,
        model=None,
        job: Job = None,
    ):
        args.max_steps = train_step
        self.warmup_step, self.weighter, self.whole_step = warmup_step, weighter, whole_step
        self._ahead: list[torch.Tensor] = []  # weights of the step's batches that are still to come
        self._since: list[torch.Tensor] = []  # of batches since the last line logged: loss x tokens, tokens, weight
        super().__init__(args=args, model=model, job=job)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum of weighted token losses by the answer tokens of the whole step; for what is not weighted, the
        Trainer's own."""
        if return_outputs or not model.training or self._warming_up:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        losses, rows = answer_losses(model, inputs)
        measured = self._measured(losses.detach(), rows, len(inputs["labels"]))
        weights = self._ahead.pop(0) if self._ahead else self.weighter(*measured)
        self._since.append(torch.stack([(measured[0] * measured[1]).sum(), measured[1].sum(), weights.max()]))
        first = self.accelerator.process_index * len(inputs["labels"])
        weights = weights[first : first + len(inputs["labels"])]
        loss = (losses * weights[rows]).sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # whose gradients are averaged, while tokens were summed
        return loss

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The Trainer's: the batches of a step. Here its weights are at their values before the step."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.whole_step and len(batches) > 1 and not self._warming_up:
            self._ahead = self._weights_of(batches)
        return batches, items

    @property
    def _warming_up(self) -> bool:
        return self.state.global_step < self.warmup_step

    @torch.no_grad()
    def _weights_of(self, batches: list[dict]) -> list[torch.Tensor]:
        """Of all processes' rows of each of `batches`, float32 (rows,), weighed against those of all of them."""
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        parts = []
        for batch in map(self._prepare_inputs, batches):
            parts.append(self._measured(*answer_losses(model, batch), len(batch["labels"])))
        model.train(was_training)
        weights = self.weighter(*torch.cat(parts, dim=1))
        return list(weights.split([part.shape[1] for part in parts]))

    def _measured(self, losses: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
        """The mean loss of every process's `count` rows of a batch, and their answer tokens, float32 (2, all rows)."""
        sums, tokens = by_row(losses, rows, count)
        own = torch.stack([(sums / tokens.clamp(min=1)).float(), tokens.float()])
        return self.accelerator.gather(own[None]).movedim(1, 0).flatten(1)

    def log(self, logs: dict, *args, **kwargs) -> None:
        if "loss" in logs and self._since:
            sums, tokens, largest = torch.stack(self._since).unbind(1)
            logs = {
                **logs,
                "unweighted_loss": (sums.sum() / tokens.sum()).item(),
                "largest_weight": largest.max().item(),
            }
            self._since = []
        super().log(logs, *args, **kwargs)


def check_weighting(args: TrainingArguments, whole_step: bool) -> None:
    """UserError where rows can't be weighed: one a batch, or losses that are not of single rows."""
    if args.n_gpu > 1:
        raise UserError(
            f"trainer=dynamic_weight on {args.n_gpu} GPUs needs a process for each; start it by torchrun "
            f"--nproc_per_node={args.n_gpu} train.py ..."
        )
    if args.train_batch_size * args.world_size * (args.gradient_accumulation_steps if whole_step else 1) < 2:
        raise UserError(
            "trainer.args.per_device_train_batch_size=1 leaves a row nothing to be weighed against; use 2 or more, or "
            "trainer.whole_step=true with trainer.args.gradient_accumulation_steps=2 or more"
        )
    if args.label_smoothing_factor:
        raise UserError(
            f"trainer.args.label_smoothing_factor={args.label_smoothing_factor} is not known to "
            "trainer=dynamic_weight; leave it out"
        )

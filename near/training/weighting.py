"""The Hugging Face Trainer with a weight for every row of a batch, by its loss; one hook, no other training loop."""

import dataclasses
from typing import Annotated

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from transformers import TrainingArguments

from near.common.bounds import between
from near.common.errors import UserError
from near.models.losses import answer_losses, by_row
from near.selection.needs import Needs
from near.training.arguments import is_sharded
from near.training.job import Job
from near.training.row_states import RowStates
from near.training.trainer import StaticTrainer
from near.training.weighters.base import RowWeighter


class DynamicWeightTrainer(StaticTrainer):
    """The plain Trainer on the whole pool for `train_step` steps, the first `warmup_step` of them unweighted. (These
    are not `args.warmup_steps`, the learning rate's warm-up.)

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
        self.warmup_step, self.weighter, self.whole_step = warmup_step, weighter, whole_step
        self._ahead: list[torch.Tensor] = []  # weights of the remaining batches of the step
        self._since: list[torch.Tensor] = []  # by batch since the last log: summed loss, tokens, largest weight
        super().__init__(args=args, model=model, job=job)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum of weighted token losses over the answer tokens of the whole step; the Trainer's for unweighted
        steps."""
        if return_outputs or not model.training or self._warming_up:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        losses, rows = answer_losses(model, inputs, self.job.padding_free)
        measured = self._measured(losses.detach(), rows, len(inputs["labels"]))
        weights = self._ahead.pop(0) if self._ahead else self.weighter.weigh(*measured, RowStates(self, [inputs]))
        self._since.append(torch.stack([(measured[0] * measured[1]).sum(), measured[1].sum(), weights.max()]))
        first = self.accelerator.process_index * len(inputs["labels"])
        weights = weights[first : first + len(inputs["labels"])]
        loss = (losses * weights[rows]).sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged, but tokens were summed
        return loss

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The Trainer's: the batches of a step. The model still has its weights from before the step."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.whole_step and len(batches) > 1 and not self._warming_up:
            self._ahead = self._weights_of(batches)
        return batches, items

    @property
    def _warming_up(self) -> bool:
        return self.state.global_step < self.warmup_step

    @torch.no_grad()
    def _weights_of(self, batches: list[dict]) -> list[torch.Tensor]:
        """For each batch the weights of all processes' rows, float32 (rows,), computed among all batches' rows."""
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        parts = []
        batches = list(map(self._prepare_inputs, batches))
        for batch in batches:
            parts.append(self._measured(*answer_losses(model, batch, self.job.padding_free), len(batch["labels"])))
        model.train(was_training)
        weights = self.weighter.weigh(*torch.cat(parts, dim=1), RowStates(self, batches))  # (all rows of the step,)
        return list(weights.split([part.shape[1] for part in parts]))

    def _measured(self, losses: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
        """Mean loss and answer tokens of all processes' rows of a batch, float32 (2, all rows).

        Args:
            losses: of the answer tokens of this process, (tokens,).
            rows: the row of each of them, (tokens,).
            count: rows of this process.
        """
        sums, tokens = by_row(losses, rows, count)
        local = torch.stack([(sums / tokens.clamp(min=1)).float(), tokens.float()])  # (2, count)
        return self.accelerator.gather(local[None]).movedim(1, 0).flatten(1)  # (processes, 2, count) -> (2, all rows)

    def selector_state(self) -> dict[str, np.ndarray]:
        """The weighter's arrays beside the selector's."""
        own = {f"weighter_{name}": array for name, array in self.weighter.state_dict().items()}
        return super().selector_state() | own

    def _load_selector_state(self, arrays: dict[str, np.ndarray]) -> None:
        super()._load_selector_state(arrays)
        state = {k.removeprefix("weighter_"): v for k, v in arrays.items() if k.startswith("weighter_")}
        self.weighter.load_state_dict(state, self.accelerator.device)

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


def with_target(needs: Needs, weighter: RowWeighter) -> Needs:
    """`needs` with what `weighter` needs of the target."""
    if not weighter.needs_target:
        return needs
    return dataclasses.replace(needs, queries=True, answers=True, query_tokens=True)


def check_weighting(trainer: DictConfig, args: TrainingArguments) -> RowWeighter:
    """The weighter of `trainer`. Raises UserError if rows can't be weighted: one row a batch, losses that are not of
    single rows, or hidden states that no process has."""
    weighter = instantiate(trainer.weighter)
    if args.n_gpu > 1:
        raise UserError(
            f"trainer=dynamic_weight on {args.n_gpu} GPUs needs a process for each; start it with torchrun "
            f"--nproc_per_node={args.n_gpu} train.py ..."
        )
    if args.train_batch_size * args.world_size * (args.gradient_accumulation_steps if trainer.whole_step else 1) < 2:
        raise UserError(
            "trainer.args.per_device_train_batch_size=1 is too small to weight rows against each other; use 2 or more, "
            "or trainer.whole_step=true with trainer.args.gradient_accumulation_steps=2 or more"
        )
    if args.label_smoothing_factor:
        raise UserError(
            f"trainer.args.label_smoothing_factor={args.label_smoothing_factor} is not supported by "
            "trainer=dynamic_weight; leave it out"
        )
    if weighter.needs_target and is_sharded(args):
        raise UserError(
            "the weighter needs hidden states, which no process can compute alone because FSDP or ZeRO-3 shards the "
            "weights; use parallel=none or deepspeed_z2"
        )
    return weighter

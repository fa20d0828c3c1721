"""Weights of a batch's rows by their losses, for every trainer: of row i the product of w_ik over the weighers k."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import reduce
from operator import mul
from typing import Any

import torch
from transformers import TrainingArguments

from near.common.errors import UserError
from near.models.losses import answer_losses, by_row
from near.selection.needs import Needs
from near.training.arguments import is_sharded
from near.training.rounds.schedule import Schedule
from near.training.row_states import RowStates
from near.training.weighters.base import RowWeighter
from near.training.weighters.stage import Weigh


class Weighers:
    """The weighted loss of a trainer's batches.

    Args:
        trainer: whose batches are weighted, one of near/training/trainer.py.
        weighers: at least one.
        schedule: of rounds; None without.
        padding_free: see Job.
        prepare: moves a batch to the trainer's device.
    """

    def __init__(
        self,
        trainer: Any,
        weighers: Sequence[Weigh],
        schedule: Schedule | None,
        padding_free: bool,
        prepare: Callable[[dict], dict],
    ):
        self.trainer, self.stages, self.schedule = trainer, weighers, schedule
        self.padding_free, self.prepare = padding_free, prepare
        self._ahead: list[list[torch.Tensor]] = []  # of the remaining batches of the step, of each whole-step weigher
        self._since: list[torch.Tensor] = []  # by batch since the last log: summed loss, tokens, largest weight

    def active(self) -> list[Weigh]:
        """The weighers that act in the current step."""
        step = self.trainer.state.global_step
        if self.schedule is None:
            return [one for one in self.stages if step >= one.start]
        phase = self.schedule.at(step)
        if phase.warmup:
            return []
        number = self.schedule.update(phase)
        return [
            one
            for one in self.stages
            if step >= one.start and (number - self.schedule.first_update(one.start)) % one.period == 0
        ]

    def loss(self, model, inputs: dict, active: list[Weigh], num_items_in_batch) -> torch.Tensor:
        """The share that a batch has in the weighted loss of its step. active: at least one."""
        accelerator, count = self.trainer.accelerator, len(inputs["labels"])
        losses, rows = answer_losses(model, inputs, self.padding_free)
        measured = self._measured(losses.detach(), rows, count)
        ahead, states = self._ahead.pop(0) if self._ahead else [], RowStates(self.trainer, [inputs])
        factors = [*ahead, *(one.by.weigh(*measured, states) for one in active if not (ahead and one.whole_step))]
        weights = reduce(mul, factors)  # (all rows,)
        self._since.append(torch.stack([(measured[0] * measured[1]).sum(), measured[1].sum(), weights.max()]))
        first = accelerator.process_index * count
        weights = weights[first : first + count]
        if "weights" in inputs:  # of the rows themselves
            weights = weights * inputs["weights"]
        return self.trainer.of_step(losses, weights[rows], num_items_in_batch)

    @torch.no_grad()
    def look_ahead(self, batches: list[dict]) -> None:
        """Weight the rows of a step together, for weighers with `whole_step`. The model still has its weights from
        before the step."""
        together = [one for one in self.active() if one.whole_step]
        if len(batches) < 2 or not together:
            return
        model = self.trainer.model_wrapped
        was_training = model.training
        model.eval()
        parts = []
        batches = list(map(self.prepare, batches))
        for batch in batches:
            parts.append(self._measured(*answer_losses(model, batch, self.padding_free), len(batch["labels"])))
        model.train(was_training)
        measured, sizes = torch.cat(parts, dim=1), [part.shape[1] for part in parts]  # (2, all rows of the step)
        states = RowStates(self.trainer, batches)
        weights = [one.by.weigh(*measured, states).split(sizes) for one in together]
        self._ahead = [list(of_batch) for of_batch in zip(*weights, strict=True)]

    def _measured(self, losses: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
        """Mean loss and answer tokens of all processes' rows of a batch, float32 (2, all rows).

        Args:
            losses: of the answer tokens of this process, (tokens,).
            rows: the row of each of them, (tokens,).
            count: rows of this process.
        """
        sums, tokens = by_row(losses, rows, count)
        local = torch.stack([(sums / tokens.clamp(min=1)).float(), tokens.float()])  # (2, count)
        gathered = self.trainer.accelerator.gather(local[None])  # (processes, 2, count)
        return gathered.movedim(1, 0).flatten(1)  # (2, all rows)

    def logs(self) -> dict[str, float]:
        """Figures of the batches since the last call, for the Trainer's log."""
        if not self._since:
            return {}
        sums, tokens, largest = torch.stack(self._since).unbind(1)
        self._since = []
        return {"unweighted_loss": (sums.sum() / tokens.sum()).item(), "largest_weight": largest.max().item()}


def with_target(needs: Needs, weighters: Sequence[RowWeighter], args: TrainingArguments) -> Needs:
    """`needs` with what `weighters` need of the target. Raises UserError if they need hidden states that no process
    has."""
    if not any(weighter.needs_target for weighter in weighters):
        return needs
    if is_sharded(args):
        raise UserError(
            "the weighter needs hidden states, which no process can compute alone because FSDP or ZeRO-3 shards the "
            "weights; use parallel=none or deepspeed_z2"
        )
    return dataclasses.replace(needs, queries=True, answers=True, query_tokens=True)


def check_weighting(args: TrainingArguments, whole_step: bool, name: str, packing: bool = False) -> None:
    """Raises UserError if rows can't be weighted: one row a batch, losses that are not of single rows, or batches of
    which each process has another number of rows.

    name: what weights them, for error messages.
    """
    if args.n_gpu > 1:
        raise UserError(
            f"{name} on {args.n_gpu} GPUs needs a process for each; start it with torchrun "
            f"--nproc_per_node={args.n_gpu} train.py ..."
        )
    if packing and args.world_size > 1:
        raise UserError(
            f"trainer.packing=true gives each of {args.world_size} processes another number of rows, and {name} "
            "weights them together; use trainer.packing=false, or one process"
        )
    steps = args.gradient_accumulation_steps if whole_step else 1
    if not packing and args.train_batch_size * args.world_size * steps < 2:  # a packed sequence has several rows
        raise UserError(
            "trainer.args.per_device_train_batch_size=1 is too small to weight rows against each other; use 2 or more, "
            "or whole_step=true with trainer.args.gradient_accumulation_steps=2 or more"
        )
    if args.label_smoothing_factor:
        raise UserError(
            f"trainer.args.label_smoothing_factor={args.label_smoothing_factor} is not supported by {name}; leave it "
            "out"
        )

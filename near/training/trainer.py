"""The Hugging Face Trainer with a new training subset at every round, by hooks, without another training loop.

An epoch of the sampler is a slice of a round (Schedule.slice_steps), so every round starts at the start of an epoch. No
batch is prefetched there: the selector sees the weights after exactly the steps before, and its rows are read next.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from peft.optimizers import create_loraplus_optimizer
from transformers import Trainer, TrainerCallback, TrainingArguments

from near.common.bounds import between
from near.common.config import differences
from near.common.errors import UserError
from near.common.files import digest, naming_full_disk
from near.common.moved import class_names
from near.common.outputs import prune_checkpoints
from near.common.records import RoundRecord, ValidationRecord
from near.common.run_folder import CHECKPOINTS
from near.common.text import plural
from near.models.losses import answer_inputs, answer_losses
from near.models.tokens import lengths
from near.selection.round import Round, Subset
from near.training.best_round import BestRound
from near.training.divergence import Watch, diverged, warn_of
from near.training.job import Job
from near.training.packing import PackedRows, of_sequences
from near.training.picking import Batching, Picker
from near.training.rounds.record import Record
from near.training.rounds.sampler import RoundSampler, sorted_in_steps
from near.training.rounds.schedule import Phase, Schedule
from near.training.rounds.state import SELECTED, STATE, read_checkpoint, read_state, write_parts, write_state
from near.training.trackers.log import log_round
from near.training.weighers import Weighers

log = logging.getLogger(__name__)

PARTS = ("ids", "scores", "order")  # the arrays of a Subset
DESCRIBED = ("mix", "stages", "fidelity")  # what it says for the record


class _Checkpoints(Trainer):
    """Extends checkpoints by the run's identity, the rounds so far and the seconds spent, for both trainers.

    It also ends diverged training, weights rows if the job has weighers, and applies LoRA+ if the job's `loraplus` has
    an lr_ratio.
    """

    job: Job
    data_collator: Callable
    schedule: Schedule | None = None

    def _setup(self, job: Job) -> None:
        self.job = job
        per_step = None if self.schedule is None else self.draws_per_step
        self.record = Record(job.output_dir / "rounds", job.selector_name, job.pool, per_step, self.args.should_save)
        self.seconds_before, self.started = 0.0, None
        self.measured: dict[str, dict] = {}  # by a step: the target loss before it, where that was measured ahead
        self.watch = Watch(job.nonfinite_steps)
        self.weighers: Weighers | None = None
        if job.weighers:
            self.weighers = Weighers(self, job.weighers, self.schedule, job.padding_free, self._prepare_inputs)

    @property
    def draws_per_step(self) -> int:
        """Rows of an optimizer step, over all processes."""
        return Batching.of(self.args).draws_per_step

    @property
    def subsets(self) -> list[np.ndarray]:
        """Row ids of every round so far, int64 (rows,) each."""
        return []

    @property
    def orders(self) -> dict[int, np.ndarray]:
        """Draws, int64 (draws,), of the rounds whose selector returned an order."""
        return {}

    @property
    def seconds(self) -> float:
        """Seconds of training and selecting, those before a restart included."""
        return self.seconds_before + (time.perf_counter() - self.started if self.started else 0.0)

    @property
    def spent(self) -> float:
        """Seconds of training and selecting so far, without evaluation."""
        evaluated = {line.step: line.evaluate_seconds or 0.0 for line in self.record.rounds}
        evaluated |= {int(step): measured["evaluate_seconds"] for step, measured in self.measured.items()}
        return round(self.seconds - sum(evaluated.values()), 3)

    def create_optimizer(self, model=None):
        """The Trainer's; with LoRA+, another learning rate for the matrices B of the adapters (Hayou et al. 2024)."""
        if getattr(self, "optimizer", None) is None and self.job.loraplus.get("lr_ratio") is not None:
            model = self.model if model is None else model
            cls, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = create_loraplus_optimizer(
                model,
                cls,
                loraplus_lr_ratio=self.job.loraplus["lr_ratio"],
                loraplus_lr_embedding=self.job.loraplus["lr_embedding"],
                loraplus_weight_decay=self.args.weight_decay,
                **options,
            )
        return super().create_optimizer(model)

    def train(self, *args, **kwargs):
        self.started = time.perf_counter()
        if self.args.should_save:
            warn_of(self.job.output_dir, bool(kwargs.get("resume_from_checkpoint")))
        output = super().train(*args, **kwargs)
        self.seconds_before, self.started = self.seconds, None
        return output

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The Trainer's; in training, the model computes logits only at positions that are followed by an answer, and
        rows are laid end to end where the model can do that. If weighers act, or rows have weights: see `of_step`."""
        if model.training and not return_outputs and self.weighers is not None and (active := self.weighers.active()):
            return self.weighers.loss(model, inputs, active, num_items_in_batch)
        if model.training and not return_outputs and "weights" in inputs:
            losses, rows = answer_losses(model, inputs, self.job.padding_free)
            return self.of_step(losses, inputs["weights"][rows], num_items_in_batch)
        if model.training and not return_outputs and self.label_smoother is None and not self.args.use_liger_kernel:
            arranged = answer_inputs(model, inputs, self.job.padding_free)
            if arranged.alone:
                inputs = {**arranged.inputs, "labels": arranged.following, "shift_labels": arranged.following}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The Trainer's: the batches of a step."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.weighers is not None:
            self.weighers.look_ahead(batches)
        return batches, items

    def of_step(self, losses: torch.Tensor, weights: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        """The share that a batch has in the weighted loss of its step: sum_t w_t l_t over the batch's answer tokens,
        divided by the number of the step's, whatever their weights.

        Args:
            losses, weights: of the answer tokens, (m,).
            num_items_in_batch: answer tokens of the step, of all batches and processes; None: the batch is a step.
        """
        loss = (losses * weights).sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged, but tokens were summed
        return loss

    def training_step(self, *args, **kwargs):
        """The Trainer's. The loss is watched here, because the Trainer's log replaces one that is not finite."""
        loss = super().training_step(*args, **kwargs)
        self.watch.add(loss)
        return loss

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, *args, **kwargs) -> None:
        """Called at the end of every step. Raises UserError on all processes if training has diverged."""
        if self.watch.ended(self.state.global_step, grad_norm, self.accelerator):
            raise diverged(self.watch, self.job.output_dir, self.state.max_steps, self.args.should_save)
        self.end_step(self.state.global_step)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def end_step(self, step: int) -> None:
        """Called after optimizer step `step`, from 1, before its logs and checkpoint; twice where an epoch ends."""

    def validation_record(self) -> ValidationRecord | None:
        """What the validation rows decided, once training has ended; None if nothing was measured on them."""
        return None

    def log(self, logs: dict, *args, **kwargs) -> None:
        logs = {k: v for k, v in logs.items() if not isinstance(v, float) or math.isfinite(v)}
        if self.weighers is not None and "loss" in logs:
            logs |= self.weighers.logs()
        if self.schedule is None:
            return super().log(logs, *args, **kwargs)
        logs = {**logs, "round": self.schedule.at(max(0, self.state.global_step - 1)).index}
        epoch, self.state.epoch = self.state.epoch, None  # it counts slices of rounds, not passes over the pool
        try:
            super().log(logs, *args, **kwargs)
        finally:
            self.state.epoch = epoch

    def run_identity(self) -> dict:
        """The run's identity with the number of processes, as JSON values."""
        return dataclasses.replace(self.job.identity, processes=self.args.world_size).to_json()

    def selector_state(self) -> dict[str, np.ndarray]:
        """The arrays of the selector and the weighers, as a checkpoint names them."""
        state = {f"selector_{k}": v for k, v in self.job.selector.state_dict().items()}
        for one in self.job.weighers:
            state |= {f"weigher_{one.name}/{k}": v for k, v in one.state_dict().items()}
        return state

    def _save_checkpoint(self, model, trial) -> None:
        """Write the rounds before the Trainer's state, and last the list of files, which marks it as complete."""
        if self.watch.streak:  # the weights may not be finite any more
            return
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            arrays = {f"round_{i:06d}": ids for i, ids in enumerate(self.subsets)}
            arrays |= {f"order_{i:06d}": order for i, order in self.orders.items()}
            arrays |= self.selector_state()
            rounds = [line.to_json() for line in self.record.rounds]
            metadata = {"identity": self.run_identity(), "rounds": rounds, "seconds": self.seconds}
            metadata["measured"] = self.measured
            metadata |= {"lists_parts": True, "model_only": self.args.save_only_model}
            write_state(folder / STATE, arrays, metadata)
            self._add_files(folder)
        # older checkpoints are removed once this one is complete
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with naming_full_disk(folder.parent):
                super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()  # each process has written its part
        if self.args.should_save:
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; nothing reads it
            write_parts(folder)
            prune_checkpoints(folder.parent, limit, self.state.best_model_checkpoint)

    def _add_files(self, folder: Path) -> None:
        """Write further files of a checkpoint."""

    def restore(self, checkpoint: Path) -> None:
        """Restore the rounds of a checkpoint. Raises UserError if it belongs to another run."""
        arrays, metadata = read_checkpoint(checkpoint)
        differing = differences(class_names(metadata["identity"]), json.loads(json.dumps(self.run_identity())))
        if differing:
            raise UserError(
                f"{checkpoint} belongs to another run: {'; '.join(differing[:6])}; set overwrite=true to start anew"
            )
        self._load_selector_state(arrays)
        self.seconds_before, self.measured = metadata["seconds"], metadata.get("measured") or {}
        subsets = [arrays[name] for name in sorted(arrays) if name.startswith("round_")]
        orders = {int(name.removeprefix("order_")): arrays[name] for name in arrays if name.startswith("order_")}
        rounds = [RoundRecord.from_json(line, checkpoint / STATE) for line in metadata["rounds"]]
        self._restore(rounds, subsets, orders)

    def _restore(self, lines: list[RoundRecord], subsets: list[np.ndarray], orders: dict[int, np.ndarray]) -> None:
        raise NotImplementedError

    def _load_selector_state(self, arrays: dict[str, np.ndarray]) -> None:
        state = {k.removeprefix("selector_"): v for k, v in arrays.items() if k.startswith("selector_")}
        self.job.selector.load_state_dict(state)
        for one in self.job.weighers:
            own = f"weigher_{one.name}/"
            one.load_state_dict({k.removeprefix(own): v for k, v in arrays.items() if k.startswith(own)})


class StaticTrainer(_Checkpoints):
    """The plain Trainer on every eligible row, for trainer.args.max_steps steps or num_train_epochs epochs.

    packing: a batch has sequences of packed rows in the place of rows.
    """

    def __init__(self, *, args: TrainingArguments, packing: bool = False, model=None, job: Job = None):
        self.packing = packing
        rows: torch.utils.data.Dataset = job.tokens.table.select(job.tokens.eligible)
        if packing:
            rows = PackedRows(job.tokens.table, job.tokens.eligible, job.cutoff_len, job.seed)
            log.info(f"packed {plural(len(job.tokens.eligible), 'row')} into {plural(len(rows), 'sequence')}")
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=job.eval_table,
            data_collator=job.collator,
            callbacks=job.callbacks,
        )
        self._setup(job)

    def get_train_dataloader(self):
        """The Trainer's; the batches of packed rows are those of all their rows."""
        collate = self.data_collator
        if self.packing:
            self.data_collator = of_sequences(collate)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = collate  # of evaluation rows

    def train(self, *args, **kwargs):
        if not self.record.rounds:
            self.record.add(Phase(0, 0, None, False), Subset(self.job.tokens.eligible), 0.0, None)
        return super().train(*args, **kwargs)

    def _restore(self, lines: list[RoundRecord], subsets: list[np.ndarray], orders: dict[int, np.ndarray]) -> None:
        self.record.restore(lines, [self.job.tokens.eligible], [None])


class DynamicSelectTrainer(_Checkpoints):
    """`warmup_step` steps on random rows, then `update_times` rounds of `update_step` steps on the selector's subset;
    all of it `cycles` times. (`warmup_step` is not `args.warmup_steps`, the learning rate's warm-up.)

    It ends with the weights of the round `job.keep` and after `job.patience` (near/training/best_round.py).
    """

    def __init__(
        self,
        *,
        args: TrainingArguments,
        warmup_step: Annotated[int, between(0, 100_000_000)],
        update_step: Annotated[int, between(1, 100_000_000)],
        update_times: Annotated[int, between(0, 1_000_000)],
        cycles: Annotated[int, between(1, 1_000_000)] = 1,
        group_by_length: bool = False,
        model=None,
        job: Job = None,
    ):
        self.best = BestRound(self, job.output_dir / CHECKPOINTS, job.keep, job.patience)
        self.schedule = Schedule(warmup_step, update_step, update_times, cycles)
        args.max_steps = self.schedule.total
        self.args = args  # the Trainer sets it too, but only after it gets the sampler
        self.sampler = RoundSampler(self.schedule.slice_steps * self.draws_per_step)
        self.picker = Picker(job, self.schedule, Batching.of(args, group_by_length))
        self._draws = np.empty(0, dtype=np.int64)  # the draws of the current round
        self._selected: tuple[dict, dict] | None = None  # arrays and metadata of a selection before a restart
        super().__init__(
            model=model,
            args=args,
            train_dataset=job.tokens.table,
            eval_dataset=job.eval_table,
            data_collator=job.collator,
            callbacks=[*job.callbacks, _SelectCallback(self)],
        )
        self._setup(job)

    @property
    def subsets(self) -> list[np.ndarray]:
        return self.picker.subsets

    @property
    def orders(self) -> dict[int, np.ndarray]:
        return self.picker.orders

    def _get_train_sampler(self, train_dataset=None) -> RoundSampler:
        return self.sampler

    def train(self, *args, **kwargs):
        """The Trainer's; with keep=best the model ends with the best round's weights."""
        self.best.check_room()
        output = super().train(*args, **kwargs)
        self.best.restore_weights()
        return output

    def end_step(self, step: int) -> None:
        ends = step == self.schedule.total or self.schedule.at(step).start == step
        if self.job.validation_loss is not None and ends and str(step) not in self.measured:
            self.measured[str(step)] = self._measure(step)
            self.best.end_round(step)

    def _add_files(self, folder: Path) -> None:
        self.best.add_to(folder)

    def restore(self, checkpoint: Path) -> None:
        super().restore(checkpoint)
        self.best.resume(checkpoint)

    def validation_record(self) -> ValidationRecord | None:
        return None if self.job.validation_loss is None else self.best.record()

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *args, **kwargs) -> None:
        """Also saves the end of the warm-up for other jobs of the sweep, once, with the target loss there."""
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        step, shared = self.state.global_step, self.job.warm_up
        if shared is None or step != self.schedule.warmup_step or not shared.is_open:
            return
        if str(step) not in self.measured:
            self.measured[str(step)] = self._measure(step)
        folder = self.args.output_dir

        def write(new: Path) -> None:
            self.args.output_dir = str(new)
            try:
                self._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = folder

        shared.save(write)

    def begin_epoch(self, step: int) -> None:
        """Give the sampler the slice of optimizer step `step`, from 0; select first where a round starts."""
        phase = self.schedule.at(step)
        if len(self.subsets) == phase.index:
            self._begin_round(phase)
        if not len(self._draws):  # resumed within a round, whose subset was restored
            self._draws = self.picker.order(phase)
        size = self.sampler.slice_size
        start = (step - phase.start) // self.schedule.slice_steps * size
        self.sampler.rows = rows = self._draws[start : start + size]
        several = self.picker.batching.batch < self.draws_per_step
        if several and self.model_accepts_loss_kwargs and not self.job.weighers:  # which compare rows of a batch
            self.sampler.rows = sorted_in_steps(rows, lengths(self.job.tokens.table.select(rows)), self.draws_per_step)

    def _restore(self, lines: list[RoundRecord], subsets: list[np.ndarray], orders: dict[int, np.ndarray]) -> None:
        drawn = self.picker.restore(subsets, orders)
        with contextlib.suppress(UserError):  # missing or damaged: the round is selected again
            self._selected = read_state(self.record.folder / SELECTED)
        self.record.restore(lines, subsets, drawn)

    def _begin_round(self, phase: Phase) -> None:
        """Select the round, record and log it."""
        started = time.perf_counter()
        spent = self.spent
        model = {"model": self.model, "optimizer": self.optimizer, "accelerator": self.accelerator}
        round = self.picker.round(phase, collator=self.job.collator, **model)
        earlier = self._selected_before(phase) or self._planned(phase)
        subset, seconds = earlier or self._select(phase, round, started)
        self.job.selected(phase, round, subset.ids)
        self._draws = self.picker.take(subset, phase)
        measured = self.measured.get(str(phase.start)) or self._measure(phase.start)
        measured = {"seconds": spent, "tokens": self.picker.tokens(self._draws), **measured}
        line = self.record.add(phase, subset, seconds, self._draws, measured)
        log_round(self.job.tracked, line, subset, self.job.pool)

    def _measure(self, step: int) -> dict:
        """The target loss before optimizer step `step` (None if it is not evaluated), the validation loss if there are
        such rows, and the seconds of both."""
        started, measured = time.perf_counter(), {"target_loss": None}
        if self.job.target_loss is not None and step < self.schedule.total:  # at the end everything is evaluated
            measured["target_loss"] = self.job.target_loss(self, step)
        if self.job.validation_loss is not None:  # the main process's: all processes decide alike
            loss = broadcast_object_list([self.job.validation_loss(self, step)])[0]
            measured["validation_loss"] = loss if loss is not None and math.isfinite(loss) else None
        return {**measured, "evaluate_seconds": round(time.perf_counter() - started, 4)}

    def _select(self, phase: Phase, round: Round, started: float) -> tuple[Subset, float]:
        """Select; returns the subset and its seconds. Saved at once, as selecting may take longer than many steps."""
        subset = self.picker.checked(self._agreed(self.picker.pick(phase, round)), phase, round)
        seconds = time.perf_counter() - started
        if self.args.should_save:
            arrays = {name: getattr(subset, name) for name in PARTS if getattr(subset, name) is not None}
            metadata = {"of": self._selection_key(phase), "seconds": seconds}
            metadata |= {name: getattr(subset, name) for name in DESCRIBED}
            write_state(self.record.folder / SELECTED, arrays | self.selector_state(), metadata)
        return subset, seconds

    def _agreed(self, subset: Subset) -> Subset:
        """The main process's subset, and its selector's state on all: GPU sums, or caches that are not shared, may
        differ by rounding between ranks."""
        if self.accelerator.num_processes == 1:
            return subset
        subset, state = broadcast_object_list([subset, self.job.selector.state_dict()])
        self.job.selector.load_state_dict(state)
        return subset

    def _selected_before(self, phase: Phase) -> tuple[Subset, float] | None:
        """The selection for this round from before a restart, with its seconds; None if there is none."""
        if self._selected is None:
            return None
        arrays, metadata = self._selected
        if metadata["of"] != self._selection_key(phase):
            return None
        log.info(f"round {phase.index} was selected before the restart and is not selected again")
        self._load_selector_state(arrays)
        described = {name: metadata.get(name) for name in DESCRIBED}
        return Subset(**{name: arrays.get(name) for name in PARTS}, **described), metadata["seconds"]

    def _planned(self, phase: Phase) -> tuple[Subset, float] | None:
        """The selection that was made ahead of training, with its seconds; None if there is none."""
        if (planned := self.job.planned.get(phase.index)) is None:
            return None
        self.job.selector.load_state_dict(planned.state)
        return planned.subset, planned.seconds

    def _selection_key(self, phase: Phase) -> list:
        """What a selection belongs to: the round, and a digest of the run and all rounds before."""
        before = [hashlib.sha256(ids.tobytes()).hexdigest() for ids in self.subsets]
        return [phase.index, digest([json.dumps(self.run_identity(), sort_keys=True), *before])]


class DynamicMixTrainer(DynamicSelectTrainer):
    """The same rounds for `selector=mix`: rows of every source in the proportions of a mixer.

    A class by itself because the check of a configuration looks for its name (near/app/check/check.py).
    """


class _SelectCallback(TrainerCallback):
    """Starts rounds: calls begin_epoch of its trainer."""

    def __init__(self, trainer: DynamicSelectTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.begin_epoch(state.global_step)

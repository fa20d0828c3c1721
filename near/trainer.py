"""The Hugging Face Trainer with a training subset that is picked anew at every round. No loop of our own.

The sampler's epoch is a slice of a round (Schedule.slice_steps), so that every round begins with an epoch of the
Trainer. There all prefetching has ended: the selector sees the weights after exactly the steps before, and the rows it
picks are the next ones read.
"""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from transformers import Trainer, TrainerCallback, TrainingArguments

from near.config import differences
from near.data import Rows
from near.errors import UserError
from near.files import digest, raise_if_full
from near.record import Record
from near.rounds import Schedule, Stretch
from near.sampler import RoundSampler, draws, grouped_by_length, lengths
from near.scoring import Scorer
from near.selectors.base import Round, Selector, Subset, checked
from near.selectors.random import Random
from near.state import SELECTED, STATE, read_checkpoint, read_state, write_state
from near.tokens import Collator, Tokens

log = logging.getLogger(__name__)

TRACKED = ("rows", "mean_score", "overlap", "never_seen", "select_seconds")  # of every round


@dataclass
class Job:
    """What a Trainer is handed beside its configuration. `identity` binds checkpoints to their run."""

    selector: Selector
    selector_name: str
    tokens: Tokens
    pool: Rows
    collator: Collator
    seed: int
    output_dir: Path
    identity: dict
    queries: Rows | None = None
    represent: Callable[[Round], Round] = lambda round: round  # gives a round its neighbours
    scorer: Scorer | None = None
    eval_table: object = None  # tokens of the evaluation rows, where trainer.args.eval_strategy asks for them
    callbacks: list[TrainerCallback] = field(default_factory=list)


class _Checkpoints(Trainer):
    """What both trainers add to a checkpoint: whose it is, the rounds so far and the seconds spent."""

    job: Job
    schedule: Schedule | None = None

    def _setup(self, job: Job) -> None:
        self.job = job
        per_step = None if self.schedule is None else self.draws_per_step
        self.record = Record(job.output_dir / "rounds", job.selector_name, job.pool, per_step, self.args.should_save)
        self.subsets: list[np.ndarray] = []  # of every round so far
        self.seconds_before, self.begun = 0.0, None

    @property
    def draws_per_step(self) -> int:
        """Rows that an optimizer step trains, over all processes."""
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    @property
    def seconds(self) -> float:
        """Of training and selecting, those before a restart included."""
        return self.seconds_before + (time.perf_counter() - self.begun if self.begun else 0.0)

    def train(self, *args, **kwargs):
        self.begun = time.perf_counter()
        return super().train(*args, **kwargs)

    def log(self, logs: dict, *args, **kwargs) -> None:
        if self.schedule is not None:
            logs = {**logs, "round": self.schedule.at(max(0, self.state.global_step - 1)).index}
        super().log(logs, *args, **kwargs)

    def _identity(self) -> dict:
        return {**self.job.identity, "processes": self.args.world_size}

    def _save_checkpoint(self, model, trial) -> None:
        """The rounds go into the checkpoint before the Trainer's own state, whose file marks it as whole."""
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            arrays = {f"round_{i:06d}": ids for i, ids in enumerate(self.subsets)}
            arrays |= self._selector_state()
            told = {"identity": self._identity(), "rounds": self.record.rounds, "seconds": self.seconds}
            write_state(folder / STATE, arrays, told)
        try:
            super()._save_checkpoint(model, trial)
        except (RuntimeError, SafetensorError):  # their writers do not say why they could not write
            raise_if_full(folder)
            raise
        if self.args.should_save:
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; nothing reads it

    def restore(self, checkpoint: Path) -> None:
        """Take back the rounds of a checkpoint; UserError where it belongs to another run."""
        arrays, told = read_checkpoint(checkpoint)
        differing = differences(told["identity"], json.loads(json.dumps(self._identity())))
        if differing:
            raise UserError(
                f"{checkpoint} belongs to another run: {'; '.join(differing[:6])}; set overwrite=true to begin anew"
            )
        self.subsets = [arrays[name] for name in sorted(arrays) if name.startswith("round_")]
        self._load_selector_state(arrays)
        self.seconds_before = told["seconds"]
        self._restore_orders(told["rounds"])

    def _restore_orders(self, lines: list[dict]) -> None:
        self.record.restore(lines, [], [])

    def _selector_state(self) -> dict[str, np.ndarray]:
        return {f"selector_{k}": v for k, v in self.job.selector.state_dict().items()}

    def _load_selector_state(self, arrays: dict[str, np.ndarray]) -> None:
        state = {k.removeprefix("selector_"): v for k, v in arrays.items() if k.startswith("selector_")}
        self.job.selector.load_state_dict(state)


class StaticTrainer(_Checkpoints):
    """The plain Trainer on every eligible row; its length is trainer.args.max_steps or num_train_epochs."""

    def __init__(self, *, args: TrainingArguments, model=None, job: Job = None):
        super().__init__(
            model=model,
            args=args,
            train_dataset=job.tokens.table.select(job.tokens.eligible),
            eval_dataset=job.eval_table,
            data_collator=job.collator,
            callbacks=job.callbacks,
        )
        self._setup(job)

    def train(self, *args, **kwargs):
        self.record.add(Stretch(0, 0, None, False), Subset(self.job.tokens.eligible), 0.0, None)
        return super().train(*args, **kwargs)


class DynamicSelectTrainer(_Checkpoints):
    """`warmup_step` steps on random rows, then `update_times` rounds of `update_step` steps on the selector's subset,
    `cycles` times over. (`warmup_step` is not `args.warmup_steps`, the learning rate's warm-up.)"""

    def __init__(
        self,
        *,
        args: TrainingArguments,
        warmup_step: int,
        update_step: int,
        update_times: int,
        cycles: int = 1,
        group_by_length: bool = False,
        model=None,
        job: Job = None,
    ):
        self.schedule = Schedule(warmup_step, update_step, update_times, cycles)
        args.max_steps = self.schedule.total
        self.args = args  # the Trainer sets it too, after it has asked for the sampler
        self.sampler = RoundSampler(self.schedule.slice_steps * self.draws_per_step)
        self._running = np.empty(0, dtype=np.int64)  # the draws of the running round
        self._trained = np.zeros(len(job.pool), dtype=np.int64)  # how often each row was, those of this round included
        self._selected: tuple[dict, dict] | None = None  # a selection that was made before a restart
        self._lengths = lengths(job.tokens.table) if group_by_length else None
        self._batch = args.train_batch_size * args.world_size  # rows that all processes go through at once
        super().__init__(
            model=model,
            args=args,
            train_dataset=job.tokens.table,
            eval_dataset=job.eval_table,
            data_collator=job.collator,
            callbacks=[*job.callbacks, _Reselect(self)],
        )
        self._setup(job)

    def _get_train_sampler(self, train_dataset=None) -> RoundSampler:
        return self.sampler

    def begin_epoch(self, step: int) -> None:
        """Give the sampler the slice that optimizer step `step` lies in; select where a round begins."""
        stretch = self.schedule.at(step)
        if len(self.subsets) == stretch.index:
            self._begin_round(stretch)
        if not len(self._running):  # resumed within a round: its subset was restored
            self._running = self._draws(stretch)
        size = self.sampler.slice_size
        start = (step - stretch.start) // self.schedule.slice_steps * size
        self.sampler.rows = self._running[start : start + size]

    def _draws(self, stretch: Stretch) -> np.ndarray:
        size = stretch.steps * self.draws_per_step
        order = draws(self.subsets[stretch.index], size, self.job.seed, stretch.index)
        if self._lengths is None:
            return order
        rows = len(self.subsets[stretch.index])
        return grouped_by_length(order, rows, self._lengths, self._batch, self.job.seed, stretch.index)

    def _restore_orders(self, lines: list[dict]) -> None:
        orders = [self._draws(stretch) for stretch in self.schedule.rounds()[: len(self.subsets)]]
        for order in orders:
            np.add.at(self._trained, order, 1)
        with contextlib.suppress(UserError):  # there is none, or it is damaged: the round is selected anew
            self._selected = read_state(self.record.folder / SELECTED)
        self.record.restore(lines, self.subsets, orders)

    def _begin_round(self, stretch: Stretch) -> None:
        size = stretch.steps * self.draws_per_step
        selector = Random() if stretch.warmup else self.job.selector
        begun = time.perf_counter()
        rounds = self.schedule.rounds()
        round = Round(
            index=stretch.index,
            count=len(rounds),
            step=stretch.start,
            size=min(size, selector.most(len(self.job.tokens.eligible)) or size),
            seed=self.job.seed,
            eligible=self.job.tokens.eligible,
            draws=size,
            trained=self._trained,
            previous=tuple(self.subsets),
            pool=self.job.pool,
            queries=self.job.queries,
            update=sum(not r.warmup for r in rounds[: stretch.index]),
            updates=sum(not r.warmup for r in rounds),
            scorer=self.job.scorer,
            model=self.model,
            optimizer=self.optimizer,
            collator=self.job.collator,
            accelerator=self.accelerator,
        )
        subset, seconds = self._made_before(stretch) or self._select(stretch, selector, round, begun)
        self.subsets.append(subset.ids)
        self._running = self._draws(stretch)
        np.add.at(self._trained, self._running, 1)
        line = self.record.add(stretch, subset, seconds, self._running)
        for callback in self.job.callbacks:  # the trackers, but not the progress bar: the log says it
            told = {f"selection/{k}": v for k, v in line.items() if k in TRACKED and v is not None}
            callback.on_log(self.args, self.state, self.control, logs=told)

    def _select(self, stretch: Stretch, selector: Selector, round: Round, begun: float) -> tuple[Subset, float]:
        """The subset and the seconds it took; kept at once, as it may have taken longer than many steps do."""
        with torch.random.fork_rng():  # what a selector draws must not move the training's dropout
            if not stretch.warmup:
                round = self.job.represent(round)
            subset = self._agreed(selector.select(round))
            subset = checked(subset, round, "random" if stretch.warmup else self.job.selector_name)
        seconds = time.perf_counter() - begun
        if self.args.should_save:
            arrays = {"ids": subset.ids} | ({} if subset.scores is None else {"scores": subset.scores})
            told = {"of": self._place(stretch), "seconds": seconds}
            write_state(self.record.folder / SELECTED, arrays | self._selector_state(), told)
        return subset, seconds

    def _agreed(self, subset: Subset) -> Subset:
        """The main process's: sums on a GPU, or caches that are not shared, may differ by a rounding between ranks."""
        if self.accelerator.num_processes == 1:
            return subset
        ids, scores = broadcast_object_list([subset.ids, subset.scores])
        return Subset(ids, scores)

    def _made_before(self, stretch: Stretch) -> tuple[Subset, float] | None:
        """The selection that was made for this round before a restart, if there is one."""
        if self._selected is None:
            return None
        arrays, told = self._selected
        if told["of"] != self._place(stretch):
            return None
        log.info(f"round {stretch.index} was selected before the restart and is not selected again")
        self._load_selector_state(arrays)
        return Subset(arrays["ids"], arrays.get("scores")), told["seconds"]

    def _place(self, stretch: Stretch) -> list:
        """What a selection is for: the run, the round and all rounds before, as text."""
        before = [hashlib.sha256(ids.tobytes()).hexdigest() for ids in self.subsets]
        return [stretch.index, digest([json.dumps(self._identity(), sort_keys=True), *before])]


class _Reselect(TrainerCallback):
    def __init__(self, trainer: DynamicSelectTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.begin_epoch(state.global_step)

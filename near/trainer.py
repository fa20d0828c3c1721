"""The Hugging Face Trainer with a training subset that is picked anew at every round. No loop of our own.

The sampler's epoch is a slice of a round (Schedule.slice_steps), so that every round begins with an epoch of the
Trainer. There all prefetching has ended: the selector sees the weights after exactly the steps before, and the rows it
picks are the next ones read.
"""

import functools
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import Trainer, TrainerCallback

from near.errors import UserError
from near.files import aside, write_jsonl, write_npy
from near.rounds import Schedule, Stretch
from near.sampler import RoundSampler, draws
from near.selection import Neighbours
from near.selectors.base import Round, Selector, Subset, checked
from near.selectors.random import Random
from near.tokens import Collator, Tokens

log = logging.getLogger(__name__)

STATE = "selection.npz"  # the rounds so far, in every checkpoint


@dataclass
class Job:
    """What a Trainer is handed beside its configuration. `identity` binds checkpoints to their run."""

    selector: Selector
    selector_name: str
    tokens: Tokens
    sources: np.ndarray
    collator: Collator
    seed: int
    output_dir: Path
    identity: dict
    neighbours: Neighbours | None = None
    callbacks: list[TrainerCallback] = field(default_factory=list)


def _arguments(args: functools.partial, job: Job, **fixed):
    """TrainingArguments of `args`, with what this project decides itself."""
    defaults = {"dataloader_pin_memory": torch.cuda.is_available(), "use_cpu": not torch.accelerator.is_available()}
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported() and "fp16" not in args.keywords:
        defaults["bf16"] = True
    try:
        return args(
            **{k: v for k, v in defaults.items() if k not in args.keywords},
            output_dir=str(job.output_dir / "checkpoints"),
            seed=job.seed,
            report_to="none",
            remove_unused_columns=False,
            **fixed,
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"trainer.args: {str(error).splitlines()[0]}") from error


class StaticTrainer(Trainer):
    """The plain Trainer on every eligible row; its length is trainer.args.max_steps or num_train_epochs."""

    def __init__(self, *, args, model, job: Job):
        super().__init__(
            model=model,
            args=_arguments(args, job),
            train_dataset=job.tokens.table.select(job.tokens.eligible),
            data_collator=job.collator,
            callbacks=job.callbacks,
        )
        self.record = Record(job)
        self.record.add(Stretch(0, 0, self.args.max_steps, False), Subset(job.tokens.eligible), 0.0, None)

    def restore(self, checkpoint: Path) -> None:
        """The Trainer restores all there is."""


class DynamicSelectTrainer(Trainer):
    """`warmup_step` steps on random rows, then `update_times` rounds of `update_step` steps on the selector's subset,
    `cycles` times over. (`warmup_step` is not `args.warmup_steps`, the learning rate's warm-up.)"""

    def __init__(
        self,
        *,
        args,
        warmup_step: int,
        update_step: int,
        update_times: int,
        cycles: int = 1,
        model=None,
        job: Job = None,
    ):
        self.schedule = Schedule(warmup_step, update_step, update_times, cycles)
        args = _arguments(args, job, max_steps=self.schedule.total)
        self.draws_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.sampler = RoundSampler(self.schedule.slice_steps * self.draws_per_step)
        self.job, self.record = job, Record(job)
        self.subsets: list[np.ndarray] = []  # of every round so far
        self._round_draws = np.empty(0, dtype=np.int64)  # of the running round
        super().__init__(
            model=model,
            args=args,
            train_dataset=job.tokens.table,
            data_collator=job.collator,
            callbacks=[*job.callbacks, _Reselect(self)],
        )

    def _get_train_sampler(self, train_dataset=None) -> RoundSampler:
        return self.sampler

    def begin_epoch(self, step: int) -> None:
        """Give the sampler the slice that optimizer step `step` lies in; select where a round begins."""
        stretch = self.schedule.at(step)
        if len(self.subsets) == stretch.index:
            self._begin_round(stretch)
        if not len(self._round_draws):  # resumed within a round: its subset was restored
            self._round_draws = self._drawn(stretch)
        size = self.sampler.slice_size
        start = (step - stretch.start) // self.schedule.slice_steps * size
        self.sampler.rows = self._round_draws[start : start + size]

    def _drawn(self, stretch: Stretch) -> np.ndarray:
        size = stretch.steps * self.draws_per_step
        return draws(self.subsets[stretch.index], size, self.job.seed, stretch.index)

    def _begin_round(self, stretch: Stretch) -> None:
        size = stretch.steps * self.draws_per_step
        selector = Random() if stretch.warmup else self.job.selector
        begun = time.perf_counter()
        round = Round(
            index=stretch.index,
            count=len(self.schedule.rounds()),
            step=stretch.start,
            size=min(size, selector.subset_size or size),
            seed=self.job.seed,
            eligible=self.job.tokens.eligible,
            previous=tuple(self.subsets),
            neighbours=self.job.neighbours,
            model=self.model,
            optimizer=self.optimizer,
            collator=self.job.collator,
            accelerator=self.accelerator,
        )
        with torch.random.fork_rng():  # what a selector draws must not move the training's dropout
            subset = checked(selector.select(round), round, "random" if stretch.warmup else self.job.selector_name)
        self.subsets.append(subset.ids)
        self._round_draws = self._drawn(stretch)
        seconds = time.perf_counter() - begun
        self.record.add(stretch, subset, seconds, size, write=self.args.should_save)

    def _save_checkpoint(self, model, trial) -> None:
        """The rounds go into the checkpoint before the Trainer's own state, whose file marks it as whole."""
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            arrays = {f"round_{i:06d}": ids for i, ids in enumerate(self.subsets)}
            arrays |= {f"selector_{k}": v for k, v in self.job.selector.state_dict().items()}
            arrays["identity"] = np.frombuffer(json.dumps(self.job.identity, sort_keys=True).encode(), dtype=np.uint8)
            with aside(folder / STATE) as temporary, open(temporary, "wb") as file:
                np.savez(file, **arrays)
        super()._save_checkpoint(model, trial)

    def restore(self, checkpoint: Path) -> None:
        """Take back the rounds of a checkpoint; UserError where it belongs to another run."""
        try:
            with np.load(checkpoint / STATE, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            identity = json.loads(arrays.pop("identity").tobytes())
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"resume={checkpoint}: {STATE} is missing or damaged ({error}); use another one") from error
        differing = _differences(identity, json.loads(json.dumps(self.job.identity)))
        if differing:
            raise UserError(f"resume={checkpoint} belongs to another run: {'; '.join(differing[:6])}")
        self.subsets = [arrays[name] for name in sorted(arrays) if name.startswith("round_")]
        state = {k.removeprefix("selector_"): v for k, v in arrays.items() if k.startswith("selector_")}
        self.job.selector.load_state_dict(state)
        self.record.keep(len(self.subsets))


def _differences(old: object, new: object, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(set(old) | set(new))
        return [d for n in names for d in _differences(old.get(n), new.get(n), f"{path}.{n}" if path else n)]
    return [] if old == new else [f"{path} was {old}, now {new}"]


class _Reselect(TrainerCallback):
    def __init__(self, trainer: DynamicSelectTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.begin_epoch(state.global_step)


class Record:
    """What each round trained on: rounds/000.npy (ids in the selector's order) and rounds/rounds.jsonl."""

    def __init__(self, job: Job):
        self.job, self.folder = job, job.output_dir / "rounds"
        self.rounds: list[dict] = []

    def add(self, stretch: Stretch, subset: Subset, seconds: float, size: int | None, write: bool = True) -> None:
        ids = subset.ids
        sources, counts = np.unique(self.job.sources[ids].astype(str), return_counts=True)
        by_source = dict(zip(sources.tolist(), counts.tolist(), strict=True))
        line = {
            "round": stretch.index,
            "selector": "warm-up" if stretch.warmup else self.job.selector_name,
            "step": stretch.start,
            "steps": stretch.steps,
            "rows": len(ids),
            "draws": size,
            "mean_score": None if subset.scores is None else round(float(np.mean(subset.scores)), 6),
            "sources": dict(sorted(by_source.items(), key=lambda item: -item[1])),
            "select_seconds": round(seconds, 4),
        }
        self.rounds.append(line)
        if not write:
            return
        write_npy(self.folder / f"{stretch.index:03d}.npy", ids)
        write_jsonl(self.folder / "rounds.jsonl", self.rounds)
        passes = "" if size is None else f", {size / len(ids):.1f} passes"
        top = ", ".join(f"{s} {c / len(ids):.0%}" for s, c in list(line["sources"].items())[:3])
        what = f"round {stretch.index} ({line['selector']}) at step {stretch.start}"
        log.info(f"{what}: {len(ids)} distinct rows{passes}; {top}")

    def keep(self, count: int) -> None:
        """After a restart: the lines of the first `count` rounds, as they were written."""
        path = self.folder / "rounds.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self.rounds = [json.loads(line) for line in lines[:count]]

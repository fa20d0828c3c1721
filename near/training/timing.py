"""A few steps of the real trainer, timed: nothing of them is kept."""

import contextlib
import copy
import dataclasses
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from near.common.batches import spread
from near.common.disk import existing
from near.common.timing import Rate
from near.models.budget import clock_of
from near.models.sample import TokenSample
from near.models.tokens import Tokens
from near.models.weights import trained
from near.selection.selectors.random import Random
from near.training.job import Job
from near.training.picking import Batching

STEPS = 8  # that are timed at most, after a first one, which takes longer
ENOUGH = 8.0  # seconds of timed steps
TOGETHER = 3  # steps where several processes train, which have to stop at the same one
WRITTEN = 1 << 26  # bytes that are written to measure the disk


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Log no line below a warning, as of rounds that only a measurement trains."""
    logger = logging.getLogger("near")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def time_steps(
    cfg: DictConfig, build: Callable, job: Job, model: Any, args: Any, sample: TokenSample
) -> tuple[Rate, float, Any]:
    """Train a few steps on rows of `sample`.

    Args:
        build: makes the trainer of a configuration: (cfg, job, model, args).
        job: of the run.
        model: with its adapter; its weights change.
        args: the run's TrainingArguments; not changed.

    Returns:
        seconds for a token of a row; seconds that starting takes once, the first step's surplus included; the trainer,
        with its optimizer.
    """
    steps = 1 + (TOGETHER if args.world_size > 1 else STEPS)
    draws = Batching.of(args).draws_per_step
    count = min(len(sample.lengths), steps * draws, len(job.pool))  # the trainer numbers rows as the pool does
    rows = np.random.default_rng(0).permutation(spread(sample.lengths, count))
    tokens = Tokens(sample.tokens.table.select(rows), np.arange(count), sample.tokens.fingerprint)
    args = copy.copy(args)
    args.save_strategy, args.eval_strategy = SaveStrategy.NO, IntervalStrategy.NO
    args.logging_strategy, args.load_best_model_at_end, args.max_steps = IntervalStrategy.NO, False, steps
    cfg = copy.deepcopy(cfg)
    if "update_step" in cfg.trainer:
        short = {"warmup_step": steps, "update_step": 1, "update_times": 0, "cycles": 1, "group_by_length": False}
        cfg = OmegaConf.merge(cfg, {"trainer": short})
    elif "train_step" in cfg.trainer:
        cfg = OmegaConf.merge(cfg, {"trainer": {"train_step": steps, "warmup_step": 0}})
    clock = _StepClock(clock_of(args.device), args.world_size == 1)
    with tempfile.TemporaryDirectory() as folder, quiet():
        args.output_dir = f"{folder}/checkpoints"
        job = dataclasses.replace(
            job,
            selector=Random(),
            tokens=tokens,
            output_dir=Path(folder),
            eval_table=None,
            callbacks=[clock],
            target_loss=None,
            planned={},
            scorer=None,
            warm_up=None,
            represent=lambda round: round,
        )
        trainer = build(cfg, job, model, args)
        for printing in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(printing)
        started = time.perf_counter()
        trainer.train()
        whole = time.perf_counter() - started
    each, seconds = _tokens_by_step(trainer, sample.lengths[rows], draws, len(clock.seconds)), clock.seconds[1:]
    each, all_tokens = each[1:], sum(each)
    half = len(seconds) // 2
    halves = [sum(part) / sum(of) for part, of in ((seconds[:half], each[:half]), (seconds[half:], each[half:])) if of]
    rate = Rate.between(sum(seconds) / sum(each), halves, clock.memory, draws * len(seconds))
    return rate, max(0.0, whole - rate.each * all_tokens), trainer


def _tokens_by_step(trainer: Any, lengths: np.ndarray, draws: int, steps: int) -> list[float]:
    """Tokens of the rows of each step; of a trainer that shuffles by itself, their mean."""
    if trainer.schedule is None:
        return [float(draws * lengths.mean())] * steps
    order = trainer.picker.order(trainer.schedule.at(0))
    return [float(lengths[order[i * draws : (i + 1) * draws]].sum()) for i in range(steps)]


class _StepClock(TrainerCallback):
    """Seconds of each step, and the peak of memory over all but the first. alone: stop after ENOUGH seconds."""

    def __init__(self, clock, alone: bool):
        self.clock, self.alone = clock, alone
        self.seconds: list[float] = []
        self.memory = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.clock.start()

    def on_step_end(self, args, state, control, **kwargs):
        seconds, memory = self.clock.stop()
        self.seconds.append(seconds)
        self.memory = max(self.memory, memory)
        self.clock.start()  # reading the next batch is part of the next step
        if self.alone and len(self.seconds) > 2 and sum(self.seconds[1:]) >= ENOUGH:
            control.should_training_stop = True


def weight_bytes(model: Any) -> int:
    """Bytes of the trained weights."""
    return sum(weight.numel() * weight.element_size() for weight in trained(model).values())


def write_rate(size: int, folder: Path) -> float:
    """Seconds for a byte that is written and is on the disk of `folder`, which may be still to be made, from a file of
    at most `size` bytes that is removed."""
    content = os.urandom(min(max(size, 1), WRITTEN))
    with tempfile.TemporaryFile(dir=existing(folder)) as file:
        started = time.perf_counter()
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        return (time.perf_counter() - started) / len(content)


def checkpoints_of(args: Any, first: int, total: int) -> int:
    """Checkpoints that a run from step `first` to `total` saves."""
    if args.save_strategy == SaveStrategy.STEPS:
        every = args.save_steps if args.save_steps >= 1 else max(1, int(args.save_steps * total + 0.999999))
        every = int(every)
        return total // every - first // every + bool(total % every)
    return 0 if args.save_strategy == SaveStrategy.NO else 1


def free(trainer: Any) -> None:
    """Let go of the optimizer's memory."""
    trainer.optimizer = None
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()

"""A training step compared with the plain Hugging Face Trainer on the same rows; the cost of a resume.

    python bench/trainer.py [pairs=5 steps=24 model=smollm2 resumed=10,1000] [data=files data.candidates.path=FILE ...]

Each run is a separate process, in turns: rounds (near: a warm-up of 4 steps, rounds of 4) and transformers' Trainer
with the rows of those rounds, in order, 4 rows a step of at most 64 tokens, LoRA. Seconds a step: from the start of the
first step to the end of the last, selections included, divided by the steps. The time between steps, where rounds
begin, is listed separately, because steps themselves vary more from run to run. Memory: the peak of the process
(VmHWM). Other options are overrides of train.py for all runs.

Then, on the model with random weights: seconds from train() to the first step of a run resumed at the steps `resumed`,
with the batches built before that step; and a schedule whose rounds share no divisor (10, 7), so that each step is an
epoch of the Trainer, with 0 and 2 dataloader workers.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import logging
import statistics
import tempfile
import time

from bench import common
from near.common.errors import UserError

ROWS = 4  # of a step
RANDOM = ("model=tiny", "embedder=hashing")


def trainer_of(folder: Path, *overrides: str):
    """A DynamicSelectTrainer of a run in `folder`, built in the same order as in train.py."""
    from transformers import set_seed

    from near.models.loading import add_finetuning, load_base
    from near.searching.find import find_neighbours
    from near.searching.settings import SearchSettings
    from near.selection.needs import needs_of
    from near.selection.selectors.base import selector_of
    from near.training import train as training
    from near.training.arguments import training_arguments
    from near.training.inputs import load_inputs, load_rows
    from near.training.job import job_of

    shape = [f"trainer.args.per_device_train_batch_size={ROWS}", "trainer.args.gradient_accumulation_steps=1"]
    shape += ["data.cutoff_len=64", "+trainer.args.disable_tqdm=true", "trainer.args.logging_steps=1000"]
    cfg = common.composed("train", *shape, *overrides)
    args = training_arguments(cfg, folder)
    selector = selector_of(cfg.selector)
    rows = load_rows(cfg, cfg.cache_dir, selector, needs_of(cfg, selector), folder)
    inputs = load_inputs(cfg, cfg.cache_dir, selector, rows)
    if rows.needs.neighbours:
        reach = training._reach(selector, inputs, training._sizes(cfg, selector, inputs, args))
        inputs.neighbours = find_neighbours(SearchSettings.of(cfg, cfg.cache_dir), rows.candidates, rows.queries, reach)
    model = load_base(cfg.model, cfg.cache_dir)
    set_seed(cfg.seed)
    model = add_finetuning(model, cfg.finetuning)
    return training._trainer(cfg, job_of(cfg, cfg.cache_dir, folder, selector, inputs, args), model, args)


def clock():
    """A callback that records the start and the end of each step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        started, ended = [], []

        def on_step_begin(self, *args, **kwargs):
            self.started.append(time.perf_counter())

        def on_step_end(self, *args, **kwargs):
            self.ended.append(time.perf_counter())

    return Clock()


def plain(trainer):
    """transformers' Trainer with the rows that `trainer` has trained on, in their order."""
    import numpy as np
    import torch
    from transformers import Trainer

    class Ordered(Trainer):
        def _get_train_sampler(self, dataset=None):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    order = np.concatenate([np.load(p) for p in sorted(trainer.record.folder.glob("*_order.npy"))])
    return Ordered(
        model=trainer.model,
        args=trainer.args,
        train_dataset=trainer.train_dataset.select(order),
        data_collator=trainer.data_collator,
    )


def step(folder: str, kind: str, overrides: list[str]) -> dict[str, float]:
    """Train as `kind`: seconds a step and peak memory. The plain Trainer uses the rows of an earlier run."""
    logging.disable(logging.WARNING)
    trainer, watch = trainer_of(Path(folder), *overrides, "trainer.args.save_strategy=no"), clock()
    if kind == "plain":
        trainer = plain(trainer)
    trainer.add_callback(watch)
    trainer.train()
    steps, outside = len(watch.ended), sum(b - e for e, b in zip(watch.ended, watch.started[1:], strict=False))
    seconds = (watch.ended[-1] - watch.started[0]) / steps
    return {"seconds": seconds, "outside": outside / steps, "peak": common.peak(), "steps": steps}


def resume(folder: str, step: int, overrides: list[str]) -> dict[str, float]:
    """Train to `step`, then resume in a new trainer for a few more steps."""
    logging.disable(logging.WARNING)
    schedule = [*overrides, "trainer.warmup_step=2", "trainer.update_step=2", f"trainer.update_times={step // 2 + 2}"]
    schedule += [*RANDOM, f"trainer.args.save_steps={step}"]
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            control.should_training_stop = True

    first = trainer_of(Path(folder), *schedule)
    first.add_callback(Stop())
    first.train()
    again, watch, made = trainer_of(Path(folder), *schedule), clock(), []
    again.add_callback(watch)
    collate = again.data_collator

    def collated(rows: list[dict]) -> dict:
        made.append(time.perf_counter())
        return collate(rows)

    again.data_collator = collated
    checkpoint = Path(folder) / "checkpoints" / f"checkpoint-{step}"
    again.restore(checkpoint)
    started = time.perf_counter()
    again.train(resume_from_checkpoint=str(checkpoint))
    before = sum(at < watch.started[0] for at in made)
    return {"seconds": watch.started[0] - started, "before": before, "batches": len(made), "steps": len(watch.started)}


def pairs_of(model: str, steps: int, pairs: int, overrides: list[str]) -> None:
    """Print seconds a step of both, and their ratios pair by pair."""
    runs_of: dict[str, list] = {"rounds": [], "plain": []}
    schedule = ["trainer.warmup_step=4", "trainer.update_step=4", f"trainer.update_times={steps // 4 - 1}"]
    words = [f"model={model}", *schedule, *overrides]
    with tempfile.TemporaryDirectory() as folder:
        common.apart(step, folder, "rounds", words)  # not counted: it fills the cache and writes the order of the rows
        for pair in range(pairs):  # the second of a pair runs on a warmer machine, so the order alternates
            for kind in list(runs_of)[:: 1 if pair % 2 else -1]:
                runs_of[kind].append(common.apart(step, folder, kind, words))
    print(f"{model}, {runs_of['plain'][0]['steps']} steps of {ROWS} rows, {pairs} pairs")
    for kind, runs in runs_of.items():
        each = [run["seconds"] for run in runs]
        spread = f"{min(each):.4f} to {max(each):.4f}"
        outside = statistics.median(run["outside"] for run in runs)
        memory = statistics.median(run["peak"] for run in runs) / 1e6
        print(
            f"{kind:8} {statistics.median(each):.4f} s a step ({spread}), between steps {outside:.4f}, {memory:.0f} MB",
            flush=True,
        )
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(runs_of["rounds"], runs_of["plain"], strict=True)]
    print(
        f"rounds / plain, pair by pair: median {statistics.median(ratios):.4f}, {min(ratios):.4f} to {max(ratios):.4f}"
    )


def main(
    *overrides: str,
    pairs: int = 5,
    steps: int = 24,
    model: str = "smollm2",
    resumed: list[int] = (10, 1000),
    workers: list[int] = (0, 2),
) -> None:
    if pairs < 1 or steps < 8 or steps % 4:
        raise UserError(f"pairs={pairs} steps={steps}: use pairs>=1 and a multiple of 4 steps, 8 or more")
    if any(at < 2 or at % 2 for at in resumed):
        raise UserError(
            f"resumed={','.join(map(str, resumed))}: use even steps of 2 or more, because rounds have 2 steps"
        )
    pairs_of(model, steps, pairs, list(overrides))
    for at in resumed:
        with tempfile.TemporaryDirectory() as folder:
            run = common.apart(resume, folder, at, list(overrides))
        print(
            f"resumed at step {at}: {run['seconds']:.2f} s to its first step, {run['before']} batches built before "
            f"it, {run['batches']} batches for {run['steps']} steps",
            flush=True,
        )
    for count in workers:
        words = ["trainer.warmup_step=10", "trainer.update_step=7", "trainer.update_times=4", *RANDOM, *overrides]
        with tempfile.TemporaryDirectory() as folder:
            run = common.apart(step, folder, "rounds", [f"+trainer.args.dataloader_num_workers={count}", *words])
        print(f"schedule (10, 7), {count} workers, random weights: {run['seconds']:.4f} s a step", flush=True)


if __name__ == "__main__":
    common.script(main, step, resume)

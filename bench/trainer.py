"""A training step beside the plain Hugging Face Trainer's on the same rows in the same order, and what a resume costs.

    python bench/trainer.py [pairs=5 steps=24 model=smollm2]

Each run is a process of its own, in turns: rounds (near: a warm-up of 4 steps, rounds of 4) and transformers' Trainer
with the rows those rounds trained, in order, 4 rows a step of at most 64 tokens, LoRA. A step's seconds: from the first
step's begin to the last one's end, selections included, over the steps; what lies between steps, where rounds begin,
is told apart, as steps themselves differ by more from run to run. Memory: the most the process held (VmHWM).
Then, on the model of random weights: seconds from train() to the first step of a run resumed at step 10 and at step
1,000, with the batches made before that step; and a schedule whose rounds share no divisor (10, 7), so that each step
is an epoch of the Trainer, with 0 and 2 dataloader workers.
"""

import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose select.py hides the standard library's

ROWS = 4


def trainer_of(folder: Path, *overrides: str):
    """A DynamicSelectTrainer as train.py makes it."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict
    from transformers import set_seed

    from near.common.config import CONF, register_resolvers
    from near.models.loading import add_finetuning, load_base
    from near.searching.find import find_neighbours
    from near.selection.selectors.base import selector_of
    from near.training import train as training
    from near.training.arguments import training_arguments

    register_resolvers()
    shape = [f"trainer.args.per_device_train_batch_size={ROWS}", "trainer.args.gradient_accumulation_steps=1"]
    shape += ["data.cutoff_len=64", "+trainer.args.disable_tqdm=true", "trainer.args.logging_steps=1000"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[*shape, *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    selector = selector_of(cfg.selector)
    rows = training._rows(cfg, selector, folder)
    inputs = training._inputs(cfg, selector, rows)
    if rows.needed:
        inputs.neighbours = find_neighbours(cfg, rows.candidates, rows.queries)
    model = load_base(cfg.model, cfg.cache_dir)
    set_seed(cfg.seed)
    model = add_finetuning(model, cfg.finetuning)
    args = training_arguments(cfg, folder)
    return training._trainer(cfg, folder, selector, inputs, model, args, lambda *told: None)


def clock():
    """A callback that keeps when each step began and ended."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        begun, ended = [], []

        def on_step_begin(self, *args, **kwargs):
            self.begun.append(time.perf_counter())

        def on_step_end(self, *args, **kwargs):
            self.ended.append(time.perf_counter())

    return Clock()


def plain(trainer):
    """transformers' own Trainer with the rows that `trainer`, which has run, trained, in their order."""
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


def step_seconds(folder: Path, kind: str, *overrides: str) -> dict:
    """Train as `kind`; seconds a step and the most memory held. The plain one finds the rows of an earlier run."""
    trainer, watch = trainer_of(folder, *overrides, "trainer.args.save_strategy=no"), clock()
    if kind == "plain":
        trainer = plain(trainer)
    trainer.add_callback(watch)
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    steps, outside = len(watch.ended), sum(b - e for e, b in zip(watch.ended, watch.begun[1:], strict=False))
    seconds = (watch.ended[-1] - watch.begun[0]) / steps
    return {"seconds": seconds, "outside": outside / steps, "peak": peak, "steps": steps}


def resume_seconds(folder: Path, step: int) -> dict:
    """Train to `step`, and then in a trainer of its own a few steps more."""
    schedule = ["trainer.warmup_step=2", "trainer.update_step=2", f"trainer.update_times={step // 2 + 2}"]
    schedule += ["model=tiny", "embedder=hashing", f"trainer.args.save_steps={step}"]
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            control.should_training_stop = True

    first = trainer_of(folder, *schedule)
    first.add_callback(Stop())
    first.train()
    again, watch, made = trainer_of(folder, *schedule), clock(), []
    again.add_callback(watch)
    collate = again.data_collator
    again.data_collator = lambda rows: (made.append(time.perf_counter()), collate(rows))[1]
    checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
    again.restore(checkpoint)
    begun = time.perf_counter()
    again.train(resume_from_checkpoint=str(checkpoint))
    before = sum(at < watch.begun[0] for at in made)
    return {"seconds": watch.begun[0] - begun, "before": before, "batches": len(made), "steps": len(watch.begun)}


def child(*words: str) -> dict:
    """This script as a process of its own; what it printed last."""
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main(pairs: int, steps: int, model: str) -> None:
    found: dict[str, list] = {"rounds": [], "plain": []}
    with tempfile.TemporaryDirectory() as folder:
        words = [f"model={model}", f"trainer.update_times={steps // 4 - 1}"]
        child("step", folder, "rounds", *words)  # not counted: it makes what all share, and the order of the rows
        for pair in range(pairs):  # the second of a pair meets a warmer machine: each is it in turn
            for kind in list(found)[:: 1 if pair % 2 else -1]:
                found[kind].append(child("step", folder, kind, *words))
    print(f"{model}, {found['plain'][0]['steps']} steps of {ROWS} rows, {pairs} pairs")
    for kind, told in found.items():
        each = [one["seconds"] for one in told]
        spread = f"{min(each):.4f} to {max(each):.4f}"
        peak = statistics.median(one["peak"] for one in told)
        outside = statistics.median(one["outside"] for one in told)
        print(f"{kind:8} {statistics.median(each):.4f} s a step ({spread}), of it between steps {outside:.4f}", end="")
        print(f", {peak:.0f} MB", flush=True)
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(found["rounds"], found["plain"], strict=True)]
    print(
        f"rounds / plain, pair by pair: median {statistics.median(ratios):.4f}, {min(ratios):.4f} to {max(ratios):.4f}"
    )
    for step in (10, 1000):
        with tempfile.TemporaryDirectory() as folder:
            told = child("resume", folder, str(step))
        print(
            f"resumed at step {step}: {told['seconds']:.2f} s to its first step, {told['before']} batches made before "
            f"it, {told['batches']} batches for {told['steps']} steps",
            flush=True,
        )
    for workers in (0, 2):
        more = [f"+trainer.args.dataloader_num_workers={workers}", "trainer.warmup_step=10", "trainer.update_step=7"]
        with tempfile.TemporaryDirectory() as folder:
            told = child("step", folder, "rounds", "model=tiny", "embedder=hashing", "trainer.update_times=4", *more)
        print(
            f"schedule (10, 7), {workers} workers, model of random weights: {told['seconds']:.4f} s a step", flush=True
        )


if __name__ == "__main__":
    os.chdir(ROOT)
    logging.disable(logging.WARNING)
    words = sys.argv[1:]
    if words[:1] == ["step"]:
        default = ["trainer.warmup_step=4", "trainer.update_step=4"]
        print(json.dumps(step_seconds(Path(words[1]), words[2], *default, *words[3:])))
    elif words[:1] == ["resume"]:
        print(json.dumps(resume_seconds(Path(words[1]), int(words[2]))))
    else:
        asked = dict(word.split("=") for word in words)
        main(int(asked.get("pairs", 5)), int(asked.get("steps", 24)), asked.get("model", "smollm2"))

"""Real runs of train.py under SIGKILL, on random weights: resumed, they are the undisturbed run to the bit."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from near.common.errors import UserError
from near.training.rounds.state import SELECTED, read_state
from tests.conftest import RANKS, ROOT
from tests.training.test_training import history

pytestmark = pytest.mark.model
EVERY = 2  # steps between checkpoints


class Run:
    """One train.py in `folder`, started as often as it takes."""

    def __init__(self, folder: Path, words: list[str]):
        self.folder, self.words = folder, words
        self.log = folder.with_name(f"{folder.name}-selections")

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *self.words, f"output_dir={self.folder}"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "NEAR_TEST_SELECTIONS": str(self.log), "OMP_NUM_THREADS": "1"},
        )

    def finish(self) -> None:
        running = self.start()
        stderr = running.communicate()[1].decode()
        assert running.returncode == 0, stderr[-2000:]

    def saved(self) -> int:
        """The step of the newest complete checkpoint."""
        files = (self.folder / "checkpoints").glob("checkpoint-*/trainer_state.json")
        return max((int(path.parent.name.rpartition("-")[2]) for path in files), default=0)

    def half_written(self) -> bool:
        folders = (self.folder / "checkpoints").glob("checkpoint-*")
        return any(not (folder / "trainer_state.json").exists() for folder in folders)

    def selections(self) -> list[int]:
        """The rounds whose selection was started, by all runs so far."""
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []

    def saved_selection(self) -> int:
        """The newest round whose selection was saved."""
        try:
            return int(read_state(self.folder / "rounds" / SELECTED)[1]["of"][0])
        except UserError:
            return 0

    def kill(self, moment: str, wait: float, at_most: int) -> None:
        """Start it and kill it and what it started `wait` seconds after its first checkpoint, or while it writes one or
        selects; after `at_most` checkpoints in any case."""
        running, before, selected = self.start(), self.saved(), len(self.selections())
        until = None
        while (saved := self.saved()) < before + at_most * EVERY:
            assert running.poll() is None, running.stderr.read().decode()[-2000:]
            if saved > before:
                until = until or time.time() + wait
                if moment == "any" and time.time() > until:
                    break
                if moment == "writing" and self.half_written():
                    break
            if moment == "selecting" and len(self.selections()) > selected:
                time.sleep(wait)
                break
            time.sleep(0.002)
        started = psutil.Process(running.pid)
        for process in [started, *started.children(recursive=True)]:  # torchrun's ranks are in other sessions
            process.kill()
        running.communicate()


def words(tiny: list[str], *more: str) -> list[str]:
    schedule = ["trainer.warmup_step=4", "trainer.update_step=4", f"trainer.args.save_steps={EVERY}"]
    selector = ["selector=near_sample", "selector._target_=tests.spy.SlowNear", "evaluation.answers=false"]
    shared = [word for word in tiny if not word.startswith(("trainer.warmup", "trainer.update", "evaluation."))]
    return ["train.py", *more, *(w for w in shared if "finetuning=full" not in more or "finetuning" not in w)] + (
        schedule + selector
    )


def assert_same(broken: Path, whole: Path) -> None:
    assert history(broken) == history(whole)
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.suffix in (".npy", ".safetensors"))
    files = [p for p in files if "checkpoints" not in p.parts]
    assert files and any(p.suffix == ".safetensors" for p in files)
    for name in files:  # rows and their order in every round, and the weights
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    assert timeless(broken) == timeless(whole)


def timeless(folder: Path) -> list[dict]:
    """The record of a run's rounds, and of their stages, without seconds."""

    def without(values: dict) -> dict:
        return {k: v for k, v in values.items() if "seconds" not in k}

    rounds = [without(json.loads(x)) for x in (folder / "rounds" / "rounds.jsonl").read_text().splitlines()]
    return [line | {"stages": [without(stage) for stage in line.get("stages") or ()]} for line in rounds]


PLAN = ["plan=hierarchical", "plan.filter.period=3", "plan.mix.period=2", "plan.weigh.start=9", "mixer.sample=2"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["selector", "plan"])
def test_killed_at_20_moments_it_is_the_undisturbed_run(tiny, tmp_path, kind):
    """At any step, while a checkpoint is written, during a selection; no selection that was made is made again."""
    plan = PLAN if kind == "plan" else []
    command = words(tiny, "trainer.update_times=60", "finetuning.lora_dropout=0.1", *plan)
    whole, broken, rng = Run(tmp_path / "whole", command), Run(tmp_path / "broken", command), random.Random(5)
    whole.finish()
    for number in range(20):
        newest, before = broken.saved_selection(), len(broken.selections())
        broken.kill(("any", "writing", "selecting", "any")[number % 4], rng.uniform(0, 0.1), at_most=3)
        assert all(index > newest for index in broken.selections()[before:]), "selected again"
        assert not (broken.folder / "metrics.json").exists()
    broken.finish()
    assert_same(broken.folder, whole.folder)


KINDS = {
    "accumulation": ["trainer.args.gradient_accumulation_steps=4", "finetuning.lora_dropout=0.1"],
    "workers": ["+trainer.args.dataloader_num_workers=2", "finetuning.lora_dropout=0.1"],
    "full": ["finetuning=full"],
    "order": ["order=saw", "order.every=2", "finetuning.lora_dropout=0.1"],
    "two processes": ["finetuning.lora_dropout=0.1"],
    "two processes, plan": ["finetuning.lora_dropout=0.1", *PLAN],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_once(tiny, tmp_path, kind):
    command = words(tiny, "trainer.update_times=3", *KINDS[kind])
    if kind.startswith("two processes"):
        command = [*RANKS, *command]
    assert_killed_once_is_the_same(tmp_path, command, at_most=2)


def assert_killed_once_is_the_same(tmp_path, command, at_most: int) -> None:
    whole, broken = Run(tmp_path / "whole", command), Run(tmp_path / "broken", command)
    whole.finish()
    broken.kill("any", 0.05, at_most=at_most)
    assert 0 < broken.saved() < 16 and not (broken.folder / "metrics.json").exists()
    broken.finish()
    assert_same(broken.folder, whole.folder)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["dynamic_mix", "dynamic_weight"])
def test_other_trainers_killed_once(tiny, tmp_path, trainer):
    """A mixer's state, the order of its draws, and weighted batches survive too."""
    base = [word for word in tiny if not word.startswith(("trainer.", "evaluation."))]
    special = {
        "dynamic_mix": ["mixer=doremi", "mixer.sample=2", "mixer.eta=50", "trainer.update_times=3"],
        "dynamic_weight": ["trainer.train_step=16"],
    }[trainer]
    shared = ["evaluation.answers=false", f"trainer.args.save_steps={EVERY}", "finetuning.lora_dropout=0.1"]
    command = ["train.py", *base, f"trainer={trainer}", *special, *shared]
    assert_killed_once_is_the_same(tmp_path, command, at_most=3)

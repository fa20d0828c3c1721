"""A checkpoint is used only if all its files are complete and its numbers agree."""

import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from near.common.errors import UserError
from near.common.files import read_json
from near.models.trainer_state import trainer_state
from near.selection.scoring.checkpoints import Checkpoint
from near.training.rounds.state import PARTS, STATE, read_checkpoint, read_state, write_parts, write_state
from near.training.train import train
from tests.conftest import configured
from tests.training.test_training import history

pytestmark = pytest.mark.model

WRITTEN = {
    *("README.md", "adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt"),
    *("selection.npz", "trainer_state.json"),
}


class Opens:
    """What reading a pickle may do."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture()
def run(tiny, tmp_path):
    """The settings of a run and its folder, with checkpoints at 4, 8 and 10 of 10 steps."""
    settings = [*tiny, "trainer.args.save_steps=4", "evaluation.answers=false"]
    train(configured("train", *settings), tmp_path / "run")
    return settings, tmp_path / "run"


def edited(name: str, **values: object) -> Callable[[Path], None]:
    """Other values in a JSON file, its length in the list of parts made right."""

    def edit(folder: Path) -> None:
        (folder / name).write_text(json.dumps(read_json(folder / name) | values))
        (folder / PARTS).unlink()
        write_parts(folder)

    return edit


def without_a_round(folder: Path) -> None:
    arrays, metadata = read_state(folder / STATE)
    write_state(folder / STATE, arrays, metadata | {"rounds": metadata["rounds"][:-1]})
    (folder / PARTS).unlink()
    write_parts(folder)


def pickled(name: str, as_torch: bool) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        trap = Opens(folder.parent.parent / "opened")
        if as_torch:
            torch.save(trap, folder / name)
        else:
            (folder / name).write_bytes(pickle.dumps(trap))
        (folder / PARTS).unlink()
        write_parts(folder)

    return replace


def grown(folder: Path) -> None:
    with open(folder / "adapter_config.json", "a") as file:
        file.write(" ")


DAMAGE = {
    "steps beyond the schedule": (edited("trainer_state.json", global_step=10**9), "global_step=1000000000"),
    "steps below 0": (edited("trainer_state.json", global_step=-1), "global_step=-1"),
    "no step": (edited("trainer_state.json", global_step=0), "global_step=0"),
    "another step": (edited("trainer_state.json", global_step=9), "global_step=9 in checkpoint-10"),
    "steps that are text": (edited("trainer_state.json", global_step="10"), "global_step=10 is not a number"),
    "steps that are true": (edited("trainer_state.json", global_step=True), "global_step=True"),
    "half a step": (edited("trainer_state.json", global_step=9.5), "global_step=9.5"),
    "no steps": (edited("trainer_state.json", global_step=None), "global_step=None"),
    "a history of the future": (edited("trainer_state.json", log_history=[{"step": 11}]), "log_history"),
    "a history that is none": (edited("trainer_state.json", log_history="x"), "log_history"),
    "a shorter training": (edited("trainer_state.json", max_steps=9), "beyond max_steps=9"),
    "a round is missing": (without_a_round, "its 2 rounds are not the 3 of 10 steps"),
    "a torch pickle": (pickled("optimizer.pt", True), "optimizer.pt is no state of torch"),
    "a torch pickle of random states": (pickled("rng_state.pth", True), "rng_state.pth is no state of torch"),
    "a torch pickle of a schedule": (pickled("scheduler.pt", True), "scheduler.pt is no state of torch"),
    "a pickle": (pickled("optimizer.pt", False), "optimizer.pt is cut short, or not a file of torch"),
    "a pickle of weights": (pickled("adapter_model.safetensors", False), "adapter_model.safetensors|[Hh]eader"),
    "a file grew": (grown, "adapter_config.json has [0-9]+ bytes, not"),
    "no list": (lambda folder: (folder / PARTS).unlink(), f"{PARTS} is missing"),
    "a list of nothing": (lambda folder: (folder / PARTS).write_text("[]"), f"{PARTS} is damaged"),
    "the list is another thing": (lambda folder: (folder / PARTS).write_text("{}"), "bytes"),
}


def test_each_damage_is_seen_and_runs_nothing(run, tmp_path):
    checkpoint = run[1] / "checkpoints" / "checkpoint-10"
    assert set(read_json(checkpoint / PARTS)["bytes"]) == WRITTEN == {p.name for p in checkpoint.iterdir()} - {PARTS}
    read_checkpoint(checkpoint)
    missing = {f"no {name}": ((lambda f, n=name: (f / n).unlink()), name) for name in WRITTEN}
    for number, (damage, says) in enumerate((DAMAGE | missing).values()):
        folder = tmp_path / str(number) / "checkpoint-10"
        shutil.copytree(checkpoint, folder)
        damage(folder)
        with pytest.raises(UserError, match=f"checkpoint-10 is incomplete .*({says}).*; use another one") as caught:
            read_checkpoint(folder)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("opened"))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "steps"])
def test_an_older_whole_checkpoint_is_used_instead(run, caplog, name):
    caplog.set_level(logging.INFO)
    settings, folder = run
    whole = history(folder)
    for written in ("metrics.json", "train_metrics.json"):
        (folder / written).unlink()
    newest = folder / "checkpoints" / "checkpoint-10"
    if name == "steps":
        edited("trainer_state.json", global_step=10**9)(newest)
    else:
        (newest / name).unlink()
    with pytest.raises(UserError, match="checkpoint-10 is incomplete"):
        train(configured("train", *settings, f"resume={newest}"), folder)
    train(configured("train", *settings), folder)
    assert "skipped a checkpoint: " in caplog.text and f"resuming from {folder}/checkpoints/checkpoint-8" in caplog.text
    assert history(folder) == whole


def test_only_a_whole_checkpoint_makes_an_older_one_go(tiny, tmp_path, monkeypatch):
    """A newest checkpoint whose files are not listed yet does not count; the one before still exists."""
    from near.training import trainer

    settings = [*tiny, "trainer.args.save_steps=4", "trainer.args.save_total_limit=1", "evaluation.answers=false"]
    train(configured("train", *settings), tmp_path / "whole")
    assert [p.name for p in (tmp_path / "whole" / "checkpoints").iterdir()] == ["checkpoint-10"]
    written = []

    def stopping(folder: Path) -> None:
        written.append(folder.name)
        if len(written) == 2:
            raise KeyboardInterrupt
        write_parts(folder)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "write_parts", stopping)
        train(configured("train", *settings), tmp_path / "broken")
    assert {p.name for p in (tmp_path / "broken" / "checkpoints").iterdir()} == {"checkpoint-4", "checkpoint-8"}
    train(configured("train", *settings), tmp_path / "broken")
    assert history(tmp_path / "broken") == history(tmp_path / "whole")


def test_a_checkpoint_of_the_model_alone_is_not_resumed(tiny, tmp_path):
    settings = [*tiny, "trainer.args.save_steps=8", "+trainer.args.save_only_model=true", "evaluation.answers=false"]
    train(configured("train", *settings), tmp_path)
    with pytest.raises(UserError, match="incomplete .trainer.args.save_only_model left out the optimizer"):
        read_checkpoint(tmp_path / "checkpoints" / "checkpoint-8")


def test_the_checkpoints_of_less_are_checked_alike(run):
    checkpoint = run[1] / "checkpoints" / "checkpoint-8"
    assert Checkpoint.all([str(checkpoint)])[0].step == 8
    edited("trainer_state.json", global_step=-8)(checkpoint)
    with pytest.raises(UserError, match="global_step=-8 is not a number of steps"):
        Checkpoint.all([str(checkpoint)])
    with pytest.raises(UserError, match="global_step=-8"):
        trainer_state(checkpoint)

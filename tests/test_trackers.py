"""Every tracker keeps the contract; what W&B and TensorBoard recorded is read back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import instantiate

from near.trackers.base import Tracker
from tests.conftest import configured
from tests.test_configs import choices

pytestmark = pytest.mark.model


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.mark.parametrize("name", choices("tracker"))
def test_contract(name, tmp_path):
    cfg = configured("train", f"tracker={name}", "selector=random")
    tracker = instantiate(cfg.tracker)
    assert isinstance(tracker, Tracker)
    with tracker.run(cfg, tmp_path, True) as log:
        log({"train/loss": 1.5}, 1)
    with tracker.run(cfg, tmp_path / "other", False) as log:
        log({"train/loss": 1.5}, 1)
    assert not (tmp_path / "other").exists()  # only the main process writes


def records(folder: Path) -> list[dict]:
    wandb = [sys.executable, "-c", "from wandb.cli.cli import cli; cli()"]
    done = subprocess.run([*wandb, "leet", "inspect", "--json", str(folder)], capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_wandb_is_offline_without_a_key_and_one_run_a_job(tmp_path):
    cfg = configured("train", "tracker=wandb", "sweep_name=mysweep")
    for job, value in (("a", 1.25), ("b", 2.5)):
        (tmp_path / job).mkdir()
        with instantiate(cfg.tracker).run(cfg, tmp_path / job, True) as log:
            log({"train/loss": value}, 3)
    for job, value, other in (("a", "1.25", "2.5"), ("b", "2.5", "1.25")):
        runs = list((tmp_path / job / "wandb").glob("offline-run-*"))
        assert len(runs) == 1
        told = json.dumps(records(runs[0]))
        assert value in told
        assert other not in told
        assert "mysweep" in told


def test_wandb_is_closed_when_a_job_fails(tmp_path):
    import wandb

    cfg = configured("train", "tracker=wandb")
    with pytest.raises(RuntimeError), instantiate(cfg.tracker).run(cfg, tmp_path, True):
        raise RuntimeError("the job failed")
    assert wandb.run is None


def test_tensorboard_records_are_read_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = configured("train", "tracker=tensorboard")
    with instantiate(cfg.tracker).run(cfg, tmp_path, True) as log:
        log({"train/loss": 1.5}, 1)
        log({"train/loss": 0.5}, 2)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.5), (2, 0.5)]


def test_every_round_is_tracked_at_its_step(tiny, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from near.training import train

    train(configured("train", *tiny, "tracker=tensorboard"), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("selection/rows")] == [(0, 4), (2, 8), (6, 8)]
    assert [(e.step, e.value) for e in events.Scalars("selection/overlap")][1] == (6, 1)
    assert {e.step for e in events.Scalars("selection/mean_score")} == {2, 6}, "random rows have no similarity"

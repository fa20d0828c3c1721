"""W&B with a server: what `wandb sync` sends of a resumed offline job, and a job that resumes online."""

import os
import subprocess
import sys
import time

import pytest
from hydra.utils import instantiate

from near.common.errors import UserError
from near.training.train import train
from tests.conftest import ROOT, configured, process
from tests.tracked import WANDB
from tests.training.test_trackers import as_if_killed, no_key  # noqa: F401
from tests.wandb_server import Server

pytestmark = [pytest.mark.model, pytest.mark.process]
KEY = "a" * 40  # of the stand-in


@pytest.fixture()
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def losses(lines: list[dict]) -> list[tuple[int, float]]:
    return [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]


def synced(server: Server, line: str) -> None:
    env = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    command = f'"$0" -c "$1" {line.removeprefix("wandb: offline; wandb ")}'
    done = subprocess.run(["bash", "-c", command, *WANDB[::2]], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr


def sync_command(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("wandb: offline; "))


@pytest.mark.slow
def test_a_killed_job_is_synced_whole(server, tiny, tmp_path, monkeypatch):
    """What W&B had not written when the process was killed is written by the process that resumes."""
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # else the service of this process keeps the killed run open
    words = [
        str(ROOT / "train.py"),
        *tiny,
        "tracker=wandb",
        "trainer.args.save_steps=20",
        f"output_dir={tmp_path}/a job",
    ]
    words = [word.replace("update_step=4", "update_step=60") for word in words]
    running = subprocess.Popen(
        [sys.executable, *words], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while not (tmp_path / "a job" / "checkpoints" / "checkpoint-40" / "trainer_state.json").is_file():
        assert running.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    running.kill()
    running.wait()
    done = process(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "resuming from" in done.stdout
    synced(server, sync_command(done.stdout))
    (lines,) = server.runs.values()
    assert [step for step, _ in losses(lines)] == list(range(1, 123))
    assert [line["step"] for line in lines if "selection/rows" in line] == [0, 2, 62]
    assert len({run["name"] for run in server.upserted}) == 1
    assert sum("rowsround" in name for name in server.artifacts) == 3


def test_with_a_key_a_job_is_online_and_resumes_in_its_run(server, tiny, tmp_path, monkeypatch, caplog):
    import wandb

    caplog.set_level("INFO", "near")
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    wandb.teardown()  # it reads the environment once
    words = [*tiny, "tracker=wandb", "trainer.args.save_steps=4"]
    words += ["tracker.table_rows=0"]  # the stand-in knows nothing of artifacts' types
    try:
        for _ in range(2):
            train(configured("train", *words), tmp_path / "first")
            if (tmp_path / "first" / "checkpoints" / "checkpoint-10").is_dir():
                as_if_killed(tmp_path / "first")
        train(configured("train", *words), tmp_path / "second")
    finally:
        wandb.teardown()
    first, second = map(losses, server.runs.values())
    assert [step for step, _ in second] == list(range(1, 11))
    assert first == second + second[8:], "trained again from step 8 on, and only these steps logged"
    assert any(message.startswith(f"wandb: {server.url}/me/near/runs/") for message in caplog.messages)
    assert KEY not in str(server.upserted)


def test_a_server_that_is_away_is_one_line(tmp_path, monkeypatch):
    import wandb

    cfg = configured("train", "tracker=wandb", "tracker.mode=online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb.teardown()
    try:
        with pytest.raises(UserError, match="tracker=wandb: .*; tracker.mode=offline needs no server"):
            with instantiate(cfg.tracker).run(cfg, tmp_path, True):
                pass
    finally:
        wandb.teardown()

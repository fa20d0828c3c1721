"""W&B with a server: what `wandb sync` sends of a resumed offline job, and a job that resumes online."""

import os
import subprocess

import pytest
from hydra.utils import instantiate

from near.errors import UserError
from tests.conftest import configured
from tests.test_trackers import no_key  # noqa: F401
from tests.tracked import WANDB
from tests.wandb_server import Server

pytestmark = [pytest.mark.model, pytest.mark.process]
KEY = "a" * 40  # of the stand-in


@pytest.fixture()
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def job(folder, *steps: int, **how: object) -> None:
    cfg = configured("train", "tracker=wandb")
    with instantiate(cfg.tracker).run(cfg, folder, True, **how) as run:
        for step in steps:
            run.log({"train/loss": 10.0 - step}, step)


def steps(lines: list[dict]) -> list[tuple[int, float]]:
    return [(line["step"], line["train/loss"]) for line in lines]


def test_a_resumed_offline_job_is_synced_into_one_run(server, tmp_path, caplog):
    caplog.set_level("INFO", "near")
    job(tmp_path / "a job", 1, 2, 3)
    job(tmp_path / "a job", 3, 4, resumed_at=2)
    line = caplog.messages[-1].removeprefix("wandb: offline; wandb ")
    env = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {line}', *WANDB[::2]], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (lines,) = server.runs.values()
    assert steps(lines) == [(1, 9.0), (2, 8.0), (3, 7.0), (3, 7.0), (4, 6.0)], "nothing of the first part is lost"
    assert [line["_step"] for line in lines] == [0, 1, 2, 3, 4]


def test_with_a_key_a_job_is_online_and_resumes_in_its_run(server, tmp_path, monkeypatch, caplog):
    import wandb

    caplog.set_level("INFO", "near")
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    wandb.teardown()  # it reads the environment once
    try:
        job(tmp_path / "first", 1, 2, 3)
        job(tmp_path / "first", 3, 4, resumed_at=2)
        job(tmp_path / "second", 1)
    finally:
        wandb.teardown()
    first, second = server.runs.values()
    assert steps(first) == [(1, 9.0), (2, 8.0), (3, 7.0), (3, 7.0), (4, 6.0)]
    assert steps(second) == [(1, 9.0)]
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

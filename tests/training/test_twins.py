"""Jobs of a sweep: equal rounds are trained once, shared inputs are computed once, failed jobs are reported."""

import glob
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from near.app import jobs
from near.common.files import write_json
from near.selection.selectors.near import Near
from near.training import train as training
from near.training.train import train
from tests.conftest import ROOT, configured, process, run_script
from tests.training.test_training import history

pytestmark = pytest.mark.model


def table(done) -> str:
    """The words of a row stand in the order that they were typed in."""
    return re.sub(r"selector=(\w+) max_K=(\d+)", r"max_K=\2 selector=\1", done.stdout)


def sweep(tiny, tmp_path, *words):
    folder = tmp_path / "sweep"
    words = ["-m", *tiny, *words, f"output_dir={folder}", f"cache_dir={tmp_path}/cache"]
    return run_script(str(ROOT / "train.py"), *words, cwd=tmp_path), folder


def test_the_same_rounds_are_trained_once(tiny, tmp_path):
    """8 rows a round: of 4 queries, no column beyond the tenth is reached; near_repeat is near by another name."""
    done, folder = sweep(tiny, tmp_path, "selector=near,near_repeat,random", "max_K=10,15")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("train_runtime") <= 2
    runs = {p.parent.name: json.loads(p.read_text()) for p in folder.glob("*/metrics.json")}
    assert len(runs) == 6
    trained = {name for name, m in runs.items() if not m.get("same_rows_as")}
    assert sorted((runs[name]["selector"]) for name in trained) == ["near", "random"]
    for name, metrics in runs.items():
        twin = metrics.get("same_rows_as")
        if twin is None:
            continue
        assert f"same rows as {twin}: not trained again" in done.stdout
        assert metrics["target_loss"] == runs[twin]["target_loss"]
        assert (folder / name / "adapter" / "adapter_model.safetensors").is_file()
        assert (metrics["selector"], metrics["max_K"]) == tuple(
            json.loads((folder / name / "train_metrics.json").read_text())[k] for k in ("selector", "max_K")
        )
        for path in sorted((folder / twin / "rounds").glob("*_order.npy")):
            np.testing.assert_array_equal(np.load(path), np.load(folder / name / "rounds" / path.name))
    assert re.search(
        r"max_K=15 selector=near_repeat +done +[\d.]+ +[\d.]+ +same rows as max_K=\d+ selector=near", table(done)
    )
    assert done.stdout.count("base model: evaluated on") == 1
    assert len(re.findall(r"embedded [1-9]\d* texts", done.stdout)) == 1
    assert done.stdout.count("distinct texts were embedded before") == 1, "one search, of the largest max_K"
    assert done.stdout.count("neighbours: read from the cache") == 3, "the other jobs of near and near_repeat"
    again, _ = sweep(tiny, tmp_path, "selector=near,near_repeat,random", "max_K=10,15")
    assert again.returncode == 0 and again.stdout.count("is done already") == 6
    assert again.stdout.count("done before") == 6


@pytest.mark.slow
def test_rows_in_another_order_are_no_twins(tiny, tmp_path):
    done, folder = sweep(tiny, tmp_path, "selector=random", "seed=1,2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert not any("same_rows_as" in p.read_text() for p in folder.glob("*/metrics.json"))


def test_a_sweep_ends_with_a_table_of_all_jobs(tiny, tmp_path):
    done, folder = sweep(tiny, tmp_path, "selector=near", "max_K=61,15")
    assert done.returncode == 1
    table = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip().startswith("max_K=")}
    assert " failed " in table["max_K=61"]
    assert "max_K=61 is more than the 60 candidates; use max_K<=60" in table["max_K=61"]
    assert " done " in table["max_K=15"]
    assert done.stderr.strip().splitlines()[-1] == (
        "error: 1 of the sweep's jobs failed; the first: max_K=61 is more than the 60 candidates; use max_K<=60"
    )
    again, _ = sweep(tiny, tmp_path, "selector=near", "max_K=15")
    assert again.returncode == 0 and "max_K=61" not in again.stdout, "another sweep's jobs"


def test_rounds_selected_ahead_are_not_selected_again(tiny, tmp_path, monkeypatch):
    """Their seconds are logged, not those of the look-up."""
    picked = []
    select = Near.select
    monkeypatch.setattr(Near, "select", lambda self, round: picked.append(round.index) or select(self, round))
    monkeypatch.setattr(training, "in_sweep", lambda: True)
    train(configured("train", *tiny), tmp_path / "sweep" / "job")
    assert picked == [1, 2]
    rounds = [json.loads(x) for x in (tmp_path / "sweep" / "job" / "rounds" / "rounds.jsonl").read_text().splitlines()]
    assert all(line["select_seconds"] > 0 for line in rounds[1:])
    monkeypatch.setattr(training, "in_sweep", lambda: False)
    train(configured("train", *tiny), tmp_path / "alone")
    assert history(tmp_path / "alone") == history(tmp_path / "sweep" / "job")


def test_the_table_shows_killed_and_failed_jobs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jobs.Sweeps, "folder", tmp_path)
    monkeypatch.setattr(jobs.Sweeps, "before", {})
    write_json(tmp_path / ".jobs" / "a.json", {"state": "running", "overrides": ["seed=1", "x=1"]})
    bug = {"state": "failed", "overrides": ["seed=2", "x=1"], "error": "KeyError: [red]", "seconds": 2.5}
    write_json(tmp_path / ".jobs" / "b.json", {**bug, "traceback": "..."})
    assert len(jobs.ended()) == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "seed=1 not finished" in shown and "it continues where it stopped" in shown
    assert "seed=2 failed - 2.5 KeyError: [red] (traceback in" in shown and "x=1" not in shown


def with_checkpoint(folder) -> set[str]:
    """Jobs that have one just now; glob passes over folders that go while it looks, which Path.glob does not."""
    return {Path(p).parts[-4] for p in glob.glob(f"{glob.escape(str(folder))}/*/checkpoints/*/trainer_state.json")}


def killed(script: list[str], folder, cwd, env=None) -> set[str]:
    """Start a sweep and kill it once its second job has a checkpoint; the names of the jobs that were done."""
    running = subprocess.Popen(script, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    while True:
        done = {p.parent.name for p in folder.glob("*/metrics.json")}
        started = with_checkpoint(folder) - done
        if done and started:
            running.kill()
            running.wait()
            return done
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)


def outcomes(folder) -> dict[str, tuple]:
    """For every job the results that must not depend on a kill."""
    by_job = {}
    for path in folder.glob("*/metrics.json"):
        metrics, training = json.loads(path.read_text()), json.loads((path.parent / "train_metrics.json").read_text())
        by_job[path.parent.name] = (metrics["target_loss"], metrics["answers_right"], training["tokens_trained"])
        by_job[path.parent.name] += tuple(line["loss"] for line in training["history"])
    return by_job


@pytest.mark.slow
def test_a_killed_sweep_goes_on(tiny, tmp_path):
    """To the same numbers, and no finished job is touched again."""
    words = ["-m", *tiny, "selector=near,random", "seed=1,2", "trainer.args.save_steps=2", "trainer.update_step=20"]
    script = [sys.executable, str(ROOT / "train.py"), *words, f"cache_dir={tmp_path}/cache"]
    folder, other = tmp_path / "killed", tmp_path / "whole"
    done = killed([*script, f"output_dir={folder}"], folder, tmp_path)
    before = {name: (folder / name / "metrics.json").stat().st_mtime_ns for name in done}
    again = process(*script[1:], f"output_dir={folder}", cwd=tmp_path)
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.count("is done already") == len(done) and again.stdout.count("resuming from") == 1
    assert {name: (folder / name / "metrics.json").stat().st_mtime_ns for name in done} == before
    assert process(*script[1:], f"output_dir={other}", cwd=tmp_path).returncode == 0
    assert len(outcomes(folder)) == 4 and outcomes(folder) == outcomes(other)


@pytest.mark.slow
@pytest.mark.real
def test_the_smoke_sweep_is_killed_and_goes_on(real_cache, tmp_path):
    env = {**os.environ, "NEAR_CACHE": str(real_cache)}
    script = [sys.executable, str(ROOT / "train.py"), "sweeps=smoke"]
    folder, other = tmp_path / "killed", tmp_path / "whole"
    done = killed([*script, f"output_dir={folder}"], folder, tmp_path, env)
    again = process(*script[1:], f"output_dir={folder}", cwd=tmp_path, env=env)
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.count("is done already") == len(done) and again.stdout.count("resuming from") == 1
    started = time.monotonic()
    assert process(*script[1:], f"output_dir={other}", cwd=tmp_path, env=env).returncode == 0
    print(f"the smoke sweep took {time.monotonic() - started:.0f} s")
    assert len(outcomes(folder)) == 4 and outcomes(folder) == outcomes(other)

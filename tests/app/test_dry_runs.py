"""The dry runs of a sweep: what jobs share is counted once."""

import json

import pytest

from near.app.dry_runs import summed
from near.common.cost import Cost, StageCost
from tests.conftest import run_script


def job(training=10.0, key=None, **more):
    stages = {
        "embedding": StageCost.whole(100.0, rows=5, memory=7, disk=50, key="pool"),
        "warm-up": StageCost.whole(3.0, rows=2, key="warm"),
        "training": StageCost.whole(training, rows=4),
    }
    return Cost(script="train", timed=True, stages=stages, training_key=key, **more)


def test_hand_count():
    jobs = [job(10.0, "a"), job(20.0, "b"), job(10.0, "a"), Cost(script="train", timed=True, done=True)]
    whole = summed(jobs, ["one", "two", "three", "four"])
    assert [line["seconds"] for line in whole.jobs] == [113.0, 20.0, 0, 0]
    assert [line["note"] for line in whole.jobs] == [
        *("", "shared with a job before: embedding, warm-up"),
        *("same rows as one: not trained again", "done already"),
    ]
    assert (whole.seconds, whole.disk, whole.memory) == (133.0, 50, 7)
    assert whole.stages["training"] == StageCost(rows=8, seconds=30.0, low=30.0, high=30.0)
    assert whole.stages["embedding"].rows == 5


def test_a_finished_job_counts_as_trained_for_its_twins_before_and_after_it():
    finished = Cost(script="train", timed=True, done=True, training_key="a")
    whole = summed([job(10.0, "a"), finished, job(10.0, "a"), job(20.0, "b")], ["one", "two", "three", "four"])
    assert [line["seconds"] for line in whole.jobs] == [0, 0, 0, 123.0]
    assert [line["note"] for line in whole.jobs][::2] == ["same rows as two: not trained again"] * 2
    assert whole.stages["training"].rows == 4


def test_jobs_without_a_key_are_no_twins_and_unknown_seconds_stay_unknown():
    jobs = [job(), job(), Cost(script="train", timed=False, stages={"training": StageCost(rows=6, disk=None)})]
    whole = summed(jobs, ["one", "two", "three"])
    assert [line["seconds"] for line in whole.jobs] == [113.0, 10.0, None]
    assert whole.seconds is None and not whole.timed and whole.stages["training"].rows == 14


@pytest.mark.model
def test_a_sweep(tiny, tmp_path):
    words = ["selector=random", "max_K=10,15", "dry_run=true", f"output_dir={tmp_path}/sweep", "sweep_name=s"]
    result = run_script("train.py", "-m", *[w for w in tiny if not w.startswith("max_K")], *words)
    assert result.returncode == 0, result.stderr
    assert "same rows as max_K=10: not trained again" in result.stdout
    (sweep,) = [path for path in tmp_path.rglob("dry_run.json") if json.loads(path.read_text())["jobs"]]
    whole = Cost.read(sweep)
    jobs = [Cost.read(path) for path in sorted(sweep.parent.glob("*/dry_run.json"))]
    assert len(jobs) == 2 and whole.stages["training"].rows == jobs[0].stages["training"].rows == 16
    assert whole.seconds == pytest.approx(jobs[0].seconds)
    assert not list(sweep.parent.rglob("config.yaml.bak")) and not list(sweep.parent.glob("*/metrics.json"))


@pytest.mark.model
def test_a_sweep_with_a_finished_job(tiny, tmp_path):
    words = [w for w in tiny if not w.startswith("max_K")] + ["selector=random", f"output_dir={tmp_path}/sweep"]
    for more in (["max_K=10,15"], ["max_K=10,15,20", "dry_run=true"]):
        result = run_script("train.py", "-m", *words, "sweep_name=s", *more)
        assert result.returncode == 0, result.stderr
    assert "done already" in result.stdout and "same rows as max_K=10: not trained again" in result.stdout
    (sweep,) = [path for path in tmp_path.rglob("dry_run.json") if json.loads(path.read_text())["jobs"]]
    assert Cost.read(sweep).seconds == 0

"""A race of real jobs: what reaches the end is the sweep's run, to the bit, also where a budget ended the race."""

import json

import pytest

from near.report.races import RaceRecord
from tests.conftest import ROOT, configured, report, run_script

pytestmark = pytest.mark.model
KEPT = ("adapter/adapter_model.safetensors", "answers.jsonl", "rounds/001_order.npy", "rounds/002_order.npy")
RACE = ["hydra/sweeper=race", "race.stages=[[0.3,1]]"]


def run(tiny, folder, *more):
    swept = ["selector=near,random", "seed=1", "evaluation.answers=false", "evaluation.at_rounds=false"]
    return run_script(str(ROOT / "train.py"), "-m", *tiny, *swept, f"output_dir={folder}", *more, cwd=folder.parent)


def files(folder, name) -> list[bytes]:
    return [(folder / name / one).read_bytes() for one in KEPT]


def test_a_race_ends_as_the_sweep(tiny, tmp_path, capsys):
    """Of 10 steps the first stage trains 4, two of the warm-up and the next two, within a round."""
    whole, raced = tmp_path / "whole", tmp_path / "raced"
    done = run(tiny, raced, *RACE, "race.seconds=1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "leaves no room for the next stage: 1 stage of 2 with 2 selections in 1 race left undone" in done.stdout
    assert not list(raced.glob("*/metrics.json")) and len(list(raced.glob("*/stopped/4.jsonl"))) == 2
    assert done.stdout.count("stopped at step 4") == 4, "in the log, and in the table of jobs"
    done = run(tiny, raced, *RACE)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("resuming from") == 2 and "the lowest loss at the end" in done.stdout
    assert run(tiny, whole).returncode == 0
    names = sorted(p.parent.name for p in whole.glob("*/metrics.json"))
    assert len(names) == 2
    for name in names:
        assert files(raced, name) == files(whole, name), name
        first, second = (json.loads((f / name / "train_metrics.json").read_text()) for f in (whole, raced))
        assert first["identity"] == second["identity"]
    record = RaceRecord.read(raced)
    assert [look.steps for look in record.looks] == [6, 12], "a warm-up of two steps is shared"
    assert not record.undone
    report(configured("report", f"runs={raced}", f"output_dir={tmp_path}"), tmp_path)
    assert "Race: 18 of the 18 steps of all runs (100%)" in capsys.readouterr().out

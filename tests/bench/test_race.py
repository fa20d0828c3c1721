"""Races on made losses, and on the files of a finished sweep."""

import json

import numpy as np

from tests.bench.conftest import numbers
from tests.report.test_targets import run as finished

CONFIG = """
trainer: {warmup_step: 2, update_step: 4, update_times: 2, cycles: 1}
finetuning: {}
selector: {_target_: near.selection.selectors.first.First}
"""
LOSSES = {"random": 2.0, "near": 1.0, "far": 3.0}


def test_verdicts(run):
    lines = run("race", "only=verdict", "times=4", "stages=0.5:2,1:3")
    assert len(lines) == 1 + 3 * 2 * 2
    for line in lines[1:]:
        assert all(0 <= share <= 200 for share in numbers(line)[1:])


def test_replay(run, tmp_path):
    """The race of the program on what a sweep left: far stops after the first stage, whose losses were recorded."""
    for target in ("sort-0", "up-1"):
        for name, mean in LOSSES.items():
            for seed in (1, 2, 3):
                folder = finished(tmp_path, name, target, seed, mean)
                (folder / "config.yaml").write_text(CONFIG)
                (folder / "stopped").mkdir()
                rng = np.random.default_rng((seed, len(name)))
                for path in ("answers.jsonl", "stopped/4.jsonl"):
                    rows = [
                        {"set": "target", "row": i, "loss": mean + rng.normal(0, 0.01), "tokens": 2} for i in range(4)
                    ]
                    (folder / path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = run("race", "only=replay", f"runs={tmp_path}", "stages=0.25:2,1:2,1:3")
    assert lines[0] == "all selections"
    assert lines[1].split() == "sort-0 sweep near, race near; stopped after stage: far (1)".split()
    # of 2 x 3 x 3 x 10 = 180 steps: 2 x (6 x 4 + 4 x 6 + 2 x 10) = 136
    assert lines[3] == (
        "the same winner in 2 of 2 targets, that or one that can't be told from it in 2; 76% of the sweep's steps"
    )
    assert len(lines) == 4, "without near only two are left"

"""Training whose numbers are not finite ends with one line, and the report still works."""

import json
import math

import pytest
import torch

from near.common.errors import UserError
from near.common.files import read_json, write_json, write_jsonl
from near.common.run_folder import FAILED
from near.report.runs import collect
from near.report.standing import standings
from near.training.divergence import Watch
from tests.conftest import configured, report
from tests.report.test_report import run

GOOD, BAD = torch.tensor(1.0), torch.tensor(math.nan)


class Accelerator:
    num_processes, scaler, is_main_process = 1, None, True


@pytest.mark.parametrize(
    ("losses", "norms", "ends"),
    [
        ([GOOD] * 5, [1.0] * 5, None),
        ([BAD] * 5, [1.0] * 5, 3),
        ([GOOD, BAD, GOOD, BAD, BAD], [1.0] * 5, None),
        ([GOOD] * 5, [1.0, math.inf, math.nan, torch.tensor(math.inf), 1.0], 4),
        ([GOOD] * 5, [math.inf, math.inf, None, math.inf, math.inf], None),
        ([BAD, GOOD, GOOD, BAD, BAD], [1.0, math.nan, math.nan, 1.0, 1.0], 3),
    ],
)
def test_so_many_steps_in_a_row(losses, norms, ends):
    watch, ended = Watch(3), None
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), 1):
        watch.add(GOOD)  # a step may have several batches
        watch.add(loss)
        if watch.ended(step, norm, Accelerator()) and ended is None:
            ended = step
        assert not watch.ended(step, math.nan, Accelerator()), "the Trainer calls twice at the end of an epoch"
    assert ended == ends
    assert watch.count == sum(
        bool(loss.isnan()) or norm is not None and not math.isfinite(norm)
        for loss, norm in zip(losses, norms, strict=True)
    )


def test_under_a_loss_scaler_only_the_loss_counts():
    watch, scaled = Watch(1), Accelerator()
    scaled.scaler = object()
    assert not watch.ended(1, math.inf, scaled)
    watch.add(BAD)
    assert watch.ended(2, math.inf, scaled)


@pytest.mark.model
@pytest.mark.parametrize("trainer", ["dynamic_select", "static"])
def test_training_stops_at_once_and_names_the_checkpoint(tiny, tmp_path, monkeypatch, trainer):
    from transformers import Trainer

    from near.training.train import train

    step = Trainer.training_step

    def breaks(self, *args, **kwargs):
        return step(self, *args, **kwargs) * (math.nan if self.state.global_step >= 4 else 1.0)

    monkeypatch.setattr(Trainer, "training_step", breaks)
    words = [w for w in tiny if trainer == "dynamic_select" or not w.startswith(("trainer.w", "trainer.u", "max_K"))]
    words += ["trainer=static", "trainer.args.max_steps=9", "selector=full"] if trainer == "static" else []
    cfg = configured("train", *words, "trainer.args.save_steps=3", "trainer.nonfinite_steps=2")
    with pytest.raises(UserError) as caught:
        train(cfg, tmp_path / "bad")
    line = str(caught.value)
    assert "diverged" in line and "2 steps, up to step 6" in line and "\n" not in line
    assert "checkpoint-3; lower trainer.args.learning_rate" in line
    assert not (tmp_path / "bad" / "metrics.json").exists()
    assert sorted(p.name for p in (tmp_path / "bad" / "checkpoints").iterdir()) == ["checkpoint-3"]
    monkeypatch.setattr(Trainer, "training_step", step)
    assert math.isfinite(train(cfg, tmp_path / "bad")), "it resumes from the complete checkpoint"
    assert not (tmp_path / "bad" / FAILED).exists()


def test_json_of_ours_holds_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"loss": math.nan, "deep": [{"er": (math.inf, 1.5)}]})
    write_jsonl(tmp_path / "a.jsonl", [{"loss": -math.inf}, {"loss": 1}])
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": None, "deep": [{"er": [None, 1.5]}]}
    assert (tmp_path / "a.jsonl").read_text() == '{"loss": null}\n{"loss": 1}\n'


@pytest.mark.parametrize("loss", [None, math.nan, math.inf, "x"])
def test_a_report_shows_a_diverged_run_beside_the_good_ones(tmp_path, capsys, loss):
    run(tmp_path / "good", "near", 0.5)
    run(tmp_path / "bad", "near", loss, seed=2)
    stopped = run(tmp_path / "stopped", "random", 0.5)
    (stopped / "metrics.json").unlink()
    write_json(stopped / FAILED, {"error": "the training diverged at step 6", "step": 6})
    texts = {"question": "q", "reference": "a", "answer": "b", "scores": {}}
    rows = [{"set": "target", "row": i, "loss": None, "tokens": 3, **texts} for i in range(3)]
    write_jsonl(tmp_path / "good" / "answers.jsonl", rows)
    runs, unfinished = collect(tmp_path)
    assert [r.folder.name for r in runs if r.folder] == ["good"]
    states = {s.name: (s.state, s.description) for s in standings(tmp_path, unfinished)}
    assert states["bad"][0] == states["stopped"][0] == "failed"
    assert "not a finite number" in states["bad"][1] and "diverged at step 6" in states["stopped"][1]
    cfg = configured("report", f"runs={tmp_path}", "map=null")
    report(cfg, tmp_path)
    assert "failed" in (tmp_path / "report.html").read_text()
    assert read_json(tmp_path / "bad" / "metrics.json")["seed"] == 2

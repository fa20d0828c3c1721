"""stop_at: training stops at a step, and the same command without it ends as if it had not stopped."""

import json

import numpy as np
import pytest

from near.common.errors import UserError
from near.training.train import train
from tests.conftest import configured
from tests.training.test_training import history

pytestmark = pytest.mark.model


def weights(folder) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_stopped_run_ends_as_one_that_did_not_stop(tiny, tmp_path):
    """Of 10 steps it stops at the third, within a round, and at the sixth, where a round ends."""
    words = [*tiny, "finetuning.lora_dropout=0.1", "selector=near"]
    train(configured("train", *words), tmp_path / "whole")
    stopped = tmp_path / "stopped"
    for step in (3, 3, 6):
        loss = train(configured("train", *words, f"stop_at={step}"), stopped)
        rows = [json.loads(line) for line in (stopped / "stopped" / f"{step}.jsonl").read_text().splitlines()]
        assert [row["row"] for row in rows] == list(range(5))
        tokens = np.array([row["tokens"] for row in rows])
        assert loss == pytest.approx(np.array([row["loss"] for row in rows]) @ tokens / tokens.sum())
        assert (stopped / "checkpoints" / f"checkpoint-{step}").is_dir()
        assert not (stopped / "metrics.json").exists() and not (stopped / "adapter").exists()
    train(configured("train", *words), stopped)
    assert history(stopped) == history(tmp_path / "whole")
    assert weights(stopped) == weights(tmp_path / "whole")
    assert (stopped / "answers.jsonl").read_bytes() == (tmp_path / "whole" / "answers.jsonl").read_bytes()
    first, second = (json.loads((tmp_path / name / "train_metrics.json").read_text()) for name in ("whole", "stopped"))
    assert first["identity"] == second["identity"]


def test_a_stop_behind_the_end_is_none(tiny, tmp_path):
    train(configured("train", *tiny, "selector=random", "stop_at=10"), tmp_path)
    assert (tmp_path / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("first", "second", "fault"),
    [
        ([], ["stop_at=3", "trainer.args.save_strategy=no"], "save_strategy=no leaves nothing to go on from"),
        (["stop_at=5"], ["stop_at=3"], "stop_at=3 is behind the checkpoint of step 5"),
    ],
)
def test_where_it_can_not_stop_it_says_so(tiny, tmp_path, first, second, fault):
    if first:
        train(configured("train", *tiny, "selector=random", *first), tmp_path)
    with pytest.raises(UserError, match=fault):
        train(configured("train", *tiny, "selector=random", *second), tmp_path)

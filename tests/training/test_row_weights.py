"""Rows' own loss weights on a model of random weights: the loss by hand under every trainer, identity, resumes."""

import json
import logging

import numpy as np
import pytest
import torch

from near.common.errors import UserError
from near.training import train as training
from near.training.train import train
from near.training.trainer import StaticTrainer
from near.training.weighting import DynamicWeightTrainer
from tests.conftest import RANKS, configured, process, write_rows
from tests.training.test_training import history, stopped

pytestmark = pytest.mark.model
NAMED = "data.candidates.columns.weight=w"
STATIC = ["trainer=static", "trainer.args.max_steps=4"]
TRAINERS = {
    "static": STATIC,
    "padded": [*STATIC, "trainer.padding_free=false"],
    "packing": [*STATIC, "trainer.packing=true", "data.cutoff_len=128"],
    "dynamic_select": ["selector=near", "trainer.update_times=1"],
    "dynamic_mix": ["trainer=dynamic_mix", "mixer=static", "trainer.update_times=1"],
    "dynamic_weight": ["trainer=dynamic_weight", "trainer.train_step=4", "trainer.warmup_step=2"],
}


def some(row: int) -> float | None:
    """0.5, 2 and none in turn."""
    return (0.5, 2, None)[row % 3]


def run(tiny: list[str], folder, weight, *words: str) -> list[str]:
    """`tiny` with a pool in `folder` whose row i has the weight `weight(i)`, unless that is None."""
    path = next(word for word in tiny if "candidates.path" in word).partition("=")[2]
    rows = [json.loads(line) for line in open(path)]
    rows = [row | ({} if weight(i) is None else {"w": weight(i)}) for i, row in enumerate(rows)]
    folder.mkdir(exist_ok=True)
    others = tiny
    if words[0] in ("trainer=static", "trainer=dynamic_weight"):
        others = [word for word in tiny if not word.startswith(("trainer.update", "trainer.warmup"))]
    pool = [f"data.candidates.path={write_rows(folder / 'pool.jsonl', rows)}", "evaluation.answers=false"]
    return [*(word for word in others if "candidates.path" not in word), *pool, NAMED, *words]


@pytest.mark.parametrize("name", TRAINERS)
def test_the_loss_is_the_weighted_sum_by_hand(tiny, tmp_path, monkeypatch, name):
    """Of two batches accumulated: each row's mean loss by the model itself, times its tokens, its weight and, in the
    weighted steps of dynamic_weight, the weighter's; over the step's tokens."""
    seen, cls = [], DynamicWeightTrainer if name == "dynamic_weight" else StaticTrainer.__base__
    original = cls.compute_loss

    def watching(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = original(self, model, inputs, return_outputs, num_items_in_batch)
        weights = inputs["weights"]
        with torch.no_grad():
            parts = {k: v for k, v in inputs.items() if k != "weights"}
            rows = [{k: v[i : i + 1] for k, v in parts.items()} for i in range(len(weights))]
            means = torch.stack([model(**row).loss for row in rows])
        tokens = (inputs["labels"][:, 1:] != -100).sum(1)
        factors = weights * tokens
        if name == "dynamic_weight" and self.state.global_step >= 2:
            factors = factors * self.weighter(means, tokens)
        seen.append((loss.item(), ((factors * means).sum() / num_items_in_batch).item()))
        return loss

    monkeypatch.setattr(cls, "compute_loss", watching)
    more = ["trainer.args.gradient_accumulation_steps=2"]
    train(configured("train", *run(tiny, tmp_path, some, *TRAINERS[name], *more)), tmp_path / "run")
    assert [a for a, _ in seen] == pytest.approx([b for _, b in seen], rel=1e-5)
    logged = [line["loss"] for line in history(tmp_path / "run")]
    assert len(seen) == 2 * len(logged) and len(logged) >= 4
    assert logged == pytest.approx([seen[i][0] + seen[i + 1][0] for i in range(0, len(seen), 2)], rel=1e-5)


def test_other_weights_are_another_run(tiny, tmp_path):
    """Ones are the plain loss, up to rounding; rows of weight 0 are no part of the run."""
    words = ["selector=random", "trainer.update_times=1"]
    train(configured("train", *[w for w in run(tiny, tmp_path, lambda i: 1, *words) if w != NAMED]), tmp_path / "plain")
    train(configured("train", *run(tiny, tmp_path, lambda i: 1, *words)), tmp_path / "ones")
    for one, other in zip(history(tmp_path / "plain"), history(tmp_path / "ones"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    with pytest.raises(UserError, match="candidates.weights"):
        train(configured("train", *run(tiny, tmp_path, some, *words)), tmp_path / "ones")


def test_rows_of_weight_0_are_left_out_and_counted(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    settings = run(tiny, tmp_path, lambda i: float(i % 3 == 1), "trainer=dynamic_select", "selector=full")
    train(configured("train", *settings), tmp_path / "run")
    assert "40 rows of 60 left out, as their loss weight is 0" in caplog.text
    for path in (tmp_path / "run" / "rounds").glob("*_order.npy"):
        assert set(np.load(path) % 3) == {1}
    with pytest.raises(UserError, match="every row with an answer has the loss weight 0"):
        train(configured("train", *run(tiny, tmp_path, lambda i: 0, "selector=full")), tmp_path / "none")


@pytest.mark.parametrize("name", ["static", "dynamic_select"])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tiny, tmp_path, monkeypatch, name):
    words = [*TRAINERS[name], "trainer.args.save_steps=3", "finetuning.lora_dropout=0.1"]
    settings = run(tiny, tmp_path, some, *words)
    train(configured("train", *settings), tmp_path / "whole")
    if name == "static":
        save = StaticTrainer._save_checkpoint

        def stopping(self, *args):
            save(self, *args)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(StaticTrainer, "_save_checkpoint", stopping)
            train(configured("train", *settings), tmp_path / "broken")
    else:
        stopped(monkeypatch, settings, tmp_path / "broken")
    train(configured("train", *settings), tmp_path / "broken")
    assert history(tmp_path / "broken") == history(tmp_path / "whole")
    file = "adapter/adapter_model.safetensors"
    assert (tmp_path / "broken" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_what_can_not_be_weighted_is_refused_before_loading(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "load_start", lambda *a: pytest.fail("loaded a model"))

    def refused(weight, *words: str) -> str:
        with pytest.raises(UserError) as caught:
            train(configured("train", *run(tiny, tmp_path, weight, "selector=random", *words)), tmp_path / "run")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    for value in (-1, float("nan"), "much", True):
        message = refused(lambda i, value=value: value if i == 7 else 1)
        assert f"data.candidates.columns.weight=w: row 7 has {value}, not a finite number >= 0" in message
    assert "no row has a column 'w'" in refused(lambda i: None)
    assert "label_smoothing_factor=0.1 can't be" in refused(some, "+trainer.args.label_smoothing_factor=0.1")


def test_rows_with_a_wrong_weight_may_be_skipped(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    weight = lambda i: -1 if i == 7 else "2" if i % 2 else None  # noqa: E731
    settings = run(tiny, tmp_path, weight, "selector=full", "trainer.update_times=1", "data.on_error=skip")
    train(configured("train", *settings), tmp_path / "run")
    assert "weight=w: 1 row left out, as their weight is not a finite number >= 0" in caplog.text
    assert "weight=w: 30 rows of 60 without a value have weight 1" in caplog.text
    assert "not used" not in caplog.text


@pytest.mark.slow
def test_two_processes_are_one_with_a_larger_batch(tiny, tmp_path):
    settings = run(tiny, tmp_path, some, *TRAINERS["dynamic_select"])
    train(configured("train", *settings, "trainer.args.per_device_train_batch_size=4"), tmp_path / "one")
    done = process(*RANKS, "train.py", *settings, f"output_dir={tmp_path / 'two'}")
    assert done.returncode == 0, done.stderr[-2000:]
    for one, two in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, rel=1e-4)


def test_the_column_of_scores_is_the_default_one(tiny):
    """For selector=column and orders; a column that they name themselves comes first."""
    named = "data.candidates.columns.score=quality"
    cfg = configured("train", *tiny, named, "selector=column", "order=saw", "order.column=depth")
    assert (cfg.selector.column, cfg.order.column) == ("quality", "depth")
    cfg = configured("train", *tiny, "selector=column", "order=saw")
    assert (cfg.selector.column, cfg.order.column) == ("score", "score")
    assert configured("select", named, "selector=column", "n=3").selector.column == "quality"

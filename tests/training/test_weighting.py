"""Weighters by hand, their contract, and trainer=dynamic_weight on a model of random weights."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from near.common.errors import UserError
from near.training.train import train
from near.training.weighers import check_weighting
from near.training.weighters.base import Weighter
from near.training.weighters.extremes import Extremes
from near.training.weighters.linupper import LinUpper
from near.training.weighters.quadratic import Quadratic
from near.training.weighters.uniform import Uniform
from near.training.weighting import DynamicWeightTrainer
from tests.app.test_configs import choices
from tests.conftest import RANKS, configured, process
from tests.training.test_training import HISTORY, history

pytestmark = pytest.mark.model
BY_LOSS = [name for name in choices("weighter") if name not in ("adapt", "joint_update_aware")]
LOSSES = torch.tensor([1.0, 2.0, 3.0, 5.0])  # h: -1, -0.5, 0, 1


def softmax(*scores: float) -> list[float]:
    exps = np.exp(scores)
    return (4 * exps / exps.sum()).tolist()


@pytest.mark.parametrize(
    ("cls", "scores"),
    [
        (LinUpper, (0, 0.5, 1, 1)),
        (Uniform, (0, 0, 0, 0)),
        (Quadratic, (0, 0.75, 1, 0)),
        (Extremes, (1, 0.5, 0, 1)),
    ],
)
def test_by_hand(cls, scores):
    even = torch.full((4,), 7.0)
    assert cls()(LOSSES, even).tolist() == pytest.approx(softmax(*scores))
    assert cls(r=2.0)(LOSSES, even).tolist() == pytest.approx(softmax(*(s / 2 for s in scores)))
    assert cls(r=1e9)(LOSSES, even).tolist() == pytest.approx([1] * 4)


def test_delta_sets_losses_farther_apart():
    even = torch.ones(4)
    assert LinUpper(delta=2.0)(LOSSES, even).tolist() == pytest.approx(softmax(0, 1, 2, 2))
    assert Quadratic(delta=2.0)(LOSSES, even).tolist() == pytest.approx(softmax(0, 0.75, 1, 0))
    assert Extremes(delta=2.0)(LOSSES, even).tolist() == pytest.approx(softmax(2, 1, 0, 2))


@pytest.fixture(params=BY_LOSS)
def make(request):
    return lambda: instantiate(configured("train", "trainer=dynamic_weight", f"weighter={request.param}").weighter)


@pytest.mark.parametrize("losses", [[1.0, 2.0, 9.0], [3.0, 3.0, 3.0], [0.0, 1e-8, 0.0], [5.0]])
def test_weights_keep_the_batchs_tokens(make, losses):
    weighter, tokens = make(), torch.tensor([1.0, 10.0, 100.0][: len(losses)])
    assert isinstance(weighter, Weighter)
    weights = weighter(torch.tensor(losses), tokens)
    assert weights.dtype == torch.float32 and (weights >= 0).all()
    assert (weights * tokens).sum() == pytest.approx(tokens.sum())
    if len(set(losses)) == 1:
        assert weights.tolist() == pytest.approx([1] * len(losses))


def test_a_row_without_answer_tokens_is_left_out_of_account(make):
    weights = make()(torch.tensor([0.0, 2.0, 3.0]), torch.tensor([0.0, 4.0, 4.0]))
    without = make()(torch.tensor([2.0, 3.0]), torch.tensor([4.0, 4.0]))
    assert weights[1:].tolist() == pytest.approx(without.tolist())


def weighted(tiny: list[str], weighter: str, *more: str) -> list[str]:
    others = [
        word for word in tiny if not word.startswith(("trainer.update", "trainer.warmup", "trainer.args.per_dev"))
    ]
    options = ["trainer.warmup_step=2", "trainer.train_step=8", "trainer.args.per_device_train_batch_size=4"]
    return [*others, "trainer=dynamic_weight", f"weighter={weighter}", *options, "evaluation.answers=false", *more]


def plain(tiny: list[str], *more: str) -> list[str]:
    others = [
        word for word in tiny if not word.startswith(("trainer.update", "trainer.warmup", "trainer.args.per_dev"))
    ]
    options = ["trainer=static", "trainer.args.max_steps=8", "trainer.args.per_device_train_batch_size=4"]
    return [*others, *options, "evaluation.answers=false", *more]


def close(one: Path, other: Path) -> None:
    for a, b in zip(history(one), history(other), strict=True):
        for key in HISTORY:
            assert a[key] == pytest.approx(b[key], rel=1e-5), (a["step"], key)


@pytest.mark.parametrize("more", [[], ["trainer.args.gradient_accumulation_steps=3"], ["+trainer.args.bf16=true"]])
def test_uniform_weights_are_the_plain_trainer(tiny, tmp_path, more):
    """Rows differ in length; the warm-up equals the plain Trainer's to the bit, the rest up to float32's rounding."""
    train(configured("train", *plain(tiny, *more)), tmp_path / "plain")
    train(configured("train", *weighted(tiny, "uniform", *more)), tmp_path / "uniform")
    first = [history(tmp_path / name)[:2] for name in ("plain", "uniform")]
    assert first[0] == first[1]
    close(tmp_path / "plain", tmp_path / "uniform")
    metrics = json.loads((tmp_path / "uniform" / "train_metrics.json").read_text())
    assert metrics["selector"] == "dynamic_weight" and metrics["steps"] == 8
    assert ["largest_weight" in line for line in metrics["history"]] == [False] * 2 + [True] * 6
    for line in metrics["history"][2:]:
        assert line["largest_weight"] == pytest.approx(1)
        if not more:
            assert line["unweighted_loss"] == pytest.approx(line["loss"], rel=1e-4)


@pytest.mark.parametrize("weighter", [name for name in BY_LOSS if name != "uniform"])
def test_the_loss_is_the_weighted_sum_by_hand(tiny, tmp_path, monkeypatch, weighter):
    """Of two batches accumulated: each row's mean loss by the model itself, weighted within its batch."""
    seen, plain = [], DynamicWeightTrainer.compute_loss

    def watching(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = plain(self, model, inputs, return_outputs, num_items_in_batch)
        if model.training and self.state.global_step >= self.warmup_step:
            with torch.no_grad():
                rows = [{k: v[i : i + 1] for k, v in inputs.items()} for i in range(4)]
                means = torch.stack([model(**row).loss for row in rows])
            tokens = (inputs["labels"][:, 1:] != -100).sum(1)
            shares = tokens * self.weighter(means, tokens)
            seen.append((loss.item(), ((shares * means).sum() / num_items_in_batch).item()))
            assert shares.sum() == pytest.approx(tokens.sum())
        return loss

    monkeypatch.setattr(DynamicWeightTrainer, "compute_loss", watching)
    more = ["trainer.args.gradient_accumulation_steps=2", "trainer.train_step=4"]
    train(configured("train", *weighted(tiny, weighter, *more)), tmp_path)
    assert len(seen) == 4
    assert [a for a, _ in seen] == pytest.approx([b for _, b in seen], rel=1e-5)
    logged = [line["loss"] for line in history(tmp_path)[2:]]
    assert logged == pytest.approx([seen[0][0] + seen[1][0], seen[2][0] + seen[3][0]], rel=1e-5)


def test_rows_of_a_whole_step_are_weighed_together(tiny, tmp_path):
    """Four batches of one row are a batch of four, where dropout draws nothing: the same losses and weights."""
    pairs = {"one": (4, 1), "four": (1, 4), "two": (2, 2)}
    for name, (batch, accumulated) in pairs.items():
        more = [f"trainer.args.per_device_train_batch_size={batch}", "trainer.whole_step=true"]
        more += [f"trainer.args.gradient_accumulation_steps={accumulated}"]
        train(configured("train", *weighted(tiny, "linupper", *more)), tmp_path / name)
    for name in ("four", "two"):
        close(tmp_path / name, tmp_path / "one")
        extra = [json.loads((tmp_path / n / "train_metrics.json").read_text())["history"][2:] for n in (name, "one")]
        for a, b in zip(*extra, strict=True):
            assert a["largest_weight"] == pytest.approx(b["largest_weight"], rel=1e-4)
            assert a["unweighted_loss"] == pytest.approx(b["unweighted_loss"], rel=1e-5)


@pytest.mark.parametrize("at", [1, 5])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tiny, tmp_path, monkeypatch, at):
    """Stopped in the warm-up, and later."""
    settings = weighted(tiny, "linupper", f"trainer.args.save_steps={at}", "finetuning.lora_dropout=0.1")
    settings += ["trainer.args.gradient_accumulation_steps=2", "trainer.whole_step=true"]
    train(configured("train", *settings), tmp_path / "whole")
    save = DynamicWeightTrainer._save_checkpoint

    def stopping(self, *args):
        save(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DynamicWeightTrainer, "_save_checkpoint", stopping)
        train(configured("train", *settings), tmp_path / "broken")
    train(configured("train", *settings), tmp_path / "broken")
    assert history(tmp_path / "broken") == history(tmp_path / "whole")
    weights = [(tmp_path / n / "adapter" / "adapter_model.safetensors").read_bytes() for n in ("whole", "broken")]
    assert weights[0] == weights[1]
    lines = [(tmp_path / n / "rounds" / "rounds.jsonl").read_text().splitlines() for n in ("whole", "broken")]
    assert len(lines[0]) == len(lines[1]) == 1


def test_rows_that_cannot_be_weighted_are_refused_early(tiny, tmp_path):
    def refused(*more: str) -> str:
        with pytest.raises(UserError) as caught:
            train(configured("train", *weighted(tiny, "linupper", *more)), tmp_path / "out")
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
        return str(caught.value)

    message = refused("trainer.args.per_device_train_batch_size=1")
    assert "per_device_train_batch_size=1 is too small to weight rows against each other; use 2 or more" in message
    assert "label_smoothing_factor=0.1 is not supported" in refused("+trainer.args.label_smoothing_factor=0.1")


def test_packed_rows_of_several_processes_are_not_weighted():
    """Each process has another number of them, which no gather takes."""
    args = SimpleNamespace(n_gpu=1, train_batch_size=2, world_size=2, label_smoothing_factor=0.0)
    check_weighting(args, False, "plan.weigh")
    with pytest.raises(UserError, match="trainer.packing=true gives each of 2 processes another number of rows"):
        check_weighting(args, False, "plan.weigh", packing=True)
    args.world_size = 1
    check_weighting(args, False, "plan.weigh", packing=True)
    args.train_batch_size = 1  # a sequence of several rows
    check_weighting(args, False, "plan.weigh", packing=True)


@pytest.mark.slow
@pytest.mark.process
def test_two_processes_weigh_all_their_rows_together(tiny, tmp_path):
    """Two rows on each of two processes are four on one: the same rows a step, the same weights, the same losses."""
    settings = weighted(tiny, "linupper", "trainer.args.per_device_train_batch_size=2")
    ran = process(*RANKS, "train.py", *settings, f"output_dir={tmp_path / 'two'}", env={"OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr[-2000:]
    train(configured("train", *weighted(tiny, "linupper")), tmp_path / "one")
    close(tmp_path / "two", tmp_path / "one")
    extra = [json.loads((tmp_path / n / "train_metrics.json").read_text())["history"][2:] for n in ("two", "one")]
    for a, b in zip(*extra, strict=True):
        for key in ("unweighted_loss", "largest_weight"):
            assert a[key] == pytest.approx(b[key], rel=1e-4)

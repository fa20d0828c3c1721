"""Plans on a model of random weights: their short forms to the bit, kept results, resumes, records and refusals."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from near.common.errors import UserError
from near.selection.scoring.scoring import Scorer
from near.training.train import train
from tests.conftest import RANKS, configured, process
from tests.training.test_mix_runs import lines
from tests.training.test_training import history, stopped

pytestmark = pytest.mark.model

LESS = ["evaluation.answers=false"]


def same(one: Path, other: Path, rounds: int) -> None:
    """Weights, losses, and the rows of all rounds, to the bit."""
    assert history(one) == history(other)
    names = [f"rounds/{i:03d}{end}.npy" for i in range(rounds) for end in ("", "_order")]
    for name in ["adapter/adapter_model.safetensors", *names]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def timeless(folder: Path) -> list[dict]:
    def without(values: dict) -> dict:
        return {k: v for k, v in values.items() if "seconds" not in k}

    return [
        without(line) | ({"stages": [without(one) for one in line["stages"]]} if "stages" in line else {})
        for line in lines(folder)
    ]


@pytest.mark.parametrize("selector", ["loss", "near_sample", "less"])
def test_one_draw_is_dynamic_select(tiny, tmp_path, selector):
    words = [*tiny, *LESS, f"selector={selector}", "selector.subset_size=5", "finetuning.lora_dropout=0.1"]
    train(configured("train", *words), tmp_path / "select")
    train(configured("train", *words, "plan=select_only"), tmp_path / "plan")
    same(tmp_path / "plan", tmp_path / "select", 3)
    metrics = json.loads((tmp_path / "plan" / "metrics.json").read_text())
    assert metrics["selector"] == "select_only"
    assert [line["selector"] for line in lines(tmp_path / "plan")] == ["warm-up", "select_only", "select_only"]


@pytest.mark.parametrize("mixer", ["odm", "static"])
def test_a_mix_with_random_rows_is_dynamic_mix(tiny, tmp_path, mixer):
    words = [*tiny, *LESS, f"mixer={mixer}", "trainer.update_times=3", "finetuning.lora_dropout=0.1"]
    words += ["mixer.sample=3"] if mixer == "odm" else []
    train(configured("train", *words, "trainer=dynamic_mix"), tmp_path / "mix")
    train(configured("train", *words, "plan=mix_then_weight", "~plan.weigh", "~weighter"), tmp_path / "plan")
    same(tmp_path / "plan", tmp_path / "mix", 4)
    assert [line["mix"] for line in lines(tmp_path / "plan")] == [line["mix"] for line in lines(tmp_path / "mix")]


@pytest.mark.parametrize("whole", ["false", "true"])
def test_weights_alone_are_dynamic_weight(tiny, tmp_path, whole):
    others = [word for word in tiny if not word.startswith(("trainer.update", "trainer.warmup"))]
    words = [*others, *LESS, "trainer.args.gradient_accumulation_steps=2", "finetuning.lora_dropout=0.1"]
    more = ["trainer=dynamic_weight", "trainer.warmup_step=2", "trainer.train_step=6", f"trainer.whole_step={whole}"]
    train(configured("train", *words, *more), tmp_path / "weight")
    more = ["trainer=static", "trainer.args.max_steps=6", "plan=weigh_only", "plan.weigh.start=2"]
    train(configured("train", *words, *more, f"plan.weigh.whole_step={whole}"), tmp_path / "plan")
    assert history(tmp_path / "plan") == history(tmp_path / "weight")
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "plan" / name).read_bytes() == (tmp_path / "weight" / name).read_bytes()
    logged = [json.loads((tmp_path / n / "train_metrics.json").read_text())["history"] for n in ("plan", "weight")]
    weights = [[line.get("largest_weight") for line in one] for one in logged]
    assert weights[0] == weights[1] and weights[0][:2] == [None, None] and None not in weights[0][2:]


def whole(tiny: list[str], *more: str) -> list[str]:
    """All kinds of stages, with a filter that keeps its rows for two rounds."""
    words = [*tiny, *LESS, "plan=mix_then_weight", "+stage@plan.cut=filter", "+selector@plan.cut.by=loss"]
    return [*words, "mixer.sample=3", "finetuning.lora_dropout=0.1", "trainer.update_times=4", *more]

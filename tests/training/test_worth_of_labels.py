"""data=crossed tells selections apart: with the real model, rows of the target's skill beat random ones."""

import pytest

from near.training.train import train
from tests.conftest import configured

pytestmark = pytest.mark.real
FEW = [
    "data=crossed",
    "data.target=count-5",
    "data.rows=500",
    "data.query_rows=4",
    "data.eval_rows=8",
    "data.decontaminate=null",
    "trainer.warmup_step=0",
    "trainer.update_step=4",
    "trainer.update_times=1",
    "trainer.args.gradient_accumulation_steps=1",
    "evaluation.answers=false",
    "evaluation.at_rounds=false",
]


def test_the_oracle_beats_random_rows(tmp_path, real_cache):
    loss = {}
    for name in ("oracle", "random"):
        words = [*FEW, f"cache_dir={real_cache}", f"selector={name}"]
        loss[name] = train(configured("train", *words), tmp_path / name)
    assert loss["oracle"] < loss["random"] - 0.05

"""trainer=dynamic_mix on a model of random weights: each mixer's proportions in the record, and resumes to the bit."""

import json
from pathlib import Path

import numpy as np
import pytest

from near.training import train
from tests.conftest import configured
from tests.test_configs import choices

pytestmark = pytest.mark.model


def mix(tiny: list[str], mixer: str, *more: str) -> list[str]:
    own = ["mixer.sample=3"] if mixer in ("odm", "doremi") else []
    return [*tiny, "trainer=dynamic_mix", f"mixer={mixer}", "evaluation.answers=false", *own, *more]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rounds" / "rounds.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mixer", choices("mixer"))
def test_the_rows_trained_are_in_the_proportions_of_the_record(tiny, tmp_path, mixer):
    train(configured("train", *mix(tiny, mixer)), tmp_path)
    warm_up, *rounds = lines(tmp_path)
    assert warm_up["mix"] is None and [line["selector"] for line in rounds] == ["mix", "mix"]
    for line in rounds:
        order = np.load(tmp_path / "rounds" / f"{line['round']:03d}_order.npy")
        shares, draws = line["mix"]["proportions"], line["mix"]["draws"]
        drawn = np.bincount(order % 3, minlength=3)  # rows of the pool are colour, sum, animal in turn
        assert [draws[name] for name in ("colour", "sum", "animal")] == drawn.tolist()
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5) and drawn.sum() == 8
        assert all(abs(draws[name] - 8 * shares[name]) < 1 for name in shares)

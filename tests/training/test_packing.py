"""Packed rows: every row once, within the length, and the losses and gradients of the same rows padded."""

import json

import numpy as np
import pytest
import torch

from near.models.losses import answer_losses
from near.models.tokens import Collator
from near.training.packing import PackedRows, of_sequences, packed
from near.training.train import train
from tests.conftest import configured
from tests.models.test_losses import MODELS, made
from tests.models.test_padding_free import rows
from tests.training.test_training import history, refused

pytestmark = pytest.mark.model


@pytest.mark.parametrize("seed", range(5))
def test_every_row_is_in_one_sequence_that_is_not_too_long(seed):
    sizes = np.random.default_rng(seed).integers(1, 65, 400)
    sequences = packed(sizes, 64, seed)
    assert sorted(sum(sequences, [])) == list(range(400))
    assert max(sizes[rows].sum() for rows in sequences) <= 64
    fewest = -(-sizes.sum() // 64)
    assert fewest <= len(sequences) <= 1.1 * fewest + 1
    assert packed(sizes, 64, seed) == sequences, "the same seed"
    assert packed(sizes, 64, seed + 1) != sequences, "another seed"


def test_by_hand():
    assert packed(np.array([3, 9, 4, 5]), capacity=10, seed=0) == [[1], [3, 2], [0]]
    assert packed(np.array([12, 2]), capacity=10, seed=0) == [[0], [1]], "a row that is too long stays alone"
    assert packed(np.array([], dtype=np.int64), 10, 0) == []


def test_a_million_rows_are_packed_in_seconds():
    sizes = np.random.default_rng(0).integers(1, 2049, 1_000_000)
    assert sum(map(len, packed(sizes, 2048, 0))) == 1_000_000


def test_losses_of_sequences_are_those_of_their_rows():
    import datasets

    table = datasets.Dataset.from_list([{k: v.tolist() for k, v in row.items()} for row in rows()])
    items = PackedRows(table, np.arange(4), 70, seed=0)
    assert [[len(row["input_ids"]) for row in item] for item in (items[0], items[1])] == [[60, 9], [5, 4]]
    model = made("llama", **MODELS["llama"])
    batch = of_sequences(Collator(0))([items[0], items[1]])
    packed_losses = answer_losses(model, batch, padding_free=True)[0].sum()
    alone = sum(answer_losses(model, Collator(0)([row]))[0].sum() for row in rows())
    torch.testing.assert_close(packed_losses, alone, rtol=1e-5, atol=1e-5)


def test_a_run_trains_every_row_in_fewer_steps(small_data, cache, tmp_path):
    settings = [*small_data, f"cache_dir={cache}", "model=tiny", "trainer=static", "selector=full"]
    settings += ["evaluation.answers=false", "trainer.args.per_device_train_batch_size=1", "data.cutoff_len=128"]
    metrics = {}
    for packing in ("false", "true"):
        train(configured("train", *settings, f"trainer.packing={packing}"), tmp_path / packing)
        metrics[packing] = json.loads((tmp_path / packing / "train_metrics.json").read_text())
    assert metrics["false"]["rows_trained"] == metrics["true"]["rows_trained"] == 60
    assert metrics["true"]["steps"] < metrics["false"]["steps"] / 1.5
    assert "packing" not in metrics["false"]["identity"]["config"]["trainer"], "runs from before the option are known"
    assert metrics["true"]["identity"]["config"]["trainer"]["packing"] is True
    assert all(np.isfinite(line["loss"]) for line in history(tmp_path / "true"))


def test_without_padding_free_it_is_refused(small_data, cache, tmp_path):
    words = [*small_data, f"cache_dir={cache}", "model=tiny", "trainer=static"]
    message = refused(tmp_path / "out", *words, "trainer.packing=true", "trainer.padding_free=false")
    assert "trainer.packing=true" in message and "use trainer.padding_free=true" in message

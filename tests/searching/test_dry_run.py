"""dry_run=true logs what a selection would cost and stores nothing."""

import logging

import pytest

from near.searching import dry_run
from near.selection.select import select
from tests.conftest import configured


@pytest.fixture()
def messages(tiny, tmp_path, caplog):
    words = [w for w in tiny if w.startswith(("data", "embedder", "max_K"))]

    def run(*more):
        caplog.clear()
        caplog.set_level(logging.INFO, "near")
        select(configured("select", *words, f"cache_dir={tmp_path}/c", *more), tmp_path / "out")
        lines = caplog.messages
        starts = [i for i, line in enumerate(lines) if line.startswith("dry run: ")]
        return lines[starts[0] :] if starts else lines  # lines about sources before it are logged once in a process

    return run


def test_it_logs_and_stores_nothing(messages, tmp_path):
    lines = messages("dry_run=true")
    assert "dry run: 60 candidates, 4 queries, 64 distinct texts, 0 stored already" in lines
    assert "to embed: 64 texts" in lines
    assert any(line.startswith("embedding: about 0 seconds, from 64 texts measured") for line in lines)
    # 64 vectors of 1,024 float32 and their keys, and two copies of a matrix of 4 x 15 ids and scores
    assert any(line.startswith(f"disk: {round((64 * (4096 + 16) + 2 * 4 * 15 * 12) / 1000)} kB of ") for line in lines)
    assert any(line.startswith("memory: ") for line in lines)
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "c").rglob("*.safetensors"))
    assert messages("dry_run=true") == [*lines[:-4], *messages("dry_run=true")[-4:]]


def test_texts_already_stored_are_counted(messages):
    messages()
    lines = messages("dry_run=true", "max_K=10")
    assert "dry run: 60 candidates, 4 queries, 64 distinct texts, 64 stored already" in lines
    assert "to embed: nothing" in lines


def test_too_small_a_disk_is_logged(messages, monkeypatch):
    monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100_000}))
    assert any("that is too little, free " in line for line in messages("dry_run=true"))


@pytest.mark.model
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["selector=near"],
            ["a warm-up of 2 steps on random rows, then 2 rounds of 4 steps on at most 8 of 60 rows by "],
        ),
        (["selector=near"], ["10 steps of 2 rows: 20 rows trained", "64 distinct texts, 0 stored already"]),
        (["selector=near", "selector.subset_size=3", "trainer.warmup_step=0"], ["no warm-up, then", "at most 3 of 60"]),
        (["selector=random", "trainer.cycles=2"], ["all of it 2 times", "20 steps of 2 rows", "to embed: nothing"]),
        (["selector=loss"], ["before each of the 2 rounds the model computes losses", "to embed: nothing"]),
    ],
)
def test_a_training_logs_what_it_would_do_and_does_nothing(words, parts, tiny, tmp_path, caplog):
    from near.training.train import train

    caplog.set_level(logging.INFO, "near")
    train(configured("train", *tiny, f"cache_dir={tmp_path}/c", "dry_run=true", *words), tmp_path / "out")
    logged = "\n".join(caplog.messages)
    assert all(
        part in logged for part in [*parts, "evaluated at the start of every round and at the end: 5 eval rows"]
    ), logged
    assert caplog.messages[-1] == "nothing was trained or stored; leave out dry_run=true to start"
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "c").rglob("*.safetensors"))


@pytest.mark.model
def test_a_training_of_every_row(tiny, tmp_path, caplog):
    from near.training.train import train

    caplog.set_level(logging.INFO, "near")
    words = [w for w in tiny if not w.startswith("trainer.w") and not w.startswith("trainer.u")]
    args = ["trainer=static", "selector=full", "trainer.args.num_train_epochs=2", "dry_run=true"]
    train(configured("train", *words, *args), tmp_path / "out")
    assert "dry run: all 60 rows, 60 steps of 2 rows: 2.00 passes over them" in caplog.messages

"""train.py with an order on a model of random weights: the record, resumes to the bit, twins, warm-ups, refusals."""

import json
import logging

import numpy as np
import pytest

from near.common.errors import UserError
from near.training import train as training
from near.training.train import train
from tests.conftest import configured
from tests.training.test_training import history, stopped

pytestmark = pytest.mark.model
QUICK = ["evaluation.answers=false"]


def orders(folder) -> list[list[int]]:
    return [np.load(path).tolist() for path in sorted((folder / "rounds").glob("*_order.npy"))]


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "rounds" / "rounds.jsonl").read_text().splitlines()]


def test_a_round_is_trained_in_the_order_of_the_selectors_scores(tiny, tmp_path, caplog):
    """The same rows as without the order; the warm-up stays as it is. The record and the log name the order."""
    caplog.set_level(logging.INFO)
    train(configured("train", *tiny, *QUICK, "selector=near"), tmp_path / "near")
    words = ["order=sorting", "order.score=selector", "order.ascending=false"]
    train(configured("train", *tiny, *QUICK, "selector=near", *words), tmp_path / "sorted")
    assert [line["selector"] for line in lines(tmp_path / "sorted")] == ["warm-up", "near+sorting", "near+sorting"]
    assert "round 1 (near+sorting) at step 2" in caplog.text
    assert json.loads((tmp_path / "sorted" / "metrics.json").read_text())["selector"] == "near+sorting"
    plain, ordered = orders(tmp_path / "near"), orders(tmp_path / "sorted")
    assert plain[0] == ordered[0]
    for index in (1, 2):
        ids = np.load(tmp_path / "sorted" / "rounds" / f"00{index}.npy")
        scores = np.load(tmp_path / "sorted" / "rounds" / f"00{index}_scores.npy")
        assert ordered[index] == ids[np.argsort(-scores, kind="stable")].tolist()
        assert sorted(plain[index]) == sorted(ordered[index]) != ordered[index]


def test_the_whole_pool_in_the_order_of_its_lengths(tiny, tmp_path):
    """Each round trains the next rows; those of the warm-up come last."""
    words = ["selector=full", "order=sorting", "order.score=length", "trainer.update_times=7"]
    train(configured("train", *tiny, *QUICK, *words), tmp_path)
    warm_up, *rounds = orders(tmp_path)
    stream = sum(rounds, [])
    assert len(stream) == 56 and sorted(stream + warm_up) == list(range(60)), "every row once"
    path = next(word for word in tiny if "candidates.path" in word).partition("=")[2]
    texts = [json.loads(line) for line in open(path)]
    lengths = [len(row["instruction"] + row["output"]) for row in texts]  # tiny has a token for every character
    assert [lengths[row] for row in stream] == sorted(lengths[row] for row in stream)


def test_a_mix_keeps_the_draws_of_its_sources(tiny, tmp_path):
    words = ["trainer=dynamic_mix", "mixer=static", "mixer.proportions={sum: 3, animal: 1}"]
    words += ["order=saw", "order.score=length", "trainer.update_step=20", "trainer.warmup_step=0"]
    train(configured("train", *tiny, *QUICK, *words), tmp_path)
    for line, order in zip(lines(tmp_path), orders(tmp_path), strict=True):
        assert line["selector"] == "mix+saw" and line["mix"]["draws"] == {"animal": 10.0, "colour": 0.0, "sum": 30.0}
        assert np.bincount(np.array(order) % 3, minlength=3).tolist() == [0, 30, 10]


@pytest.mark.parametrize(
    "words",
    [
        ["selector=full", "order=sorting", "order.every=2"],
        ["selector=random", "order=saw", "order.window=3", "order.consume_once=true"],
        ["trainer=dynamic_mix", "mixer=odm", "mixer.sample=3", "order=folding", "order.every=null"],
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tiny, tmp_path, monkeypatch, words):
    """Stopped within the first round; the second one has the stored losses of the first where every is not 1."""
    words = [*tiny, *QUICK, *words, "trainer.args.save_steps=4", "trainer.update_times=3"]
    train(configured("train", *words), tmp_path / "whole")
    stopped(monkeypatch, words, tmp_path / "broken")
    train(configured("train", *words), tmp_path / "broken")
    assert history(tmp_path / "broken") == history(tmp_path / "whole")
    assert orders(tmp_path / "broken") == orders(tmp_path / "whole") and len(orders(tmp_path / "whole")) == 4
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_order_is_another_run(tiny, tmp_path, monkeypatch, caplog):
    """In a sweep: a twin only with the same draws; the warm-up is shared with a run without the order."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(training, "in_sweep", lambda: True)
    words = [*tiny, *QUICK, "selector=near"]
    order = ["order=sorting", "order.score=selector"]
    train(configured("train", *words), tmp_path / "plain")
    train(configured("train", *words, *order), tmp_path / "sorting")
    assert caplog.text.count("another job of this sweep trained the same warm-up") == 1
    assert "same rows as" not in caplog.text
    train(configured("train", *words, "order=folding", "order.layers=1", *order[1:]), tmp_path / "folding")
    assert "same rows as sorting: not trained again" in caplog.text
    assert lines(tmp_path / "folding")[1]["selector"] == "near+folding"
    train(configured("train", *words, "order=sorting"), tmp_path / "losses")
    train(configured("train", *words, "order=folding", "order.layers=1"), tmp_path / "losses2")
    assert caplog.text.count("same rows as") == 1, "by losses: rounds can't be told beforehand"


def test_numbers_that_are_not_there_are_refused_before_loading(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "load_start", lambda *a: pytest.fail("loaded a model"))
    words = [*tiny, *QUICK, "selector=random", "order=sorting", "order.score=column"]
    with pytest.raises(UserError, match="no row has a column 'score'"):
        train(configured("train", *words), tmp_path / "a")
    with pytest.raises(UserError, match="order.column=domain: no row that may be selected has a finite number"):
        train(configured("train", *words, "order.column=domain"), tmp_path / "b")

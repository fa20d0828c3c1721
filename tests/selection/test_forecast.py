"""A warning that scoring will take more than an hour, on a clock that the test turns."""

import logging

import pytest

from near.selection.scoring import forecast
from near.selection.scoring.forecast import Forecast


@pytest.fixture()
def clock(monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "near")
    now = [0.0]
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: now[0])

    def turn(seconds):
        now[0] += seconds

    return turn


def test_hand_count(clock, caplog):
    seen = Forecast("gradients", False)
    clock(6)
    assert not seen.add(2, 400)  # too early
    clock(6)
    assert seen.add(1, 200)
    seen.decide(150.0, 40_000)  # 12 s for 600 tokens: 3 s for a row of 150
    assert caplog.messages == [
        "the gradients of 40000 rows will take about 33.3 h in this round, by the first 3; a shortlist takes less: "
        "selector.shortlist={selector: near, size: 1000} (with similarity=gradients similarity.shortlist) about "
        "50 min; dry_run=true estimates the whole run"
    ]
    assert not seen.add(1, 200)  # once


@pytest.mark.parametrize(("left", "warned"), [(1200, False), (1201, True)])
def test_an_hour(clock, caplog, left, warned):
    seen = Forecast("losses", True)
    clock(12)
    seen.add(4, 400)
    seen.decide(100.0, left)  # 3 s a row
    assert bool(caplog.messages) == warned
    assert not warned or "a smaller shortlist or data.cutoff_len takes less" in caplog.text


def test_batches_that_measured_their_size_do_not_count(clock, caplog):
    seen = Forecast("gradients", False)
    clock(1000)
    seen.add(1, 100)
    seen.restart()
    seen.decide(100.0, 10**6)  # nothing is known yet
    assert not caplog.messages
    clock(10)
    assert seen.add(1000, 100_000)
    seen.decide(100.0, 100_000)  # 1000 s
    assert not caplog.messages and seen.done


def test_processes_share_the_rows(clock, caplog, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    seen = Forecast("losses", False)
    clock(10)
    seen.add(10, 10)
    seen.decide(1.0, 14_400)  # an hour each
    assert not caplog.messages


@pytest.mark.model
def test_a_run_warns_from_its_first_batches(tiny, tmp_path, caplog, monkeypatch):
    from near.training.train import train
    from tests.conftest import configured

    monkeypatch.setattr(forecast, "HOUR", 0.0)
    train(
        configured("train", *tiny, f"cache_dir={tmp_path}/c", "selector=loss", "trainer.update_times=1"), tmp_path / "o"
    )
    assert [line for line in caplog.messages if "the losses of 60 rows will take about" in line]

"""dry_run.json: sums, words, and what is written where."""

import logging

import pytest

from near.common.cost import Cost, StageCost, duration, size
from near.common.errors import UserError


def cost(**stages):
    return Cost(script="train", timed=True, stages=stages)


def test_sums():
    one = StageCost(seconds=1.0, low=0.5, high=2.0, memory=10, disk=3)
    other = StageCost(seconds=2.0, low=1.0, high=3.0, memory=30, disk=4)
    whole = cost(one=one, other=other, unknown=StageCost.whole(0.0, memory=None)).summed()
    assert (whole.seconds, whole.low, whole.high, whole.memory, whole.disk) == (3.0, 1.5, 5.0, 30, 7)
    assert cost(one=one, other=StageCost(rows=3, disk=None)).summed().seconds is None  # a part is not known


def test_it_is_written_and_read(tmp_path, capsys):
    written = cost(training=StageCost(rows=1200, tokens=3, seconds=90.0, low=80.0, high=100.0, note="a [note]"))
    written = written.report(tmp_path)
    assert Cost.read(tmp_path / "dry_run.json") == written and written.created
    shown = capsys.readouterr().out
    assert "1,200" in shown and "90 s" in shown and "a [note]" in shown
    written.report(tmp_path)  # its own file is replaced


def test_another_programs_file_is_not_replaced(tmp_path):
    (tmp_path / "dry_run.json").write_text("{}")
    with pytest.raises(UserError, match="dry_run.json, a file that near did not write"):
        cost().report(tmp_path)


def test_what_the_table_has_no_place_for(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "near")
    monkeypatch.setattr("near.common.cost.free_disk", lambda path: 1_000_000)
    few = {"option": "selector.shortlist={selector: near, size: 100}", "rows": 100, "of": 900, "seconds": 60.0}
    said = Cost(
        script="train",
        timed=True,
        disk=3_000_000,
        downloads=["m (5 MB)"],
        not_counted=["grading"],
        shortlist={**few, "saved": 7200.0},
    )
    said.log(tmp_path / "not" / "there")
    assert caplog.messages == [
        "to download first: m (5 MB); nothing is timed that needs it",
        "not counted: grading",
        "selector.shortlist={selector: near, size: 100}: 60 s of scoring for 100 of 900 rows, 2.0 h less",
        "disk: 3.0 MB of 1.0 MB free; that is too little, free 2.0 MB",
    ]


def test_words():
    assert [size(n) for n in (0, 999, 1500, 2_345_678, 5e12)] == ["0 bytes", "999 bytes", "2 kB", "2.3 MB", "5.0 TB"]
    assert [duration(s) for s in (0.04, 9.96, 119, 120, 7199, 9000)] == [
        *("0.0 s", "10.0 s", "119 s", "2 min", "120 min", "2.5 h")
    ]

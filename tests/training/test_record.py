"""The record of every round, by hand."""

import json
import logging

import numpy as np
import pytest

from near.common.errors import UserError
from near.report.lookup import lookup, seen
from near.selection.round import Subset
from near.training.rounds.record import Record, overlap
from near.training.rounds.schedule import Phase


class Pool:
    """Stands in for Rows: ids below 5 are law, the others sums."""

    def __len__(self):
        return 10

    def sources(self, ids):
        return np.array(["law" if i < 5 else "sum" for i in ids], dtype=object)


def recorded(folder, write=True) -> Record:
    record = Record(folder / "rounds", "near", Pool(), 2, write)
    record.add(Phase(0, 0, 2, True), Subset(np.array([1, 2, 6, 7])), 0.0, np.array([7, 1, 2, 6]))
    scores = np.array([0.9, 0.5, np.nan], dtype=np.float32)
    record.add(Phase(1, 2, 3, False), Subset(np.array([6, 2, 9]), scores), 0.25, np.array([2, 6, 9, 9, 6, 2]))
    return record


def test_overlap_is_the_jaccard_index():
    assert overlap(np.array([1, 2, 3]), np.array([3, 4])) == 0.25
    assert overlap(np.array([1]), np.array([2])) == 0
    assert overlap(np.array([2, 1]), np.array([1, 2])) == 1


def test_a_round_is_recorded(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    recorded(tmp_path)
    first, second = [json.loads(line) for line in (tmp_path / "rounds" / "rounds.jsonl").read_text().splitlines()]
    assert (first["selector"], first["overlap"], first["never_seen"], first["mean_score"]) == ("warm-up", None, 1, None)
    assert set(second.pop("sha256")) == {"001.npy", "001_order.npy", "001_scores.npy"}
    assert second == {
        "round": 1,
        "selector": "near",
        "step": 2,
        "steps": 3,
        "rows": 3,
        "draws": 6,
        "draws_per_step": 2,
        "mean_score": 0.7,
        "overlap": 0.4,
        "never_seen": 0.333333,
        "sources": {"sum": 2, "law": 1},
        "select_seconds": 0.25,
        "mix": None,
        "schema_version": 1,
        **dict.fromkeys(("seconds", "tokens", "target_loss", "evaluate_seconds")),
    }
    assert "3 distinct rows, 2.0 passes; mean score 0.700; overlap with the round before 0.40, 33%" in caplog.text
    assert np.load(tmp_path / "rounds" / "001.npy").tolist() == [6, 2, 9]
    assert np.load(tmp_path / "rounds" / "001_order.npy").tolist() == [2, 6, 9, 9, 6, 2]


def test_only_one_process_writes(tmp_path):
    recorded(tmp_path, write=False)
    assert not list(tmp_path.iterdir())


def test_a_restored_record_continues_alike(tmp_path):
    whole, part = recorded(tmp_path / "whole"), recorded(tmp_path / "part")
    again = Record(tmp_path / "again" / "rounds", "near", Pool(), 2, True)
    again.restore(part.rounds, [np.array([1, 2, 6, 7]), np.array([6, 2, 9])], [np.array([7, 1, 2, 6]), np.arange(6)])
    third = (Phase(2, 5, 1, False), Subset(np.array([9, 0])), 0.0, np.array([0, 9]))
    assert again.add(*third) == whole.add(*third)
    assert again.rounds[-1].never_seen == 0.5


def test_a_row_is_looked_up_with_its_steps(tmp_path):
    recorded(tmp_path)
    assert [(s.line.round, s.place, s.steps) for s in seen(tmp_path, 6)] == [(0, 3, [2]), (1, 1, [3, 5])]
    assert seen(tmp_path, 0) == []


def test_a_row_is_looked_up_without_its_data(tmp_path, capsys):
    recorded(tmp_path / "run")
    lookup(tmp_path, 9)
    output = capsys.readouterr().out
    assert "row 9: its text can't be shown" in output
    assert "in 1 of its 2 rounds" in output
    assert "round 1 (near), place 3 of 3: trained in step 4, 4" in output
    lookup(tmp_path, 3)
    assert "in none of its 2 rounds" in capsys.readouterr().out


def test_faults_of_a_lookup(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        lookup(tmp_path / "nowhere", 1)
    with pytest.raises(UserError, match="no rounds/rounds.jsonl below it"):
        lookup(tmp_path, 1)
    recorded(tmp_path)
    (tmp_path / "rounds" / "001_order.npy").write_bytes(b"half")
    with pytest.raises(UserError, match="001_order.npy can't be read"):
        lookup(tmp_path, 6)


def test_a_resumed_run_cuts_an_unfinished_line_and_a_new_one_replaces_all(tmp_path):
    """What a killed process left does not stay in front of the lines that follow."""
    whole = recorded(tmp_path)
    path = tmp_path / "rounds" / "rounds.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-7])
    resumed = Record(tmp_path / "rounds", "near", Pool(), 2, True)
    resumed.restore(whole.rounds[:1], [np.array([1, 2, 6, 7])], [np.array([7, 1, 2, 6])])
    scores = np.array([0.9, 0.5, np.nan], dtype=np.float32)
    resumed.add(Phase(1, 2, 3, False), Subset(np.array([6, 2, 9]), scores), 0.25, np.array([2, 6, 9, 9, 6, 2]))
    assert path.read_bytes() == content
    recorded(tmp_path)
    assert path.read_bytes() == content

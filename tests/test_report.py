"""The table and the page over runs that are there, unfinished or damaged."""

import json
from pathlib import Path

import pytest

from near.errors import UserError
from near.report import cells, notes, page, report, shown
from near.runs import collect
from tests.conftest import configured

METRICS = {
    "rows": 10,
    "tokens": 90,
    "eval_fingerprint": "e",
    "answers_right": 4,
    "target_loss": 0.5,
    "seed": 1,
    "model": "x/tiny",
}
BASE = {**METRICS, "target_loss": 2.0, "answers_right": 0, "seed": None}


def run(folder: Path, selector: str, loss: float, **more) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("a: 1")
    rounds = [{"round": 0, "selector": selector, "rows": 3, "sources": {"<script>alert(1)</script>": 2, "law": 1}}]
    (folder / "rounds").mkdir()
    (folder / "rounds" / "rounds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rounds))
    training = {"distinct_rows": 3, "train_seconds": 1.25, "select_seconds": 0.5, "history": [{"step": 1, "loss": 3.0}]}
    (folder / "train_metrics.json").write_text(json.dumps(training))
    metrics = {**METRICS, "selector": selector, "target_loss": loss, "base": BASE, **more}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_the_base_model_is_always_a_row(tmp_path):
    run(tmp_path / "b", "random", 0.9)
    run(tmp_path / "a", "near", 0.7)
    runs, unfinished = collect(tmp_path)
    assert [(r.selector, r.metrics["target_loss"]) for r in runs] == [("base", 2.0), ("near", 0.7), ("random", 0.9)]
    assert cells(runs[1], tmp_path) == ["near", "1", "a", "tiny", "0.7000", "4/10", "3", "1.2", "0.5"]
    assert unfinished == []


def test_an_evaluated_model_is_the_base_only_where_a_run_began_from_it(tmp_path):
    run(tmp_path / "a", "near", 0.7)
    for name, model, loss in (("base", "x/tiny", 2.0), ("merged", "out/merged", 0.7)):
        (tmp_path / name).mkdir()
        metrics = {**BASE, "selector": None, "model": model, "target_loss": loss}
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    runs, _ = collect(tmp_path)
    assert [(r.selector, cells(r, tmp_path)[2:4]) for r in runs] == [
        ("base", ["base", "tiny"]),
        ("model", ["merged", "merged"]),
        ("near", ["a", "tiny"]),
    ]


def test_the_table_and_the_page(tmp_path, capsys):
    run(tmp_path / "selector-near", "near", 0.7)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("a: 1")
    report(configured("report", f"runs={tmp_path}"), tmp_path)
    shown = capsys.readouterr().out
    assert "0.7000" in shown
    assert "base" in shown
    assert "begun: begun and not finished" in shown
    text = (tmp_path / "report.html").read_text()
    assert "0.7000" in text
    assert "<script>alert(1)</script>" not in text  # text from the data is data
    assert "&lt;script&gt;alert(1)" in text or "\\u0026lt;script" in text or "\\u003cscript" in text
    for outside in ('src="http', "src='http", '<link rel="stylesheet" href="http'):
        assert outside not in text  # opens without a network


def test_what_a_reader_must_know(tmp_path):
    run(tmp_path / "a", "near", 0.7, selection_saw_them=True)
    run(tmp_path / "b", "random", 0.7, eval_fingerprint="other")
    found = " ".join(notes(*collect(tmp_path)))
    assert "which selection saw" in found
    assert "different rows" in found


def test_an_answerless_run_shows_a_dash(tmp_path):
    run(tmp_path / "a", "near", 0.7, answers_right=None, base=None)
    runs, _ = collect(tmp_path)
    assert cells(runs[0], tmp_path)[5] == "-"
    assert "<td>-</td>" in page(runs, tmp_path, [])


def test_the_model_is_a_column_where_there_are_several(tmp_path):
    run(tmp_path / "a", "near", 0.7)
    assert "model" not in shown(collect(tmp_path)[0], tmp_path)[0]
    run(tmp_path / "b", "near", 0.7, model="y/other")
    names, rows = shown(collect(tmp_path)[0], tmp_path)
    assert {row[names.index("model")] for row in rows} == {"tiny", "other"}


def test_bad_input(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        collect(tmp_path / "no")
    with pytest.raises(UserError, match="no metrics.json below it"):
        collect(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")  # another program's
    with pytest.raises(UserError, match="no metrics.json below it"):
        collect(tmp_path)
    (tmp_path / "metrics.json").write_text('{"selector": ')
    with pytest.raises(UserError, match="is damaged"):
        collect(tmp_path)

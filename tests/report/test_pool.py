"""The pool of a report: loaded again as its runs had it, with nothing embedded for it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from near.app.check.check import read_run_config
from near.common.errors import UserError
from near.embedding.embedders.hashing import HashingEmbedder
from near.report.compare import groups_of
from near.report.page.pool import pool_of
from near.report.runs import collect
from near.selection.select import select
from near.training.train import train
from tests.conftest import configured, report


@pytest.mark.model
def test_the_pool_of_a_run_is_without_its_near_duplicates_also_where_its_matrix_was_given(tiny, tmp_path, monkeypatch):
    dedup = ["data.dedup=near", "data.dedup_threshold=0.84"]
    tiny = [*tiny, f"cache_dir={tmp_path}/cache"]
    words = [word for word in tiny if word.startswith(("data", "cache_dir", "embedder", "max_K"))]
    select(configured("select", *words, *dedup), tmp_path / "matrix")
    train(configured("train", *tiny, *dedup, f"indices_path={tmp_path}/matrix"), tmp_path / "runs" / "near")
    runs, _ = collect(tmp_path / "runs")
    pool = pool_of(groups_of(runs), read_run_config)
    manifest = json.loads((tmp_path / "matrix" / "manifest.json").read_text())
    assert len(pool.rows.eligible()) == manifest["candidates"]["eligible"] < len(pool.rows)
    assert set(np.unique(pool.neighbours.ids)) <= set(pool.rows.eligible())
    monkeypatch.setattr(HashingEmbedder, "embed", lambda *a: pytest.fail("embedded"))
    shutil.rmtree(tmp_path / "cache" / "dedup")
    with pytest.raises(UserError, match="no longer in the cache"):
        pool_of(groups_of(runs), read_run_config)


def picked(run: Path) -> list[int]:
    """The rows that the selector's rounds trained, once for each round."""
    lines = [json.loads(line) for line in (run / "rounds" / "rounds.jsonl").read_text().splitlines()]
    rounds = [line["round"] for line in lines if line["selector"] != "warm-up"]
    return [row for i in rounds for row in set(np.load(run / "rounds" / f"{i:03d}_order.npy").tolist())]


@pytest.mark.model
def test_the_report_says_what_selections_looked_at(tiny, tmp_path, capsys):
    path = shutil.copy(next(w for w in tiny if "candidates.path" in w).partition("=")[2], tmp_path)
    tiny = [*tiny, "data.labels=[domain]", f"data.candidates.path={path}", f"cache_dir={tmp_path}/cache"]
    pool = [json.loads(line) for line in open(path)]
    runs = tmp_path / "runs"
    for selector in ("near", "oracle", "random"):
        train(configured("train", *tiny, f"selector={selector}"), runs / selector)
    report(configured("report", f"runs={runs}", "map=null"), runs)
    shown, page = capsys.readouterr().out, (runs / "report.html").read_text()
    for selector in ("near", "oracle", "random"):
        share = np.mean([pool[row]["domain"] == "sum" for row in picked(runs / selector)])
        assert f"{selector}: {share:.0%} domain sum" in shown and f"<li>{selector}: {share:.0%} domain sum" in page
    assert "oracle: 100% domain sum (pool 33%)" in shown
    lines = shown[shown.index("What did the selections look at?") :].splitlines()
    table = [line.split()[:2] for line in lines if line.split()[:1] and line.split()[0] in ("pool", "target", "oracle")]
    assert table[:3] == [["pool", "33%"], ["target", "100%"], ["oracle", "100%"]]
    Path(path).write_text(Path(path).read_text().replace("colour", "color"))
    report(configured("report", f"runs={runs}", "map=null"), tmp_path / "changed")
    assert "No map, no queries and no labels" in (tmp_path / "changed" / "report.html").read_text()

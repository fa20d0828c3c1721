"""The pool of a report: loaded again as its runs had it, with nothing embedded for it."""

import json
import shutil

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
from tests.conftest import configured


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

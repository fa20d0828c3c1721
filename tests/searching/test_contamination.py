"""Rows close to held-out ones by their vectors."""

import json
import logging

import numpy as np
import pytest
from omegaconf import OmegaConf

from near.common.errors import UserError
from near.common.records import SelectionManifest
from near.report.runs import quiet
from near.searching.equal_rows import close_pairs
from near.searching.material import Material, load_queries
from near.searching.settings import SearchSettings
from near.searching.vectors import ArrayVectors
from near.selection.select import select
from tests.conftest import configured, write_rows
from tests.data.test_contamination import MATHS, STORY

ROWS = ("north of the sea", "the sea of north", "other words here", "something else again", "north of a sea")


@pytest.fixture()
def cfg(tmp_path):
    """The hashing embedder does not see the order of words: rows 0 and 1 are equal to the query, row 4 is near."""
    cfg = configured("select", "data=files", "embedder=hashing", f"cache_dir={tmp_path}/cache", "max_K=2")
    cfg.embedder.embed = "prompt"
    pool = [{"question": q, "answer": "a"} for q in ROWS]
    cfg.data.candidates.path = str(write_rows(tmp_path / "pool.jsonl", pool))
    cfg.data.queries.path = str(write_rows(tmp_path / "q.jsonl", [{"question": "sea north of the", "answer": "b"}]))
    cfg.data.decontaminate.cosine = 0.7
    return cfg


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "contaminated.jsonl").read_text().splitlines()]


def test_close_rows_are_listed_and_left_out_by_choice(cfg, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    select(cfg, tmp_path / "warned")
    found = lines(tmp_path / "warned")
    assert [one["row"] for one in found] == [0, 1, 4] and not any(one["left_out"] for one in found)
    assert found[0]["cosine"] == pytest.approx(1, abs=1e-4) and 0.7 <= found[2]["cosine"] < 0.99
    assert {one["kind"] for one in found} == {"embedding"} and found[0]["words"] is None
    cfg.data.decontaminate.action = "drop"
    caplog.clear()
    select(cfg, tmp_path / "dropped")
    assert "candidates: 3 rows resemble 1 row of queries (embedding 3), left out" in caplog.text
    assert "embedded 0 texts" in caplog.text
    assert set(np.load(tmp_path / "dropped" / "top_indices.npy").ravel()) == {2, 3}
    assert all(one["left_out"] for one in lines(tmp_path / "dropped"))
    manifest = SelectionManifest.read(tmp_path / "dropped" / "manifest.json")
    assert manifest.contamination == {
        "rows": 3,
        "left_out": 3,
        "held_out_rows": {"queries": 1},
        "kinds": {"embedding": 3},
    }
    with pytest.raises(UserError, match="holds another selection"):
        select(cfg, tmp_path / "warned")


def test_nothing_is_embedded_for_it_where_only_the_cache_may_be_read(cfg):
    queries = load_queries(cfg.data, cfg.cache_dir, True, False)
    material, search = Material.load(cfg.data, queries, cfg.cache_dir), SearchSettings.of(cfg, cfg.cache_dir)
    with pytest.raises(UserError, match="no longer in the cache"):
        material.distinct(cfg.data, search, compute=False)
    with quiet():
        whole = material.distinct(cfg.data, search)
    assert material.distinct(cfg.data, search, compute=False).candidates.overlaps == whole.candidates.overlaps


def test_another_threshold_is_compared_anew(cfg, tmp_path):
    cfg.data.decontaminate.cosine = 0.999
    select(cfg, tmp_path / "out")
    assert [one["row"] for one in lines(tmp_path / "out")] == [0, 1]


def test_held_out_rows_without_an_answer_are_not_compared_by_answers(cfg, tmp_path):
    cfg.embedder.embed = "both"
    path = write_rows(tmp_path / "b.jsonl", [{"question": "other words here"}])
    OmegaConf.update(cfg, "data.decontaminate.benchmarks", {"b": str(path)})
    select(cfg, tmp_path / "out")
    assert {one["set"] for one in lines(tmp_path / "out") if one["kind"] == "embedding"} <= {"queries"}
    cfg.embedder.embed = "prompt"
    select(cfg, tmp_path / "prompts")
    assert {one["set"] for one in lines(tmp_path / "prompts") if one["kind"] == "embedding"} == {
        *("queries", "benchmarks.b")
    }


def test_close_pairs_of_every_block(monkeypatch):
    monkeypatch.setattr("near.searching.equal_rows.BLOCK", 3)
    monkeypatch.setattr("near.searching.equal_rows.MOST", 2)
    rng = np.random.default_rng(0)
    pool, others = (rng.normal(size=(n, 4)).astype(np.float32) for n in (10, 5))
    pool, others = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (pool, others))
    at, other, cosines = close_pairs(ArrayVectors(pool), others, 0.3)
    assert set(zip(at.tolist(), other.tolist(), strict=True)) == set(
        map(tuple, np.argwhere(pool @ others.T >= 0.3).tolist())
    )
    assert cosines == pytest.approx((pool @ others.T)[at, other])


def test_a_threshold_that_fits_too_many(monkeypatch):
    monkeypatch.setattr("near.searching.equal_rows.PAIRS", 5)
    same = np.ones((4, 1), dtype=np.float32)
    with pytest.raises(UserError, match="cosine=0.1: more than 5 pairs of rows are that close"):
        close_pairs(ArrayVectors(same), same, 0.1)


SIMILAR = {  # cosine in docs/data.md
    "The lighthouse keeper noted, one chilly dawn at the end of March, how many ships had sailed (forty), listed them "
    "in his green notebook and wanted to know from the most junior seaman who would be back before bad weather.": 0,
    "Every day someone who bakes bread sells a dozen loaves at $4 before noon and thirty rolls at $2 after it. "
    "What does he take in over seven days?": 1,
    "Asked by the keeper of the lighthouse which of them would return before the storm, the youngest sailor was "
    "silent; the keeper had counted forty boats that had left the harbour on a cold morning in late March.": 0,
}
OUT_OF_REACH = (
    "Ein Bäcker verkauft jeden Morgen 12 Brote und jeden Nachmittag 30 Brötchen. Ein Brot kostet 4 Dollar, ein "
    "Brötchen 2 Dollar. Wie viele Dollar nimmt er in einer Woche von 7 Tagen ein?",
    "A train leaves at 9 and travels 60 miles in 2 hours. How far does it go in 5 hours?",
)


@pytest.mark.real
def test_paraphrases_are_found_by_a_real_embedder_and_not_by_words(tmp_path, real_cache):
    words = ["data=files", "embedder=minilm", f"cache_dir={real_cache}", "data.decontaminate.cosine=0.75"]
    cfg = configured("select", *words, "embedder.embed=prompt")
    pool = [{"question": q, "answer": "a"} for q in (*SIMILAR, *OUT_OF_REACH)]
    cfg.data.candidates.path = str(write_rows(tmp_path / "pool.jsonl", pool))
    cfg.data.queries.path = str(
        write_rows(tmp_path / "q.jsonl", [{"question": q, "answer": "b"} for q in (STORY, MATHS)])
    )
    select(cfg, tmp_path / "out")
    found = {(one["row"], one["held_out_row"]): one["kind"] for one in lines(tmp_path / "out") if one["cosine"]}
    assert found == {(row, of): "embedding" for row, of in enumerate(SIMILAR.values())}
    assert {one["row"] for one in lines(tmp_path / "out") if not one["cosine"]} <= {2}, "n-grams see no paraphrase"

"""Leaks and duplicates leave the pool without moving any row."""

import logging

import pytest

from near.common.errors import UserError
from near.data.loading import load
from near.data.pool import load_pool
from tests.conftest import configured, write_rows


def row(question: str, answer: str = "x", system: str = "") -> dict:
    return {"instruction": question, "output": answer, "system": system}


@pytest.fixture()
def cfg(tmp_path):
    pool = [row("a"), row("b"), row("a", "y"), row("c"), row("b"), row("a", system="s"), row("d"), row("c", "z")]
    cfg = configured("select", "data=files", f"cache_dir={tmp_path}/cache")
    cfg.data.candidates.path = str(write_rows(tmp_path / "pool.jsonl", pool))
    cfg.data.queries.path = str(write_rows(tmp_path / "queries.jsonl", [row("a", "other answer")]))
    cfg.data.eval.path = str(write_rows(tmp_path / "eval.jsonl", [row("d")]))
    return cfg


def pool_of(cfg):
    return load_pool(cfg.data, load(cfg.data, "queries", cfg.cache_dir, answer=False), cfg.cache_dir)


def test_prompts_of_queries_and_eval_rows_are_left_out(cfg, caplog):
    caplog.set_level(logging.INFO)
    pool = pool_of(cfg)
    assert pool.eligible().tolist() == [1, 3, 4, 7]  # 5 asks the same under another system message
    assert len(pool) == 8
    assert "4 rows left out with the prompt of a query or an eval row" in caplog.text
    cfg.data.leakage = "keep"
    assert len(pool_of(cfg).eligible()) == 8


def test_exact_duplicates_keep_the_first(cfg, caplog):
    caplog.set_level(logging.INFO)
    cfg.data.dedup = "exact"
    assert pool_of(cfg).eligible().tolist() == [1, 3, 7]
    assert "1 row left out as a repeat of an earlier row" in caplog.text


def test_a_pool_of_nothing_but_leaks(cfg):
    cfg.data.candidates.path = cfg.data.eval.path
    with pytest.raises(UserError, match="set data.leakage=keep if meant"):
        pool_of(cfg)

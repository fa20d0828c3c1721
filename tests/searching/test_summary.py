"""What select.py prints at its end, and its warnings."""

import logging

import numpy as np
import pytest

from near.searching.find import typical_scores
from near.searching.summary import warn
from near.searching.vectors import ArrayVectors
from near.selection.select import select
from tests.conftest import configured, write_rows


def test_typical_is_the_median_over_the_pool():
    rng = np.random.default_rng(0)
    pool, queries = (rng.normal(size=(n, 5)).astype(np.float32) for n in (700, 3))
    typical = typical_scores(queries, ArrayVectors(pool))
    np.testing.assert_allclose(typical, np.median(queries @ pool.T, axis=1), rtol=1e-5)


def warned(caplog, scores, typical):
    caplog.clear()
    warn(np.array(scores, dtype=np.float32), np.array(typical, dtype=np.float32), np.array([3, 7, 9]))
    return caplog.text


def test_queries_whose_neighbours_are_far_or_the_same(caplog):
    near, spread = [0.9, 0.5, 0.2], [0.1, 0.1, 0.1]
    assert warned(caplog, [near] * 3, spread) == ""
    assert warned(caplog, [[0.95, 0.93, 0.92]] * 3, [0.8] * 3) == "", "an embedder for which all is close"
    text = warned(caplog, [near, [0.35, 0.3, 0.2], near], spread)
    assert (
        "1 of 3 queries without a near row in the pool: query 7's nearest has similarity 0.350, just any row 0.100"
        in text
    )
    assert "3 of 3 queries without a near row" in warned(caplog, [[0.85, 0.84, 0.8]] * 3, [0.8] * 3)
    text = warned(caplog, [near, near, [0.9, 0.9, 0.9]], spread)
    assert "1 of 3 queries have neighbours that are all the same: the 3 of query 9 all have similarity 0.900" in text
    assert warned(caplog, [[0.9]] * 3, spread) == "", "one neighbour says nothing"


@pytest.fixture()
def words(tmp_path):
    pool = [{"instruction": f"name the capital of country {i}", "output": "x"} for i in range(40)]
    pool += [{"instruction": "name [bold]it[/bold]\x1b[31m now", "output": "x"}] * 2
    write_rows(tmp_path / "pool.jsonl", pool)
    write_rows(tmp_path / "more.jsonl", [{"instruction": f"sum {i} and {i}", "output": "x"} for i in range(20)])
    texts = ["the capital of country", "name it now"]
    write_rows(tmp_path / "target.jsonl", [{"instruction": text, "output": "x"} for text in texts])
    paths = f"data.candidates.path=[{tmp_path}/pool.jsonl,{tmp_path}/more.jsonl]"
    target = f"data.queries.path={tmp_path}/target.jsonl"
    return ["data=files", paths, target, "embedder=hashing", f"cache_dir={tmp_path}/cache"]


def test_the_table_and_the_rows_to_look_at(words, tmp_path, capsys, caplog):
    select(configured("select", *words, "max_K=12"), tmp_path / "a")
    printed = capsys.readouterr().out
    lines = {line[:26].strip(): line[26:].strip() for line in printed.splitlines()}
    assert lines["pool"] == "62 rows, 62 may be selected"
    assert lines["queries"] == "2"
    assert lines["distinct texts"] == "61, and 2 of queries: 63 embedded now, 0 before"
    assert lines["truncated"] == "0 of the texts embedded now"
    scores = np.load(tmp_path / "a" / "top_scores.npy").mean(axis=0)
    shown = ", ".join(f"{scores[rank - 1]:.3f} at rank {rank}" for rank in (1, 10, 12))
    assert lines["mean similarity"] == shown
    assert lines["sources of the 10 nearest"].startswith("pool ")
    assert "query 0: the capital of country" in printed
    assert "query 1: name it now" in printed
    assert "row 40: name [bold]it[/bold]?[31m now" in printed, "a row's text is data: no markup, no escape sequence"
    select(configured("select", *words, "max_K=5"), tmp_path / "b")
    printed = capsys.readouterr().out
    assert "61, and 2 of queries: 0 embedded now, 63 before" in printed
    assert "0.0 s, the same search as before" in printed


def test_a_query_of_another_kind_is_warned_of(words, tmp_path, caplog):
    write_rows(tmp_path / "target.jsonl", [{"instruction": "qwx zzkj vvbn", "output": "x"}])
    caplog.set_level(logging.WARNING)
    select(configured("select", *words, "max_K=3"), tmp_path / "a")
    assert "1 of 1 query without a near row in the pool: query 0's nearest" in caplog.text


def test_a_source_is_data_too(words, tmp_path, capsys):
    path = tmp_path / "bad.jsonl"
    label = "evil\x1b[31m\x1b]0;pwn\x07\nINFO all is [red]well"
    write_rows(path, [{"instruction": f"capital {i}", "output": "x", "from": label} for i in range(5)])
    words = [w for w in words if "candidates" not in w]
    more = [f"data.candidates.path={path}", "data.candidates.columns.source=from", "max_K=2"]
    select(configured("select", *words, *more), tmp_path / "a")
    printed = capsys.readouterr().out
    assert "evil?[31m?]0;pwn? INFO all is" in printed
    assert "\x1b" not in printed

"""Near duplicates: the first of those alike stays, and no chain of likenesses drags another one out."""

import logging

import numpy as np
import pytest

from near.embedding import duplicates as dedup
from near.embedding.duplicates import greedy
from tests.conftest import configured, write_rows


def keep(vectors, threshold, exact=True):
    vectors = np.asarray(vectors, dtype=np.float32)
    return greedy(lambda a, b: vectors[a:b], len(vectors), threshold, exact)


def brute(vectors, threshold):
    keep = []
    for i in range(len(vectors)):
        if not any(vectors[i] @ vectors[j] > threshold for j in keep):
            keep.append(i)
    return keep


def clustered(n, clusters, dim=24, spread=0.25):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(clusters, dim))[rng.integers(0, clusters, n)] + spread * rng.normal(size=(n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_by_hand():
    angles = np.deg2rad([0, 10, 20, 90, 95, 0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # 10 degrees is near 0 and goes; 20 is near 10, which is gone, but not near 0: it stays
    assert keep(vectors, np.cos(np.deg2rad(15))).tolist() == [True, False, True, True, False, False]


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_it_agrees_with_comparing_every_pair(monkeypatch, block):
    monkeypatch.setattr(dedup, "BLOCK", block)
    vectors = clustered(300, 40)
    for threshold in (0.5, 0.8, 0.95):
        rows = np.flatnonzero(keep(vectors, threshold))
        assert rows.tolist() == brute(vectors, threshold)
        assert 3 < len(rows) < 300


def test_the_graph_finds_nearly_all_of_them():
    vectors = clustered(4000, 500)
    exact, by_graph = keep(vectors, 0.9), keep(vectors, 0.9, exact=False)
    assert (exact == by_graph).mean() > 0.99
    assert abs(int(exact.sum()) - int(by_graph.sum())) < 0.01 * len(vectors)


@pytest.fixture()
def command(tmp_path):
    words = ["the cat sat on the mat", "the cat sat on the mat today", "a dog", "the cat sat on the mat", "a dog ran"]
    rows = [{"instruction": w, "output": str(i)} for i, w in enumerate(words)]
    paths = [f"data.candidates.path={write_rows(tmp_path / 'p.jsonl', rows)}"]
    paths.append(f"data.queries.path={write_rows(tmp_path / 'q.jsonl', [{'instruction': 'a cat', 'output': 'x'}])}")
    return ["data=files", *paths, "embedder=hashing", "max_K=2", f"cache_dir={tmp_path}/c", "data.dedup=near"]


def test_a_selection_leaves_them_out(command, tmp_path, caplog):
    from near.selection.select import select

    caplog.set_level(logging.INFO, "near")
    select(configured("select", *command, "data.dedup_threshold=0.9"), tmp_path / "out")
    assert sorted(np.load(tmp_path / "out" / "top_indices.npy")[0]) == [0, 2] or "3 distinct" in caplog.text
    assert "4 distinct texts, every pair compared, as up to 100000" in caplog.text
    assert "2 rows left out: similarity to an earlier row is above data.dedup_threshold=0.9" in caplog.text


def test_which_index_is_used_is_logged(command, tmp_path, caplog, monkeypatch):
    from near.selection.select import select

    monkeypatch.setattr(dedup, "EXACT_ROWS", 2)
    caplog.set_level(logging.INFO, "near")
    select(configured("select", *command, "data.dedup_threshold=0.9"), tmp_path / "out")
    assert "4 distinct texts, an HNSW graph, as beyond 2" in caplog.text
    assert "2 rows left out" in caplog.text


def test_a_damaged_result_is_made_again(command, tmp_path, caplog):
    from near.selection.select import select

    select(configured("select", *command), tmp_path / "out")
    (path,) = (tmp_path / "c" / "dedup").glob("*/duplicates.npy")
    path.write_bytes(b"")
    select(configured("select", *command), tmp_path / "out")
    assert f"{path.parent}: " in caplog.text and "it is made again" in caplog.text and path.read_bytes()
    path.unlink()
    select(configured("select", *command), tmp_path / "out")
    assert path.is_file()

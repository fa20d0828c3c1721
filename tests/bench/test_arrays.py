"""Scripts that measure with generated vectors and rows."""

import json

import pytest

from bench.material import clustered, disk_speed, write_vectors
from near.common.errors import UserError
from tests.bench.conftest import numbers, row


def test_intervals(run):
    lines = run("intervals", "times=20", "examples=8,12", "compared=12", "runs=2,3", "powers=10", "targets=5,6")
    for n in (8, 12):
        losses, right = row(lines, f"over {n:4} examples: losses")
        assert 50 <= losses <= 100 and 50 <= right <= 100
    for k in (2, 3):
        shares = row(lines, f"over {k:4} seeds:")
        assert len(shares) == 3 and all(50 <= share <= 100 for share in shares)
    (others,) = [line for line in lines if "by other intervals" in line]
    assert len(numbers(others.partition("intervals:")[2])) == 4 + 0 * len(others)
    (powers,) = [line for line in lines if line.startswith("   3 seeds, 12 examples")]
    shown = numbers(powers.partition("estimated):")[2])
    assert len(shown) == 6 and all(s <= 100 for s in shown)
    (effect,) = [line for line in lines if line.startswith("over    6 targets, with an effect")]
    shares = numbers(effect.partition("effect:")[2])
    assert len(shares) == 3 and 20 <= shares[1] <= shares[0] <= 100  # the span shows less than t alone
    assert run("intervals", "times=20", "targets=5", "only=targets") == lines[-7:-3]


def test_contamination(run):
    lines = run("contamination", "rows=40", "held_out=5", "words=30", "leaks=4")
    assert row(lines, "40 ")[-1] == 4


def test_store(run):
    lines = run("store", "keys=5000", "dim=4", "appended=100")
    for step in (
        "write 5000 vectors",
        "look up 5000 stored texts",
        "look up and read all vectors",
        "append 100 vectors",
    ):
        seconds, memory, *theirs = row(lines, step)
        assert seconds >= 0 and memory >= 0 and len(theirs) == 2
    for store in ("near", "sqlite"):  # 5,100 vectors of 4 numbers in float32 are 0.08 MB
        assert 0.08 <= row(lines, f"{store} on disk:")[0] < 2


def test_scale(run):
    lines = run("scale", "rows=2500", "dim=8", "queries=7", "max_K=5", "counts=1,2,3")
    for count in (1, 2, 3):
        (line,) = [line for line in lines if line.split()[0] == str(count)]
        assert "equal, to the bit" in line
    assert "2500 x 8 vectors, 7 queries, max_K=5" in lines[0]
    assert row(lines, "10,000,000 rows:")[0] == 0.0 or row(lines, "10,000,000 rows:")
    assert row(lines, "1,000,000,000 rows:")[0] == 32  # GB


@pytest.mark.parametrize("words", [("counts=1",), ("counts=0,2",), ("rows=10", "queries=5", "max_K=11")])
def test_scale_refuses(run, words):
    with pytest.raises(SystemExit, match="^error: (counts|rows)="):
        run("scale", *words)


def test_memory(run):
    lines = run("memory", "small=30", "large=60", "searched=40,80", "queries=3", "max_K=4", "dim=8", "turns=1")
    for part in ("imports", "load", "leakage and exact duplicates", "hash and embed", "look up again", "read"):
        low, high, _, _ = row(lines, part)
        assert 10 < low <= high  # MB; peaks grow
    for rows in (40, 80):
        seconds, more, vectors = row(lines, f"{rows} ")
        assert seconds >= 0 and more >= 0 and vectors == pytest.approx(rows * 8 * 4 / 1e6, abs=0.1)
    assert row(lines, "slope of seconds:") and row(lines, "slope of memory:")
    assert row(lines, "10000000 rows, estimated:")


def test_memory_measures_a_part_alone(run):
    assert not any("search" in line for line in run("memory", "only=pool", "small=12", "large=20"))
    for words in (
        ["only=both"],
        ["small=20", "large=20"],
        ["small=10", "large=20"],
        ["searched=5"],
        ["searched=5,10"],
        ["turns=0"],
    ):
        with pytest.raises(SystemExit, match="^error: .*use "):
            run("memory", *words)


def test_search_without_the_peer(run, monkeypatch):
    """If its wheel cannot be downloaded, its row says so, and the others are measured."""
    import bench.search

    def missing(*args):
        raise UserError("could not download dataflex==1.1.0 from the package index")

    monkeypatch.setattr(bench.search, "peer_ivf", missing)
    monkeypatch.setattr(bench.search, "REST", 0.0)
    lines = run("search", "rows=2000", "dim=16", "queries=20", "max_K=10", "turns=1", "demo=false")
    (product,) = [line for line in lines if line.startswith("product alone")]
    assert numbers(product)[-1] == 1.0
    for name in ("near index=flat", "near, torch on the CPU", "faiss.knn, in memory", "faiss contrib, 50k blocks"):
        seconds, factor, recall, short = numbers(
            next(line for line in lines if line.startswith(name)).removeprefix(name)
        )[-4:]
        assert seconds >= 0 and factor >= 0 and (recall, short) == (1.0, 0)
    for name in ("near index=ivf", "near index=hnsw"):
        seconds, factor, built, recall, short = row(lines, name)
        assert 0.3 < recall <= 1 and short == 0
    assert "not measured: could not download" in next(line for line in lines if line.startswith("DataFlex"))
    assert not any(
        "hnsw" in line
        for line in run("search", *"rows=500 dim=8 queries=5 max_K=5 turns=1 demo=false hnsw=false".split())
    )


def test_search_on_a_device_beside_torch(monkeypatch):
    import bench.search

    monkeypatch.setattr(bench.search, "REST", 0.0)
    measured = bench.search.search_rows("cpu", 3000, 20, 50, dim=16, turns=1)
    assert set(measured["seconds"]) == set(measured["peak_bytes"])
    assert set(measured["seconds"]) == {"near", "near, from the store", "torch blocks", "product"}
    assert measured["same_ids"] is True and measured["same_as_torch"] > 0.99 and measured["relative"] > 0
    assert json.loads(json.dumps(measured)) == measured


def test_search_refuses(run):
    with pytest.raises(SystemExit, match="^error: rows=5 .* max_K <= rows"):
        run("search", "rows=5", "max_K=6")


def test_vectors_are_of_length_one_and_the_disk_is_read_whole(tmp_path):
    import numpy as np

    write_vectors(tmp_path / "pool.npy", 12, 5)
    vectors = np.load(tmp_path / "pool.npy")
    assert vectors.shape == (12, 5) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(clustered(9, 3, 1), axis=1), 1, rtol=1e-6)
    assert disk_speed(tmp_path / "pool.npy") > 0


def test_growth(run):
    lines = run("growth", "sizes=200,400,800", "queries=3", "max_K=10", "dim=64")
    for rows in (200, 400, 800):
        seconds, memory, disk = row(lines, f"{rows} ")
        assert seconds > 0 and memory > 1 and rows * 64 * 4 / 1e6 < disk < 10
    _, _, slope = row(lines, "slopes from 200 to 800 rows:")
    assert slope < 1.05  # of the disk

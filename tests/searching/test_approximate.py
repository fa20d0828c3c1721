"""Approximate indexes: k rows for every query however narrow the search, recall as by brute force, cached files."""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading

import faiss
import numpy as np
import pytest

from near.app import cache
from near.common.errors import UserError
from near.common.files import digest, file_digest
from near.common.locks import acquire
from near.embedding.embedders.base import normalised
from near.searching.indexes import approximate
from near.searching.indexes.approximate import INDEX, MANIFEST, NUMBERS, Distinct
from near.searching.indexes.hnsw import Hnsw
from near.searching.indexes.ivf import Ivf
from near.searching.vectors import ArrayVectors
from near.selection.select import select
from tests.conftest import ROOT, configured

KINDS = {"ivf": Ivf, "hnsw": Hnsw}
both = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def clustered(n, d=16, clusters=20, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(clusters, d))
    return normalised(centres[rng.integers(clusters, size=n)] + 0.3 * rng.normal(size=(n, d)))


POOL, QUERIES = clustered(400), clustered(9, seed=1)
EXACT = QUERIES.astype(np.float64) @ POOL.astype(np.float64).T


def search(index, k=20, cache=None, pool=POOL, queries=QUERIES):
    return index.search(queries, ArrayVectors(pool), k, cache=cache)


@pytest.fixture(autouse=True)
def one_thread():
    """On a busy machine FAISS's threads wait for each other longer than so little work takes."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture()
def logged(caplog):
    caplog.set_level(logging.INFO)
    return caplog


# results


@both
def test_of_equal_rows_at_the_last_rank_the_lower_ones_win(kind):
    """Every vector stands in the pool seven times, 100 rows apart; the 20th neighbour is amid copies."""
    pool = np.tile(clustered(100), (7, 1))
    scores, rows = search(kind(), 20, pool=pool)
    for neighbours, near in zip(rows, np.argsort(-QUERIES @ pool[:100].T, axis=1), strict=True):
        copies = [near[i] + 100 * np.arange(7) for i in range(3)]
        np.testing.assert_array_equal(neighbours, np.concatenate(copies)[:20])
    assert (scores[:, :7] == scores[:, :1]).all()


def test_a_pools_vectors_are_numbered_as_they_come(monkeypatch):
    monkeypatch.setattr(approximate, "BLOCK", 3)
    pool = np.eye(5, dtype=np.float32)[[2, 2, 4, 2, 2, 2, 0, 4, 1]]
    vectors = Distinct.of(ArrayVectors(pool))
    assert vectors.vector_of.tolist() == [0, 0, 1, 0, 0, 0, 2, 1, 3]
    reported = []
    np.testing.assert_array_equal(
        np.concatenate([block.copy() for block in vectors.blocks(reported.append)]), pool[[0, 2, 6, 8]]
    )
    assert reported == [3, 3, 3]
    assert {tuple(v) for v in vectors.sample(4)} == {tuple(v) for v in pool}


@pytest.mark.parametrize("options", [{"nlist": 50}, {"M": 4, "ef_construction": 8}], ids=KINDS)
def test_the_same_index_and_neighbours_for_any_number_of_threads(options, tmp_path):
    """Of enough rows that FAISS shares out the work, which it does from 100 rows at a time on, 2% of all."""
    pool, results = clustered(8000, 8), []
    for count in (1, 2):
        faiss.omp_set_num_threads(count)
        index = (Ivf if "nlist" in options else Hnsw)(**options)
        result = search(index, cache=tmp_path / str(count), pool=pool, queries=clustered(50, 8, seed=1))
        results.append([a.tobytes() for a in result])
    assert results[0] == results[1]
    assert file_digest(tmp_path / "1" / INDEX) == file_digest(tmp_path / "2" / INDEX)


@both
def test_the_defaults_find_most_without_looking_at_all(kind):
    pool = clustered(3000, 32, 50)
    index = kind()
    search(index, 10, pool=pool, queries=clustered(64, 32, 50, seed=1))
    parameters = index.figures["index_parameters"]
    assert index.figures["recall"] >= 0.95
    assert parameters.get("nprobe", 0) < parameters.get("nlist", 1)
    assert parameters.get("ef_search", 0) < 3000 / 8


@both
def test_progress_reports_every_row_once(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "BLOCK", 64)
    for cached in (False, True):
        reported, index = [], kind()
        index.search(QUERIES, ArrayVectors(POOL), 5, reported.append, tmp_path / "index")
        assert (sum(reported), index.figures["index_cached"]) == (len(POOL), cached)


# short results


@pytest.mark.parametrize("index", [Ivf(nlist=20, nprobe=1), Hnsw(M=2, ef_search=1)], ids=KINDS)
def test_as_many_neighbours_as_rows(index, logged):
    scores, rows = search(index, len(POOL))
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(len(POOL)), (9, 1)))
    np.testing.assert_allclose(scores, np.take_along_axis(EXACT, rows, axis=1), atol=1e-6)
    assert (index.figures["recall"], index.figures["widened"]) == (1, 9)
    assert "9 of 9 queries came back short and were searched again" in logged.text


def test_only_queries_that_come_back_short_are_searched_wider(logged):
    """Two lists, of 300 rows and of 700: who is nearest to the small one finds 300 of 400 in it."""
    centres = normalised(np.array([[1.0, 0, 0], [-1, 0, 0]]))
    rng = np.random.default_rng(0)
    pool = normalised(np.repeat(centres, [300, 700], axis=0) + 0.1 * rng.normal(size=(1000, 3)))
    index = Ivf(nlist=2, nprobe=1)
    _, rows = search(index, 400, pool=pool, queries=normalised(centres + 0.01))
    assert set(rows[0, :300]) == set(range(300))
    assert rows[1].min() >= 300
    figures = {key: index.figures[key] for key in ("widened", "widened_to", "searched_exactly", "recall")}
    assert figures == {"widened": 1, "widened_to": 2, "searched_exactly": 0, "recall": 1}
    assert "1 of 2 queries came back short and were searched again, nprobe up to 2\n" in logged.text


@pytest.mark.parametrize(("reached_at", "exactly"), [(40, 0), (10**9, 9)])
def test_a_graph_is_searched_wider_until_exact_search_is_cheaper(reached_at, exactly, logged, monkeypatch):
    """A stand-in for a graph of which a part is reached from far away only, or never."""
    find, widths = Hnsw.find, []

    def hiding(self, index, queries, k, width):
        scores, numbers = find(self, index, queries, k, width)
        widths.append(width)
        numbers[:, 5:] = numbers[:, 5:] if width >= reached_at else -1
        return scores, numbers

    monkeypatch.setattr(Hnsw, "find", hiding)
    index = Hnsw(ef_search=10)
    _, rows = search(index)
    assert widths == [10, 20, 40] + [50] * (reached_at > 50)
    assert (index.figures["widened"], index.figures["searched_exactly"]) == (9, exactly)
    assert f"searched again, ef_search up to {widths[-1]}" in logged.text
    assert (f", {exactly} of them exactly" in logged.text) == (exactly > 0)
    np.testing.assert_array_equal(rows, np.argsort(-EXACT, axis=1)[:, :20])


@both
@pytest.mark.parametrize("scales", [(1e38, 1), (1, 1e38)], ids=["pool", "queries"])
def test_products_that_overflow_are_a_fault(kind, scales):
    """FAISS's k-means would end the process."""
    pool, queries = (a * np.float32(scale) for a, scale in zip((POOL, QUERIES), scales, strict=True))
    with pytest.raises(UserError, match="overflow float32; normalise them"):
        search(kind(), 5, pool=pool, queries=queries)


# recall


@pytest.mark.parametrize("index", [Ivf(nlist=25, nprobe=1), Hnsw(M=2, ef_construction=2, ef_search=1)], ids=KINDS)
def test_recall_is_brute_forces(index, logged):
    pool = normalised(np.random.default_rng(0).normal(size=(1000, 16)))
    _, rows = search(index, 30, pool=pool)
    expected = np.argsort(-QUERIES.astype(np.float64) @ pool.T, axis=1)[:, :30]
    shares = [len(set(a) & set(b)) / 30 for a, b in zip(rows.tolist(), expected.tolist(), strict=True)]
    assert np.mean(shares) < 0.9
    assert index.figures["recall"] == pytest.approx(np.mean(shares), abs=1e-6)
    assert f"recall {np.mean(shares):.3f} at max_K=30 on 9 of 9 queries, compared with exact search" in logged.text
    (warning,) = (r.message for r in logged.records if r.levelname == "WARNING")
    assert f"is low; raise index.{index.width_key} (it was " in warning


def test_recall_on_a_sample_of_the_queries(logged):
    queries = clustered(50, seed=3)
    index, again = (Ivf(nlist=25, nprobe=2, recall_queries=8) for _ in range(2))
    _, rows = search(index, queries=queries)
    search(again, queries=queries)
    assert index.figures["recall"] == again.figures["recall"]
    assert "on 8 of 50 queries" in logged.text
    sample = np.sort(np.random.default_rng(0).choice(50, 8, replace=False))
    expected = np.argsort(-queries[sample] @ POOL.T, axis=1)[:, :20]
    shares = [len(set(a) & set(b)) / 20 for a, b in zip(rows[sample].tolist(), expected.tolist(), strict=True)]
    assert index.figures["recall"] == pytest.approx(np.mean(shares), abs=1e-6)


def test_rows_that_tie_are_no_misses():
    """Mirrored rows have one score with a query on the axis: which of them is named is no fault."""
    rows = normalised(np.random.default_rng(0).normal(size=(200, 2)))
    pool = np.concatenate([rows, rows * np.array([1, -1], dtype=np.float32)])
    index = Hnsw()
    search(index, 31, pool=pool, queries=np.array([[1, 0]], dtype=np.float32))
    assert index.figures["recall"] == 1


# cached indexes


@contextlib.contextmanager
def counted(kind, monkeypatch):
    """How often an index is built in the block."""
    calls, build = [], kind.build
    with monkeypatch.context() as patch:
        patch.setattr(kind, "build", lambda *a: calls.append(1) or build(*a))
        yield calls


@both
def test_a_cached_index_is_used_whatever_is_searched(kind, tmp_path, monkeypatch, logged):
    first = kind()
    expected = [a.tobytes() for a in search(first, cache=tmp_path / "index")]
    assert "to build, saved in" in logged.text
    other = kind(**{kind.width_key: 1})
    assert first.structure_key == other.structure_key
    assert first.signature != other.signature
    with counted(kind, monkeypatch) as builds:
        again = kind()
        assert [a.tobytes() for a in search(again, cache=tmp_path / "index")] == expected
        search(other, 5, tmp_path / "index", queries=clustered(3, seed=5))
    assert not builds
    assert again.figures["index_cached"] and other.figures["index_cached"] and not first.figures["index_cached"]
    assert again.figures["build_seconds"] == first.figures["build_seconds"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index", "index.lock"]


@pytest.mark.parametrize("index", [Ivf(nlist=5), Hnsw(M=4), Hnsw(ef_construction=9)])
def test_what_decides_the_structure_decides_what_is_built(index):
    assert index.structure_key != type(index)().structure_key
    assert index.signature.items() > index.structure_key.items()


def redigested(keep):
    """The manifest of what is there now, as if it had been written so."""
    manifest = json.loads((keep / MANIFEST).read_text())
    manifest["sha256"] = {name: file_digest(keep / name) for name in (INDEX, NUMBERS)}
    del manifest["digest"]
    (keep / MANIFEST).write_text(json.dumps({**manifest, "digest": digest(manifest)}))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def unreadable(keep):
    """Not FAISS's format, though the digest is right."""
    (keep / INDEX).write_bytes(b"IxXX" + b"\0" * 100)
    redigested(keep)


def of_another_dimension(keep):
    faiss.write_index(faiss.IndexFlatIP(3), str(keep / INDEX))
    redigested(keep)


DAMAGE = {
    "a byte flipped": (lambda keep: flip(keep / INDEX), f"{INDEX} is damaged"),
    "cut": (lambda keep: (keep / INDEX).write_bytes((keep / INDEX).read_bytes()[:999]), f"{INDEX} is damaged"),
    "empty": (lambda keep: (keep / INDEX).write_bytes(b""), f"{INDEX} is damaged"),
    "numbers damaged": (lambda keep: flip(keep / NUMBERS), f"{NUMBERS} is damaged"),
    "index gone": (lambda keep: (keep / INDEX).unlink(), INDEX),
    "numbers gone": (lambda keep: (keep / NUMBERS).unlink(), NUMBERS),
    "manifest gone": (lambda keep: (keep / MANIFEST).unlink(), MANIFEST),
    "manifest cut": (lambda keep: (keep / MANIFEST).write_text('{"built": '), MANIFEST),
    "manifest of another kind": (lambda keep: (keep / MANIFEST).write_text("[1]"), MANIFEST),
    "manifest's byte flipped": (lambda keep: flip(keep / MANIFEST), f"{MANIFEST} is damaged"),
    "unreadable": (unreadable, "can't be read"),
    "another form": (of_another_dimension, f"{INDEX} is of another form"),
    "an empty folder": (lambda keep: (shutil.rmtree(keep), keep.mkdir()), MANIFEST),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_index_is_named_and_built_again(damage, reason, tmp_path, logged):
    keep = tmp_path / "index"
    expected = [a.tobytes() for a in search(Ivf(), cache=keep)]
    damage(keep)
    logged.clear()
    assert [a.tobytes() for a in search(Ivf(), cache=keep)] == expected
    (warning,) = (r.message for r in logged.records if r.levelname == "WARNING")
    assert str(keep) in warning and reason in warning and warning.endswith("it is made again")
    whole = Ivf()
    search(whole, cache=keep)
    assert whole.figures["index_cached"]


@both
def test_an_index_of_another_pool_is_refused(kind, tmp_path, logged):
    """Of as many rows and dimensions, copied to where this pool's should be; and one of another kind."""
    other = clustered(400, seed=9)
    expected = [a.tobytes() for a in search(kind())]
    search(kind(), cache=tmp_path / "other", pool=other)
    search(Ivf(nlist=7), cache=tmp_path / "kind")
    for name in ("other", "kind"):
        logged.clear()
        assert [a.tobytes() for a in search(kind(), cache=tmp_path / name)] == expected
        assert f"{tmp_path / name} is of another pool or of other parameters; it is made again" in logged.text


@both
def test_an_interrupted_build_leaves_nothing_and_is_started_again(kind, tmp_path, monkeypatch):
    keep = tmp_path / "index"
    expected = [a.tobytes() for a in search(kind())]
    read, count = ArrayVectors.read, [0]

    def interrupted(self, rows, out):
        count[0] += 1
        if count[0] == 6:
            raise KeyboardInterrupt
        read(self, rows, out)

    with monkeypatch.context() as patch:
        patch.setattr(approximate, "BLOCK", 100)  # four to number the vectors, then those that are added
        patch.setattr(ArrayVectors, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(kind(), cache=keep)
    assert not keep.exists()
    for fault in (KeyboardInterrupt(), OSError(28, "No space left on device")):

        def dies(index, path, fault=fault):
            path.write_bytes(b"half")
            raise fault

        with monkeypatch.context() as patch:
            patch.setattr(approximate, "_write_index", dies)
            with pytest.raises(type(fault)):
                search(kind(), cache=keep)
        assert [p.name for p in tmp_path.iterdir()] == ["index.lock"]
    (tmp_path / ".index.0123abcd.part").mkdir()  # of a killed one
    (tmp_path / ".index.0123abcd.part" / INDEX).write_bytes(b"half")
    assert [a.tobytes() for a in search(kind(), cache=keep)] == expected
    assert sorted(p.name for p in keep.iterdir()) == [INDEX, MANIFEST, NUMBERS]


def test_a_disk_that_fills_up_is_noticed():
    """FAISS's own writer says nothing where the last of a file doesn't fit."""
    with pytest.raises(OSError, match="No space left"):
        approximate._write_index(faiss.IndexFlatIP(3), "/dev/full")


def test_several_at_once_build_one_index(tmp_path, monkeypatch):
    results = []
    with counted(Ivf, monkeypatch) as builds:
        threads = [
            threading.Thread(target=lambda: results.append(search(Ivf(), cache=tmp_path / "k"))) for _ in range(3)
        ]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert len(builds) == 1
    assert len({rows.tobytes() for _, rows in results}) == 1


@pytest.mark.process
def test_several_processes_build_one_index(tmp_path):
    np.save(tmp_path / "pool.npy", POOL)
    code = (
        "import sys, numpy as np; from pathlib import Path; from near.searching.indexes.hnsw import Hnsw; "
        "from near.searching.vectors import ArrayVectors; pool, index = np.load(sys.argv[1]), Hnsw(); "
        "index.search(pool[:3], ArrayVectors(pool), 5, cache=Path(sys.argv[2])); print(index.figures['index_cached'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "pool.npy"), str(tmp_path / "index")]
    options = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **options) for _ in range(2)]
    assert sorted(process.communicate(timeout=120)[0] for process in running) == ["False\n", "True\n"]


# faults


def test_more_lists_than_vectors():
    with pytest.raises(UserError, match="index.nlist=401 is more than the pool's 400 distinct vectors"):
        search(Ivf(nlist=401))


def test_what_faiss_refuses_is_one_line(monkeypatch):
    monkeypatch.setattr(Ivf, "find", Hnsw.find)
    with pytest.raises(UserError, match=r"^index=ivf can't be searched \(.*\); use index=flat$") as fault:
        search(Ivf())
    assert "\n" not in str(fault.value) and "/" not in str(fault.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("index=ivf index.nprobe=0", "index.nprobe=0 is too small"),
        ("index=ivf index.nlist=many", "index.nlist=many is not a whole number"),
        ("index=hnsw index.M=1", "index.M=1 is too small; use index.M>=2"),
        ("index=hnsw index.ef_search=1.5", "index.ef_search=1.5 is not a whole number"),
        ("index=hnsw index.recall_queries=null", "index.recall_queries=None is not a whole number"),
    ],
)
def test_parameters_are_checked(word, message):
    with pytest.raises(UserError, match=message):
        configured("select", *word.split())


# in a selection


@pytest.mark.parametrize("name", KINDS)
def test_select_logs_recall_and_caches_the_index(name, small_data, tmp_path, logged):
    def selected(out, *more):
        words = [*small_data, f"cache_dir={tmp_path}/cache", "embedder=hashing", f"index={name}", *more]
        logged.clear()
        select(configured("select", *words), tmp_path / out)
        return np.load(tmp_path / out / "top_indices.npy"), json.loads((tmp_path / out / "manifest.json").read_text())

    ids, manifest = selected("one", "max_K=7")
    assert manifest["index"]["index"] == name and manifest["index"]["exact"] is False
    assert manifest["figures"]["recall"] == 1 and manifest["figures"]["index_cached"] is False
    assert f"index={name}: recall 1.000 at max_K=7 on 4 of 4 queries" in logged.text
    (folder,) = (p for p in (tmp_path / "cache" / "indexes").iterdir() if p.is_dir())
    width = KINDS[name].width_key
    for out, more in (("two", ["max_K=60"]), ("three", ["max_K=7", f"index.{width}=60"])):
        _, manifest = selected(out, *more)
        assert manifest["figures"]["index_cached"] is True
        assert f"read from {folder}" in logged.text
    words = [*small_data, f"cache_dir={tmp_path}/cache", "embedder=hashing", "max_K=7"]
    select(configured("select", *words), tmp_path)
    np.testing.assert_array_equal(ids, np.load(tmp_path / "top_indices.npy"))


def test_built_indexes_are_listed_and_pruned_by_age(tmp_path, capsys):
    keep = tmp_path / "indexes" / "abcdef0123456789abcdef0123456789"
    search(Ivf(), cache=keep)
    words = ["--cache-dir", str(tmp_path)]
    cache.main(words)
    assert "built indexes: 1, 0." in capsys.readouterr().out
    long_ago = os.stat(keep / MANIFEST).st_mtime - 40 * cache.DAY
    os.utime(keep / MANIFEST, (long_ago, long_ago))
    search(Ivf(), cache=keep)  # which uses it
    cache.main([*words, "prune", "--unused-days", "30"])
    assert keep.is_dir()
    os.utime(keep / MANIFEST, (long_ago, long_ago))
    lock = acquire(keep.with_name(f"{keep.name}.lock"))
    cache.main([*words, "prune", "--unused-days", "30"])
    assert "in use, left alone: index abcdef012345" in capsys.readouterr().out
    lock.close()
    cache.main([*words, "prune", "--unused-days", "30"])
    assert "removed index abcdef012345" in capsys.readouterr().out
    assert not keep.exists()

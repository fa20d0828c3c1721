"""Approximate indexes: full however narrowly they look, recall as brute force has it, and what is kept of them."""

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


def search(index, k=20, keep=None, pool=POOL, queries=QUERIES):
    return index.search(queries, ArrayVectors(pool), k, keep=keep)


@pytest.fixture(autouse=True)
def one_thread():
    """On a busy machine FAISS's threads wait for each other longer than so little work takes."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture()
def said(caplog):
    caplog.set_level(logging.INFO)
    return caplog


# what is found


@both
def test_of_equal_rows_at_the_last_place_the_lower_ones_are_kept(kind):
    """Every vector stands in the pool seven times, 100 rows apart; the 20th neighbour is amid copies."""
    pool = np.tile(clustered(100), (7, 1))
    scores, rows = search(kind(), 20, pool=pool)
    for found, near in zip(rows, np.argsort(-QUERIES @ pool[:100].T, axis=1), strict=True):
        copies = [near[i] + 100 * np.arange(7) for i in range(3)]
        np.testing.assert_array_equal(found, np.concatenate(copies)[:20])
    assert (scores[:, :7] == scores[:, :1]).all()


def test_a_pools_vectors_are_numbered_as_they_come(monkeypatch):
    monkeypatch.setattr(approximate, "BLOCK", 3)
    pool = np.eye(5, dtype=np.float32)[[2, 2, 4, 2, 2, 2, 0, 4, 1]]
    vectors = Distinct.of(ArrayVectors(pool))
    assert vectors.vector_of.tolist() == [0, 0, 1, 0, 0, 0, 2, 1, 3]
    told = []
    np.testing.assert_array_equal(
        np.concatenate([block.copy() for block in vectors.blocks(told.append)]), pool[[0, 2, 6, 8]]
    )
    assert told == [3, 3, 3]
    assert {tuple(v) for v in vectors.sample(4)} == {tuple(v) for v in pool}


@pytest.mark.parametrize("options", [{"nlist": 50}, {"M": 4, "ef_construction": 8}], ids=KINDS)
def test_the_same_index_and_neighbours_for_any_number_of_threads(options, tmp_path):
    """Of enough rows that FAISS shares out the work, which it does from 100 rows at a time on, 2% of all."""
    pool, found = clustered(8000, 8), []
    for count in (1, 2):
        faiss.omp_set_num_threads(count)
        index = (Ivf if "nlist" in options else Hnsw)(**options)
        results = search(index, keep=tmp_path / str(count), pool=pool, queries=clustered(50, 8, seed=1))
        found.append([a.tobytes() for a in results])
    assert found[0] == found[1]
    assert file_digest(tmp_path / "1" / INDEX) == file_digest(tmp_path / "2" / INDEX)


@both
def test_the_defaults_find_most_without_looking_at_all(kind):
    pool = clustered(3000, 32, 50)
    index = kind()
    search(index, 10, pool=pool, queries=clustered(64, 32, 50, seed=1))
    looked_at = index.told["index_parameters"]
    assert index.told["recall"] >= 0.95
    assert looked_at.get("nprobe", 0) < looked_at.get("nlist", 1)
    assert looked_at.get("ef_search", 0) < 3000 / 8


@both
def test_progress_tells_every_row_once(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "BLOCK", 64)
    for found in (False, True):
        told, index = [], kind()
        index.search(QUERIES, ArrayVectors(POOL), 5, told.append, tmp_path / "kept")
        assert (sum(told), index.told["index_found"]) == (len(POOL), found)


# short results


@pytest.mark.parametrize("index", [Ivf(nlist=20, nprobe=1), Hnsw(M=2, ef_search=1)], ids=KINDS)
def test_as_many_neighbours_as_rows(index, said):
    scores, rows = search(index, len(POOL))
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(len(POOL)), (9, 1)))
    np.testing.assert_allclose(scores, np.take_along_axis(EXACT, rows, axis=1), atol=1e-6)
    assert (index.told["recall"], index.told["widened"]) == (1, 9)
    assert "9 of 9 queries came back short and were searched again" in said.text


def test_only_queries_that_come_back_short_are_searched_wider(said):
    """Two lists, of 300 rows and of 700: who is nearest to the small one finds 300 of 400 in it."""
    centres = normalised(np.array([[1.0, 0, 0], [-1, 0, 0]]))
    rng = np.random.default_rng(0)
    pool = normalised(np.repeat(centres, [300, 700], axis=0) + 0.1 * rng.normal(size=(1000, 3)))
    index = Ivf(nlist=2, nprobe=1)
    _, rows = search(index, 400, pool=pool, queries=normalised(centres + 0.01))
    assert set(rows[0, :300]) == set(range(300))
    assert rows[1].min() >= 300
    told = {key: index.told[key] for key in ("widened", "widened_to", "searched_exactly", "recall")}
    assert told == {"widened": 1, "widened_to": 2, "searched_exactly": 0, "recall": 1}
    assert "1 of 2 queries came back short and were searched again, nprobe up to 2\n" in said.text


@pytest.mark.parametrize(("reached_at", "exactly"), [(40, 0), (10**9, 9)])
def test_a_graph_is_searched_wider_until_exact_search_is_cheaper(reached_at, exactly, said, monkeypatch):
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
    assert (index.told["widened"], index.told["searched_exactly"]) == (9, exactly)
    assert f"searched again, ef_search up to {widths[-1]}" in said.text
    assert (f", {exactly} of them exactly" in said.text) == (exactly > 0)
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
def test_recall_is_brute_forces(index, said):
    pool = normalised(np.random.default_rng(0).normal(size=(1000, 16)))
    _, rows = search(index, 30, pool=pool)
    wanted = np.argsort(-QUERIES.astype(np.float64) @ pool.T, axis=1)[:, :30]
    shares = [len(set(a) & set(b)) / 30 for a, b in zip(rows.tolist(), wanted.tolist(), strict=True)]
    assert np.mean(shares) < 0.9
    assert index.told["recall"] == pytest.approx(np.mean(shares), abs=1e-6)
    assert f"recall {np.mean(shares):.3f} at max_K=30 on 9 of 9 queries, compared with exact search" in said.text
    (warning,) = (r.message for r in said.records if r.levelname == "WARNING")
    assert f"is low; raise index.{index.width_key} (it was " in warning


def test_recall_on_a_sample_of_the_queries(said):
    queries = clustered(50, seed=3)
    index, again = (Ivf(nlist=25, nprobe=2, recall_queries=8) for _ in range(2))
    _, rows = search(index, queries=queries)
    search(again, queries=queries)
    assert index.told["recall"] == again.told["recall"]
    assert "on 8 of 50 queries" in said.text
    sample = np.sort(np.random.default_rng(0).choice(50, 8, replace=False))
    wanted = np.argsort(-queries[sample] @ POOL.T, axis=1)[:, :20]
    shares = [len(set(a) & set(b)) / 20 for a, b in zip(rows[sample].tolist(), wanted.tolist(), strict=True)]
    assert index.told["recall"] == pytest.approx(np.mean(shares), abs=1e-6)


def test_rows_that_tie_are_no_misses():
    """Mirrored rows have one score with a query on the axis: which of them is named is no fault."""
    rows = normalised(np.random.default_rng(0).normal(size=(200, 2)))
    pool = np.concatenate([rows, rows * np.array([1, -1], dtype=np.float32)])
    index = Hnsw()
    search(index, 31, pool=pool, queries=np.array([[1, 0]], dtype=np.float32))
    assert index.told["recall"] == 1


# what is kept


@contextlib.contextmanager
def counted(kind, monkeypatch):
    """How often an index is built in the block."""
    calls, build = [], kind.build
    with monkeypatch.context() as patch:
        patch.setattr(kind, "build", lambda *a: calls.append(1) or build(*a))
        yield calls


@both
def test_a_kept_index_is_found_whatever_is_searched(kind, tmp_path, monkeypatch, said):
    first = kind()
    wanted = [a.tobytes() for a in search(first, keep=tmp_path / "kept")]
    assert "to build, kept in" in said.text
    other = kind(**{kind.width_key: 1})
    assert first.built == other.built
    assert first.signature != other.signature
    with counted(kind, monkeypatch) as builds:
        again = kind()
        assert [a.tobytes() for a in search(again, keep=tmp_path / "kept")] == wanted
        search(other, 5, tmp_path / "kept", queries=clustered(3, seed=5))
    assert not builds
    assert again.told["index_found"] and other.told["index_found"] and not first.told["index_found"]
    assert again.told["build_seconds"] == first.told["build_seconds"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "kept.lock"]


@pytest.mark.parametrize("index", [Ivf(nlist=5), Hnsw(M=4), Hnsw(ef_construction=9)])
def test_what_decides_the_structure_decides_what_is_built(index):
    assert index.built != type(index)().built
    assert index.signature.items() > index.built.items()


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


@pytest.mark.parametrize(("damage", "told"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_index_is_named_and_built_again(damage, told, tmp_path, said):
    keep = tmp_path / "kept"
    wanted = [a.tobytes() for a in search(Ivf(), keep=keep)]
    damage(keep)
    said.clear()
    assert [a.tobytes() for a in search(Ivf(), keep=keep)] == wanted
    (warning,) = (r.message for r in said.records if r.levelname == "WARNING")
    assert str(keep) in warning and told in warning and warning.endswith("it is made again")
    whole = Ivf()
    search(whole, keep=keep)
    assert whole.told["index_found"]


@both
def test_an_index_of_another_pool_is_refused(kind, tmp_path, said):
    """Of as many rows and dimensions, copied to where this pool's should be; and one of another kind."""
    other = clustered(400, seed=9)
    wanted = [a.tobytes() for a in search(kind())]
    search(kind(), keep=tmp_path / "other", pool=other)
    search(Ivf(nlist=7), keep=tmp_path / "kind")
    for name in ("other", "kind"):
        said.clear()
        assert [a.tobytes() for a in search(kind(), keep=tmp_path / name)] == wanted
        assert f"{tmp_path / name} is of another pool or of other parameters; it is made again" in said.text


@both
def test_an_interrupted_build_leaves_nothing_and_is_begun_again(kind, tmp_path, monkeypatch):
    keep = tmp_path / "kept"
    wanted = [a.tobytes() for a in search(kind())]
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
            search(kind(), keep=keep)
    assert not keep.exists()
    for fault in (KeyboardInterrupt(), OSError(28, "No space left on device")):

        def dies(index, path, fault=fault):
            path.write_bytes(b"half")
            raise fault

        with monkeypatch.context() as patch:
            patch.setattr(approximate, "_write_index", dies)
            with pytest.raises(type(fault)):
                search(kind(), keep=keep)
        assert [p.name for p in tmp_path.iterdir()] == ["kept.lock"]
    (tmp_path / ".kept.0123abcd.part").mkdir()  # of a killed one
    (tmp_path / ".kept.0123abcd.part" / INDEX).write_bytes(b"half")
    assert [a.tobytes() for a in search(kind(), keep=keep)] == wanted
    assert sorted(p.name for p in keep.iterdir()) == [INDEX, MANIFEST, NUMBERS]


def test_a_disk_that_fills_up_is_noticed():
    """FAISS's own writer says nothing where the last of a file doesn't fit."""
    with pytest.raises(OSError, match="No space left"):
        approximate._write_index(faiss.IndexFlatIP(3), "/dev/full")


def test_several_at_once_build_one_index(tmp_path, monkeypatch):
    found = []
    with counted(Ivf, monkeypatch) as builds:
        threads = [threading.Thread(target=lambda: found.append(search(Ivf(), keep=tmp_path / "k"))) for _ in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert len(builds) == 1
    assert len({rows.tobytes() for _, rows in found}) == 1


@pytest.mark.process
def test_several_processes_build_one_index(tmp_path):
    np.save(tmp_path / "pool.npy", POOL)
    code = (
        "import sys, numpy as np; from pathlib import Path; from near.searching.indexes.hnsw import Hnsw; "
        "from near.searching.vectors import ArrayVectors; pool, index = np.load(sys.argv[1]), Hnsw(); "
        "index.search(pool[:3], ArrayVectors(pool), 5, keep=Path(sys.argv[2])); print(index.told['index_found'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "pool.npy"), str(tmp_path / "kept")]
    given = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **given) for _ in range(2)]
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
    ("word", "told"),
    [
        ("index=ivf index.nprobe=0", "index.nprobe=0 is too small"),
        ("index=ivf index.nlist=many", "index.nlist=many is not a whole number"),
        ("index=hnsw index.M=1", "index.M=1 is too small; use index.M>=2"),
        ("index=hnsw index.ef_search=1.5", "index.ef_search=1.5 is not a whole number"),
        ("index=hnsw index.recall_queries=null", "index.recall_queries=None is not a whole number"),
    ],
)
def test_parameters_are_checked(word, told):
    with pytest.raises(UserError, match=told):
        configured("select", *word.split())


# in a selection


@pytest.mark.parametrize("name", KINDS)
def test_select_tells_recall_and_keeps_the_index(name, small_data, tmp_path, said):
    def selected(out, *more):
        words = [*small_data, f"cache_dir={tmp_path}/cache", "embedder=hashing", f"index={name}", *more]
        said.clear()
        select(configured("select", *words), tmp_path / out)
        return np.load(tmp_path / out / "top_indices.npy"), json.loads((tmp_path / out / "manifest.json").read_text())

    ids, manifest = selected("one", "max_K=7")
    assert manifest["index"]["index"] == name and manifest["index"]["exact"] is False
    assert manifest["figures"]["recall"] == 1 and manifest["figures"]["index_found"] is False
    assert f"index={name}: recall 1.000 at max_K=7 on 4 of 4 queries" in said.text
    (folder,) = (p for p in (tmp_path / "cache" / "indexes").iterdir() if p.is_dir())
    width = KINDS[name].width_key
    for out, more in (("two", ["max_K=60"]), ("three", ["max_K=7", f"index.{width}=60"])):
        _, manifest = selected(out, *more)
        assert manifest["figures"]["index_found"] is True
        assert f"found in {folder}" in said.text
    words = [*small_data, f"cache_dir={tmp_path}/cache", "embedder=hashing", "max_K=7"]
    select(configured("select", *words), tmp_path)
    np.testing.assert_array_equal(ids, np.load(tmp_path / "top_indices.npy"))


def test_built_indexes_are_listed_and_pruned_by_age(tmp_path, capsys):
    keep = tmp_path / "indexes" / "abcdef0123456789abcdef0123456789"
    search(Ivf(), keep=keep)
    words = ["--cache-dir", str(tmp_path)]
    cache.main(words)
    assert "and 1 built indexes, 0." in capsys.readouterr().out
    long_ago = os.stat(keep / MANIFEST).st_mtime - 40 * cache.DAY
    os.utime(keep / MANIFEST, (long_ago, long_ago))
    search(Ivf(), keep=keep)  # which uses it
    cache.main([*words, "prune", "--unused-days", "30"])
    assert keep.is_dir()
    os.utime(keep / MANIFEST, (long_ago, long_ago))
    held = acquire(keep.with_name(f"{keep.name}.lock"))
    cache.main([*words, "prune", "--unused-days", "30"])
    assert "in use, left alone: index abcdef012345" in capsys.readouterr().out
    held.close()
    cache.main([*words, "prune", "--unused-days", "30"])
    assert "removed index abcdef012345" in capsys.readouterr().out
    assert not keep.exists()

"""A search cut into shards: the result of one process, whoever searches which shard and whatever is killed."""

import contextlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from near.embedding.embedders.base import normalised
from near.searching import shards
from near.searching.indexes.flat import TILE, Flat
from near.searching.shards import clear, cuts, put_together, search_shards, shards_of
from near.searching.vectors import ArrayVectors
from near.selection.select import select
from tests.conftest import ROOT, configured, process, write_rows

POOL = normalised(np.random.default_rng(0).normal(size=(5 * TILE + 3, 8)))
QUERIES = normalised(np.random.default_rng(1).normal(size=(6, 8)))


def made(folder, k=30, **options):
    return shards_of(
        Flat(**{"shard_rows": TILE, **options}), QUERIES, ArrayVectors(POOL), k, folder, folder.parent / "result.json"
    )


@pytest.fixture(scope="module")
def whole():
    return Flat().search(QUERIES, ArrayVectors(POOL), 30)


@pytest.mark.parametrize(
    ("n", "wanted", "shard_rows", "found"),
    [
        (10, 1, 1000, (0, 10)),
        (10, 4, 1000, (0, 10)),
        (5 * TILE, 2, 10**9, (0, 2 * TILE, 5 * TILE)),
        (4 * TILE + 1, 1, 2 * TILE, (0, TILE, 3 * TILE, 4 * TILE + 1)),
        (2 * TILE, 9, 10, (0, TILE, 2 * TILE)),
    ],
)
def test_where_a_pool_is_cut(n, wanted, shard_rows, found):
    assert cuts(n, wanted, shard_rows) == found


def test_a_small_pool_is_not_cut(tmp_path):
    assert made(tmp_path, shard_rows=10**6) is None


@pytest.mark.parametrize("ranks", ["1", "2", "4"])
@pytest.mark.parametrize("k", [30, 3 * TILE])
def test_all_shards_together_are_the_whole_search(ranks, k, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", ranks)
    job, told = made(tmp_path, k, shard_rows=2 * TILE), []
    search_shards(job, told.append)
    scores, rows = put_together(job, k)
    wanted = Flat().search(QUERIES, ArrayVectors(POOL), k)
    assert (scores.tobytes(), rows.tobytes()) == (wanted[0].tobytes(), wanted[1].tobytes())
    assert sum(told) == len(POOL)


def test_several_at_once_search_every_shard_once(tmp_path, whole, monkeypatch):
    best, searched = Flat.best, []
    monkeypatch.setattr(
        Flat, "best", lambda self, q, p, k, start, *a: searched.append(start) or best(self, q, p, k, start, *a)
    )
    jobs = [made(tmp_path) for _ in range(3)]
    threads = [threading.Thread(target=search_shards, args=(job, lambda n: None)) for job in jobs]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(searched) == [TILE * i for i in range(6)]
    for job in jobs:
        assert put_together(job, 30)[1].tobytes() == whole[1].tobytes()


def test_an_interrupted_search_goes_on_at_its_shard(tmp_path, whole, monkeypatch):
    job, best = made(tmp_path), Flat.best

    def dies(self, queries, pool, k, start, *rest):
        if start == 3 * TILE:
            raise KeyboardInterrupt
        return best(self, queries, pool, k, start, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Flat, "best", dies)
        with pytest.raises(KeyboardInterrupt):
            search_shards(job, lambda n: None)
    searched = []
    monkeypatch.setattr(
        Flat, "best", lambda self, q, p, k, start, *a: searched.append(start) or best(self, q, p, k, start, *a)
    )
    search_shards(made(tmp_path), lambda n: None)
    assert searched == [3 * TILE, 4 * TILE, 5 * TILE]
    assert put_together(job, 30)[0].tobytes() == whole[0].tobytes()
    clear(tmp_path)
    assert not tmp_path.exists()


DAMAGE = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "another": lambda path: np.save(path, np.zeros((2, 2))),
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_shard_is_searched_again(damage, tmp_path, whole):
    job = made(tmp_path)
    search_shards(job, lambda n: None)
    damage(job.path(2))
    assert put_together(job, 30)[1].tobytes() == whole[1].tobytes()


def test_more_rows_than_a_key_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 5 * TILE)
    with pytest.raises(Exception, match=f"{5 * TILE + 3} candidates are more than a search tells apart"):
        made(tmp_path)


def test_select_leaves_no_shards_behind(small_data, tmp_path, monkeypatch):
    """The same files through shards as in one; what is left half-done is one folder that `prune` removes."""
    monkeypatch.setattr(shards, "TILE", 16)  # the small pool has several tiles
    words = [*small_data, "embedder=hashing", "max_K=7"]
    for name, more in (("one", []), ("cut", ["index.shard_rows=16"])):
        cfg = configured("select", *words, f"cache_dir={tmp_path}/{name}-cache", *more)
        select(cfg, tmp_path / name)
    for name in ("top_indices.npy", "top_scores.npy"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    assert [p.name[0] for p in (tmp_path / "cut-cache" / "neighbours").iterdir()] != ["."]
    assert len(list((tmp_path / "cut-cache" / "neighbours").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.process
def test_a_search_killed_midway_ends_as_if_undisturbed(tmp_path):
    """A real process, killed as soon as two of its shards are there; the next one searches the rest only."""
    pool = [{"instruction": f"text {i} of {i % 7} and {i % 101}", "output": "b"} for i in range(16 * TILE - 5)]
    write_rows(tmp_path / "pool.jsonl", pool)
    write_rows(tmp_path / "target.jsonl", [{"instruction": f"text {i}", "output": "b"} for i in range(200)])
    paths = [f"data.candidates.path={tmp_path}/pool.jsonl", f"data.queries.path={tmp_path}/target.jsonl"]
    words = ["select.py", "data=files", "data.leakage=keep", *paths, "embedder=hashing", "max_K=500"]
    cut = [f"index.shard_rows={TILE}", f"cache_dir={tmp_path}/cache", f"output_dir={tmp_path}/out"]
    running = subprocess.Popen([sys.executable, *words, *cut], cwd=ROOT, stdout=subprocess.DEVNULL)
    while len(kept := list((tmp_path / "cache" / "neighbours").glob(".*.part/*.bin"))) < 2:
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    running.kill()
    running.wait()
    times = {path: path.stat().st_mtime_ns for path in kept}
    assert not (tmp_path / "out" / "manifest.json").exists()
    watched = threading.Thread(target=_watch, args=(kept[0].parent, changed := {}, times))
    watched.start()
    done = process(*words, *cut)
    watched.join()
    assert done.returncode == 0, done.stderr
    assert "searching in 16 shards" in done.stdout
    assert not changed, "a shard that was there was searched again"
    assert [p.name[0] for p in (tmp_path / "cache" / "neighbours").iterdir()] != ["."]
    one = process(*words, f"cache_dir={tmp_path}/one-cache", f"output_dir={tmp_path}/one")
    assert "shards" not in one.stdout
    for name in ("top_indices.npy", "top_scores.npy"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def _watch(folder, changed, times):
    """Until the folder is gone, note the files whose time is no longer what it was."""
    while folder.exists():
        for path, before in times.items():
            with contextlib.suppress(FileNotFoundError):
                if (now := path.stat().st_mtime_ns) != before:
                    changed[path] = now
        time.sleep(0.002)

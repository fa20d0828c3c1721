"""Exact search with torch: the CPU's ids on any pool, with torch's CPU in place of a GPU, and simulated faults."""

import threading

import numpy as np
import pytest
import torch

from near.common.errors import UserError
from near.embedding.embedders.base import normalised
from near.embedding.store import Store
from near.searching.indexes import device, device_topk, devices, flat
from near.searching.indexes.device import search_on, sized_block
from near.searching.indexes.devices import devices_of
from near.searching.indexes.flat import TILE, Flat
from near.searching.indexes.topk import unpack
from near.searching.shards import put_together, search_shards, shards_of
from near.searching.vectors import ArrayVectors, StoredVectors


class OnTorch(Flat):
    """Flat with torch's code on the CPU, as often as `count` GPUs."""

    count, name = 1, "cpu"  # blocks are copied to cpu:0, as to a GPU

    def devices(self, work):
        return (self.name,) * self.count


def vectors(n, d, seed=0):
    return normalised(np.random.default_rng(seed).normal(size=(n, d)))


def check_same(queries, pool, k, *args, **options):
    """The ids of both searches, and scores up to float32's rounding."""
    scores, rows = Flat(device="cpu").search(queries, ArrayVectors(pool), k)
    index = OnTorch(*args, **options)
    again = index.search(queries, ArrayVectors(pool), k)
    np.testing.assert_array_equal(again[1], rows)
    np.testing.assert_allclose(again[0], scores, atol=1e-6 * max(1, np.abs(scores).max()))
    assert again[0].dtype == np.float32 and again[1].dtype == np.int64
    return index


@pytest.fixture
def small(monkeypatch):
    """Little room for keys and few scores at a time, so that small pools reach every branch."""
    monkeypatch.setattr(device_topk, "ROOM", 16)
    monkeypatch.setattr(device, "LEAST", 32)
    monkeypatch.setattr(device, "AREA", 1024)


def mixed(rng, n, d):
    """Random vectors, some of them zero, repeated, or a rounding error from another one."""
    pool = vectors(n, d, rng.integers(1 << 30))
    kinds = rng.choice(4, n, p=rng.dirichlet(np.ones(4)))
    source = rng.integers(n, size=n)
    pool[kinds == 1] = pool[source[kinds == 1]]
    near = kinds == 2
    pool[near] = pool[source[near]] + rng.choice([0, 1e-7, 3e-7], (near.sum(), 1)) * rng.normal(size=(near.sum(), d))
    pool[kinds == 3] = rng.choice([0, 1]) * pool[source[kinds == 3]]
    order = rng.integers(4)
    return pool if order == 0 else pool[np.argsort(pool[:, 0])[:: 1 if order == 1 else -1]]


@pytest.mark.parametrize("seed", range(60))
def test_the_ids_of_the_cpu(seed, small, monkeypatch):
    """Wherever near ties are settled: on the device while the pool fits into its memory, or on the CPU."""
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(device, "MEMORY", int(rng.choice([1 << 31, 1 << 18, 1 << 15])))
    monkeypatch.setattr(device, "PRODUCTS", int(rng.choice([1, 100, 1 << 24])))
    n, d, q = int(rng.integers(1, 700)), int(rng.choice([1, 3, 16, 64])), int(rng.integers(1, 40))
    pool = mixed(rng, n, d)
    queries = vectors(q, d, seed) if rng.random() < 0.5 else pool[rng.integers(n, size=q)]
    k = int(rng.choice([1, min(n, 5), rng.integers(1, n + 1), n]))
    index = OnTorch(*rng.choice([[1], [7], [100], [1000]]).tolist())
    index.count = int(rng.integers(1, 4))
    index.name = ["cpu", "cpu:0"][rng.integers(2)]
    scores, rows = Flat(device="cpu").search(queries, ArrayVectors(pool), k)
    again = index.search(queries, ArrayVectors(pool), k)
    np.testing.assert_array_equal(again[1], rows)
    np.testing.assert_allclose(again[0], scores, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2500, 9000])
def test_more_neighbours_than_a_block_has_rows(k):
    check_same(vectors(3, 8, 1), np.repeat(vectors(3000, 8), 3, axis=0), k, TILE)


@pytest.mark.parametrize("n", [50, 9000])
@pytest.mark.parametrize("length", [0, 1])
def test_equal_vectors_come_in_order(n, length):
    """As many as are not settled: the devices' top-k alone returns any of them."""
    pool = np.full((n, 4), length / 2, dtype=np.float32)
    _, rows = OnTorch().search(vectors(3, 4, 1), ArrayVectors(pool), 40)
    np.testing.assert_array_equal(rows, np.tile(np.arange(40), (3, 1)))


def test_a_pool_sorted_against_the_search(small):
    queries, pool = vectors(1, 8), vectors(3 * TILE, 8, 1)
    order = np.argsort(pool @ queries[0])
    check_same(queries, pool[order], 50, 200)
    check_same(queries, pool[order[::-1]], 50, 200)


def test_long_and_negative_products():
    rng = np.random.default_rng(0)
    pool = np.rint(rng.normal(size=(5000, 3)) * 1000).astype(np.float32)
    index = OnTorch()
    for queries in (pool[:4], -pool[:4]):
        _, rows = index.search(queries, ArrayVectors(pool), 200)
        exact = queries.astype(np.float64) @ pool.T.astype(np.float64)
        np.testing.assert_array_equal(rows, np.argsort(-exact.astype(np.float32), axis=1, kind="stable")[:, :200])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_of_the_store(tmp_path, dtype):
    store, keys = Store(tmp_path, {"test": dtype}, dtype), np.arange(6000, dtype=np.uint64).reshape(3000, 2)
    offsets = np.concatenate([store.add(keys[a : a + 500], vectors(500, 8, a)) for a in range(0, 3000, 500)])
    pool = StoredVectors(store, np.random.default_rng(0).permutation(offsets))
    expected = Flat(device="cpu").search(vectors(5, 8, 1), pool, 100)
    np.testing.assert_array_equal(OnTorch(TILE).search(vectors(5, 8, 1), pool, 100)[1], expected[1])
    store.close()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("count", [1, 3])
def test_vectors_that_are_not_finite_are_named(bad, count, monkeypatch):
    pool = vectors(9000, 4)
    pool[2345, 1] = bad
    monkeypatch.setattr(OnTorch, "count", count)
    with pytest.raises(UserError, match="candidates: row 2345 holds NaN or infinity"):
        OnTorch(1024).search(vectors(2, 4), ArrayVectors(pool, "candidates"), 5)


@pytest.mark.parametrize("pool", [np.full((3, 4), 1e30) * [1, -1, 1, -1], np.full((3, 4), 1e30)])
def test_products_that_overflow_are_refused(pool):
    with np.errstate(all="ignore"), pytest.raises(UserError, match="overflow float32; normalise"):
        OnTorch().search(np.full((1, 4), 1e30, dtype=np.float32), ArrayVectors(pool), 2)


@pytest.mark.parametrize("ranks", ["1", "3"])
@pytest.mark.parametrize("k", [30, 3 * TILE])
def test_shards(ranks, k, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", ranks)
    pool, queries = np.repeat(vectors(2 * TILE, 8), 3, axis=0)[: 5 * TILE + 3], vectors(6, 8, 1)
    index = OnTorch(TILE, shard_rows=2 * TILE)
    job = shards_of(index, queries, ArrayVectors(pool), k, tmp_path / "shards", tmp_path / "result.json")
    reported = []
    search_shards(job, reported.append)
    np.testing.assert_array_equal(put_together(job, k)[1], Flat(device="cpu").search(queries, ArrayVectors(pool), k)[1])
    assert sum(reported) == len(pool)
    assert index.figures == {"device": "cpu", "block_rows": TILE}


def test_many_queries_are_searched_in_parts(monkeypatch, small):
    """The pool is read again for each part; its rows are reported once."""
    monkeypatch.setattr(device, "MEMORY", 1 << 16)
    pool, reported = vectors(500, 4), []
    index = OnTorch(100)
    rows = index.search(vectors(90, 4, 1), ArrayVectors(pool), 20, reported.append)[1]
    np.testing.assert_array_equal(rows, Flat(device="cpu").search(vectors(90, 4, 1), ArrayVectors(pool), 20)[1])
    assert sum(reported) == len(pool)


@pytest.mark.parametrize(("n", "dim", "free", "rows"), [
    (10, 384, 1 << 34, 4096),
    (100_000, 384, 1 << 34, 8192),
    (10_000_000, 384, 1 << 34, 32_768),
    (10_000_000, 4096, 1 << 34, 8192),
    (10_000_000, 384, 1 << 29, 8192),
])  # fmt: skip
def test_a_block_is_sized_by_pool_and_memory(n, dim, free, rows):
    assert sized_block(n, dim, free) == rows


class ShortOfMemory:
    """A device on which only tiles of up to `most` scores fit; the first call of `stage` fails, too."""

    def __init__(self, monkeypatch, most):
        self.failed, offer = 0, device_topk.DeviceBest.offer

        def limited(best, batch, block, first):
            if len(block) * (batch.stop - batch.start) > most:
                self.failed += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return offer(best, batch, block, first)

        monkeypatch.setattr(device_topk.DeviceBest, "offer", limited)


@pytest.mark.parametrize("most", [1, 50, 400])
def test_out_of_memory_goes_on_with_less(most, monkeypatch, caplog):
    monkeypatch.setattr(device, "AREA", 1024)
    monkeypatch.setattr(device_topk, "ROOM", 64)
    short = ShortOfMemory(monkeypatch, most)
    check_same(vectors(9, 8, 1), np.repeat(vectors(150, 8), 2, axis=0), 20, 256)
    assert short.failed and caplog.text.count("index.device=cpu: out of memory; continuing with fewer scores") == 1


def test_too_little_memory_for_anything(monkeypatch):
    monkeypatch.setattr(device, "AREA", 1024)
    ShortOfMemory(monkeypatch, 0)
    with pytest.raises(UserError, match="index.device=cpu: too little free memory for a search; .*index.device=cpu"):
        OnTorch().search(vectors(3, 8), ArrayVectors(vectors(50, 8)), 5)


def test_out_of_memory_within_a_tile_takes_nothing_twice(monkeypatch, small):
    """Memory runs out after some of a block's tiles were taken, in each step of a tile."""
    calls, take = iter(range(10**6)), device_topk._positions

    def fails(above, total):
        if next(calls) % 3 == 1:
            raise torch.OutOfMemoryError("out of memory")
        return take(above, total)

    monkeypatch.setattr(device_topk, "_positions", fails)
    check_same(vectors(20, 8, 1), np.repeat(vectors(300, 8), 2, axis=0), 40, 128)


def test_blocks_get_smaller_until_they_fit(monkeypatch, caplog):
    empty, limit = torch.empty, 100 * 8

    def limited(shape, *args, **options):
        if np.prod(shape) > limit:
            raise torch.OutOfMemoryError("out of memory")
        return empty(shape, *args, **options)

    monkeypatch.setattr(torch, "empty", limited)
    index = check_same(vectors(3, 8, 1), vectors(500, 8), 20, 400)
    assert index.figures["block_rows"] == 100 and "blocks have 100 rows now" in caplog.text
    limit = 0
    with pytest.raises(UserError, match="too little free memory"):
        OnTorch().search(vectors(3, 8), ArrayVectors(vectors(50, 8)), 5)


@pytest.mark.parametrize("least", [1, 300, 0])
def test_out_of_memory_while_near_ties_are_settled(least, monkeypatch):
    double = torch.Tensor.double

    def limited(vectors):
        if len(vectors) > least:
            raise torch.OutOfMemoryError("out of memory")
        return double(vectors)

    monkeypatch.setattr(torch.Tensor, "double", limited)
    pool = np.repeat(vectors(300, 8), 2, axis=0)
    if least:
        check_same(vectors(9, 8, 1), pool, 20, 256)
    else:
        with pytest.raises(UserError, match="too little free memory"):
            OnTorch().search(vectors(9, 8, 1), ArrayVectors(pool), 20)


def test_another_fault_of_the_device_is_not_hidden(monkeypatch):
    def fails(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(device_topk, "_positions", fails)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        OnTorch().search(vectors(3, 8), ArrayVectors(vectors(50, 8)), 5)


def test_blocks_go_over_all_devices(monkeypatch):
    """Each device waits for the others at its first block, so that all of them have one."""
    pool, reported, barrier = np.repeat(vectors(3000, 8), 3, axis=0), [], threading.Barrier(3, timeout=20)
    search, searched = device._Search._search, []

    def seen(self, first, block):
        if self not in searched:
            searched.append(self)
            barrier.wait()
        search(self, first, block)

    monkeypatch.setattr(device._Search, "_search", seen)
    index = OnTorch(500)
    index.count = 3
    rows = index.search(vectors(5, 8, 1), ArrayVectors(pool), 100, reported.append)[1]
    assert len(searched) == 3 and sum(reported) == len(pool)
    np.testing.assert_array_equal(rows, Flat(device="cpu").search(vectors(5, 8, 1), ArrayVectors(pool), 100)[1])
    assert index.figures["device"] == "cpu, cpu, cpu"


def test_settings_of_precision_come_back(monkeypatch):
    """Also where several searches run at once, or one fails."""
    backend, seen = torch.backends.cuda.matmul, []
    before = backend.fp32_precision
    take = device_topk._positions
    monkeypatch.setattr(device_topk, "_positions", lambda *a: seen.append(backend.fp32_precision) or take(*a))
    try:
        backend.fp32_precision = "tf32"
        pool = ArrayVectors(vectors(5000, 8))
        searches = [threading.Thread(target=OnTorch(500).search, args=(vectors(5, 8), pool, 9)) for _ in range(4)]
        [thread.start() for thread in searches]
        [thread.join() for thread in searches]
        assert set(seen) == {"ieee"} and backend.fp32_precision == "tf32"
    finally:
        backend.fp32_precision = before


def test_keys_are_those_of_the_cpu():
    scores = torch.tensor([0.5, -0.0, 0.0, -1.5, 0.5, torch.inf, -torch.inf, 1e-45, -1e-45])
    rows = torch.tensor([9, 4, 3, 0, 2**32 - 1, 5, 6, 7, 8])
    keys = device_topk.pack(scores, rows)
    assert rows[keys.argsort(descending=True)].tolist() == [5, 9, 2**32 - 1, 7, 3, 4, 8, 0, 6]
    assert (device_topk.scores_of(keys) == scores).all() and (keys > device_topk.NONE).all()
    back = unpack(keys.numpy().view(np.uint64) ^ np.uint64(1 << 63))
    np.testing.assert_array_equal(back[0], scores.numpy())
    np.testing.assert_array_equal(back[1], rows.numpy())


@pytest.fixture
def machine(monkeypatch):
    """A machine with three GPUs, as torch names them; no search is tried on them."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(devices, "_try", lambda name: None)
    devices_of.cache_clear()
    yield
    devices_of.cache_clear()


@pytest.mark.parametrize(("option", "rank", "expected"), [
    ("auto", None, ("cuda:0", "cuda:1", "cuda:2")),
    ("gpu", None, ("cuda:0", "cuda:1", "cuda:2")),
    ("cuda", None, ("cuda:0", "cuda:1", "cuda:2")),
    ("cuda:1", None, ("cuda:1",)),
    (("cuda:2", "cuda:0"), None, ("cuda:2", "cuda:0")),
    ("auto", "4", ("cuda:1",)),
    ("cuda:2", "0", ("cuda:2",)),
    ("mps", None, ("mps",)),
])  # fmt: skip
def test_which_devices(option, rank, expected, machine, monkeypatch):
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert devices_of(option) == expected


@pytest.mark.parametrize("option", ["cuda", "cuda:99", "gpu", "gpu0", "cuda:x", "meta", "", ["cpu", "cuda:99"]])
def test_a_missing_device_is_one_line(option):
    if torch.cuda.is_available() and option in ("cuda", "gpu"):
        pytest.skip("it is there")
    shown = option if isinstance(option, str) else f"[{','.join(option)}]"
    with pytest.raises(UserError) as caught:
        Flat(device=option).check()
    text = str(caught.value)
    assert text.startswith(f"index.device={shown}: ") and text.endswith("set index.device=cpu") and "\n" not in text


def test_a_device_that_finds_wrong_rows_is_not_used(machine, monkeypatch, caplog):
    monkeypatch.undo()
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cpu"))
    devices_of.cache_clear()
    assert devices_of("auto") == ("cpu",), "the trial succeeds here"
    devices_of.cache_clear()
    offer = device_topk.DeviceBest.offer
    monkeypatch.setattr(
        device_topk.DeviceBest, "offer", lambda best, q, block, a: offer(best, q, block.bfloat16().float(), a)
    )
    assert devices_of("auto") == ()
    assert "searching on the CPU, not on cpu: torch can't search on it (a trial search found wrong rows" in caplog.text
    with pytest.raises(UserError, match="a trial search found wrong rows"):
        devices_of(("cpu",))


@pytest.mark.parametrize(("work", "loaded", "driver", "worth"), [
    (flat.WORTH, True, False, True),
    (flat.WORTH - 1, True, True, False),
    (flat.WORTH, False, True, False),
    (flat.UNLOADED * flat.WORTH, False, True, True),
    (flat.UNLOADED * flat.WORTH, False, False, False),
])  # fmt: skip
def test_when_a_device_is_looked_for(work, loaded, driver, worth, tmp_path, monkeypatch):
    monkeypatch.setattr(flat, "DRIVERS", (str(tmp_path if driver else tmp_path / "missing"),))
    if not loaded:
        monkeypatch.delitem(flat.sys.modules, "torch")
        monkeypatch.setattr(flat.sys, "platform", "linux")
    assert flat._worth(work) == worth


def test_search_on_reports_its_block(small):
    keys, rows = search_on(("cpu",), vectors(2, 4), ArrayVectors(vectors(1000, 4)), 5, 0, 1000)
    assert keys.shape == (2, 5) and rows == 64

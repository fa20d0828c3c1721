"""Exact search on the CPU: the same bits however it is cut, against float64, over its thresholds."""

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from near.common.errors import UserError
from near.embedding.embedders.base import normalised
from near.searching.indexes import flat, ties
from near.searching.indexes.flat import TILE, Flat
from near.searching.indexes.topk import Best, merged, pack, positions, unpack
from near.searching.vectors import ArrayVectors


def vectors(n, d, seed=0):
    return normalised(np.random.default_rng(seed).normal(size=(n, d)))


def brute(queries, pool, k):
    scores = np.round(queries.astype(np.float64) @ pool.astype(np.float64).T, 9)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def test_keys_sort_by_score_then_by_lower_row():
    scores = np.array([0.5, -0.0, 0.0, -1.5, 0.5, np.inf, -np.inf, 1e-45, -1e-45], dtype=np.float32)
    rows = np.array([9, 4, 3, 0, 2**32 - 1, 5, 6, 7, 8])
    keys = pack(scores, rows)
    order = np.argsort(keys)[::-1]
    assert rows[order].tolist() == [5, 9, 2**32 - 1, 7, 3, 4, 8, 0, 6]
    back_scores, back_rows = unpack(keys)
    np.testing.assert_array_equal(back_scores, scores)
    np.testing.assert_array_equal(back_rows, rows)
    assert (keys > 0).all(), "0 is no row's key"


@pytest.mark.parametrize("floor", [-np.inf, 0.2, 5.0])
def test_best_keeps_what_a_sort_would(floor):
    scores = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    scores[:, 40:50] = scores[:, :10]  # ties
    best = Best(7, 8, np.full(5, floor, dtype=np.float32))
    for start in range(0, 64, 8):
        best.offer(np.ascontiguousarray(scores[:, start : start + 8]), start, np.empty((5, 8), dtype=bool))
    keys = best.keys()
    for q in range(5):
        above = np.flatnonzero(scores[q] > floor)
        expected = above[np.lexsort((above, -scores[q, above]))][:7]
        assert (keys[q] > 0).sum() == len(expected)
        assert unpack(keys[q, : len(expected)])[1].tolist() == expected.tolist()


def test_merged_keys_are_those_of_one_list():
    keys = np.random.default_rng(0).integers(1, 2**63, size=(3, 40), dtype=np.uint64)
    parts = [-np.sort(-part.astype(np.int64), axis=1)[:, :10].astype(np.uint64) for part in np.split(keys, 2, axis=1)]
    np.testing.assert_array_equal(merged(parts, 10), -np.sort(-keys.astype(np.int64), axis=1)[:, :10])


@pytest.fixture(scope="module")
def large():
    """20 times more rows than are sampled, many of them twice, and some queries that are rows."""
    pool = vectors(20 * TILE + 17, 24)
    pool[5000:9000] = pool[1000:5000]
    queries = np.concatenate([vectors(37, 24, 1), pool[:3]])
    return pool, queries, Flat().search(queries, ArrayVectors(pool), 200)


def test_a_large_pool_against_float64(large):
    pool, queries, (scores, rows) = large
    exact = np.take_along_axis(queries.astype(np.float64) @ pool.astype(np.float64).T, rows, axis=1)
    np.testing.assert_allclose(scores, exact, atol=1e-6)
    expected = brute(queries, pool, 200)
    differ = rows != expected  # float32 may swap rows whose scores differ by less than 1e-6
    best = np.take_along_axis(queries.astype(np.float64) @ pool.astype(np.float64).T, expected, axis=1)
    assert (np.abs(exact - best)[differ] < 1e-6).all()
    assert differ.mean() < 0.01
    for q in range(len(queries)):  # twins tie to the bit, and the lower row comes first
        neighbours = rows[q].tolist()
        twins = [r for r in neighbours if 1000 <= r < 5000 and r + 4000 in neighbours]
        assert all(neighbours.index(r) < neighbours.index(r + 4000) for r in twins)


@pytest.mark.parametrize("block", [1, 3 * TILE, 10**6])
@pytest.mark.parametrize("threads", ["1", "2", "5"])
def test_the_same_bits_for_any_block_and_threads(large, block, threads, monkeypatch):
    pool, queries, (scores, rows) = large
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    again = Flat(block).search(queries, ArrayVectors(pool), 200)
    assert again[0].tobytes() == scores.tobytes()
    assert again[1].tobytes() == rows.tobytes()


def test_the_same_bits_for_many_batches_of_queries(large, monkeypatch):
    """Batches are cut by the number of queries alone; with other cuts scores differ by less than 1e-6."""
    pool, queries, (scores, rows) = large
    monkeypatch.setattr(flat, "BATCH", 16)
    again = Flat().search(queries, ArrayVectors(pool), 200)
    np.testing.assert_allclose(again[0], scores, atol=1e-6)
    exact = queries.astype(np.float64) @ pool.astype(np.float64).T
    differ = np.take_along_axis(exact, again[1], axis=1) - np.take_along_axis(exact, rows, axis=1)
    assert np.abs(differ).max() < 1e-6


def test_a_floor_that_was_too_high_is_noticed(large, monkeypatch):
    pool, queries, (scores, rows) = large
    passes = []
    run = Flat._pass

    def seen(self, *a):
        passes.append(len(a[-1]))
        return run(self, *a)

    def too_high(self, *a):
        a[-1][:] = np.where(np.arange(len(a[-1])) % 2, 0.99, -1)

    monkeypatch.setattr(Flat, "_pass", seen)
    monkeypatch.setattr(Flat, "_floor", too_high)
    again = Flat().search(queries, ArrayVectors(pool), 200)
    assert passes[:2] == [40, 20], "the others are not searched again"
    assert (again[1].tobytes(), again[0].tobytes()) == (rows.tobytes(), scores.tobytes())


def test_a_pool_sorted_against_the_search():
    """Every row is better than all before it; one list of rows ascending, one descending."""
    queries = vectors(1, 8)
    pool = vectors(3 * TILE, 8, 1)
    order = np.argsort(pool @ queries[0])
    for ordered in (pool[order], pool[order[::-1]]):
        _, rows = Flat(1).search(queries, ArrayVectors(ordered), 50)
        np.testing.assert_array_equal(rows, brute(queries, ordered, 50))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_named(bad):
    pool = vectors(3000, 4)
    pool[2345, 1] = bad
    with pytest.raises(UserError, match="candidates: row 2345 holds NaN or infinity"):
        Flat(1024).search(vectors(2, 4), ArrayVectors(pool, "candidates"), 5)


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 1])
def test_positions_of_flags(share):
    flags = np.random.default_rng(0).random(8 * 1000) < share
    np.testing.assert_array_equal(positions(flags), np.flatnonzero(flags))


@pytest.mark.parametrize("pool", [np.full((3, 4), 1e30) * [1, -1, 1, -1], np.full((3, 4), 1e30)])
def test_products_that_overflow_are_refused(pool):
    with np.errstate(all="ignore"), pytest.raises(UserError, match="overflow float32; normalise"):
        Flat().search(np.full((1, 4), 1e30, dtype=np.float32), ArrayVectors(pool), 2)


@pytest.mark.parametrize("copies", [3, 200, 1500])
@pytest.mark.parametrize("k", [1, 10, 100, 700])
def test_equal_vectors_tie_to_the_lower_row(copies, k):
    """Wherever they stand: the BLAS alone gives equal vectors two or three scores, by their place in the product."""
    rng = np.random.default_rng(copies)
    pool = rng.permutation(np.concatenate([np.repeat(vectors(2, 48), copies, axis=0), vectors(2000, 48, 1)]))
    queries = normalised(pool[:30] + 0.3 * vectors(30, 48, 2))
    scores, rows = Flat().search(queries, ArrayVectors(pool), k)
    exact = (queries[:, None].astype(np.float64) * pool).sum(axis=2).astype(np.float32)
    order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(rows, order)


def test_more_ties_than_are_settled_are_still_the_best():
    pool = np.repeat(vectors(1, 48), 9000, axis=0)
    scores, rows = Flat().search(vectors(20, 48, 1), ArrayVectors(pool), 5)
    assert all(len(set(neighbours)) == 5 for neighbours in rows.tolist())
    np.testing.assert_allclose(scores, (vectors(20, 48, 1) @ pool[:1].T).repeat(5, axis=1), atol=1e-6)


def test_equal_vectors_tie_where_scores_are_near_zero():
    """Rounding is of the vectors' lengths, not of the score."""
    rng = np.random.default_rng(0)
    queries = vectors(33, 384)
    basis = np.linalg.qr(queries.T.astype(np.float64))[0]
    raw = rng.normal(size=(20, 384))
    across = normalised(raw - raw @ basis @ basis.T)
    pool = rng.permutation(np.repeat(across, 100, axis=0))
    _, rows = Flat().search(queries, ArrayVectors(pool), len(pool))
    for neighbours in rows:
        for vector in across:
            copies = np.flatnonzero((pool[neighbours] == vector).all(axis=1))
            assert (np.diff(neighbours[copies]) > 0).all()


def test_queries_with_many_ties_are_searched_again_in_groups(monkeypatch):
    pool, queries = ArrayVectors(np.repeat(vectors(2, 8), 500, axis=0)), vectors(5, 8, 1)
    scores, rows = Flat().search(queries, pool, 5)
    monkeypatch.setattr(ties, "MAX_KEYS", 2 * pool.n)  # two queries at a time
    again = Flat().search(queries, pool, 5)
    assert (again[0].tobytes(), again[1].tobytes()) == (scores.tobytes(), rows.tobytes())


def test_memory_grows_with_queries_not_with_threads(monkeypatch):
    keys = []
    init = Best.__init__
    monkeypatch.setattr(
        Best, "__init__", lambda self, k, tile, floor: keys.append(len(floor) * k) or init(self, k, tile, floor)
    )
    monkeypatch.setattr(flat, "MAX_KEYS", 200 * (2 * 600 + TILE))
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    Flat().search(vectors(100, 8), ArrayVectors(vectors(5000, 8, 1)), 500)
    assert len(keys) == 2, "two keep within MAX_KEYS, 64 would not"


def test_searches_at_once_leave_the_blas_as_it_was():
    def threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    pool = ArrayVectors(vectors(20_000, 32))
    at_once = [threading.Thread(target=Flat().search, args=(vectors(n, 32, n), pool, 50)) for n in range(50, 450, 50)]
    [thread.start() for thread in at_once]
    [thread.join() for thread in at_once]
    assert threads() == before

"""The contract of every index; exact search against brute force in float64, on random and on adversarial vectors."""

import numpy as np
import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from near.common.config import CONF
from near.embedding.embedders.base import normalised
from near.searching.vectors import ArrayVectors
from tests.app.test_configs import choices
from tests.conftest import configured

EXACT = [n for n in choices("index") if get_class(OmegaConf.load(CONF / "index" / f"{n}.yaml")._target_).exact]


def brute(queries, pool, k):
    """Rows by float64 inner product, ties by lower row."""
    scores = np.round(queries.astype(np.float64) @ pool.astype(np.float64).T, 9)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def search(name, queries, pool, k, *overrides):
    index = instantiate(configured("select", f"index={name}", *overrides).index)
    return index.search(queries, ArrayVectors(pool), k)


def vectors(n, d, seed):
    return normalised(np.random.default_rng(seed).normal(size=(n, d)))


def copied(n, d):
    return np.repeat(vectors(-(-n // 7), d, 0), 7, axis=0)[:n]


POOLS = {
    "random": vectors(300, 16, 0),
    "in two directions": vectors(300, 1, 0),
    "copies": copied(300, 16),
    "zeros": np.zeros((300, 16), dtype=np.float32),
    "zeros among others": np.concatenate([vectors(150, 16, 0), np.zeros((150, 16), dtype=np.float32)]),
    "one row": vectors(1, 16, 0),
}


@pytest.mark.parametrize("name", choices("index"))
@pytest.mark.parametrize("k", [1, 10, 300])
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_every_index_keeps_the_contract(name, k, pool):
    queries, k = vectors(5, pool.shape[1], 1), min(k, len(pool))
    scores, rows = search(name, queries, pool, k)
    assert (rows.dtype, scores.dtype, rows.shape, scores.shape) == (np.int64, np.float32, (5, k), (5, k))
    assert rows.min() >= 0 and rows.max() < len(pool)
    assert all(len(set(row)) == k for row in rows.tolist())
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ pool.T, rows, axis=1), atol=1e-6)
    assert (np.diff(scores) <= 0).all()
    assert (np.diff(rows)[np.diff(scores) == 0] > 0).all()


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("block", [7, 100, 1000])
@pytest.mark.parametrize(("n", "d", "q", "k"), [(500, 16, 9, 20), (500, 1, 3, 500), (30, 4, 1, 30), (5, 8, 4, 1)])
def test_against_brute_force(name, block, n, d, q, k):
    pool, queries = vectors(n, d, 0), vectors(q, d, 1)
    scores, rows = search(name, queries, pool, k, f"index.block_rows={block}")
    assert rows.dtype == np.int64
    assert rows.shape == scores.shape == (q, k)
    np.testing.assert_array_equal(rows, brute(queries, pool, k))
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ pool.T, rows, axis=1), atol=1e-6)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("k", [1, 5, 50, 99, 350])
@pytest.mark.parametrize("block", [13, 1000])
def test_ties_go_to_the_lower_row(name, k, block):
    """50 vectors seven times over: FAISS alone keeps some copies and lists them in its own order."""
    pool, queries = np.repeat(vectors(50, 16, 0), 7, axis=0), vectors(6, 16, 1)
    _, rows = search(name, queries, pool, k, f"index.block_rows={block}")
    np.testing.assert_array_equal(rows, brute(queries, pool, k))


@pytest.mark.parametrize("name", choices("index"))
def test_zero_vectors_and_equal_pools(name):
    pool = np.zeros((20, 4), dtype=np.float32)
    _, rows = search(name, vectors(3, 4, 0), pool, 20)
    np.testing.assert_array_equal(rows, np.tile(np.arange(20), (3, 1)))


@pytest.mark.parametrize("name", choices("index"))
def test_four_vectors_with_known_neighbours(name):
    pool = normalised(np.array([[1, 0], [0, 1], [1, 1], [-1, 0]]))
    scores, rows = search(name, normalised(np.array([[1, 0.1]])), pool, 4)
    assert rows.tolist() == [[0, 2, 1, 3]]
    assert scores[0, 0] == pytest.approx(0.995, abs=1e-3)

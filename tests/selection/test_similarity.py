"""Similarities beyond the matrix against brute force in float64, in blocks of any size, and cached."""

import numpy as np
import pytest
from hydra.utils import instantiate

import near.selection.similarity
from near.data.loading import load
from near.data.pool import load_pool
from near.embedding.embedders.hashing import HashingEmbedder
from near.searching.find import find_neighbours
from near.searching.settings import SearchSettings
from near.searching.vectors import ArrayVectors
from near.selection.embedding_similarity import EmbeddingSimilarity
from near.selection.similarity import VectorSimilarity
from tests.conftest import configured


def vectors(n: int, seed: int = 0, dim: int = 6) -> np.ndarray:
    normal = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return normal / np.linalg.norm(normal, axis=1, keepdims=True)


POOL = np.concatenate([vectors(50), vectors(50)[:7]])  # with duplicates
IDS = np.sort(np.random.default_rng(3).choice(80, len(POOL), replace=False))
QUERIES = vectors(4, seed=1)


@pytest.fixture(params=[3, 16, 10_000])
def similarity(request, monkeypatch):
    monkeypatch.setattr(near.selection.similarity, "BLOCK", request.param)
    monkeypatch.setattr(near.selection.similarity, "MAX_KERNEL", request.param * 40)
    return VectorSimilarity(ArrayVectors(POOL), QUERIES, IDS, 80, None)


def test_means(similarity):
    result = similarity.means()
    assert result.dtype == np.float32 and np.isnan(result[np.setdiff1d(np.arange(80), IDS)]).all()
    np.testing.assert_allclose(result[IDS], (POOL.astype(np.float64) @ QUERIES.T).mean(1), atol=1e-6)


@pytest.mark.parametrize(("sigma", "k"), [(0.75, 1000), (2.0, 5), (0.5, 1), (1.2, 3)])
def test_density(similarity, sigma, k):
    ids = np.random.default_rng(5).permutation(IDS)[:30]
    part = POOL[np.searchsorted(IDS, ids)].astype(np.float64)
    kernel = np.maximum(0, 1 - np.maximum(2 - 2 * part @ part.T, 0) / sigma**2)
    expected = -np.sort(-kernel, axis=1)[:, :k].sum(1)
    np.testing.assert_allclose(similarity.density(ids, sigma, k), expected, rtol=1e-4)


def test_duplicates_have_the_density_of_two():
    same = VectorSimilarity(ArrayVectors(vectors(1).repeat(3, axis=0)), QUERIES, np.arange(3), 3, None)
    assert same.density(np.arange(3), 1e-3, 10).tolist() == [3, 3, 3]
    assert same.density(np.arange(3), 1e-3, 2).tolist() == [2, 2, 2]


def test_clusters(similarity):
    """Every row is in the cluster of its nearest centre: rows around three poles come apart as these do."""
    poles = np.eye(6, dtype=np.float32)[:3].repeat(20, axis=0) + 0.05 * vectors(60)
    around_poles = VectorSimilarity(ArrayVectors(poles, normalise=True), QUERIES, np.arange(60), 61, None)
    result = around_poles.clusters(3, seed=1)
    assert result[60] == -1
    assert [len(set(result[a : a + 20])) for a in (0, 20, 40)] == [1, 1, 1] and len(set(result[:60])) == 3
    np.testing.assert_array_equal(result, around_poles.clusters(3, seed=1))


# by embeddings


@pytest.fixture()
def embedded(small_data, tmp_path):
    cfg = configured("train", *small_data, f"cache_dir={tmp_path}", "embedder=hashing", "max_K=10")
    queries = load(cfg.data, "queries", cfg.cache_dir)
    pool = load_pool(cfg.data, queries, cfg.cache_dir)
    excluded = np.zeros(len(pool), dtype=bool)
    excluded[[3, 8]] = True
    pool = pool.without(excluded)
    neighbours = find_neighbours(SearchSettings.of(cfg, cfg.cache_dir), pool, queries)
    return cfg, pool, queries, EmbeddingSimilarity(cfg.embedder, cfg.cache_dir, pool, queries, neighbours)


def test_of_embeddings(embedded):
    cfg, pool, queries, similarity = embedded
    embedder = instantiate(cfg.embedder, cache_dir=cfg.cache_dir)
    rows, targets = (embedder.embed(r.texts(r.eligible(), cfg.embedder.embed)) for r in (pool, queries))
    means = similarity.means()
    assert np.isnan(means[[3, 8]]).all()
    np.testing.assert_allclose(means[pool.eligible()], (rows.astype(np.float64) @ targets.T).mean(1), atol=1e-6)
    ids = pool.eligible()[::2]
    kernel = np.maximum(0, 1 - np.maximum(2 - 2 * rows[::2].astype(np.float64) @ rows[::2].T, 0) / 0.9**2)
    np.testing.assert_allclose(similarity.density(ids, 0.9, 1000), kernel.sum(1), rtol=1e-4)
    assert (similarity.clusters(4, 0)[[3, 8]] == -1).all()


def test_what_was_computed_is_found_again(embedded, monkeypatch):
    cfg, pool, queries, similarity = embedded
    ids = pool.eligible()[:9]
    first = similarity.means(), similarity.density(ids, 0.9, 5), similarity.clusters(3, 1)
    opened = []
    whole = EmbeddingSimilarity.opened
    monkeypatch.setattr(EmbeddingSimilarity, "opened", lambda self: opened.append(1) or whole(self))
    again = EmbeddingSimilarity(cfg.embedder, cfg.cache_dir, pool, queries, similarity.neighbours)
    for one, two in zip(first, (again.means(), again.density(ids, 0.9, 5), again.clusters(3, 1)), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not opened
    again.density(ids, 0.8, 5)
    again.clusters(3, 2)
    assert len(opened) == 2


def test_nothing_is_embedded_twice(embedded, monkeypatch):
    _, _, _, similarity = embedded
    monkeypatch.setattr(HashingEmbedder, "embed", None)
    similarity.means()


def test_a_damaged_file_is_computed_again(embedded, tmp_path):
    _, _, _, similarity = embedded
    expected = similarity.means()
    (path,) = (tmp_path / "similarities").glob("*.npy")
    for damage in (path.read_bytes()[:-4], b"", b"nonsense"):
        path.write_bytes(damage)
        np.testing.assert_array_equal(similarity.means(), expected)
    np.save(path, np.zeros(3))
    np.testing.assert_array_equal(similarity.means(), expected)

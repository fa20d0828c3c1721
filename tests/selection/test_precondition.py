"""scoring.precondition=fisher against dense algebra in float64, and what it does to a ranking."""

import dataclasses

import numpy as np
import pytest

from near.common.config import identity
from near.common.errors import UserError
from near.selection.gradient_similarity import FeatureVectors
from near.selection.needs import needs_of
from near.selection.scoring.chunks import Chunks
from near.selection.scoring.precondition import preconditioned
from near.selection.scoring.scoring import Features, Gradients, Scoring
from near.selection.selectors.base import selector_of
from near.selection.selectors.less import Less
from tests.conftest import configured
from tests.scored import QUERIES, ROWS, FakeFeatures, FakeScorer, model_and_optimizer, round_for, scorer


def units(rows: int, dim: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def dense(queries: np.ndarray, pool: np.ndarray, damping: float) -> np.ndarray:
    queries, pool = queries.astype(np.float64), pool.astype(np.float64)
    fisher = sum(np.outer(g, g) for g in pool) / len(pool)
    damped = fisher + damping * np.mean(np.linalg.eigvalsh(fisher)) * np.eye(len(fisher))
    result = np.array([np.linalg.inv(damped) @ q for q in queries])
    return result / np.linalg.norm(result, axis=1, keepdims=True)


@pytest.mark.parametrize(("rows", "dim"), [(40, 8), (5, 16), (1, 3), (300, 20)])
@pytest.mark.parametrize("damping", [1e-3, 0.1, 10.0])
def test_dense_algebra(rows, dim, damping):
    pool, queries = units(rows, dim, 0), units(4, dim, 1)
    result = preconditioned(queries, FakeFeatures(pool), rows, damping)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, dense(queries, pool, damping), atol=2e-6)


def test_heavy_damping_leaves_the_direction():
    pool, queries = units(30, 6, 0), units(4, 6, 1)
    np.testing.assert_allclose(preconditioned(queries, FakeFeatures(pool), 30, 1e7), queries, atol=1e-5)


def test_zero_gradients_stay_zero():
    pool, queries = units(10, 4, 0), units(2, 4, 1)
    queries[1] = 0
    assert not preconditioned(queries, FakeFeatures(pool), 10, 0.1)[1].any()
    none = np.zeros((10, 4), dtype=np.float32)
    np.testing.assert_array_equal(preconditioned(queries, FakeFeatures(none), 10, 0.1), queries)


def common_and_rare() -> tuple[np.ndarray, np.ndarray]:
    """Rows 0 to 8 point along the first axis, rows 9 to 11 along the second: F = diag(9/12, 3/12), mean eigenvalue 1/2.
    The query has 0.8 of the common direction and 0.6 of the rare one. Its cosines are 0.8 and 0.6; with damping 0.1
    its components become 0.8 / 0.8 = 1 and 0.6 / 0.3 = 2, so the rare rows come first."""
    pool = np.zeros((ROWS, 2))
    pool[:9, 0], pool[9:, 1] = 1, 1
    return pool, np.tile([0.8, 0.6], (QUERIES, 1))


class Preconditioned(FakeScorer):
    def gradients(self, model, optimizer, ids):
        for gradients in super().gradients(model, optimizer, ids):
            yield dataclasses.replace(gradients, damping=0.1)


def test_a_direction_of_all_rows_counts_less():
    pool, queries = common_and_rare()
    plain = Less().select(round_for(FakeScorer((), [pool], [queries])))
    changed = Less().select(round_for(Preconditioned((), [pool], [queries])))
    assert plain.ids.tolist() == [0, 1, 2, 3] and changed.ids.tolist() == [9, 10, 11, 0]
    np.testing.assert_allclose(changed.scores, np.array([2, 2, 2, 1]) / 5**0.5, rtol=1e-6)


def test_neighbours_by_gradients(tmp_path):
    def saved(name: str, vectors: np.ndarray) -> Features:
        chunks = Chunks(tmp_path / name, [np.arange(len(vectors))])
        chunks.compute(lambda at, progress: {"gradients": vectors[at].astype(np.float16)}, name)
        return Features(chunks)

    pool, queries = common_and_rare()
    vectors = FeatureVectors([Gradients(1.0, saved("pool", pool), saved("queries", queries), 0.1)])
    rows = np.empty((ROWS, 2), dtype=np.float32)
    vectors.read(slice(0, ROWS), rows)
    expected = np.tile(np.repeat([1, 2], [9, 3]) / 5**0.5, (QUERIES, 1))
    np.testing.assert_allclose(vectors.queries() @ rows.T, expected, atol=1e-3)


def test_each_checkpoint_has_its_own_fisher():
    """Under the second weights all rows point along the second axis, so that only the first ones tell rows apart."""
    pool, queries = common_and_rare()
    second = np.tile([0.0, 1.0], (ROWS, 1))
    scorer = Preconditioned((), [pool, second], [queries, queries], (0.5, 0.5))
    subset = Less().select(round_for(scorer, ROWS))
    b = dense(queries[:1], second, 0.1)[0, 1]
    expected = np.repeat([2, 1], [3, 9]) / 5**0.5 / 2 + b / 2
    np.testing.assert_allclose(subset.scores, expected, rtol=1e-5)


def test_without_the_option_targets_are_the_queries():
    features = FakeFeatures(units(3, 4, 0))
    assert Gradients(1.0, features, features).targets() is features.vectors
    assert Scoring().fisher_damping is None and Scoring(precondition="fisher").fisher_damping == 0.1


def test_a_matrix_too_large_is_refused_before_anything_is_loaded(cache):
    for dim in ("null", "16384"):
        cfg = configured("train", "selector=less", "scoring.precondition=fisher", f"scoring.dim={dim}")
        with pytest.raises(UserError, match="use scoring.dim<=8192"):
            needs_of(cfg, selector_of(cfg.selector))
    cfg = configured("train", "selector=near", "scoring.precondition=fisher", "scoring.dim=null")
    assert needs_of(cfg, selector_of(cfg.selector)).neighbours  # no gradients, no matrix


@pytest.mark.model
def test_cached_gradients_stay_valid(cache):
    model, optimizer, tokenizer = model_and_optimizer(cache)
    ids = np.arange(ROWS)
    (plain,) = scorer(cache, tokenizer, dim=32).gradients(model, optimizer, ids)
    fresh = scorer(cache, tokenizer, dim=32, precondition="fisher", damping=0.3)
    (changed,) = fresh.gradients(model, optimizer, ids)
    assert fresh.computed == 0
    np.testing.assert_allclose(changed.targets(), dense(plain.queries.matrix(), plain.pool.matrix(), 0.3), atol=1e-5)
    picked = [
        Less().select(round_for(s, model=model, optimizer=optimizer)) for s in (scorer(cache, tokenizer, dim=32), fresh)
    ]
    assert not np.array_equal(picked[0].scores, picked[1].scores)


def test_another_damping_is_another_run():
    """And runs from before the option have the identity that they had."""
    plain, fisher, damped = (
        identity(configured("train", "selector=less", *words))["scoring"]
        for words in ([], ["scoring.precondition=fisher"], ["scoring.precondition=fisher", "scoring.damping=1"])
    )
    assert "precondition" not in plain and "damping" not in plain
    assert fisher != damped and fisher["precondition"] == "fisher" and damped["damping"] == 1

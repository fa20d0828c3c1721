"""similarity=gradients: neighbours by features, so that selectors over a matrix work on them."""

import numpy as np
import pytest

from near.searching.neighbours import Neighbours
from near.selection.gradient_similarity import FeatureVectors, FromGradients
from near.selection.selectors.near import Near
from near.selection.selectors.tsds import Tsds
from near.selection.selectors.uot import Uot
from tests import scored
from tests.scored import round_for

pytestmark = pytest.mark.model


@pytest.fixture()
def scored_round(tmp_path, cache):
    model, optimizer, tokenizer = scored.model_and_optimizer(cache)
    scorer = scored.scorer(tmp_path, tokenizer, dim=128)
    return round_for(scorer, 4, model=model, optimizer=optimizer)


def cosines(round, ids: np.ndarray) -> np.ndarray:
    (result,) = round.scorer.gradients(round.model, round.optimizer, ids)
    return result.queries.matrix() @ result.pool.matrix().T


def test_neighbours_are_those_of_the_features(scored_round):
    ids = np.array([0, 2, 3, 6, 7, 9, 11])
    round = scored_round.__class__(**{**vars(scored_round), "eligible": ids})
    similarity = FromGradients().of(round, max_K=5)
    expected = cosines(round, ids)
    order = np.argsort(-expected, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(similarity.neighbours.ids, ids[order])
    np.testing.assert_allclose(similarity.neighbours.scores, np.take_along_axis(expected, order, axis=1), atol=1e-5)
    np.testing.assert_allclose(similarity.means()[ids], expected.mean(0), atol=1e-5)
    assert np.isnan(similarity.means()[1])


@pytest.mark.parametrize("selector", [Near(), Uot(), Tsds()])
def test_selectors_work_on_them(scored_round, selector):
    similarity = FromGradients().of(scored_round, max_K=100)
    assert similarity.neighbours.ids.shape == (scored.QUERIES, scored.ROWS)
    known = {"neighbours": similarity.neighbours, "similarity": similarity}
    subset = selector.select(scored_round.__class__(**{**vars(scored_round), **known}))
    assert len(set(subset.ids.tolist())) == 4


def test_a_shortlist_by_embeddings(scored_round):
    matrix = Neighbours(np.array([[5, 2, 7], [5, 9, 2]]), np.zeros((2, 3), np.float32), {})
    similarity = FromGradients({"selector": "near", "size": 3})
    assert similarity.needs_neighbours and not FromGradients().needs_neighbours
    by_gradients = similarity.of(scored_round.__class__(**{**vars(scored_round), "neighbours": matrix}), max_K=9)
    assert sorted(np.unique(by_gradients.neighbours.ids)) == [2, 5, 9]


def test_several_weights_are_summed(tmp_path):
    """Products of the vectors side by side are the weighted sums of cosines, read in any pieces."""
    rng, chunks = np.random.default_rng(0), []
    parts = [np.arange(0, 4), np.arange(4, 7)]
    from near.selection.scoring.chunks import Chunks
    from near.selection.scoring.scoring import Features, Gradients

    def saved(name: str, vectors: np.ndarray, parts: list) -> Features:
        made = Chunks(tmp_path / name, parts)
        made.compute(lambda at, progress: {"gradients": vectors[at].astype(np.float16)}, name)
        return Features(made)

    pools, targets = rng.normal(size=(2, 7, 3)), rng.normal(size=(2, 2, 3))
    for number, weight in enumerate((0.25, 0.75)):
        pool, target = saved(f"p{number}", pools[number], parts), saved(f"q{number}", targets[number], [np.arange(2)])
        chunks.append(Gradients(weight, pool, target))
    vectors = FeatureVectors(chunks)
    expected = sum(w * t @ p.T for w, t, p in zip((0.25, 0.75), targets, pools, strict=True))
    for rows in (slice(0, 7), slice(2, 6), np.array([0, 3, 4, 6]), np.array([5])):
        out = np.empty((len(np.arange(7)[rows]), vectors.dim), np.float32)
        vectors.read(rows, out)
        np.testing.assert_allclose(vectors.queries() @ out.T, expected[:, rows], atol=2e-2)

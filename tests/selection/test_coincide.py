"""COINCIDE against a slow reference, by hand, and on the tiny model's hidden states."""

import json
import math

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from near.common.errors import UserError
from near.embedding.embed import embedder_of
from near.searching.vectors import ArrayVectors
from near.selection.select import select
from near.selection.selectors import coincide
from near.selection.selectors.coincide import Coincide, allocated, density, kernel, matched, transferability
from near.selection.similarity import VectorSimilarity
from near.training.train import train
from tests.conftest import configured
from tests.selection.test_selectors import POOL, round_of


def units(rows: int, dim: int = 4, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def d(u, v) -> float:
    return math.exp(-sum((a - b) ** 2 for a, b in zip(u.tolist(), v.tolist(), strict=True)))


def mmd(chosen: list, whole: list) -> float:
    def mean(some, others):
        return np.mean([d(u, v) for u in some for v in others])

    return mean(whole, whole) + mean(chosen, chosen) - 2 * mean(chosen, whole)


def slow(vectors: np.ndarray, clusters: np.ndarray, size: int, temperature: float) -> list[set[int]]:
    """The rows of each cluster, by the paper's formulas pair by pair."""
    groups = [np.flatnonzero(clusters == c).tolist() for c in sorted(set(clusters.tolist()))]
    centres = [vectors[g].mean(axis=0) / np.linalg.norm(vectors[g].mean(axis=0)) for g in groups]
    scores = []
    for i, group in enumerate(groups):
        transfer = np.mean([centres[i] @ centre for j, centre in enumerate(centres) if j != i])
        pairs = [d(vectors[p], vectors[q]) for p in group for q in group if p != q]
        scores.append(transfer / (np.mean(pairs) if pairs else 1.0))
    shares = np.exp(np.array(scores) / temperature)
    exact = size * shares / shares.sum()
    counts = np.floor(exact).astype(int)
    for i in np.argsort(counts - exact, kind="stable")[: size - counts.sum()]:
        counts[i] += 1
    chosen = []
    for group, count in zip(groups, counts, strict=True):
        picked: list[int] = []
        for _ in range(count):
            left = [row for row in group if row not in picked]
            gaps = [mmd([vectors[r] for r in [*picked, row]], [vectors[r] for r in group]) for row in left]
            picked.append(left[int(np.argmin(gaps))])
        chosen.append(set(picked))
    return chosen


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_against_a_slow_reference(monkeypatch, temperature):
    vectors, clusters = units(30), np.repeat([0, 1, 2], 10)
    monkeypatch.setattr(coincide, "BLOCK", 3)
    similarity = VectorSimilarity(ArrayVectors(vectors), vectors[:0], np.arange(30), 30, None)
    monkeypatch.setattr(similarity, "clusters", lambda count, seed: clusters)
    round = round_of(12, eligible=np.arange(30))
    object.__setattr__(round, "similarity", similarity)
    subset = Coincide(clusters=3, temperature=temperature).select(round)
    expected = slow(vectors.astype(np.float64), clusters, 12, temperature)
    assert [set(subset.ids.tolist()) & set(range(10 * c, 10 * c + 10)) for c in range(3)] == expected
    assert np.all(np.diff(subset.scores) <= 0) and len(set(subset.scores.tolist())) == sum(map(bool, expected))


def test_parts_by_hand():
    assert transferability(np.array([[1.0, 0], [0, 1.0], [0, 1.0]])).tolist() == [0, 0.5, 0.5]
    assert transferability(np.array([[1.0, 0]])).tolist() == [0]
    right = np.array([[1, 0], [0, 1]], dtype=np.float32)  # at a right angle: |u - v|^2 = 2
    assert kernel(right, right).tolist() == [[1, pytest.approx(math.exp(-2))], [pytest.approx(math.exp(-2)), 1]]
    assert density(right) == pytest.approx(math.exp(-2)) and density(right[:1]) == 1
    middle = np.array([[1, 0], [0.8, 0.6], [0, 1]], dtype=np.float32)
    assert matched(middle, 1).tolist() == [1] and matched(middle, 3).tolist() == [0, 1, 2]
    assert allocated(np.log([6.0, 3.0, 1.0]), np.array([2, 9, 9]), 10).tolist() == [2, 6, 2]
    assert allocated(np.zeros(3), np.array([5, 5, 5]), 4).tolist() == [2, 1, 1]
    assert allocated(np.array([0.0, -5000.0]), np.array([3, 9]), 5).tolist() == [3, 2]  # exp(-5000) is 0
    assert allocated(np.zeros(2), np.array([1, 2]), 3).tolist() == [1, 2]


def test_clusters_are_bounded_by_the_rows():
    requested = []
    similarity = round_of().similarity
    similarity.clusters = lambda count, seed: requested.append((count, seed)) or np.arange(POOL) % 3
    for options in ({}, {"cluster_size": 5}, {"clusters": 7}, {"clusters": 10_000}):
        round = round_of(seed=3)
        object.__setattr__(round, "similarity", similarity)
        Coincide(**options).select(round)
    assert [count for count, _ in requested] == [1, 7, 7, 34] and {seed for _, seed in requested} == {3}


# --- hidden states --------------------------------------------------------------------------------------------------


@pytest.fixture()
def embedder(cache):
    def of(*overrides: str):
        cfg = configured("select", "model=tiny", "embedder=hidden_states", *overrides)
        return embedder_of(cfg.embedder, str(cache))

    return of


@pytest.mark.model
@pytest.mark.parametrize("states", ["attention", "layer"])
def test_vectors_against_one_row_at_a_time(embedder, states):
    one = embedder("embedder.layers=[1,2]", f"embedder.states={states}", "embedder.embed=both")
    texts = ["a red pot", "the sum of 3 and 4 is 7, and of 30 and 4 it is 34", "x"]
    vectors = one.embed(texts)
    model, kept = one._model, []
    for layer in model.layers:
        layer.self_attn.register_forward_hook(lambda module, inputs, output: kept.append(output[0]))
    for text, vector in zip(texts, vectors, strict=True):
        kept.clear()
        ids = torch.tensor([one.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            outputs = model(input_ids=ids, output_hidden_states=True)
        layers = kept if states == "attention" else outputs.hidden_states[1:]
        parts = [torch.tanh(layer.reshape(len(ids[0]), -1)).mean(dim=0) for layer in layers]
        expected = torch.cat([part / part.norm() for part in parts]) / len(parts) ** 0.5
        np.testing.assert_allclose(vector, expected.numpy(), atol=2e-6)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.model
def test_layers(embedder):
    assert embedder("embedder.layers=5").dim == 2 * embedder("embedder.layers=1").dim  # of a model with two layers
    with pytest.raises(UserError, match="has 2 layers, no number 3; lower it"):
        _ = embedder("embedder.layers=[1,3]").dim
    spaces = [embedder(*words).space for words in ([], ["embedder.layers=1"], ["embedder.states=layer"])]
    assert len({json.dumps(space) for space in spaces}) == 3


@pytest.mark.model
def test_a_run_needs_no_target(tiny, tmp_path):
    """The vectors are those of the untrained model, whatever the round; select.py picks the same rows."""
    options = ["selector=coincide", "selector.cluster_size=10", "data.queries.path=null"]
    without = [word for word in tiny if not word.startswith(("embedder=", "data.queries", "max_K"))]
    train(configured("train", *without, *options), tmp_path / "run")
    rounds = [np.load(tmp_path / "run" / "rounds" / f"00{i}.npy").tolist() for i in range(3)]
    assert rounds[1] == rounds[2] and len(rounds[1]) == 8
    data = [word for word in without if word.startswith(("data", "cache_dir", "model"))]
    select(configured("select", *data, *options, "n=8"), tmp_path / "out")
    assert np.load(tmp_path / "out" / "subset.npy").tolist() == rounds[1]
    with pytest.raises(UserError, match="holds another subset \\(embedder"):
        select(configured("select", *data, *options, "n=8", "embedder=hashing"), tmp_path / "out")


def test_words_have_no_vectors(tiny, tmp_path):
    with pytest.raises(UserError, match="similarity=bm25 has no vectors of rows, which this selector clusters"):
        train(configured("train", *tiny, "selector=coincide", "similarity=bm25"), tmp_path)


def test_icons_is_less_by_votes():
    picker = instantiate(configured("train", "selector=icons").selector)
    assert (type(picker).__name__, picker.aggregate) == ("Less", "vote")

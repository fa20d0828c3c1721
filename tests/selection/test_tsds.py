"""TSDS against the authors' loop written anew, by hand, and at its boundaries."""

import heapq

import numpy as np
import pytest

from near.searching.neighbours import Neighbours
from near.selection.selectors.tsds import KnnUniform, Tsds, eligible_neighbours, spread
from tests.scored import round_for

N = 30


class Dense:
    """A similarity with given densities."""

    def __init__(self, density):
        self.densities, self.requested = np.asarray(density, dtype=float), []

    def density(self, ids, sigma, k):
        self.requested.append((ids.tolist(), sigma, k))
        return self.densities[ids]


def problem(seed: int, queries=5, width=12):
    """Neighbours with distances of all sizes, and densities from 1 on."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(N)[:width] for _ in range(queries)])
    scores = -np.sort(-rng.uniform(-0.5, 1, (queries, width)), axis=1).astype(np.float32)
    return Neighbours(ids, scores, {}), 1 + rng.exponential(2, N)


def loop(ids, distances, density, alpha: float, C: float) -> np.ndarray:
    """The paper's Algorithm 2 with a heap of events, one by one."""
    queries, width = ids.shape
    last, spent, moved, total, s = [0] * queries, [0.0] * queries, [0.0] * queries, 0.0, 0.0
    heap = [(1 / density[j][0], 0, j) for j in range(queries)]
    heapq.heapify(heap)
    for j in range(queries):
        moved[j] = distances[j][0] / density[j][0]
    while heap and width > 1:
        s, k, j = heapq.heappop(heap)
        total -= spent[j]
        spent[j] = distances[j][k + 1] * s - moved[j]
        total += spent[j]
        if alpha / C * total >= (1 - alpha) * queries:
            break
        last[j] = k
        if k + 2 < width:
            heapq.heappush(heap, (s + 1 / density[j][k + 1], k + 1, j))
            moved[j] += distances[j][k + 1] / density[j][k + 1]
    probabilities = np.zeros(N)
    for j in range(queries):
        left = 1 / queries
        for k in range(last[j] + 1):
            mass = min(1 / queries / s / density[j][k], left)  # a query that s has not reached has one row
            probabilities[ids[j][k]] += mass
            left -= mass
        probabilities[ids[j][last[j] + 1]] += max(left, 0)
    return probabilities


ALL = np.arange(N)


def chances(selector, neighbours, density=None, eligible=ALL) -> np.ndarray:
    round = round_for(size=3, neighbours=neighbours, eligible=eligible, similarity=density and Dense(density))
    round = round.__class__(**{**vars(round), "trained": np.zeros(N, dtype=np.int64)})
    return selector.probabilities(round, *eligible_neighbours(round))


@pytest.mark.parametrize("alpha", [0.01, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("seed", range(8))
def test_equal_to_the_papers_loop(seed, alpha):
    matrix, density = problem(seed)
    distances = np.sqrt(np.maximum(2 - 2 * matrix.scores.astype(np.float64), 0))
    expected = loop(matrix.ids, distances, density[matrix.ids], alpha, 5.0)
    got = chances(Tsds(alpha=alpha), matrix, density.tolist())
    np.testing.assert_allclose(got, expected, atol=1e-12)
    assert got.sum() == pytest.approx(1, abs=1e-12)


def test_density_is_computed_of_the_neighbours_alone():
    matrix, density = problem(0)
    similarity = Dense(density)
    round = round_for(size=3, neighbours=matrix, similarity=similarity, eligible=np.arange(N))
    Tsds(sigma=0.5, kde_K=7).select(round.__class__(**{**vars(round), "trained": np.zeros(N, dtype=np.int64)}))
    assert similarity.requested == [(np.unique(matrix.ids).tolist(), 0.5, 7)]


def test_near_duplicates_share_the_mass_of_one():
    """Rows 0 and 1 are the same (density 2), row 2 stands alone: with no cost each distinct row gets a half."""
    matrix = Neighbours(np.array([[0, 1, 2, 3]]), np.array([[0.9, 0.9, 0.8, 0.1]], np.float32), {})
    got = chances(Tsds(alpha=1e-6), matrix, [2, 2, 1, 1] + [1] * (N - 4))
    np.testing.assert_allclose(got[:4], [0.25, 0.25, 0.5, 0], atol=1e-9)


def test_alignment_and_diversity():
    """alpha near 1: each query's nearest alone; near 0: all that is there."""
    matrix, density = problem(3)
    near = chances(Tsds(alpha=0.9999), matrix, density.tolist())
    assert set(np.flatnonzero(near > 1e-9)) == set(matrix.ids[:, 0]) | set(
        matrix.ids[:, 1][near[matrix.ids[:, 1]] > 1e-9]
    )
    assert near[matrix.ids[:, 0]].sum() > 0.5
    far = chances(Tsds(alpha=1e-9), matrix, density.tolist())
    assert (far[matrix.ids[:, :-1]] > 0).all()


@pytest.mark.parametrize("make", [Tsds, KnnUniform])
@pytest.mark.parametrize(
    "scores", [[[0.5]], [[1.0, 1.0, 1.0]], [[0.9, 0.1], [0.9, 0.1]], [[0.3]] * 4, [[1.0, 0.9999999, -1.0]]]
)
def test_boundaries_conserve_mass(make, scores):
    scores = np.array(scores, np.float32)
    ids = np.tile(np.arange(scores.shape[1]), (len(scores), 1))
    for alpha in (1e-9, 0.5, 1.0):
        got = chances(make(alpha=alpha), Neighbours(ids, scores, {}), [1.0] * N)
        assert got.sum() == pytest.approx(1) and (got >= 0).all() and got[scores.shape[1] :].sum() == 0


def test_rows_that_are_not_eligible_are_ignored():
    """Lists become shorter, also of different lengths, and a query without any is left out."""
    matrix, density = problem(5, width=8)
    eligible = np.setdiff1d(np.arange(N), matrix.ids[0])
    got = chances(Tsds(), matrix, density.tolist(), eligible)
    assert got.sum() == pytest.approx(1) and got[matrix.ids[0]].sum() == 0
    lists = [
        (row[np.isin(row, eligible)], s[np.isin(row, eligible)])
        for row, s in zip(matrix.ids, matrix.scores, strict=True)
    ]
    width = min(len(row) for row, _ in lists[1:])
    assert len({len(row) for row, _ in lists[1:]}) > 1
    cut = Neighbours(np.stack([r[:width] for r, _ in lists[1:]]), np.stack([s[:width] for _, s in lists[1:]]), {})
    expected = chances(Tsds(alpha=0.95), cut, density.tolist())
    np.testing.assert_allclose(chances(Tsds(alpha=0.95), matrix, density.tolist(), eligible), expected, atol=1e-9)
    uniform = chances(KnnUniform(alpha=1e-6), matrix, None, eligible)
    assert uniform.sum() == pytest.approx(1)


def uniform_loop(distances: np.ndarray, alpha: float, C: float) -> int:
    """Algorithm 1: how many neighbours."""
    queries, width = distances.shape
    K = 1
    while (
        K < width
        and alpha / C * sum(distances[i, K] - distances[i, k] for i in range(queries) for k in range(K))
        < (1 - alpha) * queries
    ):
        K += 1
    return K


@pytest.mark.parametrize("alpha", [0.01, 0.6, 0.9, 0.98])
@pytest.mark.parametrize("seed", range(4))
def test_uniform_is_the_papers_loop(seed, alpha):
    matrix, _ = problem(seed)
    distances = np.sqrt(np.maximum(2 - 2 * matrix.scores.astype(np.float64), 0))
    K = uniform_loop(distances, alpha, 5.0)
    expected = np.bincount(matrix.ids[:, :K].ravel(), minlength=N) / (K * len(matrix.ids))
    np.testing.assert_allclose(chances(KnnUniform(alpha=alpha), matrix), expected, atol=1e-12)


@pytest.mark.parametrize("selector", [Tsds(sigma=0), KnnUniform()])
def test_drawing(selector):
    """In proportion to probability, without replacement, seeded, new in every round; fewer where there are fewer."""
    matrix, _ = problem(2)

    def ids(size=4, **known):
        round = round_for(size=size, neighbours=matrix, eligible=np.arange(N), **known)
        return selector.select(round.__class__(**{**vars(round), "trained": np.zeros(N, dtype=np.int64)})).ids

    assert ids().tolist() == ids().tolist() and ids().tolist() != ids(seed=1).tolist() != ids(index=1).tolist()
    reachable = np.flatnonzero(chances(selector, matrix))
    assert sorted(ids(size=1000)) == reachable.tolist()
    first = np.bincount([ids(1, seed=seed)[0] for seed in range(2000)], minlength=N) / 2000
    expected = chances(selector, matrix)
    assert np.abs(first - expected).max() < 5 * np.sqrt(expected.max() / 2000)


def test_spread_of_one_row_each():
    got = spread(np.array([[4], [4]]), np.array([[0.2], [0.9]]), np.ones((2, 1)), 0.6, 5.0, 6)
    assert got.tolist() == [0, 0, 0, 0, 1, 0]


def test_uniform_uses_what_longer_lists_have():
    """A query with one row spreads its mass over that one, and does not hold the others back."""
    matrix = Neighbours(np.array([[0, 1, 2, 3], [4, 9, 8, 7]]), np.array([[0.9, 0.9, 0.9, 0.9]] * 2, np.float32), {})
    got = chances(KnnUniform(alpha=0.5), matrix, None, np.arange(5))
    np.testing.assert_allclose(got[:6], [0.125, 0.125, 0.125, 0.125, 0.5, 0])


@pytest.mark.parametrize("selector", [Tsds(), KnnUniform()])
def test_no_eligible_neighbour_gives_no_rows(selector):
    matrix = Neighbours(np.array([[0, 1]]), np.array([[0.9, 0.1]], np.float32), {})
    assert not len(selector.select(round_for(size=4, neighbours=matrix, eligible=np.array([2, 3]))).ids)

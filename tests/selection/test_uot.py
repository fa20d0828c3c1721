"""UOT against a dense solver in the log domain, by hand where it can be, and at its boundaries."""

import numpy as np
import pytest

from near.searching.neighbours import Neighbours
from near.selection.selectors.uot import Uot
from tests.scored import round_for

N = 9


def neighbours(scores: np.ndarray) -> Neighbours:
    """The whole matrix (Q, N) of similarities as neighbours, best first."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return Neighbours(order, np.take_along_axis(scores, order, axis=1).astype(np.float32), {})


def select(scores, size=N, eligible=None, **options):
    eligible = np.arange(np.shape(scores)[1]) if eligible is None else eligible
    return Uot(**options).select(round_for(size=size, neighbours=neighbours(np.asarray(scores)), eligible=eligible))


def dense(scores: np.ndarray, epsilon: float, reg_queries: float | None, reg_rows: float) -> np.ndarray:
    """The plan (Q, n) by Sinkhorn's dual ascent on the whole matrix, in the log domain, float64."""
    cost = (1 - scores.astype(np.float32).astype(np.float64)) / 2
    queries, rows = cost.shape
    log_a, log_b = np.full(queries, -np.log(queries)), np.full(rows, -np.log(rows))
    base = -cost / epsilon + log_a[:, None] + log_b
    f, g = np.zeros(queries), np.zeros(rows)
    first = 1.0 if reg_queries is None else reg_queries / (reg_queries + epsilon)
    second = reg_rows / (reg_rows + epsilon)

    def total(x: np.ndarray, axis: int) -> np.ndarray:
        top = x.max(axis=axis, keepdims=True)
        return np.log(np.exp(x - top).sum(axis=axis)) + top.squeeze(axis)

    for _ in range(5000):
        f = first * (log_a - total(base + g, 1))
        g = second * (log_b - total(base + f[:, None], 0))
    f = first * (log_a - total(base + g, 1))
    return np.exp(base + f[:, None] + g)


@pytest.mark.parametrize("options", [{}, {"epsilon": 0.1, "reg_rows": 0.5}, {"reg_queries": 0.3, "reg_rows": 0.05}])
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_a_dense_solver(seed, options):
    scores = np.random.default_rng(seed).uniform(-1, 1, (5, N))
    plan = dense(scores, **{"epsilon": 0.01, "reg_queries": None, "reg_rows": 0.0001, **options})
    subset = select(scores, **options)
    np.testing.assert_allclose(subset.scores, plan.sum(0)[subset.ids], rtol=1e-4, atol=1e-9)
    assert (np.diff(subset.scores) <= 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_mass_is_conserved(seed):
    """Each query gives exactly its own, so that rows receive 1 together; less with a penalty in its place."""
    scores = np.random.default_rng(seed).uniform(-1, 1, (4, N))
    assert select(scores).scores.sum() == pytest.approx(1, abs=1e-5)
    assert select(scores, reg_rows=100.0, epsilon=0.5).scores == pytest.approx([1 / N] * N, abs=1e-3)  # balanced
    assert select(scores - 0.5, reg_queries=0.1).scores.sum() < 1


def test_by_hand():
    """One query without pressure on the rows is a softmax of its similarities over 2 epsilon."""
    scores = np.array([[0.9, 0.5, -0.2]])
    expected = np.exp(scores[0] / 0.2)
    subset = select(scores, epsilon=0.1, reg_rows=1e-12)
    assert subset.ids.tolist() == [0, 1, 2]
    np.testing.assert_allclose(subset.scores, expected / expected.sum(), rtol=1e-5)


def test_every_query_has_its_share():
    """Two queries with one row each that is near: these two come before the second best of either."""
    scores = np.array([[0.9, 0.8, 0.0, 0.0], [0.0, 0.0, 0.5, 0.2]])
    assert set(select(scores, 2).ids) == {0, 2}


@pytest.mark.parametrize("epsilon", [1e-4, 1e-3, 1.0])
def test_small_epsilons_neither_overflow_nor_underflow(epsilon):
    scores = np.random.default_rng(0).uniform(-1, 1, (4, N))
    for reg_queries in (None, 0.1):
        subset = select(scores, epsilon=epsilon, reg_queries=reg_queries)
        assert np.isfinite(subset.scores).all() and sorted(subset.ids) == list(range(N))
    nearest = set(scores.argmax(1))
    assert set(select(scores, len(nearest), epsilon=1e-4).ids) == nearest


def test_rows_that_are_not_eligible_carry_nothing():
    scores = np.random.default_rng(1).uniform(-1, 1, (3, N))
    eligible = np.array([1, 4, 5, 8])
    subset = select(scores, eligible=eligible)
    assert sorted(subset.ids) == eligible.tolist()
    np.testing.assert_allclose(
        subset.scores,
        dense(scores[:, eligible], 0.01, None, 1e-4).sum(0)[np.searchsorted(eligible, subset.ids)],
        rtol=1e-4,
        atol=1e-9,
    )


def test_a_query_without_eligible_neighbours_is_left_out():
    matrix = Neighbours(np.array([[0, 1], [2, 3]]), np.array([[0.9, 0.1], [0.8, 0.2]], np.float32), {})
    subset = Uot().select(round_for(size=4, neighbours=matrix, eligible=np.array([2, 3, 5])))
    assert subset.ids.tolist() == [2, 3] and subset.scores.sum() == pytest.approx(1)


@pytest.mark.parametrize("scores", [np.full((3, 4), 0.5), np.ones((1, 4)), np.array([[0.3]])])
def test_equal_similarities_go_by_id(scores):
    subset = select(scores)
    assert subset.ids.tolist() == list(range(scores.shape[1]))
    np.testing.assert_allclose(subset.scores, 1 / scores.shape[1], rtol=1e-5)


def test_iterations_that_do_not_converge_are_logged(caplog, monkeypatch):
    monkeypatch.setattr("near.selection.selectors.uot.STEPS", 2)
    with caplog.at_level("WARNING", logger="near"):
        select(np.random.default_rng(0).uniform(-1, 1, (4, N)), reg_rows=10.0)
    assert "in 2 iterations" in caplog.text


@pytest.mark.parametrize("seed", range(3))
def test_rows_held_to_their_share(seed):
    """An infinite penalty is balanced transport: every row receives the same."""
    scores = np.random.default_rng(seed).uniform(-1, 1, (4, N))
    subset = select(scores, reg_rows=np.inf, epsilon=0.1)
    assert subset.scores == pytest.approx([1 / N] * N, rel=1e-4)
    np.testing.assert_allclose(select(scores, reg_queries=np.inf).scores, select(scores).scores, rtol=1e-6)


def test_no_eligible_neighbour_gives_no_rows():
    matrix = Neighbours(np.array([[0, 1]]), np.array([[0.9, 0.1]], np.float32), {})
    assert not len(Uot().select(round_for(size=4, neighbours=matrix, eligible=np.array([2, 3]))).ids)

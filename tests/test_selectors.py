"""The contract over every selector under conf/, and what each one is for."""

import numpy as np
import pytest
from hydra.utils import instantiate

from near.errors import UserError
from near.sampler import draws
from near.selection import Neighbours
from near.selectors.base import Round, Subset, checked
from near.selectors.full import Full
from near.selectors.near import Near
from near.selectors.random import Random
from tests.conftest import configured
from tests.test_configs import choices

POOL = 40
ELIGIBLE = np.array([i for i in range(POOL) if i % 7])


def matrix(seed=0, queries=4, k=10) -> Neighbours:
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(POOL)[:k] for _ in range(queries)])
    return Neighbours(ids, np.sort(rng.random((queries, k)).astype(np.float32))[:, ::-1], {})


def round_of(size=8, index=1, seed=0, previous=(), neighbours=None, eligible=ELIGIBLE, trained=None) -> Round:
    trained = np.zeros(POOL, dtype=np.int64) if trained is None else trained
    return Round(
        index=index,
        count=4,
        step=index * 5,
        size=size,
        seed=seed,
        eligible=eligible,
        draws=size,
        trained=trained,
        previous=tuple(previous),
        neighbours=neighbours or matrix(),
    )


@pytest.fixture(params=choices("selector"))
def make(request):
    return lambda: instantiate(configured("train", f"selector={request.param}").selector)


@pytest.mark.parametrize("size", [1, 8, 34, 1000])
def test_distinct_eligible_at_most_the_size(make, size):
    round = round_of(size)
    subset = checked(make().select(round), round, "it")
    assert subset.scores is None or subset.scores.shape == subset.ids.shape


def test_same_seed_same_rows(make):
    np.testing.assert_array_equal(make().select(round_of(seed=3)).ids, make().select(round_of(seed=3)).ids)


def test_another_process_picks_the_same(make):
    """A restart hands over a new selector with the state of the old one."""
    old, new = make(), make()
    first = old.select(round_of(index=1))
    new.load_state_dict(old.state_dict())
    later = round_of(index=2, previous=[first.ids])
    np.testing.assert_array_equal(old.select(later).ids, new.select(later).ids)


@pytest.mark.parametrize("cls", [Random, Full])
def test_another_seed_other_rows(cls):
    assert set(cls().select(round_of(seed=1)).ids) != set(cls().select(round_of(seed=2)).ids)


def test_near_walks_column_by_column():
    ids = np.array([[5, 2, 7], [5, 9, 2]])
    scores = np.array([[0.9, 0.8, 0.1], [0.7, 0.6, 0.5]], dtype=np.float32)
    round = round_of(3, neighbours=Neighbours(ids, scores, {}), eligible=np.arange(10))
    subset = Near().select(round)
    assert subset.ids.tolist() == [5, 2, 9]
    np.testing.assert_allclose(subset.scores, [0.9, 0.8, 0.6])


def test_near_skips_what_is_not_eligible_and_gives_what_there_is():
    ids = np.array([[5, 2, 7], [5, 9, 2]])
    round = round_of(8, neighbours=Neighbours(ids, ids.astype(np.float32), {}), eligible=np.array([2, 7, 9]))
    assert Near().select(round).ids.tolist() == [2, 9, 7]


def test_near_against_a_slow_walk():
    neighbours = matrix(seed=5, queries=6, k=12)
    taken = []
    for column in range(12):
        for query in range(6):
            row = int(neighbours.ids[query, column])
            if row not in taken and row in ELIGIBLE and len(taken) < 15:
                taken.append(row)
    assert Near().select(round_of(15, neighbours=neighbours)).ids.tolist() == taken


def test_random_is_new_each_round_and_uniform():
    first, second = (Random().select(round_of(index=i)).ids for i in (1, 2))
    assert first.tolist() != second.tolist()
    counts = np.zeros(POOL)
    for index in range(2000):
        counts[Random().select(round_of(5, index=index)).ids] += 1
    expected = 2000 * 5 / len(ELIGIBLE)
    assert counts[::7].sum() == 0
    assert np.abs(counts[ELIGIBLE] - expected).max() < 6 * np.sqrt(expected)


@pytest.mark.parametrize("size", [7, 34, 40, 100])
def test_full_takes_every_row_once_before_any_twice(size):
    """Through the sampler, also where a round has more draws than the pool has rows."""
    trained = np.zeros(POOL, dtype=np.int64)
    trained[draws(Random().select(round_of(6, index=0)).ids, 6, 0, 0)] += 1
    for index in range(1, 12):
        ids = Full().select(round_of(size, index=index, trained=trained)).ids
        np.add.at(trained, draws(ids, size, 0, index), 1)
        assert trained[ELIGIBLE].max() - trained[ELIGIBLE].min() <= 1
    assert trained[::7].sum() == 0


def test_the_contract_is_enforced():
    round = round_of(3)

    def told(ids):
        with pytest.raises(UserError) as caught:
            checked(Subset(np.asarray(ids)), round, "mine")
        return str(caught.value)

    assert "returned 4 rows in round 1; it may return 1 to 3" in told([1, 2, 3, 4])
    assert "returned 0 rows" in told(np.empty(0, dtype=np.int64))
    assert "returned 1 rows twice" in told([1, 1, 2])
    assert "returned row 7, which is not eligible" in told([1, 7])
    assert "must be int64" in told([1.0, 2.0])

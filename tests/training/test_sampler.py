"""Draws of a subset: seeded, and no row twice before all came once."""

import numpy as np
import pytest

from near.training.rounds.sampler import RoundSampler, draws, grouped_by_length, sorted_in_steps

IDS = np.array([7, 8, 9, 20, 31])


def test_the_documented_example():
    assert draws(np.array([7, 8, 9]), 7, seed=0, round=1).tolist() == [7, 8, 9, 7, 9, 8, 7]


@pytest.mark.parametrize("size", [1, 4, 5, 6, 17])
def test_pass_after_pass(size):
    drawn = draws(IDS, size, seed=3, round=2)
    assert len(drawn) == size
    for start in range(0, size, len(IDS)):
        part = drawn[start : start + len(IDS)]
        assert len(set(part.tolist())) == len(part)
        assert set(part.tolist()) <= set(IDS.tolist())


def test_seed_and_round_decide():
    first = draws(IDS, 50, 0, 0)
    np.testing.assert_array_equal(first, draws(IDS, 50, 0, 0))
    assert (first != draws(IDS, 50, 1, 0)).any()
    assert (first != draws(IDS, 50, 0, 1)).any()
    assert (first[:5] != first[5:10]).any()  # each pass newly shuffled


def test_a_shorter_pass_draws_the_selectors_first_rows():
    counts = np.bincount(draws(IDS, 13, 0, 0), minlength=32)
    assert counts[IDS].tolist() == [3, 3, 3, 2, 2]


def test_the_sampler_yields_its_rows():
    sampler = RoundSampler(3)
    sampler.rows = np.array([5, 1, 5])
    assert list(sampler) == [5, 1, 5]
    assert len(sampler) == 3


def test_batches_by_length_keep_every_pass_whole():
    lengths = np.random.default_rng(0).integers(1, 500, 1000)
    ids = np.random.default_rng(1).permutation(1000)[:300]
    order = draws(ids, 700, 0, 1)
    grouped = grouped_by_length(order, 300, lengths, 4, 0, 1)
    for start in (0, 300, 600):
        assert sorted(grouped[start : start + 300]) == sorted(order[start : start + 300])
    np.testing.assert_array_equal(grouped, grouped_by_length(order, 300, lengths, 4, 0, 1))
    assert (grouped != grouped_by_length(order, 300, lengths, 4, 1, 1)).any()

    def padding(rows):
        batches = lengths[rows].reshape(-1, 4)
        return (batches.max(axis=1, keepdims=True) - batches).sum() / batches.sum()

    assert padding(grouped) < 0.2 * padding(order)
    middles = lengths[grouped[:300]].reshape(-1, 4).mean(axis=1)
    assert abs(np.corrcoef(np.arange(75), middles)[0, 1]) < 0.5, "batches come in no order of length"


def test_the_documented_grouping():
    grouped = grouped_by_length(np.arange(6), 6, np.array([9, 1, 8, 2, 9, 1]), batch=2, seed=0, round=0)
    assert grouped.tolist() == [0, 4, 2, 3, 1, 5]


def test_a_steps_rows_stay_together_and_its_batches_are_alike_in_length():
    rng = np.random.default_rng(0)
    order, lengths = rng.permutation(40), rng.integers(5, 200, size=40)
    by_length = dict(zip(order.tolist(), lengths.tolist(), strict=True))
    rows = sorted_in_steps(order, lengths, step=8)
    for start in range(0, 40, 8):
        step = rows[start : start + 8].tolist()
        assert sorted(step) == sorted(order[start : start + 8].tolist())
        assert [by_length[row] for row in step] == sorted((by_length[row] for row in step), reverse=True)


def test_a_row_that_a_step_draws_twice_stays_in_it_twice():
    assert sorted_in_steps(np.array([3, 3, 1, 3]), np.array([4, 4, 9, 4]), step=4).tolist() == [1, 3, 3, 3]

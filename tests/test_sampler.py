"""Draws of a subset: seeded, and no row twice before all came once."""

import numpy as np
import pytest

from near.sampler import RoundSampler, draws

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


def test_what_is_left_goes_to_the_selectors_first_rows():
    counts = np.bincount(draws(IDS, 13, 0, 0), minlength=32)
    assert counts[IDS].tolist() == [3, 3, 3, 2, 2]


def test_the_sampler_yields_what_it_was_given():
    sampler = RoundSampler(3)
    sampler.rows = np.array([5, 1, 5])
    assert list(sampler) == [5, 1, 5]
    assert len(sampler) == 3

"""Every row is in one batch, within both limits, with rows of similar length."""

import numpy as np
import pytest

from near.common.batches import batches


def test_the_documented_example():
    assert [b.tolist() for b in batches([3, 9, 4, 8], size=3, tokens=18)] == [[1, 3], [2, 0]]


@pytest.mark.parametrize(("size", "tokens"), [(1, None), (7, None), (7, 100), (64, 1000), (5, 3)])
def test_bounds(size, tokens):
    lengths = np.random.default_rng(0).integers(0, 60, 200)
    result = batches(lengths, size, tokens)
    assert sorted(np.concatenate(result).tolist()) == list(range(200))
    for batch in result:
        assert 1 <= len(batch) <= size
        assert tokens is None or len(batch) == 1 or lengths[batch].max() * len(batch) <= tokens
    longest = [lengths[b].max() for b in result]
    assert longest == sorted(longest, reverse=True)


def test_rows_of_a_batch_are_alike():
    lengths = np.random.default_rng(1).integers(1, 300, 500)
    for batch in batches(lengths, 64, 4096, alike=0.9):
        assert len(batch) <= 4 or lengths[batch].min() >= 0.9 * lengths[batch].max()


def test_nothing_to_do():
    assert batches([], 4) == []

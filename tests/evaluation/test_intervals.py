"""Intervals by hand, and by what they hold over 2,000 comparisons of nothing with nothing."""

import numpy as np
import pytest

from bench.intervals import losses, pairs, seeds
from near.evaluation.intervals import holds_zero, over_examples, over_pairs, over_seeds


def test_over_seeds_by_hand():
    """t(2) = 4.3027; the differences 1, 2, 3 have mean 2 and standard deviation 1."""
    assert over_seeds(np.array([1.0, 2.0, 3.0])) == pytest.approx(
        (2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4
    )
    assert over_seeds(np.array([2.0, 2.0])) == (2.0, 2.0)
    assert over_seeds(np.array([1.0])) is None


def test_over_examples_is_about_a_normal_interval_of_a_mean():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = over_examples(values, np.ones(400))
    half = 1.966 * values.std(ddof=1) / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert over_examples(values, np.ones(400)) == (low, high), "seeded"
    assert over_examples(values[:1], np.ones(1)) is None


def test_tokens_weigh():
    """One long example decides: with it the loss is near 1, without it 5."""
    low, high = over_examples(np.array([1000.0, 5, 5, 5]), np.array([1000.0, 1, 1, 1]))
    assert low == pytest.approx(1, abs=0.1) and high == pytest.approx(5, abs=0.1)


def test_over_pairs():
    rng = np.random.default_rng(1)
    tokens = rng.integers(5, 40, 300)
    low, high = over_pairs((0.5 + rng.normal(size=300)) * tokens, tokens)
    assert 0 < low < 0.5 < high < 1
    assert over_pairs(np.zeros(5), np.ones(5)) == (0.0, 0.0)
    assert over_pairs(np.ones(1), np.ones(1)) is None
    mirrored = over_pairs(-(0.5 + np.arange(9.0)), np.ones(9))
    assert mirrored == pytest.approx(tuple(-x for x in over_pairs(0.5 + np.arange(9.0), np.ones(9))[::-1]))


@pytest.mark.parametrize("n", [24, 48, 200])
def test_coverage_over_examples(n):
    assert 0.94 <= pairs(n, losses, 2000, resamples=500) <= 0.96


@pytest.mark.parametrize("k", [2, 3, 5])
def test_coverage_over_seeds(k):
    assert 0.94 <= seeds(k, "normal", 20_000) <= 0.96  # 2,000 would be exact to 1%


def test_holds_zero():
    assert holds_zero((-1, 0)) and holds_zero((0, 0)) and not holds_zero((0.1, 2)) and not holds_zero((-2, -0.1))

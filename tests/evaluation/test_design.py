"""The power of a comparison over seeds and examples: against its parts by hand, and in simulated comparisons."""

import numpy as np
import pytest

from bench.intervals import SPREADS, crossed, shown
from near.evaluation.design import Design
from near.evaluation.power import POWER, smallest_effect


def test_over_seeds_alone_it_is_the_paired_t_test():
    design = Design.of(np.array([0.1, 0.4, 0.1, 0.4]), None, None)
    assert design.examples is None
    assert design.smallest() == pytest.approx(smallest_effect(4) * np.std([0.1, 0.4, 0.1, 0.4], ddof=1), rel=5e-3)


def test_over_many_examples_of_one_seed_it_is_the_normal_test():
    """2.8 standard errors: the quantiles of 97.5% and of 80%."""
    sums = np.random.default_rng(0).normal(size=(1, 5000))
    design = Design.of(sums.mean(axis=1), sums, np.ones(5000))
    assert design.smallest() == pytest.approx((1.960 + 0.842) * sums.std() / 5000**0.5, rel=5e-3)


def test_variances_are_recovered():
    rng, found = np.random.default_rng(1), []
    weights = rng.integers(1, 20, 60).astype(float)
    for _ in range(400):
        sums = crossed(rng, 4, 60, 0.3, (0.2, 0.5, 0.8)) * weights
        found.append(Design.of(sums.sum(axis=1) / weights.sum(), sums, weights))
    spread = (weights**2).sum() / weights.sum() ** 2  # 1 / n for equal weights
    assert np.mean([d.by_seed for d in found]) == pytest.approx(0.04 / 4, rel=0.1)
    assert np.mean([d.by_example for d in found]) == pytest.approx(0.25 * spread, rel=0.1)
    assert np.mean([d.by_both for d in found]) == pytest.approx(0.64 * spread / 4, rel=0.1)


@pytest.mark.parametrize("what", SPREADS)
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_smallest_difference_is_shown_in_four_of_five_draws(what, seeds):
    assert shown(seeds, 48, SPREADS[what], 1000, resamples=200) == pytest.approx(POWER, abs=0.04)


def test_more_seeds_and_examples():
    design = Design(3, 50, 0.01, 0.002, 0.001)
    more = design.with_more(seeds=6, examples=100)
    assert (more.by_seed, more.by_example, more.by_both) == pytest.approx((0.005, 0.001, 0.00025))
    seeds = design.seeds_for(0.3)
    assert design.with_more(seeds=seeds).power(0.3) >= POWER > design.with_more(seeds=seeds - 1).power(0.3)
    assert design.seeds_for(0.05) is None, "the examples alone spread more"
    assert design.examples_for(0.05) is None, "the seeds alone spread more"
    many = Design(10, 20, 0.0001, 0.01, 0.0)
    examples = many.examples_for(0.1)
    assert many.with_more(examples=examples).power(0.1) >= POWER > many.with_more(examples=examples - 1).power(0.1)


def test_no_spread_at_all():
    assert Design(3, 10).smallest() == 0 and Design(3, 10).power(0.1) == 1 and Design(3, 10).power(0) == 0

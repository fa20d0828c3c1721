"""Power of the interval over seeds or targets: against published values and simulated draws."""

import numpy as np
import pytest

from near.evaluation.intervals import holds_zero, over_seeds, over_targets
from near.evaluation.power import POWER, detectable, needed, shown, smallest_effect


def test_published_values():
    """Cohen 1988: a paired t test at 5%, two-sided, shows d = 0.5 in 34 pairs and d = 0.8 in 15 pairs with 80%."""
    assert shown(0.5, 34) == pytest.approx(0.81, abs=0.01)
    assert shown(0.5, 33) < POWER + 0.01
    assert shown(0.8, 15) == pytest.approx(0.82, abs=0.01)
    assert shown(0.0, 10) == pytest.approx(0.05, abs=1e-3)


@pytest.mark.parametrize("count", [3, 5, 10, 30])
def test_the_smallest_effect_is_shown_in_four_of_five_draws(count):
    rng = np.random.default_rng(count)
    effect = smallest_effect(count)
    found = sum(not holds_zero(over_seeds(rng.normal(effect, 1, count))) for _ in range(2000))
    assert found / 2000 == pytest.approx(POWER, abs=0.03)


def test_detectable_scales_with_the_deviation():
    values = np.array([0.1, -0.2, 0.3, 0.0])
    assert detectable(10 * values) == pytest.approx(10 * detectable(values))
    assert detectable(values[:1]) is None


def test_the_interval_over_targets_contains_that_of_students_t():
    rng = np.random.default_rng(0)
    values = rng.exponential(1, (50, 7))
    ends = over_targets(values)
    for row, (low, high) in zip(values, ends, strict=True):
        inner = over_seeds(row)
        assert low <= inner[0] + 1e-9 and high >= inner[1] - 1e-9
    level = np.array([1.0, 2.0, 3.0])  # without skewness the two agree
    assert over_targets(level) == pytest.approx(over_seeds(level), abs=1e-4)
    assert over_targets(np.full(5, 0.3)) == pytest.approx([0.3, 0.3])


def test_needed_is_the_least_number():
    values = np.array([0.5, 1.5, -0.5, 0.5])
    count = needed(values)
    effect = values.mean() / values.std(ddof=1)
    assert shown(effect, count) >= POWER > shown(effect, count - 1)
    assert needed(np.array([1.0, -1.0])) is None  # no difference at all
    assert needed(np.array([1.0, 1.0, 1.0])) == 2
    assert needed(np.array([1.0])) is None

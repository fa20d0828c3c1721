"""What an interval of Student's t over a number of values could have shown: the power of the paired t test.

Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, chapter 2.
"""

import functools
from collections.abc import Callable

import numpy as np

from near.evaluation.intervals import LEVEL, over_targets

POWER = 0.8
MOST = 100_000  # values: more are not counted
GRID = 2000


def shown(effect: float, count: int) -> float:
    """The probability that the interval of `count` values excludes zero, for a true mean of `effect` standard
    deviations.

    The mean of P(|mean| > t s / sqrt(count)) over sample deviations s, whose squares follow chi-square. scipy's
    noncentral t gives NaN for some of these arguments.
    """
    from scipy.stats import norm

    if count < 2:
        return 0.0
    bound, shift = deviations(count), effect * np.sqrt(count)
    return float(np.mean(norm.cdf(shift - bound) + norm.cdf(-shift - bound)))


@functools.lru_cache(64)
def deviations(count: int) -> np.ndarray:
    """t times the sample deviation of `count` standard normal values, at GRID quantiles of that deviation, (GRID,)."""
    from scipy.stats import chi2, t

    freedom = count - 1
    deviations = np.sqrt(chi2.ppf((np.arange(GRID) + 0.5) / GRID, freedom) / freedom)
    return t.ppf((1 + LEVEL) / 2, freedom) * deviations


@functools.cache
def smallest_effect(count: int) -> float:
    """The true mean, in standard deviations, that the interval of `count` values shows with probability POWER."""
    from scipy.optimize import brentq

    return float(brentq(lambda effect: shown(effect, count) - POWER, 0.0, 100.0))


@functools.cache
def smallest_effect_over_targets(count: int, draws: int = 4000) -> float:
    """The same for the interval `over_targets`, of normal values; simulated. Above 200 values that of Student's t."""
    from scipy.optimize import brentq

    if count > 200:
        return smallest_effect(count)
    drawn = np.random.default_rng(0).normal(size=(draws, count))

    def power(effect: float) -> float:
        ends = over_targets(drawn + effect)  # (draws, 2)
        return float(((ends[:, 0] > 0) | (ends[:, 1] < 0)).mean())

    return float(brentq(lambda effect: power(effect) - POWER, 0.0, 100.0, xtol=1e-3))


def detectable(values: np.ndarray, effect: Callable[[int], float] = smallest_effect) -> float | None:
    """The smallest true mean that values like these, (k,), show with probability POWER; None for fewer than two.

    effect: returns it for a number of values, in standard deviations.
    """
    if len(values) < 2:
        return None
    return effect(len(values)) * float(np.std(values, ddof=1))


def needed(values: np.ndarray) -> int | None:
    """How many values like these, (k,), show a true mean as large as theirs with probability POWER.

    None for fewer than two, or if MOST are not enough.
    """
    if len(values) < 2:
        return None
    mean, deviation = abs(float(np.mean(values))), float(np.std(values, ddof=1))
    if deviation == 0:
        return 2 if mean else None
    low, high = 2, MOST
    if shown(mean / deviation, high) < POWER:
        return None
    while low < high:  # power grows with the number
        middle = (low + high) // 2
        low, high = (low, middle) if shown(mean / deviation, middle) >= POWER else (middle + 1, high)
    return low

"""What an interval of Student's t over a number of values could have shown: the power of the paired t test.

Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, chapter 2.
"""

import functools

import numpy as np

from near.evaluation.intervals import LEVEL

POWER = 0.8
MOST = 100_000  # values: more are not counted
GRID = 2000


def shown(effect: float, count: int) -> float:
    """The probability that the interval of `count` values excludes zero, for a true mean of `effect` standard
    deviations.

    The mean over sample deviations s, whose squares follow chi-square: P(|mean| > t s / sqrt(count)). scipy's
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


def detectable(values: np.ndarray) -> float | None:
    """The smallest true mean that values like these, (k,), show with probability POWER; None for fewer than two."""
    if len(values) < 2:
        return None
    return smallest_effect(len(values)) * float(np.std(values, ddof=1))


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

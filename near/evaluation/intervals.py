"""95% intervals: over examples by the bootstrap, over seeds by Student's t. bench/intervals.py says what they hold."""

import functools

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
HELD = 4_000_000  # draws that are held at a time


def over_examples(
    sums: np.ndarray, weights: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Of one model's sum(sums) / sum(weights), (n,) each: an example's summed losses and its tokens, or its score and
    1. None for fewer than two examples.

    Percentiles of the bootstrap that draws examples with replacement, taken a little farther out, as the plain ones are
    too narrow by sqrt((n - 1) / n) and by the normal's quantiles in the place of t's ("expanded percentile interval",
    Hesterberg, What Teachers Should Know about the Bootstrap, 2015, section 3.3).
    """
    from scipy.stats import bootstrap, norm

    n = len(sums)
    if n < 2:
        return None
    wide = 2 * norm.cdf(np.sqrt(n / (n - 1)) * _quantile(n - 1)) - 1
    found = bootstrap(
        (np.asarray(sums, dtype=np.float64), np.asarray(weights, dtype=np.float64)),
        lambda s, w, axis: s.sum(axis=axis) / w.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, HELD // n),
        confidence_level=wide,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def over_pairs(
    differences: np.ndarray, weights: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Of sum(differences) / sum(weights), (n,) each: two models' summed losses of an example, one less the other, and
    its tokens, or their scores and 1. None for fewer than two examples.

    The wild bootstrap: every example's residual keeps its size and draws its sign, which two models that do not
    differ would have drawn, too; symmetric, and studentised by the ratio's own standard error (Wu 1986, Liu 1988;
    Cameron, Gelbach and Miller, Bootstrap-Based Improvements, 2008). Where differences have long tails it holds what it
    promises, which drawing pairs with replacement does not (LOG.md).
    """
    n = len(differences)
    if n < 2:
        return None
    d, w = np.asarray(differences, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    rng, total, small = np.random.default_rng(seed), w.sum(), n / (n - 1)
    estimate = d.sum() / total
    residuals = d - estimate * w
    error = np.sqrt(small * (residuals**2).sum()) / total
    if error == 0:
        return float(estimate), float(estimate)
    found = []
    for start in range(0, resamples, step := max(1, HELD // n)):
        signs = rng.integers(0, 2, (min(step, resamples - start), n), dtype=np.int8) * 2.0 - 1
        means = signs @ residuals / total
        left = (residuals**2).sum() - 2 * means * (signs @ (residuals * w)) + means**2 * (w**2).sum()
        errors = np.sqrt(small * np.maximum(left, 0)) / total
        found.append(np.abs(means) / np.maximum(errors, np.finfo(float).tiny))
    half = float(np.quantile(np.concatenate(found), LEVEL)) * error
    return float(estimate - half), float(estimate + half)


def over_seeds(values: np.ndarray) -> tuple[float, float] | None:
    """Of the mean of independent runs' `values`, (k,), such as differences of two selectors with the same seed: mean ±
    t(k - 1) s / sqrt(k); None for fewer than two. It holds what it promises where values are normal."""
    k = len(values)
    if k < 2:
        return None
    mean, half = np.mean(values), _quantile(k - 1) * np.std(values, ddof=1) / np.sqrt(k)
    return float(mean - half), float(mean + half)


@functools.cache
def _quantile(freedom: int) -> float:
    """Student's t that leaves half of what LEVEL lacks above it."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))


def holds_zero(interval: tuple[float, float]) -> bool:
    return interval[0] <= 0 <= interval[1]

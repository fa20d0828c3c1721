"""95% intervals: over examples by the bootstrap, over seeds by Student's t. Coverage: bench/intervals.py."""

import functools

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
MAX_DRAWS = 4_000_000  # draws in memory at a time


def over_examples(
    sums: np.ndarray, weights: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Interval of one model's mean, sum(sums) / sum(weights), over examples; None for fewer than two.

    Percentiles of the bootstrap that draws examples with replacement. They are taken farther out, because the plain
    ones are too narrow by sqrt((n - 1) / n) and use the normal's quantiles instead of t's ("expanded percentile
    interval", Hesterberg, What Teachers Should Know about the Bootstrap, 2015, section 3.3).

    Args:
        sums: (n,), each example's summed losses, or its score.
        weights: (n,), each example's tokens, or 1.
    """
    from scipy.stats import bootstrap, norm

    n = len(sums)
    if n < 2:
        return None
    wide = 2 * norm.cdf(np.sqrt(n / (n - 1)) * _quantile(n - 1)) - 1
    interval = bootstrap(
        (np.asarray(sums, dtype=np.float64), np.asarray(weights, dtype=np.float64)),
        lambda s, w, axis: s.sum(axis=axis) / w.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, MAX_DRAWS // n),
        confidence_level=wide,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def over_pairs(
    differences: np.ndarray, weights: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Interval of two models' mean difference, sum(differences) / sum(weights), over examples; None for fewer than two.

    The wild bootstrap: each example's residual keeps its size and draws a random sign, as if the models did not differ.
    It is symmetric and studentised by the ratio's standard error (Wu 1986, Liu 1988; Cameron, Gelbach and Miller,
    Bootstrap-Based Improvements, 2008). Its coverage is right even if differences have long tails, unlike that of
    drawing pairs with replacement (LOG.md).

    Args:
        differences: (n,), one model's summed losses of each example minus the other's, or of their scores.
        weights: (n,), each example's tokens, or 1.
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
    ratios = []
    for start in range(0, resamples, step := max(1, MAX_DRAWS // n)):
        signs = rng.integers(0, 2, (min(step, resamples - start), n), dtype=np.int8) * 2.0 - 1
        means = signs @ residuals / total  # (n_resamples, n) @ (n,)
        left = (residuals**2).sum() - 2 * means * (signs @ (residuals * w)) + means**2 * (w**2).sum()
        errors = np.sqrt(small * np.maximum(left, 0)) / total
        ratios.append(np.abs(means) / np.maximum(errors, np.finfo(float).tiny))
    half = float(np.quantile(np.concatenate(ratios), LEVEL)) * error
    return float(estimate - half), float(estimate + half)


def over_seeds(values: np.ndarray) -> tuple[float, float] | None:
    """Interval of the mean of independent runs' values, (k,): mean ± t(k - 1) s / sqrt(k); None for fewer than two.

    For example, differences of two selectors with the same seed. The coverage is right if values are normal.
    """
    k = len(values)
    if k < 2:
        return None
    mean, half = np.mean(values), _quantile(k - 1) * np.std(values, ddof=1) / np.sqrt(k)
    return float(mean - half), float(mean + half)


def over_targets(values: np.ndarray) -> np.ndarray:
    """Intervals of means of independent targets' values, also where those are skewed: the span of Student's t and of
    Hall's interval, which removes the skewness by a transformation (Hall 1992, On the removal of skewness by
    transformation).

    Args:
        values: (..., k), k of at least 2.

    Returns:
        float64 (..., 2). Where there is no effect and values have a long tail to one side (an exponential's), t alone
        excludes zero on the other side in 8 to 12% of draws of 5 to 30 values, the span in 4 to 7%
        (bench/intervals.py).
    """
    k = values.shape[-1]
    mean, deviation = values.mean(axis=-1), values.std(axis=-1, ddof=1)
    bounds = np.array([1.0, -1.0]) * _quantile(k - 1) / np.sqrt(k)  # (2,)
    centred = values - mean[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = (centred**3).mean(axis=-1) / (centred**2).mean(axis=-1) ** 1.5
        g = np.where(np.abs(skewness) > 1e-6, skewness, 1e-6)[..., None]  # (..., 1)
        transformed = 3 / g * (np.cbrt(1 + g * (bounds - g / (6 * k))) - 1)  # (..., 2)
    ends = mean[..., None] - deviation[..., None] * np.stack([np.broadcast_to(bounds, transformed.shape), transformed])
    return np.stack([ends[..., 0].min(axis=0), ends[..., 1].max(axis=0)], axis=-1)


@functools.cache
def _quantile(freedom: int) -> float:
    """The (1 + LEVEL) / 2 quantile of Student's t with `freedom` degrees of freedom."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))


def holds_zero(interval: tuple[float, float]) -> bool:
    """Whether the interval includes 0: no difference is shown."""
    return interval[0] <= 0 <= interval[1]

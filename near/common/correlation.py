"""Spearman's rank correlation and its interval."""

import numpy as np

LEVEL = 0.95


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation of x and y, (n,) each; 0 where all values of one are equal."""
    from scipy.stats import spearmanr

    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(spearmanr(x, y).statistic)


def correlation_interval(correlation: float, count: int) -> tuple[float, float] | None:
    """The 95% interval of a rank correlation over `count` values; None for fewer than four.

    Fisher's z with the variance (1 + r^2 / 2) / (count - 3) (Bonett and Wright 2000, Sample size requirements for
    estimating Pearson, Kendall and Spearman correlations). At 1 and -1 that has no width, so the closest value that
    one exchange of neighbours gives takes their place.
    """
    from scipy.stats import norm

    if count < 4:
        return None
    nearest = 1 - 12 / (count * (count**2 - 1))
    r = float(np.clip(correlation, -nearest, nearest))
    half = norm.ppf((1 + LEVEL) / 2) * np.sqrt((1 + r**2 / 2) / (count - 3))
    low, high = np.tanh(np.arctanh(r) - half), np.tanh(np.arctanh(r) + half)
    return float(min(low, correlation)), float(max(high, correlation))

"""Who is surely behind in a race: paired intervals over examples and seeds, corrected for looks and comparisons.

A race looks at its contenders several times, and stops those that are behind the leader (Maron and Moore, Hoeffding
Races, 1994; Birattari et al., A Racing Algorithm for Configuring Metaheuristics, 2002). Each look and each comparison
gets an equal part of the error that the whole race may make (Bonferroni; equal parts for the looks are the spending of
Pocock 1977 without its correlations, Lan and DeMets 1983), so that the best contender is stopped by mistake in at most
`alpha` of races, however many looks come to pass.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from near.evaluation.intervals import LEVEL, RESAMPLES, over_pairs

LEAST = 3  # seeds for a verdict


class Gap(NamedTuple):
    """How far a contender's mean loss is above the leader's, with its interval; None: too few seeds for one."""

    mean: float
    interval: tuple[float, float] | None

    def behind(self, margin: float = 0.0) -> bool:
        """Whether it can't be better than the leader by more than `margin`."""
        return self.interval is not None and self.interval[0] > -margin


def level_of(alpha: float, looks: int, comparisons: int) -> float:
    """The coverage of each interval, of which only the lower end is used: 1 - 2 alpha / (looks * comparisons).

    >>> round(level_of(0.05, 4, 5), 6)
    0.995
    """
    return 1 - 2 * alpha / (looks * max(comparisons, 1))


def level_of_verdict(looks: int) -> float:
    """The coverage of an interval for a verdict at each of several looks: all hold together with probability LEVEL.

    >>> level_of_verdict(1), round(level_of_verdict(2), 4)
    (0.95, 0.975)
    """
    return 1 - (1 - LEVEL) / max(looks, 1)


def leader_of(sums: Mapping[str, np.ndarray]) -> str:
    """The contender with the lowest loss, the first of equal ones. sums: as in `gaps`."""
    return min(sums, key=lambda name: float(sums[name].mean(axis=0).sum()))


def gaps(
    sums: Mapping[str, np.ndarray],
    weights: np.ndarray,
    level: float,
    apart: frozenset[str] = frozenset(),
    resamples: int = RESAMPLES,
) -> dict[str, Gap]:
    """How far each contender is behind the leader: the span of the intervals over examples and over seeds.

    With few seeds an interval of a contender's own differences says nothing (two seeds: 12.7 standard errors, before
    any correction). So the variance between seeds is that of a randomised block design, whose blocks are the seeds: the
    residuals of all contenders without their means and the seeds', with (contenders - 1)(seeds - 1) degrees of freedom;
    or the difference's own, if that is larger.

    Args:
        sums: of each contender that is compared, the summed losses by seed and example, (n_seeds, n_examples).
        weights: tokens of the examples, (n_examples,).
        level: of the intervals.
        apart: contenders that vary more between seeds, such as random rows. They count for the variance only if one
            of them leads.
        resamples: of the interval over examples.

    Returns:
        of all but the leader.
    """
    from scipy.stats import t

    leader, total = leader_of(sums), weights.sum()
    means = {name: values.sum(axis=1) / total for name, values in sums.items()}  # (n_seeds,)
    blocks = np.stack([mean for name, mean in means.items() if name not in apart or leader in apart])
    seeds, freedom = blocks.shape[1], (len(blocks) - 1) * (blocks.shape[1] - 1)
    residuals = blocks - blocks.mean(axis=1, keepdims=True) - blocks.mean(axis=0) + blocks.mean()
    found = {}
    for name in sums:
        if name == leader:
            continue
        values = means[name] - means[leader]
        if seeds < 2:
            found[name] = Gap(float(values.mean()), None)
            continue
        own = float(values.var(ddof=1))
        pooled = 2 * float((residuals**2).sum()) / freedom if freedom else own
        quantile = t.ppf((1 + level) / 2, freedom or seeds - 1)
        half = float(quantile * math.sqrt(max(own, pooled) / seeds))
        mean = float(values.mean())
        over = over_pairs((sums[name] - sums[leader]).mean(axis=0), weights, 0, resamples, level) or (mean, mean)
        found[name] = Gap(mean, (min(over[0], mean - half), max(over[1], mean + half)))
    return found

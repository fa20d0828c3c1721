"""Which difference between two models a comparison over seeds and examples would show, and with how many more.

A difference is shown if the interval over seeds and the one over examples both exclude zero
(near/evaluation/intervals.py). Over seeds alone that is the paired t test (near/evaluation/power.py); with examples the
wider of both intervals counts, and the mean varies with the seeds and with the examples. The variances are those of
crossed random effects, as in a generalizability study (Brennan, Generalizability Theory, 2001, chapter 3): by seed, by
example, and by both. bench/intervals.py simulates it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from near.evaluation.power import POWER, deviations

MOST_SEEDS, MOST_EXAMPLES = 1000, 1_000_000


@dataclass(frozen=True)
class Design:
    """Variances of a mean difference over `seeds` seeds and `examples` examples, by what differs.

    Attributes:
        seeds, examples: their numbers; examples is None if they were not recorded.
        by_seed: variance of the mean by what a seed changes on all examples; with one seed it is not known, and 0.
        by_example: by what an example changes for all seeds.
        by_both: by the rest, which differs by example and seed.
    """

    seeds: int
    examples: int | None
    by_seed: float = 0.0
    by_example: float = 0.0
    by_both: float = 0.0

    @classmethod
    def of(cls, differences: np.ndarray, sums: np.ndarray | None, weights: np.ndarray | None) -> "Design":
        """The variances as estimated.

        Args:
            differences: of the mean losses of each seed, (k,).
            sums: of the summed losses of each example, (k, n); None if they were not recorded.
            weights: its tokens, (n,).
        """
        k = len(differences)
        seeds = float(np.var(differences, ddof=1)) / k if k > 1 else 0.0
        if sums is None or sums.shape[1] < 2:
            return cls(k, None, by_seed=seeds)
        n, total = sums.shape[1], weights.sum()
        mean = sums.mean(axis=0)  # (n,)
        left = mean - mean.sum() / total * weights  # of the ratio of sums, linearised
        examples = n / (n - 1) * float((left**2).sum()) / total**2
        if k == 1:
            return cls(k, n, by_example=examples)
        rest = sums - mean - (sums.sum(axis=1) / total - mean.sum() / total)[:, None] * weights  # (k, n)
        both = n / (n - 1) * float((rest**2).sum()) / (k - 1) / k / total**2
        both = min(both, seeds, examples)
        return cls(k, n, seeds - both, examples - both, both)

    def with_more(self, seeds: int | None = None, examples: int | None = None) -> "Design":
        """The variances with other numbers of seeds or examples."""
        k, n = seeds or self.seeds, examples or self.examples
        by_k, by_n = self.seeds / k, 1.0 if n is None else self.examples / n
        return Design(k, n, self.by_seed * by_k, self.by_example * by_n, self.by_both * by_k * by_n)

    def power(self, difference: float) -> float:
        """The probability that a true difference of this size is shown."""
        from scipy.stats import norm

        spread = (self.by_seed + self.by_example + self.by_both) ** 0.5
        if spread == 0:
            return float(difference != 0)
        half = np.zeros(1)  # of the wider interval, at quantiles of the two estimated variances
        if self.seeds > 1:
            half = (self.by_seed + self.by_both) ** 0.5 * deviations(self.seeds)[5::10]
        if self.examples is not None:
            over_examples = (self.by_example + self.by_both) ** 0.5 * deviations(self.examples)[40::80]
            half = np.maximum(half[:, None], over_examples).ravel()
        return float(np.mean(norm.cdf((difference - half) / spread) + norm.cdf((-difference - half) / spread)))

    def smallest(self) -> float:
        """The smallest difference that is shown with probability POWER."""
        low, high = 0.0, 4 * (self.by_seed + self.by_example + self.by_both) ** 0.5
        if high == 0:
            return 0.0
        while self.power(high) < POWER:
            low, high = high, 2 * high
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (low, middle) if self.power(middle) >= POWER else (middle, high)
        return high

    def seeds_for(self, difference: float, least: int = 2) -> int | None:
        """How many seeds would show a true difference of this size on these examples; None beyond MOST_SEEDS, or if
        their variance is unknown."""
        if self.seeds < 2:
            return None
        return _first(least, MOST_SEEDS, lambda k: self.with_more(seeds=k).power(difference) >= POWER)

    def examples_for(self, difference: float) -> int | None:
        """How many examples would show it with these seeds; None beyond MOST_EXAMPLES, or without examples."""
        if self.examples is None:
            return None
        return _first(2, MOST_EXAMPLES, lambda n: self.with_more(examples=n).power(difference) >= POWER)


def _first(least: int, most: int, enough: Callable[[int], bool]) -> int | None:
    """The smallest number from `least` to `most` that is enough, if all beyond it are, too; None if none is."""
    low, high = least - 1, least
    while not enough(high):
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high

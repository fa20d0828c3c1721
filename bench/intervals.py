"""How often the 95% intervals of a comparison contain zero if there is no difference.

    python bench/intervals.py [times=2000 examples=8,12,24,48,200,1000 compared=48 runs=2,3,4,5,10 powers=1000
        targets=5,8,10,20,30 only=targets]

Over pairs: two models on the same examples, with skewed losses (gamma) that correlate between the models, weighted by
their tokens; or answers that are right or wrong. Over seeds: differences of two selectors that are normal, skewed (a
centred exponential) or heavy-tailed (Student's t with three degrees of freedom). 2,000 comparisons estimate a share
to 1%, ten times as many over seeds to 0.3%. For `compared` examples other intervals are computed, too.

Then how often the smallest difference that a comparison says it would show is shown, if it is the true one
(near/evaluation/design.py), of `powers` comparisons over seeds and examples: the variances known, or estimated from a
comparison before.

Then over targets (near/evaluation/intervals.py, over_targets): how often 2 x `times` sweeps without an effect are
called better, if the differences of the targets are normal, or skewed by a few targets on which the selection does
harm; and how often the effect is shown that Student's t shows in 80% of normal draws. Beside the interval that is
used, the span of Student's t and Hall's, stand t alone and the span of t and of Johnson's statistic (1978).
only=targets: this alone.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

from collections.abc import Callable

import numpy as np

from bench import common
from near.evaluation.design import Design
from near.evaluation.intervals import holds_zero, over_examples, over_pairs, over_seeds, over_targets
from near.evaluation.power import smallest_effect

SHAPES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, k: rng.normal(size=k),
    "skewed": lambda rng, k: rng.exponential(size=k) - 1,
    "heavy": lambda rng, k: rng.standard_t(3, size=k),
}


def losses(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = rng.integers(5, 40, n)
    hard = rng.gamma(2.0, 0.5, n)  # an example is hard for both models, or for neither
    first, second = (hard * rng.gamma(4.0, 0.25, n) for _ in range(2))
    return (first - second) * tokens, tokens


def answers(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    right = rng.beta(1.0, 2.0, n)
    first, second = (rng.random(n) < right for _ in range(2))
    return first.astype(float) - second, np.ones(n)


def pairs(n: int, draw: Callable, times: int, resamples: int = 1000) -> float:
    """The share of comparisons over `n` examples whose interval contains zero."""
    contained = 0
    for seed in range(times):
        differences, weights = draw(np.random.default_rng((1, n, seed)), n)
        contained += holds_zero(over_pairs(differences, weights, seed, resamples))
    return contained / times


def peers(n: int, draw: Callable, times: int, resamples: int = 1000) -> dict[str, float]:
    """The same share for other intervals over examples: percentiles of pairs drawn with replacement, expanded
    percentiles (near.evaluation.intervals.over_examples), studentised ones, and Student's t of the linearised ratio."""
    from scipy.stats import t

    contained = dict.fromkeys(("percentiles", "expanded", "studentised", "t"), 0)
    for seed in range(times):
        sums, weights = draw(np.random.default_rng((1, n, seed)), n)
        mean, error = _ratio(sums, weights)
        drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
        means, errors = _ratio(sums[drawn], weights[drawn])
        contained["percentiles"] += holds_zero(tuple(np.quantile(means, [0.025, 0.975])))
        contained["expanded"] += holds_zero(over_examples(sums, weights, seed, resamples))
        low, high = np.quantile((means - mean) / np.maximum(errors, 1e-300), [0.025, 0.975])
        contained["studentised"] += holds_zero((mean - high * error, mean - low * error))
        contained["t"] += abs(mean) <= t.ppf(0.975, n - 1) * error
    return {name: count / times for name, count in contained.items()}


def _ratio(sums: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sum(sums) / sum(weights) over the last axis, and its standard error by linearisation."""
    n, total = sums.shape[-1], weights.sum(-1)
    means = sums.sum(-1) / total
    residuals = sums - means[..., None] * weights
    return means, np.sqrt(n / (n - 1) * (residuals**2).sum(-1)) / total


def seeds(k: int, shape: str, times: int) -> float:
    """The share of comparisons over `k` seeds whose interval contains zero."""
    rng = np.random.default_rng((2, k))
    return sum(holds_zero(over_seeds(SHAPES[shape](rng, k))) for _ in range(times)) / times


SPREADS = {"seeds": (0.3, 0.5, 0.3), "examples": (0.02, 1.0, 0.5), "both": (0.1, 0.5, 0.3)}  # what differs most


def crossed(
    rng: np.random.Generator, seeds: int, examples: int, difference: float, spreads: tuple[float, float, float]
) -> np.ndarray:
    """Differences of every seed and example, (seeds, examples); spreads: standard deviations by seed, by example and by
    both, all normal."""
    by_seed, by_example, by_both = spreads
    drawn = rng.normal(0, by_seed, (seeds, 1)) + rng.normal(0, by_example, examples)
    return difference + drawn + rng.normal(0, by_both, (seeds, examples))


def is_shown(differences: np.ndarray, seed: int, resamples: int) -> bool:
    """Whether both intervals exclude zero."""
    over = over_pairs(differences.mean(axis=0), np.ones(differences.shape[1]), seed, resamples)
    return not holds_zero(over_seeds(differences.mean(axis=1))) and not holds_zero(over)


def shown(
    seeds: int, examples: int, spreads: tuple[float, float, float], times: int, known: bool = True, resamples: int = 300
) -> float:
    """The share of comparisons that show the smallest difference which they would show, by the true variances (known)
    or by those that another comparison estimates."""
    by_seed, by_example, by_both = (spread**2 for spread in spreads)
    design = Design(seeds, examples, by_seed / seeds, by_example / examples, by_both / seeds / examples)
    count, smallest = 0, design.smallest()
    for seed in range(times):
        rng = np.random.default_rng((3, seeds, examples, seed))
        if not known:
            before = crossed(rng, seeds, examples, 0.0, spreads)
            smallest = Design.of(before.mean(axis=1), before, np.ones(examples)).smallest()
        count += is_shown(crossed(rng, seeds, examples, smallest, spreads), seed, resamples)
    return count / times


def over_many_targets(k: int, times: int, draw: Callable[[np.random.Generator, int], np.ndarray]) -> dict[str, float]:
    """The share of sweeps over `k` targets whose interval is below zero, by the interval. draw: their differences."""
    from scipy.stats import t

    rng, bound = np.random.default_rng((4, k)), t.ppf(0.975, k - 1)
    values = np.array([draw(rng, k) for _ in range(times)])  # (times, k)
    mean, deviation = values.mean(axis=1), values.std(axis=1, ddof=1)
    third = ((values - mean[:, None]) ** 3).mean(axis=1) * k**2 / ((k - 1) * (k - 2))
    student = np.sqrt(k) * mean / deviation
    johnson = student + (third / (6 * deviation**2 * k) + third * mean**2 / (3 * deviation**4)) * np.sqrt(k) / deviation
    below = {"t": student < -bound, "t and Hall": over_targets(values)[:, 1] < 0}
    below["t and Johnson"] = np.maximum(student, johnson) < -bound
    return {name: float(share.mean()) for name, share in below.items()}


def print_targets(targets: list[int], times: int) -> None:
    print(f"{times} sweeps over targets that are called better")
    for k in targets:
        kinds = {"normal": SHAPES["normal"], "skewed": SHAPES["skewed"]}
        kinds["with an effect"] = lambda rng, k: rng.normal(-smallest_effect(k), 1, k)
        for kind, draw in kinds.items():
            shares = ", ".join(f"{name} {share:.1%}" for name, share in over_many_targets(k, times, draw).items())
            print(f"over {k:4} targets, {kind}: {shares}")


def main(
    times: int = 2000,
    examples: list[int] = (8, 12, 24, 48, 200, 1000),
    compared: int = 48,
    runs: list[int] = (2, 3, 4, 5, 10),
    powers: int = 1000,
    targets: list[int] = (5, 8, 10, 20, 30),
    only: str | None = None,
) -> None:
    if only == "targets":
        return print_targets(targets, 2 * times)
    print(f"{times} comparisons without a true difference: 95% intervals that contain zero")
    for n in examples:
        print(f"over {n:4} examples: losses {pairs(n, losses, times):.1%}, right {pairs(n, answers, times):.1%}")
    others = ", ".join(f"{name} {share:.1%}" for name, share in peers(compared, losses, times).items())
    print(f"over {compared:4} examples, losses, by other intervals: {others}")
    for k in runs:
        shares = ", ".join(f"{shape} {seeds(k, shape, 10 * times):.1%}" for shape in SHAPES)
        print(f"over {k:4} seeds: {shares}")
    print(f"{powers} comparisons: the smallest difference that would be shown in 80% is shown in")
    for k in (k for k in runs if k > 2):
        shares = ", ".join(
            f"{what} {shown(k, compared, spreads, powers):.1%} ({shown(k, compared, spreads, powers, known=False):.1%})"
            for what, spreads in SPREADS.items()
        )
        print(f"{k:4} seeds, {compared} examples, by what differs most (variances estimated): {shares}")
    print_targets(targets, 2 * times)


if __name__ == "__main__":
    common.script(main)

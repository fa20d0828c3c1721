"""How often the 95% intervals of a comparison hold zero where there is no difference.

    python bench/intervals.py [times=2000]

Over pairs: two models on the same examples, whose losses are skewed (gamma), alike between the models, and weighted by
their tokens; or answers that are right or not. Over seeds: differences of two selectors that are normal, skewed (a
centred exponential) or heavy-tailed (Student's t with three degrees of freedom). 2,000 comparisons tell a share
to 1%, the ten times as many over seeds to 0.3%.
"""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # in place of this folder, whose select.py hides another

import numpy as np  # noqa: E402

from near.intervals import holds_zero, over_pairs, over_seeds  # noqa: E402

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
    """The share of comparisons over `n` examples whose interval holds zero."""
    held = 0
    for seed in range(times):
        held += holds_zero(over_pairs(*draw(np.random.default_rng((1, n, seed)), n), seed, resamples))
    return held / times


def seeds(k: int, shape: str, times: int) -> float:
    """The share of comparisons over `k` seeds whose interval holds zero."""
    rng = np.random.default_rng((2, k))
    return sum(holds_zero(over_seeds(SHAPES[shape](rng, k))) for _ in range(times)) / times


def main() -> None:
    asked = dict(word.split("=") for word in sys.argv[1:])
    times = int(asked.get("times", 2000))
    print(f"{times} comparisons without a true difference: 95% intervals that hold zero")
    for n in (8, 12, 24, 48, 200, 1000):
        print(f"over {n:4} examples: losses {pairs(n, losses, times):.1%}, right {pairs(n, answers, times):.1%}")
    for k in (2, 3, 4, 5, 10):
        told = ", ".join(f"{shape} {seeds(k, shape, 10 * times):.1%}" for shape in SHAPES)
        print(f"over {k:4} seeds: {told}")


if __name__ == "__main__":
    main()

"""From a round's subset to the order in which its rows are trained."""

from collections.abc import Iterator

import numpy as np
import torch


def draws(ids: np.ndarray, size: int, seed: int, round: int) -> np.ndarray:
    """`size` draws of `ids`, int64: a seeded shuffle; with fewer ids, pass after pass, each newly shuffled. A last,
    shorter pass draws from the first of `ids`, the selector's order being its preference.

    >>> draws(np.array([7, 8, 9]), 7, seed=0, round=1)
    array([7, 8, 9, 7, 9, 8, 7])        # two whole passes, and the first row once more
    """
    rng = np.random.default_rng((seed, round, 1))  # 1: another stream than the selectors'
    passes, rest = divmod(size, len(ids))
    return np.concatenate([*(rng.permutation(ids) for _ in range(passes)), rng.permutation(ids[:rest])])


class RoundSampler(torch.utils.data.Sampler):
    """Yields one slice of a round's draws per epoch of the Trainer: `rows` is set before each epoch begins.

    With a schedule of 4 warm-up steps and rounds of 6, two rows a step, the slices are gcd(4, 6) = 2 steps = 4 rows:
    warm-up draws [a b c d | e f g h], then the round's [i j k l | m n o p | q r s t], one slice an epoch.
    """

    def __init__(self, slice_size: int):
        self.slice_size = slice_size
        self.rows = np.zeros(slice_size, dtype=np.int64)

    def __len__(self) -> int:
        return self.slice_size

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows.tolist())

"""From a round's subset to the order in which its rows are trained."""

from collections.abc import Iterator

import numpy as np
import torch

STRETCH = 50  # batches that are sorted by length together


def draws(ids: np.ndarray, size: int, seed: int, round: int) -> np.ndarray:
    """`size` draws of `ids`, int64: a seeded shuffle; with fewer ids, pass after pass, each newly shuffled. A last,
    shorter pass draws from the first of `ids`, the selector's order being its preference.

    >>> draws(np.array([7, 8, 9]), 7, seed=0, round=1)
    array([7, 8, 9, 7, 9, 8, 7])        # two whole passes, and the first row once more
    """
    rng = np.random.default_rng((seed, round, 1))  # 1: another stream than the selectors'
    passes, rest = divmod(size, len(ids))
    return np.concatenate([*(rng.permutation(ids) for _ in range(passes)), rng.permutation(ids[:rest])])


def grouped_by_length(
    order: np.ndarray, rows: int, lengths: np.ndarray, batch: int, seed: int, round: int
) -> np.ndarray:
    """`order` (draws of a subset of `rows` rows, pass after pass) with rows alike in length side by side, so that
    batches have little padding: within every pass, stretches of 50 batches are sorted by length, cut into batches, and
    these are shuffled. Still pass after pass, so that no row comes twice in one batch but where passes meet.

    >>> grouped_by_length(np.arange(6), 6, np.array([9, 1, 8, 2, 9, 1]), batch=2, seed=0, round=0)
    array([0, 4, 2, 3, 1, 5])
    """
    rng = np.random.default_rng((seed, round, 3))  # 3: another stream than the draws'
    found = []
    for start in range(0, len(order), rows):
        part, batches = order[start : start + rows], []
        for first in range(0, len(part), STRETCH * batch):
            some = part[first : first + STRETCH * batch]
            some = some[np.argsort(-lengths[some], kind="stable")]
            batches += [some[i : i + batch] for i in range(0, len(some), batch)]
        short = [
            b for b in batches if len(b) < batch
        ]  # at most the last one: at the end, so that the others stay whole
        whole = [b for b in batches if len(b) == batch]
        found += [whole[i] for i in rng.permutation(len(whole))] + short
    return np.concatenate(found)


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

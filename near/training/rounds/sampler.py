"""From a round's subset to the order in which its rows are trained."""

from collections.abc import Iterator

import numpy as np
import torch

WINDOW = 50  # batches that are sorted by length together


def draws(ids: np.ndarray, size: int, seed: int, round: int) -> np.ndarray:
    """A seeded shuffle of `ids`; if there are fewer than `size`, pass after pass, each with another shuffle.

    Args:
        ids: int64 (n,). A last, shorter pass draws from the first of them, because the selector prefers these.
        size: how many draws.

    Returns:
        int64 (size,).

    >>> draws(np.array([7, 8, 9]), 7, seed=0, round=1)
    array([7, 8, 9, 7, 9, 8, 7])        # two passes, and the first row once more
    """
    rng = np.random.default_rng((seed, round, 1))  # 1: a stream other than the selectors'
    passes, rest = divmod(size, len(ids))
    return np.concatenate([*(rng.permutation(ids) for _ in range(passes)), rng.permutation(ids[:rest])])


def grouped_by_length(
    order: np.ndarray, rows: int, lengths: np.ndarray, batch: int, seed: int, round: int
) -> np.ndarray:
    """Reorder draws so that batches have rows of similar lengths, and little padding.

    Within every pass, windows of 50 batches are sorted by length, cut into batches, and the batches are shuffled.
    Passes stay apart, so a batch has a row twice only where two passes meet.

    Args:
        order: draws, int64 (draws,), pass after pass.
        rows: the length of a pass.
        lengths: of all rows, by id.
        batch: rows of a batch.

    Returns:
        int64 (draws,).

    >>> grouped_by_length(np.arange(6), 6, np.array([9, 1, 8, 2, 9, 1]), batch=2, seed=0, round=0)
    array([0, 4, 2, 3, 1, 5])
    """
    rng = np.random.default_rng((seed, round, 3))  # 3: a stream other than that of the draws
    grouped = []
    for start in range(0, len(order), rows):
        one_pass, batches = order[start : start + rows], []
        for first in range(0, len(one_pass), WINDOW * batch):
            window = one_pass[first : first + WINDOW * batch]
            window = window[np.argsort(-lengths[window], kind="stable")]  # longest first
            batches += [window[i : i + batch] for i in range(0, len(window), batch)]
        full = [b for b in batches if len(b) == batch]
        short = [b for b in batches if len(b) < batch]  # one at most; last, so that it shifts no other batch
        grouped += [full[i] for i in rng.permutation(len(full))] + short
    return np.concatenate(grouped)


def sorted_in_steps(order: np.ndarray, lengths: np.ndarray, step: int) -> np.ndarray:
    """`order` with the rows of every optimizer step sorted by length, the longest first.

    The batches that a step accumulates then have less padding. Its rows, and so its gradient, stay the same.

    Args:
        order: int64 (draws,), whole steps.
        lengths: tokens of each of these rows, int64 (draws,).
        step: rows of a step.

    >>> sorted_in_steps(np.array([5, 6, 7, 8]), np.array([1, 9, 2, 3]), step=2)
    array([6, 5, 8, 7])
    """
    by_length = np.argsort(-lengths.reshape(-1, step), axis=1, kind="stable")  # (steps, step)
    return np.take_along_axis(order.reshape(-1, step), by_length, axis=1).reshape(-1)


class RoundSampler(torch.utils.data.Sampler):
    """Yields one slice of a round's draws per epoch of the Trainer; `rows` is set before each epoch.

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

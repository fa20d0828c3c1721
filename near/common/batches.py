"""Batches of rows of similar length: little padding, limited memory."""

import numpy as np

FEWEST = 4  # minimum of rows per batch, however different their lengths


def batches(
    lengths: list[int] | np.ndarray, size: int, tokens: int | None = None, alike: float = 0.0
) -> list[np.ndarray]:
    """Group rows into batches, longest rows first.

    Args:
        lengths: tokens of each row, (n,).
        size: maximum of rows per batch.
        tokens: maximum of tokens per batch, padding included, unless a single row has more; None: no limit.
        alike: rows shorter than this fraction of the batch's longest row start a new batch, except that a batch may
            always have FEWEST rows.

    Returns:
        Positions in `lengths`, int64, for every batch.

    >>> [b.tolist() for b in batches([3, 9, 4, 8], size=3, tokens=18)]
    [[1, 3], [2, 0]]
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    order = longest_first(lengths)
    descending, result, start = lengths[order], [], 0
    while start < len(order):
        stop = batch_end(descending, start, size, tokens, alike)
        result.append(order[start:stop])
        start = stop
    return result


def longest_first(lengths: np.ndarray) -> np.ndarray:
    """Positions of the rows, int64 (n,), longest rows first."""
    return np.argsort(-lengths, kind="stable")


def batch_end(descending: np.ndarray, start: int, size: int, tokens: int | None, alike: float = 0.0) -> int:
    """Where the batch that starts at row `start` ends. `descending`: the rows' lengths; the rest as in `batches`."""
    longest = max(1, int(descending[start]))
    fit = size if tokens is None else min(size, max(1, tokens // longest))
    lengths = descending[start : start + fit]
    close = int((lengths >= alike * longest).sum())
    return start + min(len(lengths), max(close, FEWEST))


def padded(lengths: np.ndarray, size: int, tokens: int | None = None, alike: float = 0.0) -> int:
    """Tokens of all batches, padding included. The arguments are those of `batches`.

    >>> padded(np.array([3, 9, 4, 8]), size=3, tokens=18)
    26
    """
    return int(sum(len(part) * lengths[part[0]] for part in batches(lengths, size, tokens, alike)))


def spread(lengths: np.ndarray, n: int) -> np.ndarray:
    """n rows that stand for all: one from the middle of each of n equal parts of the rows in order of length.

    Returns:
        positions, int64 (n,), ascending by length.

    >>> spread(np.array([30, 10, 60, 20, 50, 40]), 3).tolist()
    [3, 5, 2]
    """
    order = np.argsort(lengths, kind="stable")
    return order[((np.arange(n) + 0.5) * len(order) / n).astype(np.int64)]

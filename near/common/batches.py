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
    order = np.argsort(-lengths, kind="stable")
    result, start = [], 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        fit = size if tokens is None else min(size, max(1, tokens // longest))
        close = int((lengths[order[start : start + fit]] >= alike * longest).sum())
        fit = min(fit, max(close, FEWEST))
        result.append(order[start : start + fit])
        start += fit
    return result

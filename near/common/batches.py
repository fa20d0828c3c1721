"""Batches of rows alike in length: little padding, bounded memory."""

import numpy as np

FEWEST = 4  # rows that are batched together however unlike they are


def batches(
    lengths: list[int] | np.ndarray, size: int, tokens: int | None = None, alike: float = 0.0
) -> list[np.ndarray]:
    """Positions in batches, the longest first: at most `size` rows, at most `tokens` tokens with their padding where a
    batch has more than one row, and beyond the first FEWEST rows none shorter than `alike` times the longest.

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

"""From scores, weights or counts of rows to an order: the best, drawn ones, or those trained least."""

import numpy as np

from near.selection.round import Round, Subset


def best(ids: np.ndarray, scores: np.ndarray, size: int) -> Subset:
    """The `size` of `ids` with the highest scores, best first, ties by lower id."""
    order = np.lexsort((ids, -scores.astype(np.float64)))[:size]
    return Subset(ids[order], scores[order].astype(np.float32))


def drawn(logits: np.ndarray, round: Round, size: int | None = None) -> np.ndarray:
    """Draw positions without replacement with probabilities in proportion to exp(logits), as one draw after the other.

    By Gumbel top-k (Kool et al. 2019, Stochastic Beams and Where to Find Them).

    Args:
        logits: float (n,).
        round: gives the random numbers.
        size: the most positions; None: round.size.

    Returns:
        int64, in the order of the draws.
    """
    keys = logits + round.rng().gumbel(size=len(logits))
    return np.argsort(-keys, kind="stable")[: round.size if size is None else size]


def least_trained_first(times: np.ndarray, seed: int, *stream: int) -> np.ndarray:
    """Positions by how often each row was trained, int64 (n,); equal ones in a random order, another for each number.

    Args:
        times: how often each row was trained, int64 (n,).
        seed: of the random order.
        stream: numbers that give another random order for the same seed.
    """
    rank = np.empty(len(times), dtype=np.int64)  # among rows trained equally often
    for count in np.unique(times):
        due = times == count
        # permuted over all rows, so that a row's rank does not depend on which others were trained as often
        rank[due] = np.random.default_rng((seed, count, *stream)).permutation(len(due))[due]
    return np.lexsort((rank, times))

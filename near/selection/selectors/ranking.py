"""From scores or weights of rows to a subset: the best, or drawn ones."""

import numpy as np

from near.selection.round import Round, Subset


def best(ids: np.ndarray, scores: np.ndarray, size: int) -> Subset:
    """The `size` of `ids` with the highest scores, best first, ties by lower id."""
    order = np.lexsort((ids, -scores.astype(np.float64)))[:size]
    return Subset(ids[order], scores[order].astype(np.float32))


def drawn(logits: np.ndarray, round: Round) -> np.ndarray:
    """At most round.size positions without replacement, in proportion to exp(logits), float64 (n,), as by one draw
    after the other (Gumbel top-k: Kool et al. 2019, Stochastic Beams and Where to Find Them); int64."""
    keys = logits + round.rng().gumbel(size=len(logits))
    return np.argsort(-keys, kind="stable")[: round.size]

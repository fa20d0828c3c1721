"""Random proportions: the baseline of every rule for them."""

import numpy as np

from near.selection.mixers.base import Mixer, Shares, Sources
from near.selection.round import Round


class Random(Mixer):
    """New proportions in each round, all mixtures equally likely (a flat Dirichlet distribution). `initial`: those of
    warm-ups; None: random, too."""

    def __init__(self, initial: dict[str, float] | None = None):
        self.initial = Shares.optional(initial, "mixer.initial")

    def first(self, round: Round, sources: Sources) -> np.ndarray:
        return self.proportions(round, sources) if self.initial is None else self.initial.of(sources)

    def proportions(self, round: Round, sources: Sources) -> np.ndarray:
        rng = np.random.default_rng((round.seed, round.index, 5))  # 5: not the stream of the draws
        return rng.dirichlet(np.ones(len(sources)))

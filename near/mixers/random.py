"""Random proportions: the baseline of every rule that chooses them."""

import numpy as np

from near.mixers.base import Mixer, Sources
from near.selectors.base import Round


class Random(Mixer):
    """New ones in each round, all mixtures alike likely (a flat Dirichlet distribution)."""

    def proportions(self, round: Round, sources: Sources) -> np.ndarray:
        rng = np.random.default_rng((round.seed, round.index, 5))  # 5: another stream than the draws'
        return rng.dirichlet(np.ones(len(sources)))

"""What the model computes on a sample of each source's rows."""

from dataclasses import dataclass

import numpy as np

from near.selection.mixers.base import Mixer, Shares, Sources
from near.selection.round import Round
from near.selection.selectors.base import Required


@dataclass(frozen=True)
class Sample:
    """Rows of all sources, `ids` int64 (m,), and the number of each one's source, `owner` int64 (m,)."""

    ids: np.ndarray
    owner: np.ndarray

    def means(self, losses: np.ndarray, counts: np.ndarray, sources: int) -> np.ndarray:
        """The mean loss over the answer tokens of each source, float64 (sources,).

        Args:
            losses: float32 (m, longest), 0 after a row's last token.
            counts: answer tokens of each row, int64 (m,).
            sources: how many there are.
        """
        sums = np.bincount(self.owner, weights=losses.sum(axis=1, dtype=np.float64), minlength=sources)
        return sums / np.bincount(self.owner, weights=counts, minlength=sources)


class MeasuringMixer(Mixer):
    """A mixer that needs what the model computes (by default losses) of `sample` rows of each source, others in every
    round. `initial`: the proportions of warm-ups; None: equal ones."""

    requires: Required | None = "losses"

    def __init__(self, sample: int = 16, initial: dict[str, float] | None = None):
        self.sample = sample
        self.initial = Shares.optional(initial, "mixer.initial")

    def sampled(self, round: Round, sources: Sources) -> Sample:
        rng = np.random.default_rng((round.seed, round.index, 6))  # 6: not the stream of the draws
        parts = [rng.permutation(rows)[: self.sample] for rows in sources.rows]
        owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return Sample(np.concatenate(parts), owner)

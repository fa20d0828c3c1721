"""What the model says of each source: its token losses on a sample of the source's rows."""

from dataclasses import dataclass

import numpy as np

from near.selection.mixers.base import Mixer, Shares, Sources
from near.selection.round import Round


@dataclass(frozen=True)
class Sample:
    """Rows of all sources, `ids` int64 (m,), and the source that each is of, `owner` int64 (m,)."""

    ids: np.ndarray
    owner: np.ndarray

    def means(self, losses: np.ndarray, counts: np.ndarray, sources: int) -> np.ndarray:
        """The mean over the answer tokens of each source, float64 (sources,). losses: float32 (m, longest), 0 where a
        row has no token; counts: answer tokens of each row, int64 (m,)."""
        sums = np.bincount(self.owner, weights=losses.sum(axis=1, dtype=np.float64), minlength=sources)
        return sums / np.bincount(self.owner, weights=counts, minlength=sources)


class MeasuringMixer(Mixer):
    """A mixer that asks the model for the losses of `sample` rows of each source, others in every round. `initial`: the
    proportions of warm-ups; None: equal ones."""

    asks_model = "losses"

    def __init__(self, sample: int = 16, initial: dict[str, float] | None = None):
        self.sample = sample
        self.initial = Shares.optional(initial, "mixer.initial")

    def sampled(self, round: Round, sources: Sources) -> Sample:
        rng = np.random.default_rng((round.seed, round.index, 6))  # 6: another stream than the draws'
        parts = [rng.permutation(rows)[: self.sample] for rows in sources.rows]
        owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return Sample(np.concatenate(parts), owner)

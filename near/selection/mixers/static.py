"""Proportions that stay as they are."""

from typing import Annotated

import numpy as np

from near.common.bounds import between
from near.selection.mixers.base import Mixer, Shares, Sources
from near.selection.round import Round


class Static(Mixer):
    """The same proportions in every round.

    proportions: a number for each source by its label, in any unit; sources without one get no rows. None:
        size ** (1 / temperature), size being a source's eligible rows: with temperature 1 as in the pool, above it
        towards equal shares (Devlin 2018; Conneau et al. 2020).
    initial: those of warm-ups; None: the same.

    DataFlex takes a list in the order of its files, and equal shares without one.
    """

    def __init__(
        self,
        proportions: dict[str, float] | None = None,
        temperature: Annotated[float, between(1e-2, 1e6)] = 1.0,
        initial: dict[str, float] | None = None,
    ):
        self.shares, self.temperature = Shares.optional(proportions, "mixer.proportions"), temperature
        self.initial = Shares.optional(initial, "mixer.initial")

    def check(self, sources: Sources) -> None:
        super().check(sources)
        if self.shares is not None:
            self.shares.check(sources)

    def first(self, round: Round, sources: Sources) -> np.ndarray:
        return self.proportions(round, sources) if self.initial is None else self.initial.of(sources)

    def proportions(self, round: Round, sources: Sources) -> np.ndarray:
        if self.shares is not None:
            return self.shares.of(sources)
        shares = sources.sizes ** (1 / self.temperature)
        return shares / shares.sum()

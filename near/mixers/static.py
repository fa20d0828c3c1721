"""Proportions that stay as they are."""

from collections.abc import Mapping

import numpy as np

from near.errors import UserError, did_you_mean
from near.mixers.base import Mixer, Sources
from near.selectors.base import Round


class Static(Mixer):
    """`proportions`: a number for each source by its label, in any unit; a source that is left out gets none. None:
    size ** (1 / temperature), size being a source's eligible rows: with temperature 1 as the pool is, towards equal
    shares above it (Devlin 2018; Conneau et al. 2020).

    DataFlex takes a list in the order of its files, and equal shares without one.
    """

    def __init__(self, proportions: dict[str, float] | None = None, temperature: float = 1.0):
        self.given, self.temperature = proportions, temperature
        if proportions is None:
            return
        if not isinstance(proportions, Mapping):
            raise UserError(f"mixer.proportions={proportions} are not like {{maths: 0.5, law: 0.5}}, by source")
        for name, value in proportions.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise UserError(f"mixer.proportions.{name}={value} is not a number from 0 on")
        if not sum(proportions.values()):
            raise UserError(f"mixer.proportions={dict(proportions)} give no source a share; set one above 0")

    def check(self, sources: Sources) -> None:
        known = sources.names
        for name in map(str, self.given or {}):
            if name not in known:
                raise UserError(
                    f"mixer.proportions.{name}: the pool has no source of that name{did_you_mean(name, known)}"
                )

    def proportions(self, round: Round, sources: Sources) -> np.ndarray:
        if self.given is None:
            shares = sources.sizes ** (1 / self.temperature)
        else:
            given = {str(name): value for name, value in self.given.items()}
            shares = np.array([given.get(name, 0.0) for name in sources.names], dtype=np.float64)
        return shares / shares.sum()

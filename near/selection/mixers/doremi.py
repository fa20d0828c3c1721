"""DoReMi: more of the sources on which the model is behind a reference."""

from pathlib import Path
from typing import Annotated

import numpy as np

from near.common.bounds import Share, between
from near.common.errors import UserError
from near.selection.mixers.base import Sources
from near.selection.mixers.measured import MeasuringMixer
from near.selection.round import Round
from near.selection.scoring.references import reference


class Doremi(MeasuringMixer):
    """Group DRO over K sources (Xie et al. 2023, DoReMi, Algorithm 1). From equal shares on, every round:

        l_i  = mean over the source's answer tokens of max(loss - reference loss, 0)
        a_i  = a_i exp(eta l_i), their sum made 1
        a_i  = (1 - c) a_i + c / K

    reference: the model for the comparison, a run's folder, adapter or checkpoint (the paper's is a model trained on
    the pool as it is: train one with mixer=static); None: the model before training.

    The paper makes thousands of updates with eta=1; few rounds need a larger one to move far.

    The paper draws all sources equally and weights their losses by a; drawing by a has the same expected gradient if
    rows are equally long. It updates at every step by the batch; here it is every round by a sample of each source. Its
    result is the mean of a over all updates, `average` in the record, with which a model is then trained anew:
    mixer=static 'mixer.proportions={...}'. DataFlex centres l and clips it to 5 in both directions.
    """

    def __init__(
        self,
        reference: str | None = None,
        eta: Annotated[float, between(0, 1e6)] = 1.0,
        c: Share = 1e-3,
        sample: int = 16,
        initial: dict[str, float] | None = None,
    ):
        super().__init__(sample, initial)
        self.reference, self.eta, self.c = reference, eta, c
        if reference is not None and not Path(reference).is_dir():
            raise UserError(
                f"mixer.reference={reference}: no such folder; give a run's, or null for the model before training"
            )
        self._weights = self._sum = np.empty(0)
        self._updates = 0
        self._excess: np.ndarray | None = None

    def proportions(self, round: Round, sources: Sources) -> np.ndarray:
        if not len(self._weights):
            self._weights, self._sum = sources.uniform(), np.zeros(len(sources))
        sample = self.sampled(round, sources)
        losses, counts = round.scorer.token_losses(round.model, sample.ids)
        with reference(round.model, self.reference or round.scorer.start, round.scorer.base_folder):
            expected, _ = round.scorer.token_losses(round.model, sample.ids)
        self._excess = sample.means(np.maximum(losses - expected, 0), counts, len(sources))
        self._weights = updated(self._weights, self._excess, self.eta, self.c)
        self._sum, self._updates = self._sum + self._weights, self._updates + 1
        return self._weights

    def metrics(self) -> dict[str, np.ndarray]:
        return {} if self._excess is None else {"excess": self._excess, "average": self._sum / self._updates}

    def state_dict(self) -> dict[str, np.ndarray]:
        if not len(self._weights):
            return {}
        return {"weights": self._weights, "sum": self._sum, "updates": np.array(self._updates)}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self._weights, self._sum = (state.get(name, np.empty(0)) for name in ("weights", "sum"))
        self._updates = int(state.get("updates", 0))


def updated(weights: np.ndarray, excess: np.ndarray, eta: float, c: float) -> np.ndarray:
    """One step of exponentiated gradient ascent, mixed with equal shares, float64 (n,), with sum 1."""
    grown = weights * np.exp(eta * (excess - excess.max()))  # minus the largest: no overflow, and the same shares
    return (1 - c) * grown / grown.sum() + c / len(weights)

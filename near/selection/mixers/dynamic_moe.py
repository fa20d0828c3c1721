"""Dynamic mixing for a mixture of experts: more of the sources whose tokens go to other experts than the others'."""

from typing import TYPE_CHECKING, Annotated

import numpy as np

from near.common.bounds import Share, between
from near.models.experts import check_experts
from near.selection.mixers.base import Sources
from near.selection.mixers.doremi import updated
from near.selection.mixers.measured import MeasuringMixer
from near.selection.round import Round

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class DynamicMoe(MeasuringMixer):
    """Zhu et al. 2024, Dynamic Data Mixing Maximizes Instruction Tuning for Mixture-of-Experts (arXiv 2406.11256),
    Algorithm 1. O_i is the share of each expert of the layer in the tokens of source i. From equal shares on, every
    round, over K sources:

        D_i  = sum_j |O_i - O_j| / K
        a    = softmax(log w + eta D)
        w    = (1 - c) a + c / K

    The paper measures O on rows that are not trained, always the same; here it is a sample of each source, a new one
    every round. DataFlex counts the padding of its batches as tokens, and takes equal O (which leaves the shares as
    they are) for a model that puts out no loads; here such a model is refused.

    layer: of those with experts, from 0, or from the end; the paper's code reads the last.
    """

    requires = "expert loads"

    def __init__(
        self,
        eta: Annotated[float, between(0, 1e6)] = 10.0,
        c: Share = 0.05,
        layer: Annotated[int, between(-1000, 1000)] = -1,
        sample: int = 16,
        initial: dict[str, float] | None = None,
    ):
        super().__init__(sample, initial)
        self.eta, self.c, self.layer = eta, c, layer
        self._weights = np.empty(0)
        self._distances: np.ndarray | None = None

    def check_model(self, config: "PretrainedConfig") -> None:
        check_experts(config, "mixer=dynamic_moe")

    def proportions(self, round: Round, sources: Sources) -> np.ndarray:
        if not len(self._weights):
            self._weights = sources.uniform()
        sample = self.sampled(round, sources)
        loads = round.scorer.expert_loads(round.model, sample.ids, self.layer)  # (rows, experts)
        self._distances = distances(np.stack([loads[sample.owner == i].sum(axis=0) for i in range(len(sources))]))
        self._weights = updated(self._weights, self._distances, self.eta, self.c)
        return self._weights

    def metrics(self) -> dict[str, np.ndarray]:
        return {} if self._distances is None else {"distance": self._distances}

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"weights": self._weights} if len(self._weights) else {}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self._weights = state.get("weights", np.empty(0))


def distances(loads: np.ndarray) -> np.ndarray:
    """The mean Euclidean distance of each source's shares of experts to those of all sources, itself included,
    float64 (n,). loads: tokens by source and expert, (n, experts)."""
    shares = loads / loads.sum(axis=1, keepdims=True)
    return np.linalg.norm(shares[:, None] - shares[None], axis=2).mean(axis=1)

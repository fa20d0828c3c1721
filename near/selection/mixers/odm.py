"""Online data mixing: a bandit whose reward is a source's loss."""

import numpy as np

from near.common.bounds import Share
from near.selection.mixers.base import Sources
from near.selection.mixers.measured import MeasuringMixer
from near.selection.round import Round


class Odm(MeasuringMixer):
    """EXP3 over K sources (Albalak et al. 2023, Efficient Online Data Mixing, Algorithm 1). After t optimizer steps of
    mixing:

        e_t  = min(1 / K, sqrt(ln K / (K t)))                                  the rate of exploration
        R_i  = alpha R_i + (1 - alpha) loss_i / p_i                            for sources with p_i > 0
        p_i  = (1 - K e_t) exp(e_s R_i) / sum_j exp(e_s R_j) + e_t             e_s: the rate before

    Until t exceeds K ln K steps there is only exploration: equal shares (27 steps for 11 sources). The paper updates
    after every step by the batch's losses; here it is every round, by those of a sample of each source at the round's
    start, and t still counts steps. DataFlex sums rewards times a tenth (as an early version of the authors' code does)
    where the paper has the moving average.
    """

    def __init__(self, alpha: Share = 0.9, sample: int = 16, initial: dict[str, float] | None = None):
        super().__init__(sample, initial)
        self.alpha = alpha
        self._started: int | None = None  # the step at which mixing started
        self._rewards = self._before = np.empty(0)
        self._rate = 0.0
        self._losses: np.ndarray | None = None

    def proportions(self, round: Round, sources: Sources) -> np.ndarray:
        count = len(sources)
        if self._started is None:
            self._started, self._rate, self._losses = round.step, 1 / count, None
            self._rewards, self._before = np.zeros(count), sources.uniform()
            return self._before
        sample = self.sampled(round, sources)
        losses, counts = round.scorer.token_losses(round.model, sample.ids)
        self._losses = sample.means(losses, counts, count)
        self._rewards = rewarded(self._rewards, self._losses, self._before, self.alpha)
        rate = exploration(count, round.step - self._started)
        self._before = policy(self._rewards, self._rate, rate)
        self._rate = rate
        return self._before

    def metrics(self) -> dict[str, np.ndarray]:
        return {} if self._losses is None else {"losses": self._losses, "rewards": self._rewards}

    def state_dict(self) -> dict[str, np.ndarray]:
        if self._started is None:
            return {}
        scalars = {"begun": np.array(self._started), "rate": np.array(self._rate)}
        return {"rewards": self._rewards, "before": self._before, **scalars}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self._started = None
        if "begun" in state:
            self._started, self._rate = int(state["begun"]), float(state["rate"])
            self._rewards, self._before = state["rewards"], state["before"]


def exploration(sources: int, steps: int) -> float:
    """The least share of each source after `steps` steps of mixing."""
    return min(1 / sources, np.sqrt(np.log(sources) / (sources * steps)))


def rewarded(rewards: np.ndarray, losses: np.ndarray, proportions: np.ndarray, alpha: float) -> np.ndarray:
    """The moving average of estimated rewards, float64 (n,). A loss is divided by the source's proportion, as a source
    with a small one is seen less often."""
    drawn = proportions > 0
    updated = rewards.copy()
    updated[drawn] = alpha * rewards[drawn] + (1 - alpha) * losses[drawn] / proportions[drawn]
    return updated


def policy(rewards: np.ndarray, before: float, rate: float) -> np.ndarray:
    """Gibbs weights of the rewards at the rate `before`, and `rate` for each source, float64 (n,), with sum 1."""
    weights = np.exp(before * (rewards - rewards.max()))  # minus the largest: no overflow, and the same shares
    shares = (1 - len(rewards) * rate) * weights / weights.sum() + rate
    return shares / shares.sum()

"""selector=quantile: the target loss after training on each quantile of a selector's ranking, and whether it rises."""

import statistics
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, spearmanr

from near.evaluation.intervals import LEVEL, holds_zero
from near.report.compare import Group, Interval, settings_of

SELECTOR = "Quantile"


@dataclass(frozen=True)
class Curve:
    """The runs of one ranking.

    Attributes:
        of: the selector that ranks.
        target: what was evaluated, where there are several.
        quantiles: the numbers of the quantiles, 1 the best, int64 (q,).
        losses: target losses, float64 (q, n_seeds), of the seeds that all quantiles have.
    """

    of: str
    target: str
    quantiles: np.ndarray
    losses: np.ndarray

    @property
    def correlation(self) -> float:
        """Spearman's, of the quantile with the mean target loss: 1 where a better rank is always a better row."""
        return rank_correlation(self.quantiles, self.losses.mean(axis=1))

    @property
    def interval(self) -> Interval:
        return correlation_interval(self.correlation, len(self.quantiles))

    @property
    def verdict(self) -> str:
        if self.interval is None or holds_zero(self.interval):
            return "no order shown"
        return "better ranks are better rows" if self.correlation > 0 else "better ranks are worse rows"


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation of x and y, (n,) each; 0 where all values of one are equal."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(spearmanr(x, y).statistic)


def correlation_interval(correlation: float, count: int) -> Interval:
    """The 95% interval of a rank correlation over `count` values; None for fewer than four.

    Fisher's z with the variance (1 + r^2 / 2) / (count - 3) (Bonett and Wright 2000, Sample size requirements for
    estimating Pearson, Kendall and Spearman correlations). At 1 and -1 that has no width, so the closest value that
    one exchange of neighbours gives takes their place.
    """
    if count < 4:
        return None
    nearest = 1 - 12 / (count * (count**2 - 1))
    r = float(np.clip(correlation, -nearest, nearest))
    half = norm.ppf((1 + LEVEL) / 2) * np.sqrt((1 + r**2 / 2) / (count - 3))
    low, high = np.tanh(np.arctanh(r) - half), np.tanh(np.arctanh(r) + half)
    return float(min(low, correlation)), float(max(high, correlation))


def curves(groups: list[Group]) -> list[Curve]:
    """The curves among `groups`, as of compare.groups_of."""
    kinds: dict[str, list[tuple[int, Group]]] = {}
    for group in groups:
        settings = settings_of(group.one)
        if settings.get("selector._target_", "").rpartition(".")[2] == SELECTOR:
            quantile = int(settings.pop("selector.quantile"))
            key = repr((sorted(settings.items()), group.one.evaluated, group.one.metrics.model))
            kinds.setdefault(key, []).append((quantile, group))
    targets = {same[0][1].one.evaluated for same in kinds.values()}
    found = []
    for same in kinds.values():
        same.sort(key=lambda pair: pair[0])
        seeds = sorted(set.intersection(*(set(group.runs) for _, group in same)), key=repr)
        if len(same) < 2 or not seeds:
            continue
        losses = [[group.runs[seed].metrics.target_loss for seed in seeds] for _, group in same]
        one = same[0][1].one
        target = str(one.evaluated[0])[:8] if len(targets) > 1 else ""
        found.append(Curve(ranking(one), target, np.array([q for q, _ in same]), np.array(losses)))
    return found


def ranking(run) -> str:
    """The selector that a part is taken of."""
    of = run.training.identity.config["selector"]["of"]
    return of if isinstance(of, str) else str(of.get("_target_", of)).rpartition(".")[2]


def table(found: list[Curve]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells: a row for each ranking."""
    heads = ["ranked by", "quantiles", "seeds", "best", "worst", "rank correlation", "verdict"]
    cells = []
    for curve in found:
        interval = f" [{curve.interval[0]:+.2f}, {curve.interval[1]:+.2f}]" if curve.interval else ""
        means = [f"{statistics.mean(losses):.4f}" for losses in (curve.losses[0], curve.losses[-1])]
        numbers = [str(len(curve.quantiles)), str(curve.losses.shape[1])]
        name = f"{curve.of} {curve.target}".strip()
        cells.append([name, *numbers, *means, f"{curve.correlation:+.2f}{interval}", curve.verdict])
    return heads, cells


NOTE = (
    "best, worst: the target loss after training on the first and the last quantile. rank correlation: Spearman's, of "
    "the quantile with the mean target loss over seeds, and its 95% interval over quantiles; above zero, rows that the "
    "selector ranks higher leave a lower loss."
)

"""selector=quantile: the target loss after training on each quantile of a selector's ranking, and whether it rises."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from near.common.correlation import correlation_interval, rank_correlation
from near.evaluation.intervals import holds_zero
from near.report.compare import Group, Interval, Kind, label_of, numbered

SELECTOR = "Quantile"
LEAST = 6  # quantiles: with fewer, not even a perfect order excludes zero


@dataclass(frozen=True)
class Curve:
    """The runs of one ranking.

    Attributes:
        of: the selector that ranks, with what sets it apart from other curves.
        quantiles: the numbers of the quantiles, 1 the best, int64 (q,).
        losses: target losses, float64 (q, n_seeds), of the seeds that all quantiles have.
    """

    of: str
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
        if len(self.quantiles) < LEAST:
            return "too few quantiles"
        if self.interval is None or holds_zero(self.interval):
            return "no order shown"
        return "better ranks are better rows" if self.correlation > 0 else "better ranks are worse rows"


def curves_of(groups: list[Group]) -> list[Curve]:
    """The curves among `groups`, as of compare.groups_of."""
    curves = []
    for label, same in parts_of(groups, SELECTOR, ("quantile",)).items():
        same.sort(key=lambda pair: int(pair[0][0]))
        seeds = sorted(set.intersection(*(set(group.runs) for _, group in same)), key=repr)
        if len(same) < 2 or not seeds:
            continue
        losses = [[group.runs[seed].metrics.target_loss for seed in seeds] for _, group in same]
        curves.append(Curve(label, np.array([int(values[0]) for values, _ in same]), np.array(losses)))
    return curves


def parts_of(groups: list[Group], selector: str, options: Sequence[str]) -> dict[str, list[tuple[tuple, Group]]]:
    """The groups of a selector that takes parts of another's choice, by a label of that one.

    Args:
        groups: as of compare.groups_of.
        selector: the class that takes parts.
        options: of that class, in which parts of one choice differ; each group comes with its values.
    """
    kinds: dict[str, Kind] = {}
    members: dict[str, list[tuple[tuple, Group]]] = {}
    for group in groups:
        settings = dict(group.one.settings)
        if settings.get("selector._target_", "").rpartition(".")[2] != selector:
            continue
        values = tuple(settings.pop(f"selector.{option}") for option in options)
        of = group.one.training.identity.config["selector"]["of"]
        name = of if isinstance(of, str) else str(of.get("_target_", of)).rpartition(".")[2]
        key = repr((sorted(settings.items()), group.one.evaluated, group.one.metrics.model))
        runs = {(values, seed): run for seed, run in group.runs.items()}
        kinds.setdefault(key, (name, settings, {}))[2].update(runs)
        members.setdefault(key, []).append((values, group))
    labels = numbered([label_of(kind, list(kinds.values())) for kind in kinds.values()])
    return dict(zip(labels, members.values(), strict=True))


def table(curves: list[Curve]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells: a row for each ranking."""
    heads = ["ranked by", "quantiles", "seeds", "best", "worst", "rank correlation", "verdict"]
    cells = []
    for curve in curves:
        interval = f" [{curve.interval[0]:+.2f}, {curve.interval[1]:+.2f}]" if curve.interval else ""
        means = [f"{statistics.mean(losses):.4f}" for losses in (curve.losses[0], curve.losses[-1])]
        numbers = [str(len(curve.quantiles)), str(curve.losses.shape[1])]
        cells.append([curve.of, *numbers, *means, f"{curve.correlation:+.2f}{interval}", curve.verdict])
    return heads, cells


NOTE = (
    "best, worst: the target loss after training on the first and the last quantile. rank correlation: Spearman's, of "
    "the quantile with the mean target loss over the seeds that all quantiles have, and its 95% interval; above zero, "
    "rows that the selector ranks higher leave a lower loss."
)

"""selector=left_out: what the rows were worth that a selector valued most, and whether its scores add up."""

from dataclasses import dataclass

import numpy as np

from near.common.correlation import correlation_interval, rank_correlation
from near.evaluation.intervals import holds_zero, over_seeds
from near.report.compare import LEAST, TOO_FEW, Group, Interval
from near.report.quantiles import parts_of
from near.report.runs import WARMUP, Run

SELECTOR = "LeftOut"
NONE = "no difference shown"


@dataclass(frozen=True)
class Worth:
    """The runs that leave rows out of one selector's choice; values are by seed, (n_seeds,).

    Attributes:
        of: the selector.
        count: the rows that are left out of a round, or their share, as written.
        best, random: target loss without the best rows, and without random ones of the choice (the mean over draws).
        whole: with all of them; NaN where that was not run.
        halves: of each seed, the rank correlation of the kept rows' summed scores with minus the target loss over
            random halves (the linear datamodelling score), (n,); empty where no half was run.
        draws: random halves of a seed.
    """

    of: str
    count: str | None
    best: np.ndarray
    random: np.ndarray
    whole: np.ndarray
    halves: np.ndarray
    draws: int

    @property
    def loss(self) -> np.ndarray:
        """How much more is lost without the best rows than without random ones, (n_seeds,)."""
        return self.best - self.random

    @property
    def score_interval(self) -> Interval:
        """Of the linear datamodelling score: over seeds, or over halves where there is one seed."""
        if len(self.halves) == 1:
            return correlation_interval(float(self.halves[0]), self.draws)
        interval = over_seeds(self.halves)
        return None if interval is None else (max(-1.0, interval[0]), min(1.0, interval[1]))

    @property
    def verdict(self) -> str:
        interval = over_seeds(self.loss)
        if len(self.loss) < LEAST:
            return TOO_FEW
        if interval is None or holds_zero(interval):
            return NONE
        return "the best rows are worth more" if self.loss.mean() > 0 else "the best rows are worth less"


def worths_of(groups: list[Group]) -> list[Worth]:
    """What was left out among `groups`, as of compare.groups_of."""
    worths = []
    for of, members in parts_of(groups, SELECTOR, ("without", "count", "draw")).items():
        same: dict[tuple, dict] = {}
        for (without, count, draw), group in members:  # what does not matter tells no runs apart
            left = {"nothing": ("", 0), "best": (count, 0), "half": ("", int(draw))}.get(without, (count, int(draw)))
            same[(without, *left)] = group.runs
        halves, draws = _halves([runs for (without, _, _), runs in same.items() if without == "half"])
        counts = sorted({count for without, count, _ in same if without == "best"})
        for count in counts or [None]:
            best, random, whole = _losses(same, count)
            if len(best) or len(halves):
                worths.append(Worth(of, count, best, random, whole, halves, draws))
    return worths


def _losses(same: dict[tuple, dict], count: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The losses without the best and without random rows, and with all, of the seeds that have the first two."""

    def of(without: str, number: str | None) -> dict[object, float]:
        losses: dict[object, list[float]] = {}
        for (kind, n, _), runs in same.items():
            if kind == without and number in (None, n):
                for seed, run in runs.items():
                    losses.setdefault(seed, []).append(run.metrics.target_loss)
        return {seed: float(np.mean(values)) for seed, values in losses.items()}

    if count is None:
        return np.empty(0), np.empty(0), np.empty(0)
    best, random, whole = of("best", count), of("random", count), of("nothing", None)
    seeds = [seed for seed in best if seed in random]
    return tuple(np.array([values.get(seed, np.nan) for seed in seeds]) for values in (best, random, whole))


def _halves(draws: list[dict[object, Run]]) -> tuple[np.ndarray, int]:
    """The linear datamodelling score of each seed with at least four halves; and the fewest halves of these seeds."""
    by_seed: dict[object, list[tuple[float, float]]] = {}
    for runs in draws:
        for seed, run in runs.items():
            if (predicted := _summed(run)) is not None:
                by_seed.setdefault(seed, []).append((predicted, -run.metrics.target_loss))
    pairs = [np.array(of) for of in by_seed.values() if len(of) >= 4]
    return np.array([rank_correlation(of[:, 0], of[:, 1]) for of in pairs]), min(map(len, pairs), default=0)


def _summed(run: Run) -> float | None:
    """The sum of the scores of the rows that the selector's rounds kept; None without scores."""
    parts = [run.files.round_ids(line.round, "scores") for line in run.rounds if line.selector != WARMUP]
    known = [float(np.sum(scores, dtype=np.float64)) for scores in parts if scores is not None]
    whole = len(known) == len(parts) > 0 and bool(np.isfinite(known).all())  # near's random rows (mix) have no score
    return sum(known) if whole else None


def table(worths: list[Worth]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells: a row for each selector and number of rows left out."""
    heads = ["choice of", "left out", "seeds", "all", "without best", "without random", "difference", "verdict"]
    heads += ["scores add up"]
    cells = []
    for worth in worths:
        row = [worth.of, worth.count or "-", str(len(worth.best))]
        row += [_number(np.nanmean(v)) if len(v) and not np.isnan(v).all() else "-" for v in (worth.whole,)]
        row += [_number(v.mean()) if len(v) else "-" for v in (worth.best, worth.random)]
        row += [_mean(worth.loss, 4) if len(worth.loss) else "-", worth.verdict if len(worth.loss) else "-"]
        interval = worth.score_interval
        score = f"{worth.halves.mean():+.2f}" if len(worth.halves) else "-"
        cells.append([*row, score + (f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else "")])
    return heads, cells


def _number(value: float) -> str:
    return f"{value:.4f}"


def _mean(values: np.ndarray, digits: int) -> str:
    interval = over_seeds(values)
    between = f" [{interval[0]:+.{digits}f}, {interval[1]:+.{digits}f}]" if interval else ""
    return f"{values.mean():+.{digits}f}{between}"


NOTE = (
    "difference: the target loss without the rows of the highest score, minus that without as many random rows of the "
    "same choice, and its 95% interval over the seeds that have both; above zero, the rows that the selector valued "
    "most were worth more. scores add up: the linear datamodelling score, the rank correlation of the kept rows' "
    "summed scores with minus the target loss over random halves of the choice, of runs whose rows all have scores."
)

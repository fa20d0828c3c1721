"""How likely a selection is to beat random rows by more than three seeds can show, before its rows are trained.

The forecast has one feature: by how much the selected rows' gradients, after the warm-up, agree more with the target's
than random rows' do, in standard deviations of random rows (`gain`). A logistic regression of comparisons that were
made (forecast_cells.json, written by bench/forecast.py) turns it into a probability. What such forecasts are worth is
judged by leaving out one target at a time: each comparison has a forecast from the other targets alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from near.common.records import Provenance
from near.common.schema import JsonRecord, container

CELLS = Path(__file__).with_name("forecast_cells.json")
BANDS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of forecasts, whose share that came true is shown


@dataclass(frozen=True, kw_only=True)
class Cell(JsonRecord):
    """A comparison that was made: a selection on a target, over seeds, with random rows beside it.

    Args:
        target, selection: their names.
        gain: of the selection (Forecast).
        difference: target loss minus that of random rows, a mean over seeds, in nats a token.
        better: whether it is below zero by more than the smallest difference that seeds and examples can show.
    """

    target: str
    selection: str
    gain: float
    difference: float
    better: bool


@dataclass(frozen=True, kw_only=True)
class Cells(Provenance):
    """forecast_cells.json."""

    schema_version: int = 1
    cells: list[dict[str, Any]] = container(list, default_factory=list)  # of Cell


@dataclass(frozen=True, kw_only=True)
class VerdictForecast(Provenance):
    """forecast.json: what `dry_run=forecast` of train.py says of one selection.

    Args:
        selection: the selector's name.
        step: optimizer steps before the gradients.
        gain: mean agreement of the selected rows minus that of random rows, in standard deviations of random rows. The
            agreement of a row is the mean cosine of its gradient with the queries'.
        error: the standard error of `gain`, of the rows that were sampled.
        selected, random: mean agreement of the two.
        rows, random_rows, queries: how many there were gradients of.
        probability: that it beats random rows by more than the smallest difference that three seeds can show.
        like, came_true: earlier comparisons whose forecast was in the same band of BANDS, and how many of them did.
        overrides, number: of a sweep's job.
    """

    schema_version: int = 1
    selection: str
    step: int
    gain: float
    error: float
    selected: float
    random: float
    rows: int
    random_rows: int
    queries: int
    probability: float
    like: int
    came_true: int
    overrides: list[str] = container(list, default_factory=list)
    number: int | None = None

    def __str__(self) -> str:
        return (
            f"{self.selection}: a probability of {self.probability:.0%} that it beats random rows by more than three "
            f"seeds can show; of {self.like} earlier comparisons with such a forecast {self.came_true} did"
        )


def earlier(path: Path = CELLS) -> list[Cell]:
    """The comparisons that forecasts are made from."""
    return [Cell.from_json(cell, path) for cell in Cells.read(path).cells]


def gain(selected: np.ndarray, random: np.ndarray) -> tuple[float, float]:
    """The gain and its standard error; see VerdictForecast.

    Args:
        selected, random: agreement of each row, (n,); at least two random rows.
    """
    spread = max(float(np.std(random, ddof=1)), np.finfo(np.float32).tiny)
    variance = np.var(selected, ddof=len(selected) > 1) / len(selected) + spread**2 / len(random)
    return float(np.mean(selected) - np.mean(random)) / spread, float(np.sqrt(variance)) / spread


def probabilities(cells: Sequence[Cell], gains: Sequence[float]) -> np.ndarray:
    """The probability of each gain, float64 (n_gains,), by `cells`. If all of them came out alike, their share,
    (k + 1) / (n + 2) by Laplace's rule."""
    from sklearn.linear_model import LogisticRegression

    better = np.array([cell.better for cell in cells])
    if better.all() or not better.any():
        return np.full(len(gains), (better.sum() + 1) / (len(cells) + 2))
    fitted = LogisticRegression(C=1.0).fit(np.array([[cell.gain] for cell in cells]), better)
    return fitted.predict_proba(np.array(gains, dtype=np.float64)[:, None])[:, 1]


def left_out(cells: Sequence[Cell]) -> tuple[np.ndarray, np.ndarray]:
    """For each cell its forecast by the cells of other targets, and their share that was better: float64 (n_cells,)
    each. At least two targets."""
    targets = np.array([cell.target for cell in cells])
    forecasts, rates = np.empty(len(cells)), np.empty(len(cells))
    for target in np.unique(targets):
        own = targets == target
        others = [cell for cell, one in zip(cells, own, strict=True) if not one]
        forecasts[own] = probabilities(others, [cell.gain for cell, one in zip(cells, own, strict=True) if one])
        rates[own] = np.mean([cell.better for cell in others])
    return forecasts, rates


def brier(forecasts: np.ndarray, better: np.ndarray) -> float:
    """The mean squared difference of forecast and outcome (Brier 1950); 0 is best."""
    return float(np.mean((forecasts - better) ** 2))


def band(probability: float) -> int:
    """The number of its band."""
    return min(int(np.searchsorted(BANDS, probability, side="right")) - 1, len(BANDS) - 2)


def calibration(cells: Sequence[Cell]) -> list[tuple[int, int]]:
    """For each band how many forecasts by other targets were in it, and how many came true."""
    forecasts, _ = left_out(cells)
    counts = [[0, 0] for _ in BANDS[1:]]
    for cell, forecast in zip(cells, forecasts, strict=True):
        counts[band(forecast)][0] += 1
        counts[band(forecast)][1] += cell.better
    return [(like, came_true) for like, came_true in counts]

"""What forecasts before the training are worth, by runs that were trained: each target is forecast by the others.

    python train.py sweeps=targets seed=1,2,3
    python train.py sweeps=targets dry_run=forecast selector=near,oracle seed=1 # forecast.json in those folders
    python bench/forecast.py runs=runs/targets,runs/targets_reasoning [write=true]

A cell is a selection on a target, with random rows of the same three seeds or more beside it and a forecast.json. The
outcome is whether its mean target loss is below random rows' by more than the smallest difference that its seeds and
examples can show (near/evaluation/power.py). Brier scores (0 is best) of: the forecast by gradients; the share of
better cells among the other targets (the base rate); the share among the other targets' cells of the same selection.
write=true: the cells become those that near forecasts by.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import dataclasses

import numpy as np

from bench import common
from near.common.errors import UserError
from near.common.files import provenance
from near.common.run_folder import FORECAST
from near.evaluation.forecast import BANDS, CELLS, Cell, Cells, VerdictForecast, brier, calibration, left_out
from near.evaluation.intervals import over_targets
from near.report.compare import BASELINE, groups_of
from near.report.runs import collect
from near.report.targets import targets_of

SEEDS = 3  # of a comparison that counts, at the least


def cells_of(root: Path) -> list[Cell]:
    """The cells of the runs below `root`."""
    cells = []
    targets = targets_of(groups_of(collect(root)[0]))
    for method in targets.methods:
        for label, difference in zip(method.targets, method.differences, strict=True):
            group = next(one for one in targets.targets if one.label == label).groups[method.label]
            folders = [run.folder / FORECAST for run in group.runs.values()]
            gains = [VerdictForecast.read(path).gain for path in folders if path.is_file()]
            known = difference.design is not None and (difference.count or 0) >= SEEDS
            if gains and known and group.one.selector != BASELINE:
                better = bool(difference.mean < -difference.design.smallest())
                gain, mean = round(float(np.mean(gains)), 4), round(difference.mean, 4)
                cells.append(Cell(target=label, selection=method.label, gain=gain, difference=mean, better=better))
    return cells


def main(runs: list[str] = ["runs/targets"], write: bool = False) -> None:  # noqa: B006
    cells = [cell for root in runs for cell in cells_of(Path(root))]
    if len({cell.target for cell in cells}) < 2:
        raise UserError(f"runs={','.join(runs)} have forecasts on fewer than two targets; see --help")
    better = np.array([cell.better for cell in cells])
    forecasts, rates = left_out(cells)
    same = np.array([_same(cell, cells, rate) for cell, rate in zip(cells, rates, strict=True)])
    targets = sorted({cell.target for cell in cells})
    share = f"{better.sum()} better than random rows by more than could be shown ({better.mean():.0%})"
    print(f"{len(cells)} cells on {len(targets)} targets; {share}")
    for name, guesses in (("gradients", forecasts), ("base rate", rates), ("same selection elsewhere", same)):
        print(f"{name:26}Brier {brier(guesses, better):.3f}")
    errors = (rates - better) ** 2 - (forecasts - better) ** 2
    gained = np.array([errors[[cell.target == target for cell in cells]].mean() for target in targets])
    low, high = over_targets(gained)
    print(f"better than the base rate by {gained.mean():.3f} [{low:.3f}, {high:.3f}] over targets")
    for (start, end), (like, came_true) in zip(zip(BANDS, BANDS[1:], strict=False), calibration(cells), strict=True):
        print(f"forecasts of {start:.0%} to {end:.0%}: {like:3} cells, {came_true:3} came true")
    order = np.argsort([cell.gain for cell in cells])
    for cell, forecast in ((cells[i], forecasts[i]) for i in order):
        outcome = f"{'better' if cell.better else '-':7} {cell.difference:+.3f}"
        print(f"{cell.gain:+.2f} {forecast:4.0%} {outcome} {cell.target} {cell.selection}")
    if write:
        dataclasses.replace(Cells(cells=[cell.to_json() for cell in cells]), **provenance()).write(CELLS)
        print(f"wrote {CELLS}")


def _same(cell: Cell, cells: list[Cell], rate: float) -> float:
    """The share of better ones among the cells of the same selection on other targets; without any `rate`."""
    others = [c.better for c in cells if c.selection == cell.selection and c.target != cell.target]
    return float(np.mean(others)) if others else rate


if __name__ == "__main__":
    common.script(main)

"""Selections beside each other, over targets: the mean difference of their target losses and its 95% interval.

    python train.py sweeps=targets
    python bench/pairs.py runs=runs/targets [seeds=1]

report.py compares each selection with random rows; this compares each two, on the targets that both have. seeds: only
runs with these. First the means against random rows of the same seeds, then the pairs; below zero the first is better.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

from itertools import combinations

import numpy as np

from bench import common
from near.common.errors import UserError
from near.report.compare import groups_of
from near.report.runs import collect
from near.report.targets import interval_of, targets_of


def main(runs: str = "runs/targets", seeds: list[int] = []) -> None:  # noqa: B006
    kept = [run for run in collect(Path(runs))[0] if not seeds or run.seed in seeds]
    methods = targets_of(groups_of(kept)).methods
    if len(methods) < 2:
        raise UserError(f"runs={runs}: fewer than two selections beside random rows on several targets; see --help")
    for method in methods:
        print(f"{method.values.mean():+.3f} {method.label}, {len(method.targets)} targets")
    for one, other in combinations(methods, 2):
        values = [dict(zip(method.targets, method.values, strict=True)) for method in (one, other)]
        common_targets = [target for target in one.targets if target in values[1]]
        if len(common_targets) < 2:
            continue
        differences = np.array([values[0][target] - values[1][target] for target in common_targets])
        low, high = interval_of(differences)
        print(
            f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}] {one.label} - {other.label}: below zero on "
            f"{np.count_nonzero(differences < 0)} of {len(differences)}"
        )


if __name__ == "__main__":
    common.script(main)

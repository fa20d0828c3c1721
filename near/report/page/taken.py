"""Which rows of the pool each selection took, over its seeds."""

from dataclasses import dataclass

import numpy as np

from near.report.compare import Group
from near.report.runs import Run


@dataclass(frozen=True)
class Taken:
    """Rows that a group's selector picked and that were drawn: ids int64 (m,) ascending, in how many runs each, and
    `rounds`: in how many rounds over all of them; `warmup`: ids that only a warm-up drew."""

    ids: np.ndarray
    runs: np.ndarray
    rounds: np.ndarray
    warmup: np.ndarray

    @classmethod
    def nothing(cls) -> "Taken":
        """Of a selection from another pool."""
        return cls(*[np.empty(0, dtype=np.int64)] * 4)


def taken(group: Group) -> Taken:
    """Of the runs whose rounds can be read."""
    per_run = [run.drawn for run in group.runs.values()]
    picked = [rounds for rounds, _ in per_run]
    ids, runs = _counts([np.unique(np.concatenate(r)) for r in picked if r])
    _, rounds = _counts([ids for r in picked for ids in r])
    warm, _ = _counts([ids for _, warmups in per_run for ids in warmups])
    return Taken(ids, runs, rounds, np.setdiff1d(warm, ids))


def _counts(sets: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    if not sets:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return np.unique(np.concatenate(sets), return_counts=True)


def overlaps(groups: list[Group]) -> np.ndarray:
    """Jaccard index of what two selections took, float64 (g, g): the mean over pairs of runs with the same seed; where
    they share no seed, over all pairs. On the diagonal: of different seeds of one selection (1 for one seed). NaN where
    nothing can be read, and between selections from different pools."""
    rows = [{seed: _all(run) for seed, run in group.runs.items()} for group in groups]
    found = np.full((len(groups), len(groups)), np.nan)
    for i, first in enumerate(rows):
        for j, second in enumerate(rows[: i + 1]):
            if groups[i].one.pool != groups[j].one.pool:
                continue
            pairs = [(a, b) for s, a in first.items() for t, b in second.items() if (s == t) != (i == j)]
            pairs = pairs or [(a, b) for a in first.values() for b in second.values()]
            values = [_jaccard(a, b) for a, b in pairs if len(a) and len(b)]
            if values:
                found[i, j] = found[j, i] = float(np.mean(values))
    return found


def _all(run: Run) -> np.ndarray:
    picked, _ = run.drawn
    return np.unique(np.concatenate(picked)) if picked else np.empty(0, dtype=np.int64)


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)

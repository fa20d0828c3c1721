"""The rows of the pool that each selection took, over its seeds."""

from dataclasses import dataclass

import numpy as np

from near.report.compare import Group
from near.report.runs import Run


@dataclass(frozen=True)
class Taken:
    """The rows that a group's selector picked and that training drew.

    Attributes:
        ids: int64 (m,), ascending.
        runs: int64 (m,), in how many runs each was drawn.
        rounds: int64 (m,), in how many rounds of all runs.
        warmup: int64 (w,), ids that warm-ups alone drew.
    """

    ids: np.ndarray
    runs: np.ndarray
    rounds: np.ndarray
    warmup: np.ndarray

    @classmethod
    def empty(cls) -> "Taken":
        """For a selection from another pool."""
        return cls(*[np.empty(0, dtype=np.int64)] * 4)


def taken(group: Group) -> Taken:
    """The rows that `group` took, in the runs whose rounds can be read."""
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
    """The Jaccard index of the rows that two selections took, float64 (n_groups, n_groups).

    It is the mean over pairs of runs with the same seed, or over all pairs where they share no seed. On the diagonal it
    compares the seeds of one selection (1 for one seed). NaN where no round can be read, and between different pools.
    """
    rows = [{seed: _all(run) for seed, run in group.runs.items()} for group in groups]
    indices = np.full((len(groups), len(groups)), np.nan)
    for i, first in enumerate(rows):
        for j, second in enumerate(rows[: i + 1]):
            if groups[i].one.pool != groups[j].one.pool:
                continue
            pairs = [(a, b) for s, a in first.items() for t, b in second.items() if (s == t) != (i == j)]
            pairs = pairs or [(a, b) for a in first.values() for b in second.values()]
            values = [_jaccard(a, b) for a, b in pairs if len(a) and len(b)]
            if values:
                indices[i, j] = indices[j, i] = np.mean(values)
    return indices


def _all(run: Run) -> np.ndarray:
    picked, _ = run.drawn
    return np.unique(np.concatenate(picked)) if picked else np.empty(0, dtype=np.int64)


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)

"""LESS: the rows whose gradients point where the target's do."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from near.common.errors import UserError
from near.selection.round import Round, Subset
from near.selection.scoring.scoring import Asked
from near.selection.selectors.asking import AskingSelector, ShortlistOptions
from near.selection.selectors.base import SubsetSize
from near.selection.selectors.ranking import best

Aggregate = Literal["max", "mean", "vote"]

AGGREGATES = ("max", "mean", "vote")


class Less(AskingSelector):
    """LESS (Xia et al. 2024, arXiv 2402.04333): cosine of each row's gradient in Adam's direction with every query's
    plain gradient, randomly projected; of the current model at each round, or summed over scoring.checkpoints by their
    learning rates. How the model is asked stands under `scoring`.

    aggregate, over the tasks that the queries are of (their source):
        max: the highest of the means within a task, as in the paper.
        mean: the mean over all queries.
        vote: how many tasks have a row among their best round.size (ICONS: Wu et al. 2025, arXiv 2501.00654); equal
            votes by the mean over tasks.
    """

    asks_model = "gradients"

    def __init__(
        self,
        subset_size: SubsetSize | None = None,
        shortlist: ShortlistOptions | None = None,
        aggregate: Aggregate = "max",
    ):
        super().__init__(subset_size, shortlist)
        if aggregate not in AGGREGATES:
            raise UserError(f"selector.aggregate={aggregate} is not one of {', '.join(AGGREGATES)}")
        self.aggregate = aggregate

    def select(self, round: Round) -> Subset:
        ids = self.rows(round)
        means, sizes = self.task_means(round, ids)
        return best(ids, aggregated(means, sizes, self.aggregate, round.size), round.size)

    def asked(self, round: Round, ids: np.ndarray) -> Iterator[Asked]:
        """Gradients of rows `ids` and of the queries, under each set of weights."""
        return round.scorer.gradients(round.model, round.optimizer, ids)

    def task_means(
        self, round: Round, ids: np.ndarray, group: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The mean cosine of each of rows `ids` with each task's queries, float32 (tasks, len(ids)), over checkpoints
        by their weights; and the tasks' sizes, int64 (tasks,). With `group`, int64 (len(ids),), of each group's mean
        unit vector in place of each row, (tasks, groups)."""
        sources = round.queries.sources(round.scorer.queries.eligible).astype(str)
        _, task, sizes = np.unique(sources, return_inverse=True, return_counts=True)
        means = np.zeros((len(sizes), len(ids) if group is None else group.max() + 1), dtype=np.float32)
        for asked in self.asked(round, ids):
            queries = asked.queries.matrix()
            target = np.zeros((len(sizes), queries.shape[1]), dtype=np.float32)
            np.add.at(target, task, queries)  # the mean of cosines is the cosine's product with the mean unit vector
            target /= sizes[:, None]
            if group is None:
                for positions, vectors in asked.pool:
                    means[:, positions] += asked.weight * (target @ vectors.T)
                continue
            centres = np.zeros((means.shape[1], queries.shape[1]), dtype=np.float32)
            for positions, vectors in asked.pool:
                np.add.at(centres, group[positions], vectors)
            lengths = np.linalg.norm(centres, axis=1, keepdims=True)
            means += asked.weight * (target @ (centres / np.maximum(lengths, 1e-12)).T)
        there = means.any(axis=1)  # a task without any direction has no say
        return (means[there], sizes[there]) if there.any() else (means, sizes)


def aggregated(means: np.ndarray, sizes: np.ndarray, how: str, size: int) -> np.ndarray:
    """A score for each row out of its task means, float (tasks, n), as `Less.aggregate` says; (n,)."""
    if how == "max":
        return means.max(axis=0)
    if how == "mean":
        return (sizes / sizes.sum()) @ means
    order = np.argsort(-means, axis=1, kind="stable")[:, :size]
    votes = np.bincount(order.ravel(), minlength=means.shape[1]).astype(np.float64)
    mean = means.mean(axis=0, dtype=np.float64)
    return votes + (mean - mean.min()) / (2 * np.ptp(mean) or 1.0)  # half a vote at most

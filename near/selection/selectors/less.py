"""LESS: the rows whose gradients point where the target's do."""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from near.selection.round import Round, Subset
from near.selection.scoring.scoring import Gradients
from near.selection.selectors.base import SubsetSize
from near.selection.selectors.model import ModelSelector, ShortlistOptions
from near.selection.selectors.ranking import best
from near.selection.selectors.tasks import Budgets, in_turn, plain_budgets

Aggregate = Literal["max", "mean", "vote"]


class Less(ModelSelector):
    """LESS (Xia et al. 2024, arXiv 2402.04333): cosine of each row's gradient in Adam's direction with every query's
    plain gradient, randomly projected; of the current model in each round, or summed over scoring.checkpoints by their
    learning rates. The options of the gradients are in the group `scoring`.

    aggregate, over the tasks of the queries (their sources):
        max: the highest of the means within a task, as in the paper.
        mean: the mean over all queries.
        vote: how many tasks have a row among their best round.size (ICONS: Wu et al. 2025, arXiv 2501.00654); equal
            votes by the mean over tasks.
    budgets: rows of each task, in turn (near/selection/selectors/tasks.py), instead of an aggregate.
    """

    requires = "gradients"

    def __init__(
        self,
        subset_size: SubsetSize | None = None,
        shortlist: ShortlistOptions | None = None,
        aggregate: Aggregate = "max",
        budgets: Budgets | None = None,
    ):
        super().__init__(subset_size, shortlist)
        self.aggregate, self.budgets = aggregate, plain_budgets(budgets)

    def select(self, round: Round) -> Subset:
        ids = self.rows(round)
        of_tasks = self.task_means(round, ids)
        return self.ranked(of_tasks, round.size, round.size, lambda scores: best(ids, scores, round.size))

    def ranked(self, of_tasks: "TaskMeans", size: int, votes: int, rank: Callable[[np.ndarray], Subset]) -> Subset:
        """At most `size` rows by their tasks' means: aggregated, or the tasks in turn under `budgets`.

        Args:
            votes: for how many rows each task votes; see aggregated.
            rank: a subset, best first, by one score for each row of the means.
        """
        if self.budgets is None:
            return rank(aggregated(of_tasks.means, of_tasks.sizes, self.aggregate, votes))
        means, none = dict(zip(of_tasks.names, of_tasks.means, strict=True)), Subset(np.empty(0, dtype=np.int64))
        return in_turn(self.budgets, of_tasks.names, size, lambda task: rank(means[task]) if task in means else none)

    def gradients(self, round: Round, ids: np.ndarray) -> Iterator[Gradients]:
        """Gradients of rows `ids` and of the queries, under each set of weights."""
        return round.scorer.gradients(round.model, round.optimizer, ids)

    def task_means(self, round: Round, ids: np.ndarray, group: np.ndarray | None = None) -> "TaskMeans":
        """The mean cosine of each row with each task's queries, summed over checkpoints by their weights.

        Args:
            round: with a scorer and queries.
            ids: rows of the pool, int64 (n_ids,).
            group: the group of each row, int64 (n_ids,): score each group's mean unit vector instead of each row.

        Returns:
            TaskMeans of n = n_ids rows or n_groups groups. Tasks without any direction (all zero) are left out, unless
            all are.
        """
        sources = round.queries.sources(round.scorer.queries.eligible).astype(str)
        names, task, sizes = np.unique(sources, return_inverse=True, return_counts=True)
        means = np.zeros((len(sizes), len(ids) if group is None else group.max() + 1), dtype=np.float32)
        for gradients in self.gradients(round, ids):
            queries = gradients.targets()  # (n_queries, dim)
            target = np.zeros((len(sizes), queries.shape[1]), dtype=np.float32)
            np.add.at(target, task, queries)  # the mean of cosines is the cosine's product with the mean unit vector
            target /= sizes[:, None]  # (n_tasks, dim)
            if group is None:
                for positions, vectors in gradients.pool:
                    means[:, positions] += gradients.weight * (target @ vectors.T)
                continue
            centres = np.zeros((means.shape[1], queries.shape[1]), dtype=np.float32)  # (n_groups, dim)
            for positions, vectors in gradients.pool:
                np.add.at(centres, group[positions], vectors)
            lengths = np.linalg.norm(centres, axis=1, keepdims=True)
            means += gradients.weight * (target @ (centres / np.maximum(lengths, 1e-12)).T)
        directed = means.any(axis=1)
        if not directed.any():
            directed[:] = True
        return TaskMeans(means[directed], sizes[directed], names[directed].tolist())


class TaskMeans(NamedTuple):
    """means: float32 (n_tasks, n); sizes: queries of each task, int64 (n_tasks,); names: of the tasks, in order."""

    means: np.ndarray
    sizes: np.ndarray
    names: list[str]


def aggregated(means: np.ndarray, sizes: np.ndarray, how: Aggregate, size: int) -> np.ndarray:
    """A score for each row, (n,), as `Less.aggregate` describes.

    Args:
        means: float (n_tasks, n), as of task_means.
        sizes: queries of each task, (n_tasks,).
        how: max, mean or vote.
        size: how many rows each task votes for.
    """
    if how == "max":
        return means.max(axis=0)
    if how == "mean":
        return (sizes / sizes.sum()) @ means
    order = np.argsort(-means, axis=1, kind="stable")[:, :size]
    votes = np.bincount(order.ravel(), minlength=means.shape[1]).astype(np.float64)
    mean = means.mean(axis=0, dtype=np.float64)
    return votes + (mean - mean.min()) / (2 * np.ptp(mean) or 1.0)  # half a vote at most

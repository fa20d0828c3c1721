"""LESS by a surrogate: gradients of a sample, and of the rows that a regression on embeddings ranks first."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from omegaconf import DictConfig

from near.common.bounds import between
from near.common.correlation import correlation_interval, rank_correlation
from near.common.errors import UserError
from near.common.processes import is_main
from near.embedding.embedders.base import normalised
from near.selection.round import Round, Subset
from near.selection.selectors.base import SubsetSize, number_of
from near.selection.selectors.less import Aggregate, Less, TaskMeans
from near.selection.selectors.model import ShortlistOptions
from near.selection.selectors.ranking import best
from near.selection.selectors.ridge import KernelRidge, widths
from near.selection.selectors.tasks import Budgets

if TYPE_CHECKING:
    from near.data.rows import Rows

log = logging.getLogger(__name__)

FEWEST = 16  # rows of a sample
STEPS = 8  # parts in which other rows get gradients; after each, the regression is fitted again
FITTED = 4096  # rows of a regression at most; a random part of more
STRATA = 256  # clusters of embeddings that a sample is spread over
CONSTANT = 1e-3  # of the median deviation: a dimension with less does not count
DRAWS = 64  # of the scores that are not known, by two models of their errors
ALIKE = 50  # rows with gradients whose predictions are like that of a row without, from which it draws its error
STREAM = 1  # of their random numbers


class SurrogateLess(Less):
    """LESS (near/selection/selectors/less.py) with the gradients of few rows. In each round:

    1. A sample of the rows, spread over clusters of their embeddings, gets gradients, and so exact scores.
    2. Other rows get gradients in STEPS parts: first those most similar to the queries by their embeddings, then those
       with the highest predictions of a kernel ridge regression from embeddings, and from the scores of the round
       before, which is fitted again after each part. Of all rows with gradients the best are chosen.
    3. The overlap with exact LESS's choice is estimated: DRAWS times, rows without gradients get their prediction plus
       an error, and the choice by these scores is compared. Errors are those of rows with gradients, each left out of
       the regression. In half of the draws they are normally distributed as those of a bootstrap of the sample, which
       is cautious; in the others each row takes the error of one of ALIKE rows with the most similar predictions, which
       is too favourable, as rows with gradients were chosen by their predictions. If the mean overlap is below
       `min_overlap`, 2 and 3 are done again with as many rows more as have been added.

    As many rows get gradients as the round takes, at least. Where that is more than half of all, all do: exact LESS.

    With embedder=answer_states embedder.prompt=true the embeddings are states of the model at a row's prompt and at its
    answer, which tell most of its score.

    Args:
        sample: rows of the sample, at least 16: a number (int), or a share of the rows (float).
        exact: rows of step 2: a number (int), or a share of the rows (float).
        min_overlap: 0 to 1; None: do steps 2 and 3 once.
    """

    needs_vectors = needs_neighbours = True  # the queries' vectors, too

    def __init__(
        self,
        subset_size: SubsetSize | None = None,
        shortlist: ShortlistOptions | None = None,
        aggregate: Aggregate = "max",
        sample: SubsetSize = 0.03,
        exact: SubsetSize = 0.07,
        min_overlap: Annotated[float, between(0, 1)] | None = 0.8,
        budgets: Budgets | None = None,
    ):
        super().__init__(subset_size, shortlist, aggregate, budgets)
        self.sample, self.exact, self.min_overlap = sample, exact, min_overlap
        self._scores: dict[str, np.ndarray] = {}  # by task: those of the round before, float32 (n_pool,)

    def check(self, queries: "Rows", scoring: DictConfig) -> None:
        """UserError for scoring.precondition, which would be another one for each part of the rows."""
        super().check(queries, scoring)
        if scoring.precondition is not None:
            raise UserError(
                f"scoring.precondition={scoring.precondition} is of all rows' gradients, and selector=surrogate_less "
                "takes few; use selector=less"
            )

    def scored_rows(self, n: int, size: int) -> int:
        """How many of `n` rows get gradients for a round of `size` rows, unless `min_overlap` asks for more."""
        wanted = max(FEWEST, number_of(self.sample, n))
        taken = max(wanted + number_of(self.exact, n), size)
        return n if 2 * taken > n else taken

    def select(self, round: Round) -> Subset:
        ids = self.rows(round)
        wanted, taken = max(FEWEST, number_of(self.sample, len(ids))), self.scored_rows(len(ids), round.size)
        if taken == len(ids):
            whole = {"rows": len(ids), "gradients": len(ids), "overlap": 1.0, "overlap_interval": [1.0, 1.0]}
            return dataclasses.replace(super().select(round), fidelity=whole)
        sampled = self._sampled(round, ids, wanted)
        exact = self.task_means(round, ids[sampled])  # of the tasks that have a direction
        features, near = self._features(round, ids, exact.names)
        known = np.zeros(len(ids), dtype=bool)
        known[sampled] = True
        means = np.empty((len(exact.names), len(ids)), dtype=np.float32)  # exact ones, and predictions
        means[:, sampled] = exact.means
        rng = np.random.default_rng((round.seed, round.index, STREAM))
        first = rng.permutation(len(ids))  # which rows are fitted where there are more than FITTED, the sample's first
        first[sampled] -= len(ids)
        width = widths([part[sampled[:FITTED]] for part in features])
        order = np.argsort(-near, kind="stable")
        more, correlated = taken - wanted, None
        while True:
            for part in np.diff(np.linspace(0, more, STEPS + 1).astype(np.int64)):
                added = np.sort(order[~known[order]][:part])
                if len(added):
                    of_added = self.task_means(round, ids[added])
                    for task, name in enumerate(exact.names):  # one that it lacks has no direction among these rows
                        means[task, added] = of_added.means[of_added.names.index(name)] if name in of_added.names else 0
                    known[added] = True
                fitted = np.flatnonzero(known)
                fitted = np.sort(fitted[np.argsort(first[fitted])[:FITTED]])
                ridge = KernelRidge([part[fitted] for part in features], means[:, fitted].T, width)
                if known.all():
                    break
                means[:, ~known] = ridge.predict([part[~known] for part in features]).T
                others = np.flatnonzero(~known)
                ranked = self._chosen(round, ids[others], exact._replace(means=means[:, others]), len(others)).ids
                order = np.searchsorted(ids, ranked)
                rest = np.setdiff1d(others, order)  # budgets may end before
                order = np.concatenate([order, rest[np.argsort(-means[:, rest].max(axis=0), kind="stable")]])
            in_sample, left_out, exact_ones = np.isin(fitted, sampled), ridge.left_out.T, means[:, fitted]
            chosen = self._chosen(round, ids[known], exact._replace(means=means[:, known]))
            drawn = Errors(left_out, exact_ones - left_out, in_sample, means[:, ~known])
            overlaps = self._overlaps(rng, round, ids, exact._replace(means=means), known, drawn, chosen)
            correlated = correlated or correlation(left_out[:, in_sample], exact_ones[:, in_sample])
            if known.all() or self.min_overlap is None or overlaps.mean() >= self.min_overlap:
                break
            more = np.count_nonzero(known) - len(sampled)
        self._scores = {name: np.full(len(round.trained), np.nan, np.float32) for name in exact.names}
        for name, scores in zip(exact.names, means, strict=True):
            self._scores[name][ids] = scores
        fidelity = {
            "rows": len(ids),
            "gradients": int(np.count_nonzero(known)),
            "overlap": float(overlaps.mean()),
            "overlap_interval": np.quantile(overlaps, [0.025, 0.975]).tolist(),
            **correlated,
        }
        if is_main():
            log.info(in_words(fidelity))
        return dataclasses.replace(chosen, fidelity=fidelity)

    def _chosen(self, round: Round, rows: np.ndarray, of_tasks: TaskMeans, size: int | None = None) -> Subset:
        """LESS's choice among `rows`, ascending, by their tasks' means."""
        size = min(round.size, len(rows)) if size is None else size
        return self.ranked(of_tasks, size, min(round.size, size), lambda scores: best(rows, scores, size))

    def _overlaps(
        self,
        rng: np.random.Generator,
        round: Round,
        ids: np.ndarray,
        of_tasks: TaskMeans,
        known: np.ndarray,
        errors: "Errors",
        chosen: Subset,
    ) -> np.ndarray:
        """The share of exact LESS's rows that are chosen, by DRAWS draws of the scores that are not known, float64
        (DRAWS,)."""
        overlaps = np.empty(DRAWS)
        for draw in range(DRAWS):
            means = of_tasks.means.copy()
            means[:, ~known] += errors.normal(rng) if draw % 2 else errors.alike(rng)
            exact = self._chosen(round, ids, of_tasks._replace(means=means))
            overlaps[draw] = np.isin(exact.ids, chosen.ids).mean()
        return overlaps

    def _sampled(self, round: Round, ids: np.ndarray, wanted: int) -> np.ndarray:
        """`wanted` positions in ids, int64, ascending: every so many of the rows in the order of their clusters, so
        that all are as likely, and each cluster has its share."""
        clusters = round.similarity.clusters(min(STRATA, wanted), round.seed)[ids]
        rng = round.rng()
        order = rng.permutation(len(ids))
        order = order[np.argsort(clusters[order], kind="stable")]
        steps = (np.arange(wanted) + rng.random()) * (len(ids) / wanted)
        return np.sort(order[steps.astype(np.int64)])

    def _features(self, round: Round, ids: np.ndarray, names: Sequence[str]) -> tuple[list[np.ndarray], np.ndarray]:
        """What the regression learns from, and each row's mean cosine with the queries.

        Embeddings with mean 0 and unit variance in each dimension that varies, scaled to length 1 (zeros for a row
        without an embedding), float32 (n_ids, dim). If there are scores of the round before: these with unit variance,
        (n_ids, up to n_tasks).
        """
        with round.similarity.opened() as (vectors, queries):
            features = np.zeros((len(ids), vectors.dim), dtype=np.float32)
            there = np.isin(ids, round.similarity.ids)
            part = np.empty((int(there.sum()), vectors.dim), dtype=np.float32)
            vectors.read(np.searchsorted(round.similarity.ids, ids[there]), part)
            mean, deviation = part.mean(axis=0), part.std(axis=0)
            deviation[deviation <= CONSTANT * np.median(deviation)] = np.inf
            features[there] = normalised((part - mean) / deviation)
            queries = queries if round.similarity.positions is None else queries[round.similarity.positions]
            near = features @ normalised((queries - mean) / deviation).mean(axis=0)
        before = [self._scores[name][ids] for name in names if name in self._scores]
        columns = [np.where(np.isnan(c), np.nanmean(c), c) for c in before if not np.isnan(c).all() and np.nanstd(c)]
        more = [np.stack([(c - c.mean()) / c.std() for c in columns], axis=1)] if columns else []
        return [features, *more], near

    def state_dict(self) -> dict[str, np.ndarray]:
        names = sorted(self._scores)
        return {"tasks": np.array(names), "scores": np.stack([self._scores[n] for n in names])} if names else {}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self._scores = dict(zip(state["tasks"].tolist(), state["scores"], strict=True)) if "tasks" in state else {}


class Errors:
    """Draws of the errors of predictions, for rows without gradients.

    Args:
        left_out: float (n_tasks, n_fitted), predictions for rows with gradients by a regression without them.
        errors: float (n_tasks, n_fitted), exact scores minus these.
        in_sample: bool (n_fitted,), rows of the sample.
        predicted: float (n_tasks, n_others), of the rows without gradients.
    """

    def __init__(self, left_out: np.ndarray, errors: np.ndarray, in_sample: np.ndarray, predicted: np.ndarray):
        self._of_sample, self._others = errors[:, in_sample], predicted.shape[1]
        order = np.argsort(left_out.mean(axis=0), kind="stable")
        self._sorted, self._alike = errors[:, order], min(ALIKE, len(order))
        at = np.searchsorted(left_out.mean(axis=0)[order], predicted.mean(axis=0))
        self._first = np.clip(at - self._alike // 2, 0, len(order) - self._alike)

    def normal(self, rng: np.random.Generator) -> np.ndarray:
        """float64 (n_tasks, n_others): of one normal distribution, whose tails a small sample lacks."""
        count = self._of_sample.shape[1]
        some = self._of_sample[:, rng.integers(count, size=count)]
        return rng.multivariate_normal(some.mean(axis=1), np.atleast_2d(np.cov(some)), size=self._others).T

    def alike(self, rng: np.random.Generator) -> np.ndarray:
        """float64 (n_tasks, n_others): each that of a row whose prediction is similar."""
        return self._sorted[:, self._first + rng.integers(self._alike, size=self._others)]


def correlation(predicted: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """Spearman's rank correlation of predicted and exact scores, (n_tasks, n) each, a mean over tasks, with its
    interval."""
    mean = float(np.mean([rank_correlation(p, e) for p, e in zip(predicted, exact, strict=True)]))
    return {
        "rank_correlation": mean,
        "rank_correlation_interval": list(correlation_interval(mean, exact.shape[1]) or (-1.0, 1.0)),
    }


def in_words(fidelity: dict[str, Any]) -> str:
    """A line for the log."""
    low, high = fidelity["overlap_interval"]
    return (
        f"gradients of {fidelity['gradients']:,} of {fidelity['rows']:,} rows; an estimated {fidelity['overlap']:.0%} "
        f"[{low:.0%}, {high:.0%}] of exact LESS's rows are chosen (rank correlation of predictions on rows left "
        f"out: {fidelity['rank_correlation']:.2f})"
    )

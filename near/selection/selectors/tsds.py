"""TSDS: rows drawn by the probabilities of a transport from the target to the pool that avoids near duplicates."""

from typing import Annotated

import numpy as np

from near.common.bounds import Share, between
from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector, SubsetSize
from near.selection.selectors.ranking import drawn
from near.selection.selectors.tasks import Budgets, by_task, plain_budgets

Scale = Annotated[float, between(1e-9, 1e9)]


class Transported(Selector):
    """A selector that draws without replacement, new in every round, by a probability for each row. If fewer rows than
    round.size have a positive probability, it selects all of them."""

    needs_neighbours = True

    def __init__(self, subset_size: SubsetSize | None = None, budgets: Budgets | None = None):
        super().__init__(subset_size)
        self.budgets = plain_budgets(budgets)

    def probabilities(self, round: Round, ids: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """The probability of every row of the pool, float64 (n,), with sum 1.

        Args:
            round: with neighbours and similarity.
            ids: each query's eligible neighbours, int64 (Q, K), best first; where a query has fewer, -1 at the end.
            distances: theirs, float64 (Q, K), ascending; infinity at the end.
        """
        raise NotImplementedError

    def select(self, round: Round) -> Subset:
        return by_task(self.budgets, round, round.size, self._drawn)

    def _drawn(self, round: Round) -> Subset:
        ids, distances = eligible_neighbours(round)
        if not len(ids):
            return Subset(np.empty(0, dtype=np.int64))
        probabilities = self.probabilities(round, ids, distances)
        rows = np.flatnonzero(probabilities)
        order = drawn(np.log(probabilities[rows]), round)
        return Subset(rows[order], probabilities[rows[order]].astype(np.float32))


class Tsds(Transported):
    """KNN-KDE of TSDS (Liu et al. 2024, arXiv 2410.11303): each query spreads its mass over its nearest rows in
    proportion to 1 / density, so that near duplicates share the mass of one row. Over how many rows, a balance decides:

        alpha / C x (cost of moving the mass) against (1 - alpha).

    Density is a kernel's sum over a row's `kde_K` nearest among all neighbours (near/selection/similarity.py); sigma=0:
    no density. The authors draw with replacement; a subset holds a row once.
    """

    def __init__(
        self,
        subset_size: SubsetSize | None = None,
        alpha: Share = 0.6,
        C: Scale = 5.0,
        sigma: float = 0.75,
        kde_K: int = 1000,
        budgets: Budgets | None = None,
    ):
        super().__init__(subset_size, budgets)
        self.alpha, self.C, self.sigma, self.kde_K = alpha, C, sigma, kde_K

    def probabilities(self, round: Round, ids: np.ndarray, distances: np.ndarray) -> np.ndarray:
        rows, number = np.unique(ids, return_inverse=True)
        density = np.ones(len(rows))
        if self.sigma:
            real = rows >= 0  # not the -1 of queries with fewer neighbours
            density[real] = round.similarity.density(rows[real], self.sigma, self.kde_K)
        return spread(ids, distances, density[number].reshape(ids.shape), self.alpha, self.C, len(round.trained))


class KnnUniform(Transported):
    """KNN-Uniform of TSDS (Liu et al. 2024, arXiv 2410.11303, Algorithm 1): every query spreads its mass evenly over
    its K nearest rows, K growing while

        alpha / C x sum over queries and k <= K of (d_{K+1} - d_k)  <  (1 - alpha) Q.

    A query with fewer rows than K spreads its mass over all of them, and adds no more to the sum.
    """

    def __init__(
        self,
        subset_size: SubsetSize | None = None,
        alpha: Share = 0.6,
        C: Scale = 5.0,
        budgets: Budgets | None = None,
    ):
        super().__init__(subset_size, budgets)
        self.alpha, self.C = alpha, C

    def probabilities(self, round: Round, ids: np.ndarray, distances: np.ndarray) -> np.ndarray:
        real = ids >= 0
        sizes = real.sum(axis=1, keepdims=True)  # (Q, 1)
        finite = np.where(real, distances, 0.0)
        count = np.arange(1, ids.shape[1])
        gaps = np.where(real[:, 1:], count * finite[:, 1:] - np.cumsum(finite, axis=1)[:, :-1], 0.0)  # (Q, K - 1)
        gaps = np.maximum.accumulate(gaps, axis=1)  # they grow with K, and stay the same where a query's rows end
        enough = self.alpha / self.C * gaps.sum(axis=0) >= (1 - self.alpha) * len(ids)
        K = np.append(enough, True).argmax() + 1
        mass = np.broadcast_to(1 / (np.minimum(sizes, K) * len(ids)), ids[:, :K].shape)
        return np.bincount(ids[:, :K][real[:, :K]], mass[real[:, :K]], minlength=len(round.trained))


def eligible_neighbours(round: Round) -> tuple[np.ndarray, np.ndarray]:
    """Each query's eligible neighbours and their distances; queries without any are left out.

    Returns:
        ids int64 (Q, K), best first, where a query has fewer, -1 at the end; distances sqrt(2 - 2 s) of unit vectors
        with similarity s, float64 (Q, K), infinity at the end.
    """
    ids = round.neighbours.ids
    allowed = np.isin(ids, round.eligible)
    order = np.argsort(~allowed, axis=1, kind="stable")
    allowed = np.take_along_axis(allowed, order, axis=1)
    ids = np.where(allowed, np.take_along_axis(ids, order, axis=1), -1)
    scores = np.take_along_axis(round.neighbours.similarities, order, axis=1).astype(np.float64)
    distances = np.where(allowed, np.sqrt(np.maximum(2 - 2 * scores, 0)), np.inf)
    matched = allowed.any(axis=1)
    return ids[matched], distances[matched]


def spread(ids: np.ndarray, distances: np.ndarray, density: np.ndarray, alpha: float, C: float, n: int) -> np.ndarray:
    """The probability of every row of a pool of n, float64 (n,).

    Query j fills its rows in order: each holds at most 1 / (Q s density), its last one the rest of 1 / Q. As s grows, a
    query reaches its next row at s = the sum of 1 / density so far (an event); moving mass there costs more the farther
    it is. s grows until the cost outweighs diversity, or no event is left.

    Args:
        ids: each query's neighbours, int64 (Q, K), as of eligible_neighbours.
        distances: theirs, float64 (Q, K).
        density: theirs, float64 (Q, K).
        alpha: see Tsds.
        C: see Tsds.
        n: rows of the pool.
    """
    queries, width = ids.shape
    real = ids >= 0
    shares = np.where(real, 1 / density, 0.0)
    reached = np.cumsum(shares, axis=1)  # (Q, K): s at which a query has filled its rows up to this one
    s = reached[:, 0].max()  # without events, each query's only row has all its mass
    if width > 1 and real[:, 1].any():
        finite = np.where(real, distances, 0.0)
        costs = finite[:, 1:] * reached[:, :-1] - np.cumsum(finite * shares, axis=1)[:, :-1]  # (Q, K - 1)
        j, k = np.nonzero(real[:, 1:])  # the event (j, k): query j has filled its row k
        order = np.lexsort((j, k, reached[j, k]))
        j, k = j[order], k[order]
        steps = costs[j, k] - np.where(k > 0, costs[j, k - 1], 0.0)
        stop = np.flatnonzero(alpha / C * np.cumsum(steps) >= (1 - alpha) * queries)
        at = stop[0] if len(stop) else len(j) - 1
        s = reached[j[at], k[at]]
    left = np.maximum(1 / queries - (reached - shares) / (queries * s), 0.0)  # a query's mass before each row
    mass = np.minimum(shares / (queries * s), left)
    last = real.sum(axis=1) - 1
    mass[np.arange(queries), last] = left[np.arange(queries), last]
    return np.bincount(ids[real], mass[real], minlength=n)

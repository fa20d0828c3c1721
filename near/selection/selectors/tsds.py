"""TSDS: rows drawn by the probabilities of a transport from the target to the pool that avoids near duplicates."""

from typing import Annotated

import numpy as np

from near.common.bounds import Share, between
from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector, SubsetSize
from near.selection.selectors.ranking import drawn

Scale = Annotated[float, between(1e-9, 1e9)]


class Transported(Selector):
    """A selector that draws without replacement, new in every round, by a probability for each row; with fewer rows of
    positive probability than the round has room for it gives all of them."""

    needs_neighbours = True

    def probabilities(self, round: Round, ids: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """Of every row of the pool, float64 (n,), sums to 1. ids int64 (Q, K) and distances float64 (Q, K), ascending:
        each query's eligible neighbours, then -1 and infinity."""
        raise NotImplementedError

    def select(self, round: Round) -> Subset:
        ids, distances = eligible_neighbours(round)
        if not len(ids):
            return Subset(np.empty(0, dtype=np.int64))
        found = self.probabilities(round, ids, distances)
        rows = np.flatnonzero(found)
        order = drawn(np.log(found[rows]), round)
        return Subset(rows[order], found[rows[order]].astype(np.float32))


class Tsds(Transported):
    """KNN-KDE of TSDS (Liu et al. 2024, arXiv 2410.11303): each query spreads its mass over its nearest rows in
    proportion to 1 / density, so that near duplicates share one row's, and over as many as diversity is worth:

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
    ):
        super().__init__(subset_size)
        self.alpha, self.C, self.sigma, self.kde_K = alpha, C, sigma, kde_K

    def probabilities(self, round: Round, ids: np.ndarray, distances: np.ndarray) -> np.ndarray:
        rows, place = np.unique(ids, return_inverse=True)
        density = np.ones(len(rows))
        if self.sigma:
            own = rows >= 0
            density[own] = round.similarity.density(rows[own], self.sigma, self.kde_K)
        return spread(ids, distances, density[place].reshape(ids.shape), self.alpha, self.C, len(round.trained))


class KnnUniform(Transported):
    """KNN-Uniform of TSDS (Liu et al. 2024, arXiv 2410.11303, Algorithm 1): every query spreads its mass evenly over
    its K nearest rows, K growing while

        alpha / C x sum over queries and k <= K of (d_{K+1} - d_k)  <  (1 - alpha) Q.

    A query with fewer rows than K spreads its mass over those, and adds no more to the sum.
    """

    def __init__(self, subset_size: SubsetSize | None = None, alpha: Share = 0.6, C: Scale = 5.0):
        super().__init__(subset_size)
        self.alpha, self.C = alpha, C

    def probabilities(self, round: Round, ids: np.ndarray, distances: np.ndarray) -> np.ndarray:
        there = ids >= 0
        sizes = there.sum(axis=1, keepdims=True)
        known = np.where(there, distances, 0.0)
        count = np.arange(1, ids.shape[1])
        gaps = np.where(there[:, 1:], count * known[:, 1:] - np.cumsum(known, axis=1)[:, :-1], 0.0)
        gaps = np.maximum.accumulate(gaps, axis=1)  # they grow with K, and stay where a query's rows end
        enough = self.alpha / self.C * gaps.sum(axis=0) >= (1 - self.alpha) * len(ids)
        K = np.append(enough, True).argmax() + 1
        mass = np.broadcast_to(1 / (np.minimum(sizes, K) * len(ids)), ids[:, :K].shape)
        return np.bincount(ids[:, :K][there[:, :K]], mass[there[:, :K]], minlength=len(round.trained))


def eligible_neighbours(round: Round) -> tuple[np.ndarray, np.ndarray]:
    """Each query's eligible neighbours, best first, int64 (Q, K), and their distances sqrt(2 - 2 s), float64 (Q, K);
    where a query has fewer, -1 and infinity at the end. Queries without any are left out."""
    ids = round.neighbours.ids
    allowed = np.isin(ids, round.eligible)
    order = np.argsort(~allowed, axis=1, kind="stable")
    allowed = np.take_along_axis(allowed, order, axis=1)
    ids = np.where(allowed, np.take_along_axis(ids, order, axis=1), -1)
    scores = np.take_along_axis(round.neighbours.scores, order, axis=1).astype(np.float64)
    distances = np.where(allowed, np.sqrt(np.maximum(2 - 2 * scores, 0)), np.inf)
    kept = allowed.any(axis=1)
    return ids[kept], distances[kept]


def spread(ids: np.ndarray, distances: np.ndarray, density: np.ndarray, alpha: float, C: float, n: int) -> np.ndarray:
    """The probability of every row, float64 (n,), of queries with neighbours `ids`, `distances`, `density`, (Q, K).

    Query j fills its rows in order: each holds at most 1 / (Q s density), its last one what is left of 1 / Q. As s
    grows, a query reaches its next row at s = the sum of 1 / density so far (an event), and moving mass there costs the
    more the farther it is. s grows until the cost outweighs diversity, or no event is left.
    """
    queries, width = ids.shape
    there = ids >= 0
    shares = np.where(there, 1 / density, 0.0)
    reached = np.cumsum(shares, axis=1)
    s = reached[:, 0].max()  # without events each query's only row has all
    if width > 1 and there[:, 1].any():
        known = np.where(there, distances, 0.0)
        costs = known[:, 1:] * reached[:, :-1] - np.cumsum(known * shares, axis=1)[:, :-1]
        j, k = np.nonzero(there[:, 1:])  # the event (j, k): query j has filled its row k
        order = np.lexsort((j, k, reached[j, k]))
        j, k = j[order], k[order]
        steps = costs[j, k] - np.where(k > 0, costs[j, k - 1], 0.0)
        stop = np.flatnonzero(alpha / C * np.cumsum(steps) >= (1 - alpha) * queries)
        at = stop[0] if len(stop) else len(j) - 1
        s = reached[j[at], k[at]]
    left = np.maximum(1 / queries - (reached - shares) / (queries * s), 0.0)  # before each row
    mass = np.minimum(shares / (queries * s), left)
    last = there.sum(axis=1) - 1
    mass[np.arange(queries), last] = left[np.arange(queries), last]
    return np.bincount(ids[there], mass[there], minlength=n)

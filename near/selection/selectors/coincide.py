"""COINCIDE: rows of all clusters, more of those that are like the others and varied in themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from near.common.bounds import more_than
from near.searching.indexes.base import Vectors
from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector, SubsetSize
from near.selection.similarity import Similarity

BLOCK = 4096  # rows whose similarities to all rows of their cluster are in memory


@dataclass(frozen=True)
class Clusters:
    """Of K clusters: `rows` int64 (m,) each, ascending; S / D of each, `scores` float64 (K,)."""

    rows: list[np.ndarray]
    scores: np.ndarray


class Coincide(Selector):
    """COINCIDE (Lee et al. 2024, arXiv 2406.10995), section 3. Rows are clustered by their vectors u (spherical
    k-means). It has no target. For a cluster C_i with the centre e_i, and d(p, q) = exp(-|u_p - u_q|^2):

        S_i  = mean of cos(e_i, e_j) over the other clusters j       transferability: how far it helps the others
        D_i  = mean of d(p, q) over pairs p != q in C_i               density
        P_i  in proportion to exp(S_i / (temperature D_i))            its share of the round's rows

    Within a cluster, rows are added one by one so that the maximum mean discrepancy MMD^2 between them and the whole
    cluster stays smallest. Shares are rounded by their largest remainders; what a cluster is too small for goes to the
    others. A cluster of one row has no pair and counts as dense, D = 1.

    embedder=hidden_states, which selector=coincide sets, has the paper's vectors. DataFlex pools other states and stops
    its k-means after 10 iterations.

    clusters: how many, at most one per row; None: one per `cluster_size` rows (the paper's: 10,000 for 665,000 rows).
    """

    needs_vectors = True

    def __init__(
        self,
        subset_size: SubsetSize | None = None,
        clusters: int | None = None,
        cluster_size: int = 64,
        temperature: Annotated[float, more_than(0)] = 1.0,
    ):
        super().__init__(subset_size)
        self.clusters, self.cluster_size, self.temperature = clusters, cluster_size, temperature
        self._cached: tuple | None = None  # a similarity, eligible rows, and their clusters

    def select(self, round: Round) -> Subset:
        clusters = self._clusters(round)
        sizes = np.array([len(rows) for rows in clusters.rows])
        counts = allocated(clusters.scores / self.temperature, sizes, min(round.size, int(sizes.sum())))
        best = [i for i in np.argsort(-clusters.scores, kind="stable") if counts[i]]
        with round.similarity.opened() as (vectors, _):
            read = _reader(round.similarity, vectors)
            ids = [clusters.rows[i][matched(read(clusters.rows[i]), counts[i])] for i in best]
        return Subset(np.concatenate(ids), np.repeat(clusters.scores[best], counts[best]).astype(np.float32))

    def _clusters(self, round: Round) -> Clusters:
        if self._cached is None or self._cached[0] is not round.similarity or self._cached[1] is not round.eligible:
            self._cached = round.similarity, round.eligible, self._clustered(round)
        return self._cached[2]

    def _clustered(self, round: Round) -> Clusters:
        count = len(round.similarity.ids)
        count = min(self.clusters or max(1, int(count / self.cluster_size + 0.5)), count)
        cluster = round.similarity.clusters(count, round.seed)[round.eligible]  # (n_eligible,)
        rows = [round.eligible[cluster == number] for number in np.unique(cluster[cluster >= 0])]
        centres, densities = [], []
        with round.similarity.opened() as (vectors, _):
            read = _reader(round.similarity, vectors)
            for part in map(read, rows):
                centre = part.sum(axis=0, dtype=np.float64)
                centres.append(centre / max(np.linalg.norm(centre), 1e-12))
                densities.append(density(part))
        return Clusters(rows, transferability(np.stack(centres)) / np.array(densities))


def _reader(similarity: Similarity, vectors: Vectors) -> Callable[[np.ndarray], np.ndarray]:
    """A function that reads the unit vectors of rows, ascending, float32 (m, dim)."""

    def read(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), vectors.dim), dtype=np.float32)
        vectors.read(np.searchsorted(similarity.ids, rows), out)
        return out

    return read


def transferability(centres: np.ndarray) -> np.ndarray:
    """The mean cosine of each of K unit vectors, (K, dim), with the others, (K,); 0 for a single one."""
    return (centres @ centres.sum(axis=0) - (centres**2).sum(axis=1)) / max(1, len(centres) - 1)


def density(vectors: np.ndarray) -> float:
    """The mean of exp(-|u - v|^2) over pairs of different unit vectors, float32 (m, dim); 1 for a single one."""
    count = len(vectors)
    if count == 1:
        return 1.0
    total = sum(kernel(vectors[a : a + BLOCK], vectors).sum(dtype=np.float64) for a in range(0, count, BLOCK))
    return (total - count) / (count * (count - 1))


def kernel(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """exp(-|u - v|^2) of unit vectors (m, dim) and (n, dim): float32 (m, n)."""
    return np.exp(2 * np.minimum(some @ others.T, 1) - 2)


def matched(vectors: np.ndarray, count: int) -> np.ndarray:
    """Positions of `count` vectors whose distribution is like that of all, int64 (count,), in the order they are added.

    With t vectors chosen, MMD^2 = (mean over pairs of all) + (over pairs of the chosen) - 2 (over pairs of one chosen
    and one of all), each vector's pair with itself included. Of all that depends on the t-th vector j, this leaves

        (1 / t) sum over the chosen p of d(p, j)  -  mean over all q of d(q, j)

    to be the smallest; the lowest position of several.
    """
    if count >= len(vectors):
        return np.arange(len(vectors))
    blocks = range(0, len(vectors), BLOCK)
    means = np.concatenate([kernel(vectors[a : a + BLOCK], vectors).mean(axis=1, dtype=np.float64) for a in blocks])
    chosen, near_chosen = np.empty(count, dtype=np.int64), np.zeros(len(vectors))
    for t in range(count):
        values = near_chosen / (t + 1) - means
        values[chosen[:t]] = np.inf
        chosen[t] = np.argmin(values)
        near_chosen += kernel(vectors[chosen[t] : chosen[t] + 1], vectors)[0]
    return chosen


def allocated(logits: np.ndarray, sizes: np.ndarray, rows: int) -> np.ndarray:
    """How many of `rows` each of K clusters gives, int64 (K,): in proportion to exp(logits), at most its size, by the
    largest remainders (of equal ones, the first). What a cluster is too small for is divided among the others.

    >>> allocated(np.log([6.0, 3.0, 1.0]), np.array([2, 9, 9]), 10)
    array([2, 6, 2])
    """
    counts, open_ = np.zeros(len(sizes), dtype=np.int64), np.ones(len(sizes), dtype=bool)
    while open_.any():
        left = rows - counts.sum()
        shares = np.exp(np.where(open_, logits - logits[open_].max(), -np.inf))  # not all of them underflow
        exact = left * shares / shares.sum()
        full = open_ & (exact >= sizes)
        if full.any():
            counts[full] = sizes[full]
            open_ &= ~full
            continue
        counts[open_] = np.floor(exact[open_]).astype(np.int64)
        remainders = np.where(open_, exact - np.floor(exact), -1)
        counts[np.argsort(-remainders, kind="stable")[: rows - counts.sum()]] += 1
        break
    return counts

"""LESS at a fraction of its cost: the gradients of a few members stand for their whole cluster."""

import numpy as np

from near.common.errors import UserError
from near.selection.round import Round, Subset
from near.selection.selectors.asking import ShortlistOptions
from near.selection.selectors.base import SubsetSize
from near.selection.selectors.less import Aggregate, Less, aggregated


class ClusterLess(Less):
    """The seed system's (DataFlex) cluster_less. Rows are clustered once by their embeddings (spherical k-means);
    at each round `members` random ones of every cluster are asked for their gradients, whose mean, at unit length, gets
    LESS's score, and every row that of its cluster; within a cluster rows come in random order.

    clusters: how many; None: one for `cluster_size` rows.
    """

    needs_neighbours = True

    def __init__(
        self,
        subset_size: SubsetSize | None = None,
        shortlist: ShortlistOptions | None = None,
        aggregate: Aggregate = "max",
        clusters: int | None = None,
        cluster_size: int = 20,
        members: int = 2,
    ):
        super().__init__(subset_size, shortlist, aggregate)
        self.clusters, self.cluster_size, self.members = clusters, cluster_size, members

    def select(self, round: Round) -> Subset:
        ids = self.rows(round)
        count = min(self.clusters or -(-len(round.eligible) // self.cluster_size), len(round.eligible))
        if round.similarity is None or not hasattr(round.similarity, "clusters"):
            raise UserError("selector=cluster_less clusters embeddings; use similarity=embeddings")
        cluster = np.unique(round.similarity.clusters(count, round.seed)[ids], return_inverse=True)[1]
        order = round.rng().permutation(len(ids))
        first = order[np.argsort(cluster[order], kind="stable")]  # cluster by cluster, each in random order
        starts = np.searchsorted(cluster[first], np.arange(cluster.max() + 1))
        place = np.arange(len(ids)) - starts[cluster[first]]
        asked = np.sort(first[place < self.members])
        sizes_of = np.bincount(cluster)
        means, sizes = self.task_means(round, ids[asked], cluster[asked])
        scores = aggregated(means, sizes, self.aggregate, max(1, round.size * len(sizes_of) // len(ids)))[cluster]
        best = order[np.argsort(-scores[order], kind="stable")][: round.size]
        return Subset(ids[best], scores[best].astype(np.float32))

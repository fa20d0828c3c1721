"""LESS at a fraction of its cost: the gradients of a few members stand for their whole cluster."""

import numpy as np

from near.selection.round import Round, Subset
from near.selection.selectors.base import SubsetSize
from near.selection.selectors.less import Aggregate, Less
from near.selection.selectors.model import ShortlistOptions
from near.selection.selectors.tasks import Budgets


class ClusterLess(Less):
    """The seed system's (DataFlex) cluster_less. Rows are clustered once by their embeddings (spherical k-means). In
    each round the model computes the gradients of `members` random rows of every cluster. Their mean, scaled to unit
    length, gets LESS's score, and every row has the score of its cluster; within a cluster the order is random.

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
        budgets: Budgets | None = None,
    ):
        super().__init__(subset_size, shortlist, aggregate, budgets)
        self.clusters, self.cluster_size, self.members = clusters, cluster_size, members

    def select(self, round: Round) -> Subset:
        ids = self.rows(round)
        count = min(self.clusters or -(-len(round.eligible) // self.cluster_size), len(round.eligible))
        clusters: np.ndarray = round.similarity.clusters(count, round.seed)[ids]
        cluster = np.unique(clusters, return_inverse=True)[1]  # (n_ids,), numbered without gaps
        order = round.rng().permutation(len(ids))
        grouped = order[np.argsort(cluster[order], kind="stable")]  # cluster by cluster, each in random order
        sizes = np.bincount(cluster)  # (n_clusters,)
        rank = np.arange(len(ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within the cluster, as `grouped`
        members = np.sort(grouped[rank < self.members])
        of_tasks = self.task_means(round, ids[members], cluster[members])  # of n_clusters groups
        votes = max(1, round.size * len(sizes) // len(ids))  # clusters that fill the round

        def by_cluster(of_clusters: np.ndarray) -> Subset:
            scores = of_clusters[cluster]  # (n_ids,)
            best = order[np.argsort(-scores[order], kind="stable")][: round.size]
            return Subset(ids[best], scores[best].astype(np.float32))

        return self.ranked(of_tasks, round.size, votes, by_cluster)

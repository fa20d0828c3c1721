"""cluster_less: the model scores few rows, which stand for their clusters."""

import numpy as np
import pytest

from near.selection.selectors.cluster_less import ClusterLess
from tests.scored import ROWS, FakeScorer, Queries, round_for

CLUSTERS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
POOL = np.eye(3)[CLUSTERS] + 0.01 * np.random.default_rng(0).normal(size=(ROWS, 3))


class Clustered:
    """A similarity with given clusters."""

    def __init__(self, clusters=CLUSTERS):
        self.result, self.requested = clusters, []

    def clusters(self, count: int, seed: int) -> np.ndarray:
        self.requested.append((count, seed))
        return self.result


def select(size: int, similarity=None, queries=((0, 1, 0), (0, 1, 0.1)), **known):
    scorer = FakeScorer(pool=[POOL], queries=[queries])
    known = {"queries": Queries(["a"] * len(queries)), "similarity": similarity or Clustered(), **known}
    options = {k: known.pop(k) for k in ("members", "clusters", "cluster_size") if k in known}
    subset = ClusterLess(**{"cluster_size": 4, **options}).select(round_for(scorer, size, **known))
    return subset, scorer


def test_a_cluster_is_chosen_by_few_members():
    subset, scorer = select(4)
    assert set(subset.ids) == {4, 5, 6, 7}
    assert len(scorer.requested[0]) == 6 and np.bincount(CLUSTERS[scorer.requested[0]]).tolist() == [2, 2, 2]
    assert len(set(subset.scores.tolist())) == 1


def test_more_rows_than_the_best_cluster_come_from_the_next():
    subset, _ = select(6, queries=[(0, 1, 0.5)])
    assert set(subset.ids[:4]) == {4, 5, 6, 7} and set(subset.ids[4:]) < {8, 9, 10, 11}


def test_a_clusters_score_is_the_cosine_of_its_members_mean():
    subset, scorer = select(ROWS, members=4)
    target = np.array([(0, 1, 0), (0, 1, 0.1)]).mean(0)
    for row, score in zip(subset.ids, subset.scores, strict=True):
        centre = POOL[CLUSTERS == CLUSTERS[row]].mean(0)
        assert score == pytest.approx(target @ centre / np.linalg.norm(centre), abs=1e-5)


def test_members_and_order_are_seeded():
    one, first = select(3)
    same, again = select(3)
    np.testing.assert_array_equal(one.ids, same.ids)
    np.testing.assert_array_equal(first.requested[0], again.requested[0])
    others = [select(3, seed=seed) for seed in range(1, 6)]
    assert any(o.ids.tolist() != one.ids.tolist() for o, _ in others)
    assert any(s.requested[0].tolist() != first.requested[0].tolist() for _, s in others)


def test_rows_that_are_not_eligible_stand_for_none():
    subset, scorer = select(3, eligible=np.array([0, 1, 4, 8, 9]), clusters=3)
    assert subset.ids[0] == 4 and set(scorer.requested[0]) <= {0, 1, 4, 8, 9}


def test_how_many_clusters():
    similarity = Clustered()
    select(3, similarity, seed=7)
    select(3, similarity, clusters=5)
    select(3, similarity, clusters=50)
    assert similarity.requested == [(3, 7), (5, 0), (12, 0)]
    known = {"shortlist": {"selector": "random", "size": 4}}
    ClusterLess(cluster_size=4, **known).select(
        round_for(FakeScorer(pool=[POOL], queries=[[(0, 1, 0)]]), 2, queries=Queries(["a"]), similarity=similarity)
    )
    assert similarity.requested[-1] == (3, 0)  # clusters are the pool's, a shortlist's rows are in some of them

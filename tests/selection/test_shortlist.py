"""The shortlist: the model scores only what a cheap selector ranks first."""

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from near.common.errors import UserError
from near.searching.neighbours import Neighbours
from near.selection.selectors.delta_loss import DeltaLoss
from near.selection.selectors.less import Less
from near.selection.selectors.loss import Loss
from tests.scored import ROWS, FakeScorer, round_for

MATRIX = Neighbours(np.array([[5, 2, 7], [5, 9, 2]]), np.array([[0.9, 0.8, 0.1], [0.7, 0.6, 0.5]], np.float32), {})


@pytest.mark.parametrize("make", [Less, Loss, DeltaLoss])
def test_only_the_shortlist_is_scored(make):
    scorer = FakeScorer([np.arange(ROWS)], [np.random.default_rng(0).normal(size=(ROWS, 4))], [np.eye(4)[:2]])
    selector = make(shortlist={"selector": "near", "size": 3})
    assert selector.needs_neighbours and not make().needs_neighbours
    subset = selector.select(round_for(scorer, 2, neighbours=MATRIX, queries=_queries()))
    assert scorer.requested[0].tolist() == [2, 5, 9]  # near walks 5, 2, 9
    assert set(subset.ids) < {2, 5, 9}


def _queries():
    from tests.scored import Queries

    return Queries(["a", "a"])


def test_a_longer_list_than_the_pool_is_the_pool():
    scorer = FakeScorer([np.arange(ROWS)])
    Loss(shortlist={"selector": "random", "size": 500}).select(round_for(scorer, 2))
    assert scorer.requested[0].tolist() == list(range(ROWS))


def test_a_cheap_selector_with_options():
    chosen = {"_target_": "near.selection.selectors.near.Near", "policy": "advance"}
    assert Loss(shortlist={"selector": chosen, "size": 3}).shortlist.cheap.policy == "advance"
    assert Loss(shortlist={"selector": "near_sample", "size": 3}).shortlist.cheap.policy == "sample"
    nested = {"_target_": "near.selection.selectors.loss.Loss", "shortlist": {"selector": chosen, "size": 3}}
    assert instantiate(OmegaConf.create(nested)).shortlist.cheap.policy == "advance"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"selector": "near"}, "is not like"),
        ({"selector": "near", "size": 5, "more": 1}, "is not like"),
        ({"selector": "nera", "size": 5}, "did you mean near"),
        ({"selector": "less", "size": 5}, "not one that is cheap"),
        ({"selector": "near_rds", "size": 5}, "sets more than a selector"),
        ({"selector": "queries", "size": 5}, "not one that is cheap"),
    ],
)
def test_bad_shortlists_are_one_line(options, line):
    with pytest.raises(UserError, match=line):
        Loss(shortlist=options)

"""selector=quantile and selector=left_out: parts of another selector's ranking and choice."""

import dataclasses
import logging

import numpy as np
import pytest
from hydra.utils import instantiate

from near.common.errors import UserError
from near.searching.neighbours import Neighbours
from near.selection.round import Round, Subset
from near.selection.select import select
from near.selection.selectors.base import Selector
from near.selection.selectors.near import Near
from near.selection.selectors.parts import LeftOut, Quantile
from near.training.train import train
from tests.conftest import configured

ELIGIBLE = np.arange(1, 21)  # of 22 rows


class Scores(Selector):
    """Row i has the score of -|i - 7|; only rows up to `known` have one. Its order is that of the ids."""

    def __init__(self, known: int = 99, scored: bool = True):
        super().__init__()
        self.known, self.scored = known, scored

    def select(self, round: Round) -> Subset:
        ids = round.eligible[round.eligible <= self.known]
        scores = -np.abs(ids - 7).astype(np.float32)
        best = np.sort(ids[np.argsort(-scores, kind="stable")[: round.size]])
        return Subset(best, -np.abs(best - 7).astype(np.float32) if self.scored else None)


def round_of(size: int = 4, **changed) -> Round:
    return dataclasses.replace(Round.alone(size, 0, ELIGIBLE, 22), **changed)


def part(quantile: int, quantiles: int = 5, size: int = 100, of: Selector | None = None, **changed) -> list[int]:
    return sorted(Quantile(of or Scores(), quantile, quantiles).select(round_of(size, **changed)).ids.tolist())


def test_quantiles_cut_the_ranking_into_equal_parts():
    assert part(1) == [5, 6, 7, 8]
    assert part(2) == [3, 4, 9, 10]
    assert part(5) == [17, 18, 19, 20]
    assert sorted(row for quantile in range(1, 8) for row in part(quantile, 7)) == ELIGIBLE.tolist()


def test_rows_of_a_quantile_are_drawn_anew_in_each_round():
    drawn = {tuple(part(1, 2, size=4, index=index)) for index in range(6)}
    assert len(drawn) > 1
    assert all(set(rows) <= set(range(2, 13)) and len(rows) == 4 for rows in drawn)


def test_rows_without_a_rank_follow_and_are_counted(caplog):
    caplog.set_level(logging.WARNING)
    best, rest = part(1, 4, of=Scores(known=12)), [part(i, 4, of=Scores(known=12)) for i in (2, 3, 4)]
    assert best == part(1, 4) == [5, 6, 7, 8, 9]
    assert set(rest[0]) == {3, 4, 2, 10, 11}  # the next in rank; 1 and 12 and eight others follow
    assert set(rest[1] + rest[2]) == {1, 12, *range(13, 21)}
    assert "8 rows of 20 have no rank under this selector" in caplog.text


def test_a_selector_without_scores_ranks_by_its_order():
    assert part(1, of=Scores(scored=False)) == [1, 2, 3, 4]


def test_near_ranks_by_similarity_and_not_by_its_walk():
    """The walk takes row 1 of the first query before row 2, which is nearer to the second."""
    matrix = Neighbours(np.array([[1, 3], [2, 4]]), np.array([[0.2, 0.1], [0.9, 0.8]], dtype=np.float32), {})
    rows = Quantile(Near(), 1, 2).select(round_of(neighbours=matrix, eligible=np.arange(1, 5))).ids
    assert sorted(rows.tolist()) == [2, 4]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Quantile("near", 11, 10), "selector.quantile=11 is more than selector.quantiles=10"),
        (lambda: Quantile("nearr", 1, 10), "selector.of=nearr: no such selector; did you mean near"),
        (lambda: part(1, 50), "selector.quantiles=50 is more than the 20 rows"),
        (lambda: LeftOut(Scores(), "best", 4).select(round_of(4)), "selector.count=4 leaves nothing of the 4 rows"),
    ],
)
def test_what_can_not_be(make, said):
    with pytest.raises(UserError, match=said):
        make()


def left(without: str, size: int = 8, count: int = 3, draw: int = 0, of: Selector | None = None, **changed) -> list:
    return LeftOut(of or Scores(), without, count, draw).select(round_of(size, **changed)).ids.tolist()


def test_the_best_rows_are_left_out():
    assert left("nothing") == [3, 4, 5, 6, 7, 8, 9, 10]
    assert left("best") == [3, 4, 5, 9, 10]  # 7 has 0, 6 and 8 have -1
    assert left("best", of=Scores(scored=False)) == [6, 7, 8, 9, 10]
    assert left("best", count=0.25) == [3, 4, 5, 8, 9, 10]  # two of eight; 6 comes before 8, its equal
    assert left("best", size=1, count=0.25) == [7]  # a round keeps a row


def test_random_rows_are_left_out_by_seed_and_draw_the_same_in_each_round():
    draws = [tuple(left("random", draw=draw)) for draw in range(12)]
    assert len(set(draws)) > 3
    assert all(len(rows) == 5 and set(rows) < set(range(3, 11)) for rows in draws)
    assert left("random", draw=1, index=0) == left("random", draw=1, index=5)
    assert left("random", seed=1) != left("random", seed=2)


def test_halves_keep_their_scores():
    subset = LeftOut(Scores(), "half", draw=2).select(round_of(8))
    assert len(subset.ids) == 4
    np.testing.assert_array_equal(subset.scores, -np.abs(subset.ids - 7))


@pytest.mark.parametrize("name", ["near", "less_shortlist", "loss", "oracle", "delta_loss"])
def test_it_needs_what_the_other_needs(name):
    one = instantiate(configured("train", "selector=left_out", f"selector.of={name}").selector)
    for need in ("requires", "needs_neighbours", "needs_queries", "columns", "only_in_training", "trains_on_queries"):
        assert getattr(one, need) == getattr(one.of, need)


def test_with_a_run_and_select(tmp_path, tiny):
    words = [*(word for word in tiny if not word.startswith("max_K")), "selector=quantile", "selector.quantiles=3"]
    search = [word for word in words if word.startswith(("data", "cache", "embedder", "selector"))]
    picked = []
    for quantile in (1, 3):
        out = tmp_path / f"q{quantile}"
        select(configured("select", *search, f"selector.quantile={quantile}", "n=20"), out)
        picked.append(set(np.load(out / "subset.npy").tolist()))
    assert len(picked[0]) == len(picked[1]) == 20
    assert not picked[0] & picked[1]
    assert len([i for i in picked[0] if i % 3 == 1]) > 15  # the sums, which the queries are about
    train(configured("train", *words, f"output_dir={tmp_path}/run"), tmp_path / "run")
    drawn = [np.load(path) for path in sorted((tmp_path / "run" / "rounds").glob("*_order.npy"))[1:]]
    assert set(np.concatenate(drawn).tolist()) <= picked[0]


def test_rows_left_out_are_counted(caplog):
    caplog.set_level(logging.INFO)
    left("best")
    assert "3 of the 8 rows of the choice left out (best)" in caplog.text


def test_nothing_left_out_is_the_choice_itself():
    class Ordered(Scores):
        def select(self, round: Round) -> Subset:
            return dataclasses.replace(super().select(round), order=np.array([5, 5, 6, 7]), mix={"draws": {"a": 4}})

    subset = LeftOut(Ordered(), "nothing").select(round_of(3))
    assert subset.order.tolist() == [5, 5, 6, 7] and subset.mix == {"draws": {"a": 4}}
    with pytest.raises(UserError, match="Ordered returns a round's draws in order"):
        LeftOut(Ordered(), "best", 1).select(round_of(3))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LeftOut(Scores(), "best", 8.0), "selector.count=8.0 is no share up to 1"),
        (lambda: Quantile({"some": "thing"}, 1), "is not a selector"),
        (lambda: LeftOut(Near(subset_size=5)), "selector.of.subset_size=5 has no effect; set selector.subset_size"),
        (
            lambda: Quantile(Scores(), 1, 50).check_pool(None, ELIGIBLE),
            "selector.quantiles=50 is more than the 20 rows",
        ),
    ],
)
def test_it_is_refused_before_anything_is_computed(make, said):
    with pytest.raises(UserError, match=said):
        make()

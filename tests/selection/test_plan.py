"""The stages of a plan by hand: what each takes away, when it acts anew, what it keeps over a restart."""

import dataclasses

import numpy as np
import pytest

from near.common.errors import UserError
from near.selection.mixers.base import Sources
from near.selection.mixers.selector import Mix
from near.selection.mixers.static import Static
from near.selection.orders.base import Order
from near.selection.orders.selector import Ordered
from near.selection.orders.sorting import Sorting
from near.selection.plan.choice import selection_of
from near.selection.plan.plan import Plan
from near.selection.plan.stages import Draw, FilterStage, MixStage, OrderStage, Stage
from near.selection.round import Round, Subset, checked
from near.selection.scoring.memory import Memory, SomeFeatures
from near.selection.selectors.base import Selector
from near.selection.selectors.column import Column
from near.selection.selectors.delta_loss import DeltaLoss
from near.selection.selectors.first import First
from near.selection.selectors.full import Full
from near.selection.selectors.loss import Loss
from near.selection.selectors.oracle import Oracle
from near.selection.selectors.random import Random
from tests.conftest import configured
from tests.scored import FakeFeatures, FakeScorer, Queries

LABELS = ["code"] * 4 + ["law"] * 6 + ["maths"] * 10  # 20 rows
NUMBERS = [float(i * 7 % 20) for i in range(20)]  # every number once: row 3 has 1, row 17 has 19


def round_of(index: int = 1, size: int = 6, losses=(), **more) -> Round:
    """A round of 5 steps; the first one without warm-up has index 1."""
    round = Round.alone(size, 0, np.arange(20), 20, pool=Queries(LABELS), columns={"score": NUMBERS})
    described = {"index": index, "step": 5 * index, "update": index - 1, "updates": 9, "scorer": FakeScorer(losses)}
    return dataclasses.replace(round, **(described | more))


def rows_with(numbers) -> set[int]:
    return {NUMBERS.index(float(number)) for number in numbers}


def left(plan: Plan, round: Round) -> list[tuple[str, bool, int, int]]:
    stages = checked(plan.select(round), round, "plan").stages
    assert all(stage["seconds"] >= 0 for stage in stages)
    return [(one["name"], one["acted"], one["rows_before"], one["rows_after"]) for one in stages]


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({"keep": 0.25}, range(15, 20)),
        ({"keep": 3}, range(17, 20)),
        ({"keep": 500}, range(20)),
        ({"above": 16.0}, range(16, 20)),
        ({"below": 2.0}, range(3)),
        ({"above": 3.0, "below": 5.0}, range(3, 6)),
    ],
)
def test_a_filter_keeps_the_highest_or_those_of_a_score(options, numbers):
    plan = Plan(cut=FilterStage(Column(), **options))
    subset = plan.select(round_of(size=20))
    assert set(subset.ids.tolist()) == rows_with(numbers)
    assert [subset.stages[0][name] for name in ("name", "kind", "by")] == ["cut", "filter", "Column"]
    assert left(plan, round_of(size=4)) == [
        ("cut", True, 20, len(numbers)),
        ("draw", True, len(numbers), min(4, len(numbers))),
    ]


def test_filters_narrow_one_after_the_other_and_the_draw_picks_of_the_rest():
    plan = Plan(
        high=FilterStage(Column(), keep=0.5), low=FilterStage(Column(pick="lowest"), keep=4), draw=Draw(Column())
    )
    subset = plan.select(round_of(size=2))
    assert subset.ids.tolist() == [NUMBERS.index(13.0), NUMBERS.index(12.0)]  # of 10, 11, 12, 13
    assert subset.scores.tolist() == [13.0, 12.0]
    assert left(plan, round_of(size=2)) == [("high", True, 20, 10), ("low", True, 10, 4), ("draw", True, 4, 2)]


@pytest.mark.parametrize(("size", "rows"), [(0.5, 4), (0.1, 1), (3, 3), (30, 8), (None, 8)])
def test_a_share_of_rows_is_of_those_that_filters_left(size, rows):
    """8 of 20; a round of 16 draws. The limit that the Trainer sets is of the whole pool."""
    plan = Plan(cut=FilterStage(Column(), keep=8), draw=Draw(Column(subset_size=size)))
    round = round_of(size=min(16, plan.most(20) or 16), draws=16)
    assert left(plan, round)[1] == ("draw", True, 8, rows)


def test_start_and_period():
    """Steps 5, 10, ..., 30: the filter acts at 10, 20 and 30, and keeps its random rows in between."""
    plan = Plan(cut=FilterStage(Random(), keep=8, start=10, period=2), draw=Draw(Full()))
    seen = []
    for index in range(1, 7):
        stages = plan.select(round_of(index, size=20)).stages
        seen.append((stages[0]["acted"], stages[0]["rows_after"]))
    assert seen == [(False, 20), (True, 8), (False, 8), (True, 8), (False, 8), (True, 8)]
    rows = [set(plan.select(round_of(index, size=20)).ids.tolist()) for index in (7, 8, 9)]
    assert rows[0] != rows[1] and rows[1] == rows[2]


def test_a_filter_whose_rows_are_all_gone_acts_anew():
    class Odd(Selector):
        def select(self, round: Round) -> Subset:
            return Subset(round.eligible[round.eligible % 2 == round.index % 2][: round.size])

    plan = Plan(odd=FilterStage(Odd(), keep=20), cut=FilterStage(Full(), keep=5, period=9))
    for index, parity in ((1, 1), (2, 0), (3, 1)):
        subset = plan.select(round_of(index, size=20))
        assert subset.stages[1]["acted"] and {row % 2 for row in subset.ids.tolist()} == {parity}
        assert subset.stages[1]["rows_after"] == 5


def test_a_filter_that_acts_in_between_keeps_its_period():
    """Of period 3, from the first round on; in the second one all of its rows are gone. Also over a restart."""

    class Odd(Selector):
        def select(self, round: Round) -> Subset:
            return Subset(round.eligible[round.eligible % 2 == (round.index > 1)])

    def make() -> Plan:
        return Plan(odd=FilterStage(Odd(), keep=20), cut=FilterStage(Full(), keep=5, period=3))

    plan, acted = make(), []
    for index in range(1, 8):
        state, plan = plan.state_dict(), make()
        plan.load_state_dict(state)
        acted.append(plan.select(round_of(index, size=20)).stages[1]["acted"])
    assert acted == [True, True, False, True, False, False, True]


def test_a_draw_that_keeps_its_rows_trains_them_again():
    plan = Plan(draw=Draw(Random(), period=2))
    rows = [sorted(plan.select(round_of(index)).ids.tolist()) for index in range(1, 6)]
    assert rows[0] == rows[1] != rows[2] == rows[3] != rows[4]
    plan, full = Plan(draw=Draw(Column(), start=15)), Plan()
    random, other = plan.select(round_of(2)), full.select(round_of(2))
    assert random.ids.tolist() == other.ids.tolist() and not random.stages[0]["acted"]
    assert set(plan.select(round_of(3)).ids.tolist()) == rows_with(range(14, 20))


def test_a_mix_shares_what_the_filters_left():
    """Of the rows from 10 on, by source: a static mix by size counts those, and a source without any gets nothing."""
    plan = Plan(cut=FilterStage(Column(), above=10.0), mix=MixStage(Static()))
    kept = np.array(sorted(rows_with(range(10, 20))))
    sizes = {name: sum(LABELS[row] == name for row in kept) for name in ("code", "law", "maths")}
    subset = checked(plan.select(round_of(size=20)), round_of(size=20), "plan")
    assert subset.mix["draws"] == {name: 2 * size for name, size in sizes.items()}
    assert set(subset.ids.tolist()) == set(kept.tolist()) and len(subset.order) == 20
    plan = Plan(cut=FilterStage(Column(), keep=1), mix=MixStage(Static()))  # row 17, of maths
    subset = plan.select(round_of())
    assert subset.order.tolist() == [17] * 6 and subset.mix["draws"] == {"code": 0, "law": 0, "maths": 6}
    plan = Plan(cut=FilterStage(Column(), keep=1), mix=MixStage(Static({"law": 1.0})))
    with pytest.raises(UserError, match="plan.mix: all shares are of sources of which no row is left in round 1"):
        plan.select(round_of())


def test_the_recorded_proportions_are_of_the_sources_that_are_left():
    plan = Plan(cut=FilterStage(Column(), above=10.0), mix=MixStage(Static({"code": 2, "law": 1, "maths": 1})))
    high = [LABELS[row] for row in rows_with(range(10, 20))]
    assert {"code", "law", "maths"} == set(high)
    assert plan.select(round_of()).mix["proportions"] == {"code": 0.5, "law": 0.25, "maths": 0.25}
    plan = Plan(cut=FilterStage(Column(), keep=1), mix=MixStage(Static({"code": 2, "law": 1, "maths": 1})))
    assert plan.select(round_of()).mix["proportions"] == {"code": 0, "law": 0, "maths": 1}  # row 17 alone


@pytest.mark.parametrize(
    "stages",
    [
        {"cut": (FilterStage, Random(), 10), "draw": (Draw, Random())},
        {"cut": (FilterStage, Loss(focus_weight=1.0), 10), "draw": (Draw, Loss(focus_weight=1.0))},
        {"cut": (FilterStage, Random(), 12), "again": (FilterStage, Random(), 6)},
    ],
)
def test_stages_draw_independently(stages):
    """Every row is as likely as the others; with the same random numbers in two stages, some are twice as likely."""
    plan = Plan(**{name: kind(*options) for name, (kind, *options) in stages.items()})
    rounds = 4000
    picks = [
        plan.select(round_of(size=2, seed=seed, update=seed, losses=[np.zeros(20)] * 2)).ids for seed in range(rounds)
    ]
    times = np.bincount(np.concatenate(picks), minlength=20)
    expected = rounds * 2 / 20  # 400, with a standard deviation of 19
    assert abs(times - expected).max() < 5 * (expected * 0.9) ** 0.5


def test_a_mix_alone_is_the_selector_mix():
    plan, mix = Plan(mix=MixStage(Static({"code": 1, "law": 3}))), Mix(Static({"code": 1, "law": 3}))
    for round in (round_of(), round_of(2, trained=np.arange(20) % 3)):
        one, other = plan.select(round), mix.select(round)
        assert (one.ids.tolist(), one.order.tolist(), one.mix) == (other.ids.tolist(), other.order.tolist(), other.mix)
        assert plan.warm_up(round).order.tolist() == mix.warm_up(round).order.tolist()
    late = Plan(mix=MixStage(Static({"code": 1}), start=10))
    assert late.select(round_of(1)).order is None and late.warm_up(round_of(1)).order is None
    assert {LABELS[row] for row in late.select(round_of(2)).ids} == {"code"}


def test_under_a_mix_a_draw_takes_the_best_of_each_source():
    plan = Plan(mix=MixStage(Static({"code": 1, "law": 2})), draw=Draw(Column()))
    subset = checked(plan.select(round_of()), round_of(), "plan")
    of = {name: [n for n, label in zip(NUMBERS, LABELS, strict=True) if label == name] for name in ("code", "law")}
    assert set(subset.ids.tolist()) == rows_with([*sorted(of["code"])[-2:], *sorted(of["law"])[-4:]])
    assert subset.scores.tolist() == [NUMBERS[row] for row in subset.ids]
    few = Plan(mix=MixStage(Static({"code": 1, "law": 1})), draw=Draw(Column()))
    subset = few.select(round_of(size=20))  # 10 draws of 4 rows
    times = np.bincount(subset.order)[:4].tolist()
    assert sorted(times) == [2, 2, 3, 3] and times[0] == 2, "row 0 has the lowest number"


def test_draws_of_a_source_that_the_draw_does_not_rank_are_counted(caplog):
    columns = {"score": [None if label == "law" else n for n, label in zip(NUMBERS, LABELS, strict=True)]}
    plan = Plan(mix=MixStage(Static({"code": 1, "law": 2})), best=Draw(Column()))
    subset = plan.select(round_of(columns=columns))
    assert subset.stages[-1]["unranked_draws"] == 4 == sum(LABELS[row] == "law" for row in subset.order)
    assert "plan.best ranks no row of law: 4 draws of 6 in round 1 are of the rows there that were" in caplog.text
    every = Plan(mix=MixStage(Static({"code": 1, "law": 2})), best=Draw(Column()))
    assert "unranked_draws" not in every.select(round_of()).stages[-1]


def test_a_stage_may_be_named_self():
    assert len(Plan(**{"self": FilterStage(Column(), keep=3)}).select(round_of()).ids) == 3


class Backwards(Order):
    """Descending ids, whatever the number."""

    scored = False

    def positions(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return np.arange(n)

    def arrange(self, round: Round, subset: Subset) -> np.ndarray:
        return np.sort(np.resize(subset.ids, round.draws) if subset.order is None else subset.order)[::-1].copy()


def test_an_order_arranges_the_draws():
    plan = Plan(draw=Draw(Full()), order=OrderStage(Backwards(), start=10, period=2))
    orders = [checked(plan.select(round_of(i)), round_of(i), "plan").order for i in (1, 2, 3, 4)]
    assert [order is None for order in orders] == [True, False, True, False]
    assert (np.diff(orders[1]) < 0).all()
    mixed = Plan(mix=MixStage(Static({"code": 1, "law": 3})), order=OrderStage(Backwards()))
    subset = mixed.select(round_of(size=20))
    assert subset.mix["draws"] == {"code": 5, "law": 15, "maths": 0}
    assert [LABELS[row] for row in subset.order] == ["law"] * 15 + ["code"] * 5


@pytest.mark.parametrize("selector", [Full, Column, Random])
def test_an_order_in_a_plan_is_the_order_of_a_selector(selector):
    """Also where the order chooses the rows, as with full."""
    plan = Plan(draw=Draw(selector()), order=OrderStage(Sorting(score="column")))
    other, trained = Ordered(selector(), Sorting(score="column")), np.zeros(20, dtype=np.int64)
    for index in range(1, 6):
        round = round_of(index, trained=trained)
        one, two = checked(plan.select(round), round, "plan"), other.select(round)
        assert (one.ids.tolist(), one.order.tolist()) == (two.ids.tolist(), two.order.tolist())
        np.add.at(trained, one.order, 1)
    if selector is Full:
        assert one.stages[1]["rows_before"] == 20 and one.stages[1]["rows_after"] == 6


def test_a_restart_changes_nothing():
    """Through the state that goes into checkpoints, at every round."""

    def make() -> Plan:
        return Plan(
            cut=FilterStage(Random(), keep=0.6, period=3),
            again=FilterStage(DeltaLoss(), keep=8, period=2),
            mix=MixStage(Static(), period=2),
            draw=Draw(Loss(), period=2),
        )

    losses, going = np.random.default_rng(1).random((40, 20)), make()
    for index in range(1, 8):
        again, state = make(), going.state_dict()
        again.load_state_dict(state)
        one, other = (plan.select(round_of(index, losses=losses)) for plan in (going, again))
        assert one.ids.tolist() == other.ids.tolist() and one.order.tolist() == other.order.tolist(), index
        assert [s["acted"] for s in one.stages] == [s["acted"] for s in other.stages]
    fresh = make().state_dict()
    assert fresh == {}


class Other(Stage):
    kind = "weigh"


@pytest.mark.parametrize(
    ("stages", "fault"),
    [
        (
            {"draw": Draw(Random()), "cut": FilterStage(Random(), keep=2)},
            r"plan.draw \(draw\) stands before plan.cut \(filter\), and stages act in the order filter, mix, draw, "
            "order, weigh: a filter decides which rows the others may use; write plan.cut first",
        ),
        (
            {"order": OrderStage(Backwards()), "draw": Draw(Random())},
            "an order arranges, and a weigher weights, rows that",
        ),
        (
            {"weigh": Other(None, 0, 1), "order": OrderStage(Backwards())},
            "a weigher acts on batches, which the order decides",
        ),
        ({"draw": Draw(Random()), "mix": MixStage(Static())}, "a draw takes of each source the share"),
        ({"a": Draw(Random()), "b": Draw(Random())}, r"plan has 2 stages of kind draw \(a, b\); leave one"),
        ({"a": 3}, "plan.a=3 is not a stage"),
        (
            {"mix": MixStage(Static()), "draw": Draw(Random(3))},
            "subset_size=3 of plan.draw has no effect: plan.mix decides how many",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(stages, fault):
    with pytest.raises(UserError, match=fault):
        Plan(**stages)


def test_filters_that_cannot_work_are_refused():
    for options in ({}, {"keep": 2, "above": 1.0}):
        with pytest.raises(UserError, match="set keep .*, or above or below"):
            FilterStage(Random(), **options)
    with pytest.raises(UserError, match="subset_size=4 of a filter's selector has no effect"):
        FilterStage(Random(4), keep=3)
    with pytest.raises(UserError, match=r"plan.cut: above=50 keeps none of 20 rows .* in round 1 \(they are 0 to 19\)"):
        Plan(cut=FilterStage(Column(), above=50.0)).select(round_of())


def test_an_order_by_scores_that_no_draw_gives_is_refused_before_training():
    by = {"order": OrderStage(Sorting(score="selector"))}
    without = [{"draw": Draw(by)} for by in (Random(), Full(), First(), Oracle(), DeltaLoss())]
    for draw in ({}, *without, {"draw": Draw(Column(), start=5)}):
        with pytest.raises(UserError, match="plan.order orders by the scores of the draw, and"):
            Plan(**draw, **by)
    Plan(draw=Draw(Column()), **by)
    Plan(draw=Draw(Column(), start=5), order=OrderStage(Sorting(score="selector"), start=5))


@pytest.mark.parametrize("by", [Random(), Full(), First(), DeltaLoss()])
def test_a_threshold_needs_scores(by):
    with pytest.raises(
        UserError, match=f"by={type(by).__name__} of a filter has no scores for above or below; set keep"
    ):
        FilterStage(by, above=0.5)


def test_a_plan_needs_what_its_stages_need():
    plan = Plan(cut=FilterStage(Column(), keep=2), more=FilterStage(Loss(), keep=2), draw=Draw(Random(0.5)))
    assert (plan.requires, plan.columns, plan.needs_neighbours) == ("losses", ("score",), False)
    assert plan.most(20) == 10 and plan.reach([6]) >= 6
    assert Plan().requires is None


def test_losses_of_a_row_are_computed_once():
    memory, asked = Memory(), []

    def compute(ids: np.ndarray) -> np.ndarray:
        asked.append(ids.tolist())
        return ids.astype(np.float32) / 2

    assert memory.numbers("a", np.array([4, 2, 8]), compute).tolist() == [2, 1, 4]
    assert memory.numbers("a", np.array([8, 3, 2, 1]), compute).tolist() == [4, 1.5, 1, 0.5]
    assert memory.numbers("a", np.array([1, 4]), compute).tolist() == [0.5, 2]
    assert memory.numbers("b", np.array([1]), compute).tolist() == [0.5]
    assert asked == [[4, 2, 8], [3, 1], [1]]


def test_gradients_of_some_rows_are_a_part_of_those_of_more():
    vectors = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    memory, whole = Memory(), FakeFeatures(vectors)
    ids = np.array([10, 30, 20, 50, 40, 70, 60, 80])
    assert memory.features("a", ids, lambda: whole) is whole
    assert memory.features("a", ids, lambda: pytest.fail("computed again")) is whole
    part = memory.features("a", np.array([80, 20, 30]), lambda: pytest.fail("computed again"))
    assert isinstance(part, SomeFeatures) and part.rows == 3
    assert part.matrix().tolist() == vectors[[7, 2, 1]].tolist()
    assert part.norms.tolist() == whole.norms[[7, 2, 1]].tolist()
    found = np.zeros((3, 3), dtype=np.float32)
    for positions, block in part:
        found[positions] = block
    assert found.tolist() == part.matrix().tolist()
    assert memory.features("b", ids[:2], lambda: "new") == "new"


def test_narrowed_sources():
    sources = Sources.of(Queries(LABELS), np.arange(20))
    same, alive = sources.narrowed(np.arange(20))
    assert same is sources and alive.all()
    some, alive = sources.narrowed(np.array([1, 15]))
    assert [rows.tolist() for rows in some.rows] == [[1], [4, 5, 6, 7, 8, 9], [15]]
    assert alive.tolist() == [True, False, True]


def test_a_report_reads_a_plan_without_its_weighers():
    """Those need torch, which a report does not."""
    cfg = configured("train", "plan=hierarchical", "selector=near")
    plan = selection_of(cfg, weighers=False)
    assert list(plan.stages) == ["filter", "mix", "draw", "order"]
    assert (plan.requires, plan.needs_neighbours) == ("losses", True)
    assert type(plan.draw.by).__name__ == "Near" and plan.mix.by is not None

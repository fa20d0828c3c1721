"""Orders by hand on few rows: each arrangement, numbers, passes, rows that were trained before, and state."""

import dataclasses

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from near.common.errors import UserError
from near.selection.mixers.selector import Mix
from near.selection.mixers.static import Static
from near.selection.orders.base import Order
from near.selection.orders.folding import Folding
from near.selection.orders.saw import Saw
from near.selection.orders.segment import Segment
from near.selection.orders.selector import Ordered, ordered_selector_of
from near.selection.orders.shuffle import Shuffle
from near.selection.orders.sorting import Sorting
from near.selection.orders.stair import Stair
from near.selection.orders.zigzag import Zigzag
from near.selection.round import Round, Subset, checked
from near.selection.selectors.delta_loss import DeltaLoss
from near.selection.selectors.first import First
from near.selection.selectors.full import Full
from near.selection.selectors.loss import Loss
from near.selection.selectors.oracle import Oracle
from near.selection.selectors.parts import LeftOut, Quantile
from near.selection.selectors.random import Random
from tests.app.test_configs import choices
from tests.conftest import configured

RNG = np.random.default_rng(0)


def around(rows: int, draws: int, **more) -> Round:
    """A round of `draws` draws from a pool of `rows`."""
    return dataclasses.replace(Round.alone(min(rows, draws), 0, np.arange(rows), rows), draws=draws, **more)


def arranged(order: Order, numbers, draws: int | None = None, **more) -> list[int]:
    """The draws of rows 0, 1, ... whose scores are `numbers`."""
    numbers = np.array(numbers, dtype=np.float32)
    round = around(len(numbers), len(numbers) if draws is None else draws, **more)
    result = order.arrange(round, Subset(np.arange(len(numbers)), numbers))
    assert result.dtype == np.int64 and result.shape == (round.draws,)
    return result.tolist()


@pytest.mark.parametrize(
    ("order", "n", "ranks"),
    [
        (Sorting(), 5, [0, 1, 2, 3, 4]),
        (Folding(layers=3), 7, [0, 3, 6, 1, 4, 2, 5]),
        (Folding(layers=1), 3, [0, 1, 2]),
        (Folding(layers=9), 3, [0, 1, 2]),
        (Zigzag(layers=3), 7, [0, 3, 6, 4, 1, 2, 5]),
        (Zigzag(layers=2), 6, [0, 2, 4, 5, 3, 1]),
        (Stair(sections=2, radius=0.2, layers=2), 10, [0, 1, 2, 3, 5, 4, 6, 7, 8, 9]),
        (Stair(sections=2, radius=0.25, layers=3), 12, [0, 1, 2, 3, 6, 4, 7, 5, 8, 9, 10, 11]),
        (Stair(sections=3, radius=1 / 6, layers=2), 12, [0, 1, 2, 4, 3, 5, 6, 8, 7, 9, 10, 11]),
        (Stair(sections=1, radius=0.5), 4, [0, 1, 2, 3]),
        (Stair(sections=3, radius=0.0), 4, [0, 1, 2, 3]),
        (Saw(sections=2, radius=0.2, layers=2), 10, [0, 1, 2, 3, 5, 6, 4, 7, 8, 9]),
        (Saw(sections=3, radius=1 / 6, layers=2), 12, [0, 1, 2, 4, 5, 3, 6, 8, 9, 7, 10, 11]),
    ],
)
def test_an_arrangement_by_hand(order, n, ranks):
    assert order.positions(n, RNG).tolist() == ranks


def test_a_segment_has_its_ends():
    first, middle, last = np.split(Segment(first=0.25, last=0.34).positions(12, RNG), [3, 8])
    assert set(first) == {0, 1, 2} and set(middle) == {3, 4, 5, 6, 7} and set(last) == {8, 9, 10, 11}
    high = Segment(first=0.2, last=0.2, first_from="high", last_from="low").positions(10, RNG)
    assert set(high[:2]) == {8, 9} and set(high[-2:]) == {0, 1}
    both = Segment(first=0.2, last=0.3, first_from="high").positions(10, np.random.default_rng(3))
    assert set(both[:2]) | set(both[-3:]) == {5, 6, 7, 8, 9} and set(both[2:-3]) == {0, 1, 2, 3, 4}
    assert set(both[:2]) != {8, 9}, "shared at random"
    assert len(Segment(first=0.29, last=0).positions(100, RNG)) == 100
    whole = Segment(first=0.5, last=0.5).positions(4, RNG)
    assert set(whole[:2]) == {0, 1}


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: Segment(first=0.6, last=0.5), r"order.first=0.6 and order.last=0.5 add up to more than 1; lower one"),
        (lambda: Saw(sections=3, radius=0.2), r"order.radius=0.2 makes the regions .* overlap; use at most 0.1667"),
        (lambda: Sorting(score="column", every=2), "order.every=2 has no effect under order.score=column"),
        (lambda: arranged(Sorting(score="selector"), [0, 1]) and Sorting(score="selector").arrange(
            around(2, 2), Subset(np.arange(2))), "this selector returns no scores; use order.score=loss"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_refused(make, fault):
    with pytest.raises(UserError, match=fault):
        make()


@pytest.mark.parametrize("name", choices("order"))
def test_the_contract(name):
    """Every order of conf/order/: whole passes, the same again, another round otherwise where there is chance."""
    words = [] if name == "shuffle" else ["order.score=selector"]
    numbers = RNG.random(11)
    make = lambda: instantiate(configured("train", f"order={name}", *words).order)  # noqa: E731
    draws = arranged(make(), numbers, 22)
    assert sorted(draws[:11]) == sorted(draws[11:]) == list(range(11))
    assert draws == arranged(make(), numbers, 22)
    chance = name in ("shuffle", "segment")
    assert (draws != arranged(make(), numbers, 22, index=1)) == chance
    assert (draws[:11] != draws[11:]) == chance
    if name != "shuffle":
        words.append("order.window=4")
        shuffled = arranged(make(), numbers, 22)
        if not chance:
            assert shuffled != draws and [set(shuffled[i : i + 4]) for i in (0, 4)] == [
                set(draws[i : i + 4]) for i in (0, 4)
            ]
        assert sorted(shuffled[:11]) == list(range(11)), "windows end where a pass ends"


def test_ties_stay_in_the_order_of_the_subset():
    subset = Subset(np.array([4, 2, 0, 3]), np.array([1, 0, 1, 0], dtype=np.float32))
    assert Sorting(score="selector").arrange(around(5, 4), subset).tolist() == [2, 3, 4, 0]
    assert Sorting(score="selector", ascending=False).arrange(around(5, 4), subset).tolist() == [4, 0, 2, 3]


def test_rows_without_a_number_come_last():
    numbers = [2, np.nan, 1, np.inf]
    assert arranged(Sorting(score="selector"), numbers) == [2, 0, 1, 3]
    assert arranged(Sorting(score="selector", ascending=False), numbers) == [0, 2, 1, 3]


def test_more_draws_than_rows():
    """The last, shorter pass has the first rows of the subset."""
    subset = Subset(np.array([7, 5, 6]), np.array([3, 2, 1], dtype=np.float32))
    assert Sorting(score="selector").arrange(around(9, 8), subset).tolist() == [6, 5, 7, 6, 5, 7, 5, 7]


def test_fewer_draws_than_rows():
    """Rows trained least come first; with consume_once=false the same ones again."""
    numbers, once = [5, 4, 3, 2, 1, 0], Sorting(score="selector")
    assert arranged(once, numbers, 4) == [5, 4, 3, 2]
    trained = np.array([0, 0, 1, 1, 1, 1])
    assert arranged(once, numbers, 4, trained=trained) == [1, 0, 5, 4], "the rest, then from the start"
    assert arranged(Sorting(score="selector", consume_once=False), numbers, 4, trained=trained) == [5, 4, 3, 2]


def test_rows_of_earlier_rounds_wait():
    trained, numbers = np.array([1, 0, 1, 0]), [3, 2, 1, 0]
    assert arranged(Sorting(score="selector"), numbers, 4, trained=trained) == [3, 2, 1, 0]
    once = Sorting(score="selector", consume_once=True)
    assert arranged(once, numbers, 4, trained=trained) == [3, 1, 1, 0], "rows 1 and 3, then the first two of all"
    assert trained.tolist() == [1, 0, 1, 0], "the count is the Picker's"


def test_draws_of_a_selector_keep_their_numbers():
    """Rows 3, 1 and 5 by score, drawn 1, 3 and 4 times: at 0; at 1/9, 4/9, 7/9; and at 2/12, 5/12, 8/12, 11/12."""
    subset = Subset(
        np.array([5, 3, 1]), np.array([0.3, 0.1, 0.2], dtype=np.float32), order=np.array([5, 5, 5, 5, 3, 1, 1, 1])
    )
    assert Sorting(score="selector").arrange(around(6, 8), subset).tolist() == [3, 1, 5, 5, 1, 5, 1, 5]
    twice = dataclasses.replace(subset, order=np.array([5, 5, 3, 3, 1, 1]))
    assert Sorting(score="selector").arrange(around(6, 6), twice).tolist() == [3, 1, 5] * 2


class Scorer:
    def __init__(self):
        self.scored = []

    def losses(self, model, ids):
        self.scored.append(ids.tolist())
        return ids.astype(np.float32)


@pytest.mark.parametrize(
    ("every", "scored"),
    [
        (1, [[0, 1], [0, 1], [1, 2], [0, 2]]),
        (2, [[0, 1], [], [1, 2], [0]]),
        (None, [[0, 1], [], [2], []]),
    ],
)
def test_losses_are_computed_anew_every_so_many_rounds(every, scored):
    """A killed run, restored after any round, computes no loss a second time."""
    order, scorer = Sorting(every=every), Scorer()
    assert order.requires == "losses" and not order.needs_neighbours and not order.columns
    for update, ids in enumerate([[1, 0], [0, 1], [2, 1], [0, 2]]):
        before = len(scorer.scored)
        draws = order.arrange(around(3, 2, update=update, scorer=scorer), Subset(np.array(ids)))
        assert draws.tolist() == sorted(ids)
        assert sum(scorer.scored[before:], []) == scored[update]
        state = order.state_dict()
        assert (state == {}) == (every == 1)
        order = Sorting(every=every)
        order.load_state_dict(state)


def test_numbers_of_columns_lengths_and_similarities():
    subset, columns = Subset(np.array([0, 1, 2, 3])), {"q": ["3", 1.5, True, None]}
    by_column = Sorting(score="column", column="q")
    assert by_column.columns == ("q",) and by_column.requires is None
    assert by_column.arrange(around(4, 4, columns=columns), subset).tolist() == [1, 0, 2, 3]
    by_length = Sorting(score="length", ascending=False)
    assert by_length.arrange(around(4, 4, tokens=lambda ids: ids % 3), subset).tolist() == [2, 1, 0, 3]

    class Similarity:
        def means(self):
            return np.array([0.5, np.nan, 0.1, 0.9], dtype=np.float32)

    near = Sorting(score="similarity")
    assert near.needs_neighbours
    assert near.arrange(around(4, 4, similarity=Similarity()), subset).tolist() == [2, 0, 3, 1]
    shuffle = Shuffle()
    assert shuffle.requires is None and not shuffle.columns and not shuffle.needs_neighbours


def test_rows_without_a_number_are_counted(caplog):
    caplog.set_level("INFO")
    order = Sorting(score="column", column="q")
    order.check_columns({"q": [1, None, "x", 2]}, np.arange(4))
    assert "order.column=q: 2 rows of 4 without a finite number are ranked last" in caplog.text
    with pytest.raises(UserError, match="order.column=q: no row that may be selected has a finite number"):
        order.check_columns({"q": [1, None]}, np.array([1]))


def test_a_selector_in_an_order():
    """The rows of a round and their scores stay together; a selector without a preference leaves the rows to it."""
    columns = {"q": [9, 8, 7, 6, 5, 4]}
    chosen = Ordered(Random(), Sorting(score="column", column="q"))
    assert chosen.columns == ("q",) and chosen.requires is None
    round = around(6, 4, columns=columns)
    subset = checked(chosen.select(round), round, "random")
    assert subset.ids.tolist() == Random().select(round).ids.tolist(), "in the selector's order"
    assert subset.order.tolist() == sorted(subset.ids.tolist(), reverse=True)
    full, trained, rounds = Ordered(Full(), Sorting(score="column", column="q")), np.zeros(6, dtype=np.int64), []
    for _ in range(3):
        subset = full.select(around(6, 4, columns=columns, trained=trained))
        np.add.at(trained, subset.order, 1)
        rounds.append(subset.order.tolist())
    assert rounds == [[5, 4, 3, 2], [1, 0, 5, 4], [3, 2, 1, 0]], "one pass over the pool after the other"


@pytest.mark.parametrize(
    "selector", [Random(), Full(), First(), Oracle(), DeltaLoss(), Mix(Static()), Quantile(Loss(), 1), LeftOut(Full())]
)
def test_an_order_by_scores_is_refused_for_a_selector_without_any(selector):
    with pytest.raises(UserError, match=f"order.score=selector: {type(selector).__name__} returns no scores"):
        Ordered(selector, Sorting(score="selector"))


def test_consume_once_with_the_draws_of_a_mix_is_said_once(caplog):
    round = around(4, 4, columns={"q": [0, 1, 2, 3]}, trained=np.array([5, 0, 5, 0]))
    subset, orders = Subset(np.arange(4), order=np.arange(4)), {}
    for once in (None, False, True):
        caplog.clear()
        order = Sorting(score="column", column="q", consume_once=once)
        orders[once] = [order.arrange(round, subset).tolist() for _ in range(2)]
        assert [r.levelname for r in caplog.records] == (["WARNING"] if once else [])
    assert orders[True] == orders[False] == orders[None]
    assert "order.consume_once=true has no effect: the mix decides how often each row is drawn" in caplog.text


def test_rows_that_wait_are_no_part_of_the_round():
    round = around(4, 3, columns={"q": [0, 1, 2, 3]}, trained=np.array([5, 0, 5, 0]))
    once = Ordered(Random(), Sorting(score="column", column="q", consume_once=True))
    picked = Random().select(round)
    subset = checked(once.select(round), round, "random")
    fresh = [row for row in picked.ids.tolist() if row % 2]
    assert subset.ids.tolist() == fresh and set(subset.order) == set(fresh)


def test_another_class_is_refused():
    cfg = OmegaConf.create(
        {"selector": {"_target_": "near.selection.selectors.full.Full"}, "order": {"_target_": "builtins.dict"}}
    )
    with pytest.raises(UserError, match=r"order._target_=builtins.dict is not an order; its class must inherit"):
        ordered_selector_of(cfg)
    del cfg.order
    assert isinstance(ordered_selector_of(cfg), Full)

"""Selectors by loss: groups and windows by hand, and drawing as often as the weights say."""

import numpy as np
import pytest

from near.common.errors import UserError
from near.selection.selectors.delta_loss import DeltaLoss, window
from near.selection.selectors.loss import Loss
from tests.scored import ROWS, FakeScorer, round_for

LOSSES = np.arange(ROWS, dtype=float)[::-1]  # row 0 has the highest


@pytest.mark.parametrize(("focus", "rows"), [("high", range(0, 4)), ("medium", range(4, 8)), ("low", range(8, 12))])
def test_the_group_in_focus_is_drawn_more_often(focus, rows):
    """Weight 5 against 1: of first draws 5 x 4 of 28 for the focus group."""
    hits = 0
    for seed in range(1000):
        subset = Loss(focus=focus).select(round_for(FakeScorer([LOSSES]), 1, seed=seed))
        assert subset.scores[0] == LOSSES[subset.ids[0]]
        hits += subset.ids[0] in rows
    assert abs(hits - 1000 * 20 / 28) < 5 * (1000 * 20 / 28 * 8 / 28) ** 0.5


def test_temperature_and_weight():
    """A very low temperature leaves the focus group alone; equal losses are all low."""
    subset = Loss(temperature=0.01).select(round_for(FakeScorer([LOSSES]), 4))
    assert set(subset.ids) == {0, 1, 2, 3}
    subset = Loss(focus="low", temperature=0.01).select(round_for(FakeScorer([np.ones(ROWS)]), ROWS))
    assert sorted(subset.ids) == list(range(ROWS))


def test_draws_are_seeded_and_new_in_each_round():
    first, again = (Loss().select(round_for(FakeScorer([LOSSES]), 6)).ids for _ in range(2))
    other = Loss().select(round_for(FakeScorer([LOSSES]), 6, seed=1)).ids
    later = Loss().select(round_for(FakeScorer([LOSSES]), 6, index=2)).ids
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist() and first.tolist() != later.tolist()


@pytest.mark.parametrize("options", [{"quantiles": [0.5]}, {"quantiles": [0.9, 0.1]}])
def test_bad_options_are_refused(options):
    with pytest.raises(UserError, match="selector"):
        Loss(**options)


def test_windows_of_the_rounds():
    """The seed system's: sigmoid(10 (t - 1/2)) of the way, t = 1 in the last round."""
    windows = [window(update, 4, 100, 0.2) for update in (1, 2, 3)]
    expected = [80 / (1 + np.exp(-10 * (t - 0.5))) for t in (1 / 3, 2 / 3, 1)]
    assert windows == [(int(w), int(w + 20)) for w in expected]
    assert window(1, 2, 100, 0.2)[0] == 79
    assert window(1, 1, 10, 0.2) == window(1, 2, 10, 0.2)  # one round alone never asks, and does not divide by zero


def test_first_random_then_by_the_drop():
    before, now = np.full(ROWS, 2.0), np.full(ROWS, 2.5)
    now[[3, 7]] = [1.0, 0.5]  # two rows have improved
    selector, scorer = DeltaLoss(window_size=1.0), FakeScorer([before, now, now])
    first = selector.select(round_for(scorer, 5, updates=3))
    assert len(first.ids) == 5 and first.scores is None
    hits = np.zeros(ROWS)
    for seed in range(300):
        again = DeltaLoss(window_size=1.0)
        again.load_state_dict(selector.state_dict())
        subset = again.select(round_for(FakeScorer([now]), 2, seed=seed, index=1, update=1, updates=3))
        hits[subset.ids] += 1
        assert subset.scores.tolist() == [float(before[i] - now[i]) for i in subset.ids]
    assert hits[[3, 7]].min() > 240  # weight 1 each against 0.025 for each of the ten others


def test_no_row_has_improved_every_row_is_as_likely():
    selector = DeltaLoss()
    selector.select(round_for(FakeScorer([np.zeros(ROWS)]), 2, updates=2))
    hits = np.zeros(ROWS)
    for seed in range(1200):
        subset = selector.select(round_for(FakeScorer([np.ones(ROWS)]), 1, seed=seed, update=1, updates=2))
        hits[subset.ids] += 1
    assert np.abs(hits - 100).max() < 50


def test_a_single_round_is_random():
    subset = DeltaLoss().select(round_for(FakeScorer([LOSSES]), 5, updates=1))
    assert len(set(subset.ids.tolist())) == 5


def test_the_first_losses_survive_a_restart():
    old, scorer = DeltaLoss(), FakeScorer([LOSSES, LOSSES[::-1]])
    old.select(round_for(scorer, 5, updates=2))
    new = DeltaLoss()
    new.load_state_dict(old.state_dict())
    later = {"index": 1, "update": 1, "updates": 2}
    expected = old.select(round_for(scorer, 5, **later)).ids
    np.testing.assert_array_equal(new.select(round_for(FakeScorer([LOSSES[::-1]]), 5, **later)).ids, expected)
    assert DeltaLoss().state_dict() == {}

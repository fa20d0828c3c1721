"""Which steps belong to which round, by hand."""

import pytest

from near.training.rounds.schedule import Schedule


def test_the_documented_schedule():
    schedule = Schedule(4, 6, 3)
    assert [(r.start, r.steps, r.warmup) for r in schedule.rounds()] == [
        (0, 4, True),
        (4, 6, False),
        (10, 6, False),
        (16, 6, False),
    ]
    assert (schedule.total, schedule.slice_steps) == (22, 2)


@pytest.mark.parametrize(
    ("parts", "total", "slice_steps"),
    [((400, 500, 2), 1400, 100), ((0, 6, 3), 18, 6), ((10, 7, 1), 17, 1), ((5, 3, 0), 5, 5), ((4, 4, 1, 3), 24, 4)],
)
def test_totals(parts, total, slice_steps):
    schedule = Schedule(*parts)
    assert (schedule.total, schedule.slice_steps) == (total, slice_steps)


@pytest.mark.parametrize("parts", [(4, 6, 3), (0, 5, 2), (3, 2, 2, 4), (5, 1, 0, 2), (10, 7, 3, 2)])
def test_at_agrees_with_the_list(parts):
    schedule = Schedule(*parts)
    rounds = schedule.rounds()
    assert sum(r.steps for r in rounds) == schedule.total
    for phase in rounds:
        assert phase.start % schedule.slice_steps == 0
        assert phase.steps % schedule.slice_steps == 0
        for step in range(phase.start, phase.start + phase.steps):
            assert schedule.at(step) == phase

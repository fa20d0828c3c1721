"""The time of many rows from a few, on a clock that the test turns."""

import numpy as np
import pytest

from near.common.batches import padded, spread
from near.common.timing import MARGIN, Rate, measured, peak_memory


class Clock:
    """Seconds pass only by `spend`."""

    def __init__(self, memory=100):
        self.now, self.memory, self.spans = 0.0, memory, []

    def spend(self, seconds):
        self.now += seconds

    def start(self):
        self._started = self.now

    def stop(self):
        self.spans.append(self.now - self._started)
        return self.spans[-1], self.memory


@pytest.mark.parametrize(
    ("row_seconds", "most", "calls"),
    [
        (0.5, 100, [4, 4, 8]),  # warm-up, 2 s, 4 s: enough
        (0.001, 20, [4, 4, 8, 16, 20]),  # all rows
        (9.0, 100, [4, 4]),
        (1.0, 2, [2, 2]),
    ],
)
def test_calls_grow_until_one_is_long_enough_or_has_all_rows(row_seconds, most, calls):
    clock, made = Clock(), []

    def work(rows):
        made.append(rows)
        clock.spend(rows * row_seconds)
        return 10 * rows

    rate = measured(work, most, clock)
    assert made == calls and rate.rows == calls[-1] and rate.memory == 100
    assert rate.each == pytest.approx(row_seconds / 10)
    assert (rate.low, rate.high) == pytest.approx((rate.each * (1 - MARGIN), rate.each * (1 + MARGIN)))


def test_the_first_call_does_not_count_and_the_last_two_are_the_range():
    clock, seconds = Clock(), iter([99.0, 2.0, 8.0])  # of the first call; of 4 rows; of 8

    def work(rows):
        clock.spend(next(seconds))
        return rows

    rate = measured(work, 100, clock)
    assert (rate.each, rate.low, rate.high) == pytest.approx((1.0, 0.5, 1.15))
    assert rate.seconds(10, fixed=3.0) == pytest.approx({"seconds": 13.0, "low": 8.0, "high": 14.5})


def test_rates_that_others_bound():
    rate = Rate.between(2.0, [1.0, 4.0], 5, 6)
    assert (rate.low, rate.high) == (1.0, 4.0)


def test_a_sample_stands_for_all_lengths():
    lengths = np.arange(100, 0, -1)
    assert lengths[spread(lengths, 5)].tolist() == [11, 31, 51, 71, 91]
    assert lengths[spread(lengths, 5)].mean() == pytest.approx(lengths.mean(), abs=1)
    assert sorted(spread(lengths, 100)) == list(range(100))


def test_padding_counts():
    assert padded(np.array([5, 5, 5]), size=2) == 15
    assert padded(np.array([1, 9]), size=2, tokens=10) == 10  # a batch each


def test_memory_of_this_process():
    assert peak_memory() > 10_000_000

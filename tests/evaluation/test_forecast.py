"""Forecasts before the training: gains by hand, no outcome of a target in its own forecast, calibration."""

import numpy as np
import pytest

from near.evaluation.forecast import BANDS, Cell, band, brier, calibration, earlier, gain, left_out, probabilities


def cells(gains, better, targets):
    known = zip(gains, better, targets, strict=True)
    return [Cell(target=t, selection="s", gain=float(g), difference=-0.1, better=bool(b)) for g, b, t in known]


def simulated(rng, targets=40, each=6):
    """Cells whose chance to be better is 1 / (1 + exp(-(4 gain - 4)))."""
    gains = rng.uniform(0, 2, targets * each)
    better = rng.random(len(gains)) < 1 / (1 + np.exp(4 - 4 * gains))
    return cells(gains, better, np.repeat([f"t{i}" for i in range(targets)], each))


def test_gain_by_hand():
    """Random rows 1, 2, 3: their standard deviation is 1, their mean 2. Selected rows 4, 6: 5."""
    gained, error = gain(np.array([4.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert gained == 3 and error == pytest.approx(np.sqrt(2 / 2 + 1 / 3))
    assert gain(np.array([5.0]), np.array([1.0, 2.0, 3.0])) == (3, pytest.approx(np.sqrt(1 / 3)))


def test_a_probability_grows_with_the_gain():
    of = probabilities(cells([0, 0.1, 0.9, 1.0, 0.5, 0.6], [0, 0, 1, 1, 0, 1], "aabbcc"), [-1, 0, 0.5, 1, 9])
    assert np.all(np.diff(of) > 0) and 0 < of[0] and of[-1] < 1
    assert probabilities(cells([0, 1], [1, 1], "ab"), [0, 5]).tolist() == [0.75, 0.75]


def test_a_target_is_forecast_by_the_others_alone():
    of = cells([0, 1, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1], "aabbcc")
    turned = [*cells([0, 1], [1, 0], "aa"), *of[2:]]
    before, after = left_out(of), left_out(turned)
    assert np.array_equal(before[0][:2], after[0][:2]) and np.array_equal(before[1][:2], after[1][:2])
    assert not np.allclose(before[0][2:], after[0][2:])
    assert before[1].tolist() == [0.5] * 6


def test_informed_forecasts_beat_the_base_rate_and_are_calibrated():
    of = simulated(np.random.default_rng(0))
    better = np.array([cell.better for cell in of])
    forecasts, rates = left_out(of)
    assert brier(forecasts, better) < brier(rates, better) - 0.05
    assert brier(better.astype(float), better) == 0
    for (low, high), (like, came_true) in zip(zip(BANDS, BANDS[1:], strict=False), calibration(of), strict=True):
        assert like and low - 0.12 < came_true / like < high + 0.12
    assert sum(like for like, _ in calibration(of)) == len(of)


def test_forecasts_without_a_relation_do_not_beat_the_base_rate():
    """Outcomes are shuffled: over 50 draws the base rate is better on average."""
    rng, gained = np.random.default_rng(1), []
    of = simulated(rng, 10)
    for _ in range(50):
        shuffled = cells([c.gain for c in of], rng.permutation([c.better for c in of]), [c.target for c in of])
        forecasts, rates = left_out(shuffled)
        better = np.array([cell.better for cell in shuffled])
        gained.append(brier(rates, better) - brier(forecasts, better))
    assert np.mean(gained) < 0


@pytest.mark.parametrize(("probability", "number"), [(0, 0), (0.2499, 0), (0.25, 1), (0.5, 2), (0.99, 3), (1, 3)])
def test_bands(probability, number):
    assert band(probability) == number


def test_the_cells_that_near_forecasts_by():
    """What docs/evidence.md says of them: on targets that a forecast has not seen it beats the base rate."""
    of = earlier()
    better = np.array([cell.better for cell in of])
    forecasts, rates = left_out(of)
    assert len({cell.target for cell in of}) >= 10 and 0 < better.mean() < 1
    assert brier(forecasts, better) < brier(rates, better)
    assert np.all(np.diff(probabilities(of, [-1.0, 0.0, 1.0, 2.0])) > 0)

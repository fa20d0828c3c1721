"""Who is surely behind, by hand, and how often the best one is stopped by mistake."""

import numpy as np
import pytest
from scipy.stats import t

from near.evaluation.intervals import over_pairs, over_seeds
from near.evaluation.racing import Gap, gaps, leader_of, level_of, level_of_verdict

TOKENS = np.array([2.0, 2.0])


def sums(*means: float) -> np.ndarray:
    """Losses of one seed a row, the same on two examples of two tokens."""
    return np.array([[2 * mean, 2 * mean] for mean in means])


def test_the_gap_to_the_leader_by_hand():
    """Means by seed: a 1 and 2, b 2 and 4, c 3 and 4. Without the means of selections and seeds 1/6 and -1/6 are left
    of a, -1/3 and 1/3 of b, 1/6 and -1/6 of c. Their squares add up to 1/3, with (3 - 1)(2 - 1) = 2 degrees of
    freedom."""
    found = gaps({"a": sums(1, 2), "b": sums(2, 4), "c": sums(3, 4)}, TOKENS, 0.9)
    assert list(found) == ["b", "c"]
    assert (found["b"].mean, found["c"].mean) == (pytest.approx(1.5), pytest.approx(2.0))
    pooled = 2 * (1 / 3) / 2
    quantile = t.ppf(0.95, 2)
    # c's own differences, 2 and 2, do not vary; b's, 1 and 2, vary by 1/2, more than the pooled 1/3
    half = quantile * (pooled / 2) ** 0.5
    assert found["c"].interval == pytest.approx((2 - half, 2 + half))
    assert found["b"].interval == pytest.approx((1.5 - quantile / 2, 1.5 + quantile / 2))


def test_it_spans_the_interval_over_examples():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 20)), rng.normal(size=(2, 3, 20)) + 1
    lowest, other = first[0], first[0] + 1 + second[0] * 0.5
    (gap,) = gaps({"a": lowest, "b": other}, np.ones(20), 0.99).values()
    over = over_pairs((other - lowest).mean(axis=0), np.ones(20), level=0.99)
    assert gap.interval[0] <= over[0] and over[1] <= gap.interval[1]


def test_random_rows_do_not_widen_it_unless_they_lead():
    values = {"a": sums(1, 1.1), "b": sums(2, 2.0), "random": sums(3, 9)}
    apart = frozenset({"random"})
    narrow, wide = (gaps(values, TOKENS, 0.9, of)["b"].interval for of in (apart, frozenset()))
    assert wide[0] < narrow[0] and narrow[1] < wide[1]
    values["random"] = sums(0, 0.5)
    assert leader_of(values) == "random"
    assert gaps(values, TOKENS, 0.9, apart) == gaps(values, TOKENS, 0.9)


def test_one_seed_is_not_enough():
    found = gaps({"a": sums(1), "b": sums(9)}, TOKENS, 0.9)
    assert found == {"b": Gap(8.0, None)} and not found["b"].behind()


def test_behind():
    assert Gap(0.5, (0.1, 0.9)).behind() and not Gap(0.5, (-0.1, 0.9)).behind()
    assert Gap(0.0, (-0.01, 0.01)).behind(margin=0.02)


def test_levels():
    assert level_of(0.05, looks=4, comparisons=5) == pytest.approx(0.995)
    assert level_of_verdict(1) == 0.95 and level_of_verdict(3) == pytest.approx(1 - 0.05 / 3)


def test_another_level_has_the_width_of_its_quantile():
    values = np.array([0.1, 0.4, 0.2])
    narrow, wide = over_seeds(values), over_seeds(values, 0.99)
    ratio = t.ppf(0.995, 2) / t.ppf(0.975, 2)
    assert wide[1] - wide[0] == pytest.approx(ratio * (narrow[1] - narrow[0]))
    differences = np.random.default_rng(0).normal(size=12)
    narrow, wide = over_pairs(differences, np.ones(12)), over_pairs(differences, np.ones(12), level=0.99)
    ratio = t.ppf(0.995, 11) / t.ppf(0.975, 11)
    assert wide[1] - wide[0] == pytest.approx(ratio * (narrow[1] - narrow[0]))


def test_the_best_one_is_hardly_stopped_by_mistake():
    """Of 200 looks at four equal selections: in at most alpha of them it is, here of one look."""
    stopped = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        values = {str(i): rng.normal(0, 0.3, (2, 1)) + rng.normal(size=(2, 12)) for i in range(4)}
        found = gaps(values, np.ones(12), level_of(0.05, 1, 3), resamples=200)
        stopped += "0" in found and found["0"].behind()
    assert stopped <= 10

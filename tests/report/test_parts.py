"""selector=quantile and selector=left_out in the report, by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from near.common.correlation import correlation_interval, rank_correlation
from near.report import left_out, quantiles, verdict
from near.report.runs import collect
from tests.report.test_targets import groups, run

QUANTILE, LEFT_OUT = ("near.selection.selectors.parts." + name for name in ("Quantile", "LeftOut"))


def ranked(root: Path, losses: list[list[float]], of: str = "near", target: str = "sort-0") -> None:
    """A run for each quantile and seed."""
    for quantile, of_seeds in enumerate(losses, 1):
        for seed, loss in enumerate(of_seeds, 1):
            chosen = {"of": of, "quantile": quantile, "quantiles": len(losses)}
            folder = run(root / of, "quantile", target, seed, loss, chosen)
            _retarget(folder, QUANTILE)


def _retarget(folder: Path, target: str) -> None:
    path = folder / "train_metrics.json"
    record = json.loads(path.read_text())
    record["identity"]["config"]["selector"]["_target_"] = target
    path.write_text(json.dumps(record))


def test_a_curve_that_rises(tmp_path):
    ranked(tmp_path, [[1.0, 1.2], [1.1, 1.3], [1.3, 1.5], [1.2, 1.4], [1.6, 1.8]])
    ranked(tmp_path, [[1.3], [1.2], [1.1], [1.0], [0.9]], of="less")
    by = {curve.of: curve for curve in quantiles.curves_of(groups(tmp_path))}
    near, less = by["near"], by["less"]
    assert near.losses.shape == (5, 2) and near.losses[0].tolist() == [1.0, 1.2]
    assert near.correlation == pytest.approx(1 - 6 * 2 / (5 * 24))  # the third and fourth exchanged
    assert near.verdict == "too few quantiles"
    assert less.correlation == pytest.approx(-1.0)
    assert less.interval[0] == pytest.approx(-1.0)
    heads, cells = quantiles.table([near])
    row = dict(zip(heads, cells[0], strict=True))
    assert (row["ranked by"], row["quantiles"], row["seeds"]) == ("near", "5", "2")
    assert (row["best"], row["worst"]) == ("1.1000", "1.7000")


def test_ten_quantiles_in_order_show_it_and_only_seeds_of_all_quantiles_count(tmp_path):
    ranked(tmp_path, [[1 + q / 10, 2.0] for q in range(10)])
    next(iter((tmp_path / "near").glob("quantile-sort-0-2-*quantile4*"))).joinpath("metrics.json").unlink()
    (curve,) = quantiles.curves_of(groups(tmp_path))
    assert curve.losses.shape == (10, 1)
    assert curve.correlation == pytest.approx(1.0)
    assert curve.verdict == "better ranks are better rows"


def test_quantiles_that_are_level_have_no_order(tmp_path):
    ranked(tmp_path, [[1.0]] * 6)
    (curve,) = quantiles.curves_of(groups(tmp_path))
    assert curve.correlation == 0.0 and curve.verdict == "no order shown"


def test_rank_correlations_and_their_intervals():
    assert rank_correlation(np.arange(4), np.array([3.0, 1.0, 2.0, 4.0])) == pytest.approx(0.4)
    low, high = correlation_interval(0.5, 23)
    half = 1.959964 * np.sqrt((1 + 0.125) / 20)
    assert (low, high) == pytest.approx((np.tanh(np.arctanh(0.5) - half), np.tanh(np.arctanh(0.5) + half)))
    assert correlation_interval(0.9, 3) is None
    assert correlation_interval(1.0, 10)[1] == 1.0 > correlation_interval(1.0, 10)[0] > 0.9


@pytest.mark.parametrize("true", [0.0, 0.6])
def test_the_interval_of_a_rank_correlation_has_its_coverage(true):
    """Bivariate normal values; Spearman's is then (6 / pi) arcsin(r / 2)."""
    rng, spearman = np.random.default_rng(3), 6 / np.pi * np.arcsin(true / 2)
    inside = 0
    for _ in range(1000):
        x = rng.normal(size=20)
        y = true * x + np.sqrt(1 - true**2) * rng.normal(size=20)
        low, high = correlation_interval(rank_correlation(x, y), 20)
        inside += low <= spearman <= high
    assert inside / 1000 == pytest.approx(0.95, abs=0.025)


def left(root: Path, without: str, seed: int, loss: float, draw: int = 0, scores: list | None = None) -> None:
    chosen = {"of": "near", "without": without, "count": 0.25, "draw": draw}
    folder = run(root, "left_out", "sort-0", seed, loss, chosen)
    _retarget(folder, LEFT_OUT)
    if scores is not None:
        (folder / "rounds").mkdir()
        lines = [
            {"round": 0, "selector": "warm-up", "step": 0, "rows": 2},
            {"round": 1, "selector": "near", "step": 2, "rows": 2},
        ]
        (folder / "rounds" / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        np.save(folder / "rounds" / "001_scores.npy", np.array(scores, dtype=np.float32))


def test_what_the_best_rows_were_worth(tmp_path):
    for seed, noise in ((1, 0.0), (2, 0.02), (3, -0.02)):
        left(tmp_path, "nothing", seed, 1.0 + noise)
        left(tmp_path, "best", seed, 1.5 + noise)
        left(tmp_path, "random", seed, 1.1 + noise, draw=0)
        left(tmp_path, "random", seed, 1.3 + 2 * noise, draw=1)
    (worth,) = left_out.worths_of(groups(tmp_path))
    assert worth.of == "near" and worth.count == "0.25"
    assert worth.loss == pytest.approx([0.3, 0.3 - 0.01, 0.3 + 0.01])  # the mean of both draws
    assert worth.whole == pytest.approx([1.0, 1.02, 0.98])
    assert worth.verdict == "the best rows are worth more"
    heads, (cells,) = left_out.table([worth])
    row = dict(zip(heads, cells, strict=True))
    half = t.ppf(0.975, 2) * 0.01 / np.sqrt(3)
    assert row["difference"] == f"+0.3000 [{0.3 - half:+.4f}, {0.3 + half:+.4f}]"
    assert row["scores add up"] == "-"


def test_scores_that_add_up(tmp_path, capsys):
    for draw in range(6):
        left(tmp_path, "half", 1, 2.0 - draw / 10, draw=draw, scores=[0.5, draw / 10])
        left(tmp_path, "half", 2, 2.0 + (draw - 2.5) ** 2, draw=draw, scores=[0.5, draw / 10])
    (worth,) = left_out.worths_of(groups(tmp_path))
    assert worth.halves[0] == pytest.approx(1.0) and abs(worth.halves[1]) < 0.2
    assert worth.draws == 6 and worth.count is None
    verdict.show(collect(tmp_path)[0])
    shown = capsys.readouterr().out
    assert "scores add up" in shown
    assert "Of parts of a selection: near: its scores add up to +0.5" in shown


def test_too_few_halves_give_no_score(tmp_path):
    for draw in range(3):
        left(tmp_path, "half", 1, 2.0 - draw / 10, draw=draw, scores=[0.5, draw / 10])
    assert left_out.worths_of(groups(tmp_path)) == []


def test_other_runs_are_neither(tmp_path):
    run(tmp_path, "near", "sort-0", 1, 1.0)
    assert quantiles.curves_of(groups(tmp_path)) == [] == left_out.worths_of(groups(tmp_path))


def test_rankings_of_one_selector_are_told_apart(tmp_path):
    for similarity in ("bm25", "embeddings"):
        for quantile in (1, 2, 3):
            chosen = {"of": "near", "quantile": quantile, "quantiles": 3}
            typed = [f"similarity={similarity}", f"selector.quantile={quantile}"]
            folder = run(tmp_path / similarity, "quantile", "sort-0", 1, 1.0 + quantile, chosen, typed=typed)
            _retarget(folder, QUANTILE)
            record = json.loads((folder / "train_metrics.json").read_text())
            record["identity"]["config"]["similarity"] = similarity
            (folder / "train_metrics.json").write_text(json.dumps(record))
    found = quantiles.curves_of(groups(tmp_path))
    assert [(curve.of, len(curve.quantiles)) for curve in found] == [
        ("near similarity=bm25", 3),
        ("near similarity=embeddings", 3),
    ]


def test_rows_without_a_score_give_no_sum(tmp_path):
    for draw in range(5):
        left(tmp_path, "half", 1, 2.0 - draw / 10, draw=draw, scores=[0.5, float("nan")])
    assert left_out.worths_of(groups(tmp_path)) == []

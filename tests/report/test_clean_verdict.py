"""The verdict on the evaluated rows that no row of the pool resembles, and what a comparison could have shown."""

import json
import re

import pytest

from near.report.compare import NOTHING, beside_random, contaminated, groups_of
from near.report.record import record
from near.report.runs import collect
from near.report.sensitivity import power_of
from near.report.verdict import answer, notes
from tests.report.test_compare import ROWS, run


def overlap(row: int, held_out_row: int, left_out: bool = False, set: str = "eval") -> dict:
    kind = {"kind": "13-gram", "part": "prompt", "share": 0.5, "words": "a b", "left_out": left_out}
    return {"row": row, "set": set, "held_out_row": held_out_row, **kind}


def mark(folder, *overlaps: dict) -> None:
    (folder / "contaminated.jsonl").write_text("".join(json.dumps(one) + "\n" for one in overlaps))


@pytest.fixture()
def leaky(tmp_path):
    """Selections that are 0.4 below random rows on examples 0 to 4, and equal to them on the 25 others."""
    for seed, noise in ((1, 0.0), (2, 0.01), (3, -0.01)):
        for selector in ("near", "random"):
            run(tmp_path, selector, seed, 0.9, evaluated_on="eval")
        path = tmp_path / f"near-10-{seed}" / "answers.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for i, row in enumerate(rows[:ROWS]):
            row["loss"] += (-0.4 if i < 5 else 0.0) + noise + (0.01 if i % 2 else -0.01)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        metrics = json.loads((path.parent / "metrics.json").read_text())
        metrics["target_loss"] += -0.4 * 5 / ROWS + noise
        (path.parent / "metrics.json").write_text(json.dumps(metrics))
    return tmp_path


def test_rows_that_were_left_out_contaminate_nothing(leaky):
    mark(leaky / "near-10-1", overlap(7, 0), overlap(8, 1, left_out=True), overlap(9, 2, set="benchmarks.law"))
    groups = groups_of(collect(leaky)[0])
    assert contaminated(groups[0], groups) == contaminated(groups[1], groups) == {0}


def test_the_difference_without_contaminated_rows(leaky):
    mark(leaky / "random-10-2", *(overlap(30 + i, i) for i in range(5)))
    near, random = sorted(groups_of(collect(leaky)[0]), key=lambda g: g.label)
    difference = beside_random(near, random, contaminated(near, [near, random]))
    assert difference.mean == pytest.approx(0.01 / 25, abs=1e-9) and difference.verdict == NOTHING
    assert difference.design.examples == 25
    text = answer(collect(leaky)[0])
    assert re.search(
        r"Without the 5 of the 30 evaluated rows that a row of the pool resembles: no difference shown with near \(",
        text,
    )


def test_no_word_of_it_where_nothing_is_contaminated(leaky):
    assert "resemble" not in answer(collect(leaky)[0])
    mark(leaky / "near-10-1")
    assert "resemble" not in answer(collect(leaky)[0])


def test_no_row_is_left(leaky):
    mark(leaky / "near-10-1", *(overlap(1, i) for i in range(ROWS)))
    assert "Rows of the pool resemble 30 of the 30 evaluated rows: there is no verdict without" in answer(
        collect(leaky)[0]
    )


def test_no_losses_of_single_rows(leaky):
    mark(leaky / "near-10-1", overlap(1, 1))
    (leaky / "near-10-2" / "answers.jsonl").unlink()
    assert "resemble 1 of the 30 evaluated rows: there is no verdict" in answer(collect(leaky)[0])


def test_what_the_seeds_and_examples_would_show(leaky):
    (line,) = [note for note in notes(collect(leaky)[0]) if "power" in note]
    assert re.fullmatch(
        r"near: 3 seeds and 30 examples would show a difference of 0\.\d{4} \(80% power, two-sided 5%\).*\.", line
    )


def test_how_many_would_show_the_difference_seen(tmp_path):
    for seed, noise in ((1, 0.3), (2, -0.2), (3, 0.0)):
        run(tmp_path, "near", seed, 0.8 + noise)
        run(tmp_path, "random", seed, 0.9)
    near, random = sorted(groups_of(collect(tmp_path)[0]), key=lambda g: g.label)
    difference = beside_random(near, random)
    assert difference.verdict == NOTHING
    seeds = difference.design.seeds_for(difference.mean)
    assert 10 < seeds < 200 and f"the {difference.mean:+.4f} seen would take about {seeds} seeds." in power_of(
        difference
    )


@pytest.mark.parametrize(
    ("seeds", "start"), [(1, None), (2, "2 seeds can't give a verdict; 3 seeds and 30 examples would")]
)
def test_too_few_seeds(tmp_path, seeds, start):
    for seed in range(seeds):
        run(tmp_path, "near", seed, 0.8 + 0.1 * seed)
        run(tmp_path, "random", seed, 0.9)
    line = [note for note in notes(collect(tmp_path)[0]) if "power" in note]
    assert [note.startswith(f"near: {start}") for note in line] == ([True] if start else [])


def test_one_seed_tells_about_itself_alone(leaky):
    for folder in leaky.glob("*-10-[23]"):
        (folder / "metrics.json").unlink()
    (line,) = [note for note in notes(collect(leaky)[0]) if "power" in note]
    assert line.startswith("near: 1 seed can't give a verdict; 1 seed and 30 examples would show a difference of ")
    assert line.endswith("of that seed, whatever others give.")


def test_the_record_for_programs(leaky):
    mark(leaky / "near-10-1", *(overlap(30 + i, i) for i in range(5)))
    (near,) = [one for one in record(collect(leaky)[0])["selections"] if one["selection"] == "near"]
    assert near["seeds"] == [1, 2, 3] and near["contaminated_rows"] == [0, 1, 2, 3, 4]
    assert near["vs_random"]["verdict"] == "better" or near["vs_random"]["smallest"] > 0
    assert near["vs_random_without_them"]["mean"] == pytest.approx(0.01 / 25, abs=1e-9)
    assert near["vs_random_without_them"]["verdict"] == NOTHING
    json.dumps(near, allow_nan=False)

"""The table and the page over runs that are finished, unfinished or damaged."""

import json
from pathlib import Path

import numpy as np
import pytest

from near.app.check.check import read_run_config
from near.common.errors import UserError
from near.common.files import digest
from near.common.locks import lock_file, locked
from near.report.compare import groups_of
from near.report.page.charts import all_charts, curve, differences, source_colours
from near.report.page.page import page
from near.report.page.parts import gathered
from near.report.page.settings import compared
from near.report.page.taken import overlaps, taken
from near.report.runs import collect
from near.report.standing import standings
from near.report.tables import cells, notes, run_table
from tests.conftest import configured, report

METRICS = {
    "rows": 10,
    "tokens": 90,
    "eval_fingerprint": "e",
    "answers_right": 4,
    "target_loss": 0.5,
    "seed": 1,
    "model": "x/tiny",
}
BASE = {**METRICS, "target_loss": 2.0, "answers_right": 0, "seed": None}


def html(root: Path) -> str:
    """The page over the finished runs below `root`."""
    cfg, runs = configured("report", f"runs={root}"), collect(root)[0]
    groups = groups_of(runs)
    return page(cfg, runs, groups, root, [], gathered(cfg, groups, read_run_config))


def run(folder: Path, selector: str, loss: float, **more) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("a: 1")
    rounds = [{"round": 0, "selector": selector, "step": 0, "rows": 3}]
    rounds[0]["sources"] = {"<script>alert(1)</script>": 2, "law": 1}
    (folder / "rounds").mkdir()
    (folder / "rounds" / "rounds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rounds))
    training = {"distinct_rows": 3, "train_seconds": 1.25, "select_seconds": 0.5, "history": [{"step": 1, "loss": 3.0}]}
    (folder / "train_metrics.json").write_text(json.dumps(training))
    metrics = {**METRICS, "selector": selector, "target_loss": loss, "base": BASE, **more}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_the_base_model_is_always_a_row(tmp_path):
    run(tmp_path / "b", "random", 0.9)
    run(tmp_path / "a", "near", 0.7)
    runs, unfinished = collect(tmp_path)
    assert [(r.selector, r.metrics.target_loss) for r in runs] == [("base", 2.0), ("near", 0.7), ("random", 0.9)]
    assert cells(runs[1], tmp_path) == ["near", "1", "a", "tiny", "0.7000", "4/10", "3", "1.2", "0.5"]
    assert unfinished == []


def test_an_evaluated_model_is_the_base_only_where_a_run_began_from_it(tmp_path):
    run(tmp_path / "a", "near", 0.7)
    for name, model, loss in (("base", "x/tiny", 2.0), ("merged", "out/merged", 0.7)):
        (tmp_path / name).mkdir()
        metrics = {**BASE, "selector": None, "model": model, "target_loss": loss}
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    runs, _ = collect(tmp_path)
    assert [(r.selector, cells(r, tmp_path)[2:4]) for r in runs] == [
        ("base", ["base", "tiny"]),
        ("model", ["merged", "merged"]),
        ("near", ["a", "tiny"]),
    ]


def test_the_table_and_the_page(tmp_path, capsys):
    run(tmp_path / "selector-near", "near", 0.7)
    (tmp_path / "started").mkdir()
    (tmp_path / "started" / "config.yaml").write_text("a: 1")
    report(configured("report", f"runs={tmp_path}"), tmp_path)
    shown = capsys.readouterr().out
    assert "0.7000" in shown
    assert "base" in shown
    assert "started: started but not finished" in shown
    text = (tmp_path / "report.html").read_text()
    assert "0.7000" in text
    assert "<script>alert(1)</script>" not in text  # text from the data is data
    assert "&lt;script&gt;alert(1)" in text
    assert "No map, no queries and no labels: no run records which pool it selected from." in text
    for outside in ('src="http', "src='http", '<link rel="stylesheet" href="http'):
        assert outside not in text  # opens without a network


@pytest.mark.parametrize("name", ["eval_fingerprint", "columns_fingerprint"])
def test_what_a_reader_must_know(tmp_path, name):
    run(tmp_path / "a", "near", 0.7, selection_saw_them=True)
    run(tmp_path / "b", "random", 0.7, **{name: "other"})
    runs, unfinished = collect(tmp_path)
    text = " ".join(notes(runs, standings(tmp_path, unfinished)))
    assert "which selection saw" in text
    assert "different rows" in text


def test_answers_that_contain_nothing_to_grade(tmp_path):
    scores = {"number": {"mean": 0.2, "graded": 10, "no_answer": 3}, "exact": {"mean": 0.4, "no_answer": 0}, "old": {}}
    run(tmp_path / "a", "near", 0.7, scores=scores)
    [_, graded] = collect(tmp_path)[0]
    assert "4/10 (no answer: number 3)" in cells(graded, tmp_path)


def test_an_answerless_run_shows_a_dash(tmp_path):
    run(tmp_path / "a", "near", 0.7, answers_right=None, base=None)
    runs, _ = collect(tmp_path)
    assert cells(runs[0], tmp_path)[5] == "-"
    assert "<td>-</td>" in html(tmp_path)


def test_the_model_is_a_column_where_there_are_several(tmp_path):
    run(tmp_path / "a", "near", 0.7)
    assert "model" not in run_table(collect(tmp_path)[0], tmp_path)[0]
    run(tmp_path / "b", "near", 0.7, model="y/other")
    names, rows = run_table(collect(tmp_path)[0], tmp_path)
    assert {row[names.index("model")] for row in rows} == {"tiny", "other"}


def test_bad_input(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        collect(tmp_path / "no")
    with pytest.raises(UserError, match="no metrics.json below it"):
        collect(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")  # another program's
    with pytest.raises(UserError, match="no metrics.json below it"):
        collect(tmp_path)
    (tmp_path / "metrics.json").write_text('{"selector": ')
    with pytest.raises(UserError, match="is damaged"):
        collect(tmp_path)


def test_runs_without_a_result_are_shown_as_what_they_are(tmp_path, cache):
    jobs = tmp_path / ".jobs"
    jobs.mkdir()
    for name, record in {
        "gone": {"state": "failed", "error": "max_K=<9> is more than the 3 candidates"},  # before it wrote anything
        "killed": {"state": "running"},
        "going": {"state": "running"},
        "again": {"state": "failed", "error": "the disk was full"},  # and started once more
        "done": {"state": "done"},
    }.items():
        (jobs / f"{name}.json").write_text(json.dumps(record))
    for name in ("killed", "going", "again"):
        (tmp_path / name / "rounds").mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text(f"cache_dir: {cache}")
        line = {"round": 1, "selector": "near", "step": 8, "rows": 2}
        (tmp_path / name / "rounds" / "rounds.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "killed" / "checkpoints" / "checkpoint-6").mkdir(parents=True)
    locks = [lock_file(cache, f"run-{digest(str((tmp_path / name).resolve()))}") for name in ("going", "again")]
    with locked(locks[0], remove=True), locked(locks[1], remove=True):
        unfinished = {s.name: s for s in standings(tmp_path, collect(tmp_path)[1])}
    assert {name: s.state for name, s in unfinished.items()} == {
        "gone": "failed",
        "killed": "stopped",
        "going": "running",
        "again": "running",
    }
    assert unfinished["gone"].description == "failed: max_K=<9> is more than the 3 candidates"
    assert unfinished["going"].description == "still running, round 1 (near) started at step 8"
    assert unfinished["killed"].description.endswith("at step 8, last checkpoint at step 6")
    report(configured("report", f"runs={tmp_path}"), tmp_path)  # no run has a result yet
    text = (tmp_path / "report.html").read_text()
    assert '<span class="state failed">failed</span>' in text and "max_K=&lt;9&gt;" in text


def test_what_selections_took_and_have_in_common(tmp_path):
    for name, seed, first, second in (("near", 1, [1, 2], [2, 3]), ("near", 2, [9, 2], [3, 4]), ("other", 1, [1], [3])):
        folder = run(tmp_path / f"{name}-{seed}", name, 0.7, seed=seed)
        lines = [{"round": i, "selector": n, "step": i, "rows": 2} for i, n in enumerate(("warm-up", name, name))]
        (folder / "rounds" / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        np.save(folder / "rounds" / "000.npy", np.array([7, 1]))
        np.save(folder / "rounds" / "001.npy", np.array([99]))  # the order says what of a subset was drawn
        np.save(folder / "rounds" / "001_order.npy", np.array(first + first))
        np.save(folder / "rounds" / "002.npy", np.array(second))
    groups = {g.label: g for g in groups_of(collect(tmp_path)[0])}
    rows = taken(groups["near"])
    assert rows.ids.tolist() == [1, 2, 3, 4, 9]
    assert rows.runs.tolist() == [1, 2, 2, 1, 1] and rows.rounds.tolist() == [1, 3, 2, 1, 1]
    assert rows.warmup.tolist() == [7]
    seeds, between, other = overlaps([groups["near"], groups["other"]])[[0, 0, 1], [0, 1, 1]]
    assert seeds == 2 / 5 and between == 2 / 3 and other == 1  # {1, 2, 3} and {2, 3, 4, 9}; {1, 3}
    assert np.isnan(overlaps(list(groups.values()))).sum() == 0


def test_settings_that_differ_stand_side_by_side(tmp_path):
    for name, rate in (("near", 1), ("tsds", 2)):
        folder = run(tmp_path / name, name, 0.7)
        identity = {"config": {"lr": rate, "batch": 4}, "fingerprints": {"candidates": "f00"}}
        training = {"identity": identity, "versions": {"torch": "2"}}
        (folder / "train_metrics.json").write_text(json.dumps(training))
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "overrides.yaml").write_text(f"- selector={name}\n- 'data.x={{a: 1}}'\n")
    settings = compared(groups_of(collect(tmp_path)[0]))
    assert sorted(settings.differing[0][1:]) == ["1", "2"] and settings.differing[0][0] == "lr"
    assert ["batch", "4"] in settings.alike
    assert settings.facts == [["torch version", "2", "all runs"], ["candidates fingerprint", "f00", "all runs"]]
    assert ["near", "python train.py selector=near 'data.x={a: 1}'"] in settings.commands


def test_curves_over_steps_and_seconds(tmp_path):
    folder = run(tmp_path / "a", "near", 0.5)
    training = {"steps": 6, "train_seconds": 4.0, "select_seconds": 1.0, "embed_seconds": 10.0, "search_seconds": 2.0}
    (folder / "train_metrics.json").write_text(json.dumps(training))
    shared = {"selector": "near", "rows": 3}
    lines = [{"round": i, "step": 3 * i, "seconds": 2.5 * i, "target_loss": 2.0 - i, **shared} for i in range(2)]
    (folder / "rounds" / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    one = collect(tmp_path)[0][1]
    assert curve(one, "step") == [(0, 2.0), (3, 1.0), (6, 0.5)]
    assert curve(one, "seconds") == [(0.0, 2.0), (2.5, 1.0), (5.0, 0.5)], "embedding is done once for all"


def three_seeds(root: Path, **by_selector: float) -> list:
    for selector, loss in by_selector.items():
        for seed, noise in ((1, 0.0), (2, 0.003), (3, -0.002)):
            run(root / f"{selector}-{seed}", selector, loss + noise, seed=seed)
    return groups_of(collect(root)[0])


def test_each_selection_stands_beside_random_rows_with_its_interval(tmp_path):
    groups = three_seeds(tmp_path, near=0.5, random=0.9, loss=1.2)
    figure = differences(groups)
    near, loss = figure["data"]
    assert (near["y"], loss["y"]) == (["near"], ["loss"]) and near["x"] == [-0.4] and loss["x"] == [0.3]
    low, high = near["x"][0] - near["error_x"]["arrayminus"][0], near["x"][0] + near["error_x"]["array"][0]
    assert low <= -0.4 <= high < 0
    (zero,) = figure["layout"]["shapes"]
    assert (zero["x0"], zero["x1"]) == (0, 0), "zero is marked"
    assert differences([g for g in groups if g.label != "random"]) is None


def test_a_source_has_one_colour_in_every_picture(tmp_path):
    groups = three_seeds(tmp_path, near=0.5, random=0.9)
    colours = source_colours(groups, ["maths", "law", "poems"])
    assert len(set(colours.values())) == len(colours) == 4, "those of the rounds, and the pool's others"
    charts = all_charts(groups, colours)["sources"]
    for bar in (bar for chart in charts for bar in chart["data"]):
        assert bar["marker"]["color"] == colours[bar["name"].replace("&lt;", "<").replace("&gt;", ">")]


def test_the_page_begins_with_the_answer_the_picture_and_the_numbers(tmp_path):
    three_seeds(tmp_path, near=0.5, random=0.9)
    text = html(tmp_path)
    positions = [
        text.index(part) for part in ('<p id="answer">Yes: ', 'data-charts="differences"', "<th scope", "vs. random")
    ]
    assert positions == sorted(positions)
    assert "less random" not in text and "select s" not in text


def test_settings_of_many_selections_are_grouped_by_value(tmp_path):
    for number, name in enumerate("abcdef"):
        folder = run(tmp_path / name, name, 0.7)
        identity = {"config": {"lr": number % 2}, "fingerprints": {}}
        (folder / "train_metrics.json").write_text(json.dumps({"identity": identity}))
    text = html(tmp_path)
    assert "<td>lr</td><td>0</td><td>a, c, e</td>" in text

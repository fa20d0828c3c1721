"""The table of what each stage of a plan took away."""

import json

from near.report.compare import groups_of
from near.report.runs import collect
from near.report.stages import stage_rows, table
from tests.conftest import configured, report
from tests.report.test_report import run


def planned(folder, seed: int, after: int):
    run(folder, "hierarchical", 0.7, seed=seed)
    first = {"name": "cut", "kind": "filter", "by": "Loss", "acted": True, "rows_before": 60, "rows_after": after}
    draw = {"name": "draw", "kind": "draw", "by": "Random", "acted": True, "rows_before": after, "rows_after": 8}
    stages = [[first, draw], [{**first, "acted": False}, draw]]
    lines = [{"round": 0, "selector": "warm-up", "step": 0, "rows": 3}]
    for index, of in enumerate(stages, 1):
        of = [{**stage, "seconds": 0.5 * seed} for stage in of]
        lines.append({"round": index, "selector": "hierarchical", "step": 4 * index, "rows": 8, "stages": of})
    (folder / "rounds" / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_filter_named_as_the_draw_keeps_its_row(tmp_path):
    planned(tmp_path / "a", 1, 30)
    lines = tmp_path / "a" / "rounds" / "rounds.jsonl"
    lines.write_text(lines.read_text().replace('"name": "cut"', '"name": "draw"'))
    cells = table(stage_rows(groups_of(collect(tmp_path)[0])))[1]
    assert [row[1:6] for row in cells[:2]] == [["1", "draw", "Loss", "60", "30"], ["1", "draw", "Random", "30", "8"]]


def test_rows_by_round_and_stage_over_seeds(tmp_path):
    planned(tmp_path / "a", 1, 30)
    planned(tmp_path / "b", 2, 15)
    run(tmp_path / "c", "random", 0.9)
    groups = groups_of(collect(tmp_path)[0])
    heads, cells = table(stage_rows(groups))
    assert len(heads) == len(cells[0])
    assert [row[1:] for row in cells] == [
        ["1", "cut", "Loss", "60", "22.5", "62%", "0.75"],
        ["1", "draw", "Random", "22.5", "8", "64%", "0.75"],
        ["2", "cut (as before)", "Loss", "60", "22.5", "62%", "0.75"],
        ["2", "draw", "Random", "22.5", "8", "64%", "0.75"],
    ]
    report(configured("report", f"runs={tmp_path}"), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "What each stage of a plan took away" in page and "cut (as before)" in page
    selections = json.loads((tmp_path / "report.json").read_text())["selections"]
    by_name = {one["selection"]: one["stages"] for one in selections}
    assert len(by_name["hierarchical"]) == 4 and by_name["hierarchical"][0]["after"] == 22.5
    assert by_name["random"] == []


def test_how_far_a_selection_is_exact_less(tmp_path, capsys):
    """A mean over two rounds of one seed and one of another, in the terminal, on the page and in report.json."""
    said = [(50, 0.8, [0.7, 0.9]), (100, 0.9, [0.8, 1.0]), (60, 0.7, [0.5, 0.85])]
    for seed, of in ((1, said[:2]), (2, said[2:])):
        run(tmp_path / str(seed), "surrogate_less", 0.7, seed=seed)
        lines = [
            {"round": i, "selector": "surrogate_less", "step": 4 * i, "rows": 8}
            | {"fidelity": {"rows": 500, "gradients": gradients, "overlap": overlap, "overlap_interval": interval}}
            for i, (gradients, overlap, interval) in enumerate(of)
        ]
        (tmp_path / str(seed) / "rounds" / "rounds.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    run(tmp_path / "r", "random", 0.9)
    report(configured("report", f"runs={tmp_path}"), tmp_path)
    note = (
        "surrogate_less: gradients of 70 of 500 rows; by its own estimate it chose 80% of exact LESS's rows (a mean "
        "over 3 rounds; intervals from 50% to 100%)."
    )
    assert note in " ".join(capsys.readouterr().out.split())
    assert "by its own estimate it chose 80%" in (tmp_path / "report.html").read_text()
    selections = json.loads((tmp_path / "report.json").read_text())["selections"]
    assert {one["selection"]: len(one["fidelity"]) for one in selections} == {"surrogate_less": 3, "random": 0}

"""Shares of labels among picked rows, against counts by hand."""

import json

import numpy as np
import pytest

from near.data.loading import load
from near.report import shares
from near.report.labels import Label, characters, label, labels_of
from near.report.page.charts import label_shares
from near.report.shares import (
    LEVEL,
    LabelShares,
    Line,
    Picks,
    TargetShares,
    over_targets,
    p_value,
    p_value_of_all,
    percent,
    sentences,
    shares_of,
    with_chance,
)
from tests.conftest import configured, write_rows

ALL = np.arange(12)


def picks(name: str, ids: list[int], times: list[int] | None = None, oracle: bool = False) -> Picks:
    return Picks(name, np.array(ids), np.array(times or [1] * len(ids)), oracle)


def of(values: list, target: list, eligible: np.ndarray | None = None) -> Label:
    return label("skill", values, np.arange(len(values)) if eligible is None else eligible, target)


def test_values_are_counted_among_eligible_rows():
    one = of(["a", "b", "b", None, "c", "b"], ["b", None, "b", "z"], np.array([0, 1, 2, 3, 5]))
    assert one.values == ["b", "(none)", "a", "c", "z"]
    assert one.pool.tolist() == [3, 1, 1, 0, 0] and one.target.tolist() == [2, 0, 0, 0, 1]
    assert [one.values[code] for code in one.codes] == ["a", "b", "b", "(none)", "c", "b"]
    assert one.values[one.own] == "b"
    assert of(["a", "b"], ["z"]).own is None, "no row of the pool has it"
    assert of(["a", "b"], []).own is None and of(["a", "b"], [None]).own is None


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1, 1.0, 2.5], ["1", "1", "2.5"]),
        ([True, False], ["true", "false"]),
        (["", " \n", "a\nb"], ["(empty)", "(empty)", "a b"]),
        ([float("nan"), None], ["(none)", "(none)"]),
        ([["x", 1], {"k": "ü"}], ['["x", 1]', '{"k": "ü"}']),
        ([10**400, 1], [f"1{'0' * 400}", "1"]),
    ],
)
def test_values_of_any_type_are_texts(values, texts):
    one = of(values, [])
    assert [one.values[code] for code in one.codes] == texts


def test_numbers_are_in_order_and_many_of_them_in_bands():
    assert of([3, 1, 1, 2, 3, 3], []).values == ["1", "2", "3"], "not by how often"
    one = of(list(range(1, 101)), [7, 90])
    assert one.values == ["up to 20", "20 to 40", "40 to 60", "60 to 80", "over 80"]
    assert one.pool.tolist() == [20] * 5 and one.target.tolist() == [1, 0, 0, 0, 1]
    assert one.values[one.codes[19]] == "up to 20" and one.values[one.codes[20]] == "20 to 40"
    same = of([5.0] * 50 + list(range(20)), [])
    assert same.pool.sum() == 70, "quantiles may be equal"


def test_shares_are_the_counts_over_rounds_and_seeds():
    one = of(["a"] * 6 + ["b"] * 4 + ["c"] * 2, ["b", "b", "a"])
    (table,) = shares_of([one], [picks("near", [0, 6, 7], [1, 2, 1]), picks("perfect", [6], oracle=True)], ALL)
    assert [line.name for line in table.lines] == ["pool", "target", "perfect", "near"]
    heads, rows = table.table()
    assert heads == ["skill", "b", "a", "c"], "the target's own first"
    assert rows[0] == ["pool", "33%", "50%", "17%"] and rows[1] == ["target", "67%", "33%", "0%"]
    assert [cell.split()[0] for cell in rows[3][1:]] == ["75%", "25%", "0%"]


def test_many_values_are_the_highest_and_others():
    one = of([f"v{i % 10}" for i in range(100)], ["v9"])
    (table,) = shares_of([one], [picks("near", [3, 13, 23, 33])], np.arange(100))
    heads, rows = table.table()
    assert len(heads) == 1 + shares.SHOWN + 1 and heads[1:3] == ["v9", "v3"] and heads[-1] == "others (4)"
    assert rows[-1][1].startswith("0%") and rows[-1][2] == "100%" and rows[-1][-1] == "0%"
    assert rows[0][-1] == "40%"


def test_a_sentence_says_what_is_chance_and_what_is_not():
    wording = label("wording", ["0"] * 100 + ["1"] * 500, np.arange(600), ["0"])
    skill = label("skill", (["sort"] + ["x"] * 9) * 60, np.arange(600), ["sort"])
    ids = list(range(96))  # wording 0 alone; every tenth row sorts
    (line,) = sentences(shares_of([wording, skill], [picks("near", ids)], np.arange(600)))
    assert line == "near: 100% wording 0 (pool 17%), 10% skill sort = chance"
    (line,) = sentences(shares_of([skill], [picks("near", list(range(0, 600, 20)))], np.arange(600)))
    assert line == "near: 100% skill sort (pool 10%)"
    few = sentences(shares_of([skill], [picks("near", [0, 1])], np.arange(600)))
    assert few == ["near: 50% skill sort = chance"], "two rows show nothing"


def test_where_the_pool_lacks_the_targets_value_the_most_picked_one_is_named():
    one = label("source", ["law", "maths", "code"] * 100, np.arange(300), ["queries.jsonl"])
    law = list(range(0, 90, 3))
    lines = sentences(shares_of([one], [picks("near", law), picks("random", list(range(60)))], np.arange(300)))
    assert lines == ["near: 100% source law (pool 33%)", "random: 33% source code = chance"]


def test_all_rows_and_one_value_are_no_finding():
    one = of(["a"] * 6 + ["b"] * 6, ["a"])
    assert sentences(shares_of([one], [picks("full", list(range(12)))], ALL)) == ["full: 50% skill a = chance"]
    assert sentences(shares_of([of(["a"] * 12, ["a"])], [picks("near", [1])], ALL)) == []
    assert sentences([]) == [] and sentences(shares_of([one], [], ALL)) == []


def test_chance_is_as_frequent_as_it_says():
    rng, far = np.random.default_rng(3), 0
    values = np.arange(2000) % 10 == 0
    for _ in range(200):
        drawn = rng.choice(2000, 150, replace=False)
        far += p_value(values[drawn], rng.integers(1, 4, 150), 200, 2000) < LEVEL
    assert far <= 20, "random rows in rounds of their own differ in 5% of cases"
    assert p_value(np.ones(20, dtype=bool), np.ones(20, dtype=int), 200, 2000) < LEVEL
    assert p_value(np.zeros(150, dtype=bool), np.ones(150, dtype=int), 200, 2000) < LEVEL
    assert p_value(values[:100], np.ones(100, dtype=int), 200, 2000) == 1


def test_the_shares_of_all_values_together():
    pool = np.full(300, 10)
    assert p_value_of_all(np.r_[np.ones(300, dtype=int)], pool) > LEVEL
    assert p_value_of_all(np.r_[[10, 10, 10], np.zeros(297, dtype=int)], pool) < LEVEL


def test_many_comparisons_find_no_more_than_one():
    """Of random rows by 8 labels, at most 5% of tables name one (21 of 300 tables: the 95% quantile)."""
    rng, tables, alone = np.random.default_rng(5), 0, 0
    of = [label(f"l{i}", rng.permutation(["a"] * 60 + ["b"] * 240).tolist(), np.arange(300), ["a"]) for i in range(8)]
    for _ in range(300):
        made = shares_of(of, [picks("random", rng.choice(300, 48, replace=False).tolist())], np.arange(300))
        lines = [line for one in made for line in one.selections]
        tables += any(not line.chance for line in lines)
        alone += any(line.p < LEVEL for line in lines)
    assert tables <= 21 < alone


def test_holm_by_hand():
    """p of 0.01, 0.024 and 0.026 among three: 0.03 and 0.048 are below 0.05; so is 0.026. With 0.026 first, none is."""
    one = of(["a"] * 6 + ["b"] * 6, ["a"])

    def chances(*ps):
        lines = [Line("pool", one.pool), *(Line(f"s{p}", one.pool, 0, p) for p in ps)]
        (made,) = with_chance([LabelShares(one, lines)])
        return [line.chance for line in made.selections]

    assert chances(0.026, 0.01, 0.024) == [False, False, False]
    assert chances(0.026, 0.3, 0.024) == [True, True, True]
    assert chances(0.04, 0.01, 0.03) == [True, False, True]
    assert chances(0.04) == [False]


def test_over_targets_the_own_values_are_averaged():
    of = [label("skill", ["a", "b"] * 50, np.arange(100), [own]) for own in "ab"]
    picked = [[picks("near", list(range(0, 40, 2))), picks("uot", [0, 1])], [picks("near", list(range(0, 40, 2)))]]
    targets = [
        TargetShares(name, shares_of([one], here, np.arange(100)))
        for name, one, here in zip("xy", of, picked, strict=True)
    ]
    assert over_targets(targets) == (
        ["selection", "own skill"],
        [["pool", "50%"], ["near", "50% (above in 1 of 2)"], ["uot", "50% (above in 0 of 1)"]],
    )


def test_selections_with_equal_beginnings_have_lines_of_their_own():
    one = of(["a"] * 6 + ["b"] * 6, ["a"])
    names = ["near" + 50 * "=" + end for end in "xy"] + ["pool", "target"]
    (table,) = shares_of([one], [picks(name, [i]) for i, name in enumerate(names)], ALL)
    lines = [row[0] for row in table.table()[1]]
    assert len(set(lines)) == len(lines) == 6 and lines[-2:] == ["pool (2)", "target (2)"]
    assert [line.partition(":")[0] for line in sentences([table])] == lines[2:]
    assert all(sum(bar["x"][i] for bar in label_shares(table)["data"]) == 1 for i in range(6))


def test_percent():
    assert [percent(s) for s in (0, 0.001, 0.124, 0.996, 1.0, 1 - 1e-16)] == [
        "0%",
        "<1%",
        "12%",
        ">99%",
        "100%",
        "100%",
    ]


def test_hostile_labels_are_text(capsys):
    hostile = "<img src=x>\x1b[31m[bold]"
    one = label(f"{hostile}", [hostile, "b"] * 6, ALL, [hostile])
    tables = shares_of([one], [picks(hostile, [0, 2])], ALL)
    figure = json.dumps(label_shares(tables[0]))
    assert "<img" not in figure and "&lt;img" in figure
    shares.show([TargetShares("", tables)])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "[bold]" in printed, printed


def test_rows_that_are_left_out_keep_their_place(tmp_path):
    write_rows(
        tmp_path / "p.jsonl", [{"instruction": "a", "output": "b", "k": 1}, 7, {"instruction": "cd", "output": "e"}]
    )
    words = ("data=files", f"data.candidates.path={tmp_path}/p.jsonl", "data.on_error=skip", "data.labels=[k,source]")
    cfg = configured("select", *words)
    pool = load(cfg.data, "candidates", str(tmp_path / "cache"))
    assert characters(pool).tolist() == [2, 0, 3]
    labels = labels_of(cfg.data, pool, None, str(tmp_path / "cache"))
    assert [(one.name, one.pool.sum()) for one in labels] == [("k", 2), ("source", 2), ("length", 2)]
    assert labels[0].values == ["1", "(none)"]


def test_labels_of_rows(tmp_path):
    def row(i: int, **more) -> dict:
        return {"instruction": f"sum {i}", "output": "x" * (i + 1), "domain": "ab"[i % 2], **more}

    write_rows(tmp_path / "pool.jsonl", [row(i, skill={"name": f"s{i % 3}"}, kind="ab"[i % 2]) for i in range(30)])
    write_rows(tmp_path / "target.jsonl", [row(i, skill={"name": "s1"}) for i in (90, 91, 93)])
    words = [
        *("data=files", f"data.candidates.path={tmp_path}/pool.jsonl", f"data.queries.path={tmp_path}/target.jsonl"),
        *("data.candidates.columns.source=domain", "data.queries.columns.source=domain"),
    ]
    cfg = configured("select", *words, "data.labels=[skill.name]")
    pool, target = (load(cfg.data, part, str(tmp_path / "cache")) for part in ("candidates", "queries"))
    labels = labels_of(cfg.data, pool, target, str(tmp_path / "cache"))
    assert [one.name for one in labels] == ["skill.name", "source", "length"]
    assert labels[0].values[labels[0].own] == "s1" and labels[1].values[labels[1].own] == "b"
    assert characters(pool).tolist() == [len(f"sum {i}") + i + 1 for i in range(30)]
    assert labels[2].values[labels[2].own].startswith("over ")
    cfg = configured("select", *words, "data.labels=[kind]")
    labels = labels_of(cfg.data, pool, target, str(tmp_path / "cache"))
    assert [one.name for one in labels] == ["kind", "length"], "the source is the same label"
    assert labels[0].own is None, "the queries have no such column"
    assert [one.name for one in labels_of(cfg.data, pool, None, str(tmp_path / "cache"))] == ["kind", "length"]

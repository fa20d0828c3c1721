"""data=crossed: the same rows for the same options, without the target's cell, and no prompt gives a skill away."""

import json
import re
from collections import Counter

import pytest

from near.app.check.check import check_sources
from near.common.errors import UserError
from near.common.files import file_digest
from near.data.builtin import assets
from near.data.builtin.crossed.options import CrossedOptions
from near.data.builtin.crossed.rows import row, write_crossed
from near.data.builtin.crossed.skills import FORMS, LENGTHS, SKILLS, WORDINGS
from near.data.builtin.crossed.words import WORDS
from near.data.loading import load, raw_rows
from tests.conftest import configured, write_rows

PARTS = ("pool", "queries", "eval")


def options(**changed) -> CrossedOptions:
    values = {"rows": 500, "seed": 0, "queries": 32, "eval": 48, "noise": 0, "left_out": "", "target": "sort-0"}
    return CrossedOptions.of(",".join(f"{key}={value}" for key, value in (values | changed).items()))


def written(folder, evals=None, **changed) -> dict[str, list[dict]]:
    folder.mkdir()
    write_crossed(options(**changed), folder, lambda: evals)
    return {part: [json.loads(line) for line in (folder / f"{part}.jsonl").open()] for part in PARTS}


def cell(row: dict) -> tuple[str, int]:
    return row["skill"], row["wording"]


def prompt(row: dict) -> str:
    return row["messages"][0]["content"]


def items(row: dict) -> list[str]:
    return [word for word in re.findall(r"[A-Za-z]+", prompt(row)) if word in WORDS]


def test_the_same_options_give_the_same_bytes(tmp_path):
    for name, changed in {"a": {}, "b": {}, "other": {"seed": 1}}.items():
        written(tmp_path / name, **changed)
    digests = {name: [file_digest(tmp_path / name / f"{part}.jsonl") for part in PARTS] for name in ("a", "b", "other")}
    assert digests["a"] == digests["b"]
    assert not set(digests["a"]) & set(digests["other"])


def test_rows_that_change_need_a_new_version(tmp_path):
    """The cache knows a folder by its options and VERSION alone: when these digests change, raise VERSION."""
    written(tmp_path / "a")
    assert [file_digest(tmp_path / "a" / f"{part}.jsonl")[:8] for part in PARTS] == DIGESTS


DIGESTS = ["9f6a5d21", "ff8f0cf5", "43ef5a7c"]


def test_a_pool_covers_all_cells_evenly_but_the_targets(tmp_path):
    parts = written(tmp_path / "a", rows=2000, target="unique-3", left_out="reverse+7+sort-1")
    cells = Counter(map(cell, parts["pool"]))
    left_out = {("unique", 3), ("sort", 1)} | {("reverse", w) for w in range(10)} | {(skill, 7) for skill in SKILLS}
    assert set(cells) == {(skill, w) for skill in SKILLS for w in range(len(WORDINGS))} - left_out
    assert len(parts["pool"]) == 2000 and max(cells.values()) - min(cells.values()) == 1
    for length in LENGTHS:
        for form in FORMS:
            share = sum(row["length"] == length and row["form"] == form for row in parts["pool"]) / 2000
            assert abs(share - 1 / 6) < 0.03
    for part in ("queries", "eval"):
        assert set(map(cell, parts[part])) == {("unique", 3)}
        assert {(row["length"], row["form"]) for row in parts[part]} == {(n, f) for n in LENGTHS for f in FORMS}
    assert (len(parts["queries"]), len(parts["eval"])) == (32, 48)


def test_the_parts_share_no_word_and_no_list_comes_twice(tmp_path):
    parts = written(tmp_path / "a", rows=2000)
    words = {part: {word for row in rows for word in items(row)} for part, rows in parts.items()}
    assert not words["pool"] & words["queries"] and not words["pool"] & words["eval"]
    assert not words["queries"] & words["eval"]
    for rows in parts.values():
        assert len({tuple(items(row)) for row in rows}) == len(rows)
        assert all(len(items(row)) == row["length"] for row in rows)


def test_queries_and_eval_rows_do_not_depend_on_the_pool(tmp_path):
    small, large = written(tmp_path / "a"), written(tmp_path / "b", rows=900, left_out="sort", eval=10)
    assert small["queries"] == large["queries"]
    assert small["eval"][:3] != large["eval"][:3] or small["eval"][:10] == large["eval"]


@pytest.mark.parametrize("wording", range(len(WORDINGS)))
@pytest.mark.parametrize("form", FORMS)
def test_a_prompt_does_not_depend_on_its_skill(wording, form):
    """The same list has the same prompt under every skill, and different answers."""
    rows = [row(skill, wording, form, ["plum", "fox", "plum", "acid", "boat"]) for skill in SKILLS]
    assert len(set(map(prompt, rows))) == 1
    assert len({one["messages"][1]["content"] for one in rows}) == len(SKILLS)


def test_no_wording_and_no_word_names_a_skill():
    names = {part for skill in SKILLS for part in skill.split("_")} | set(
        "sorted order alphabetical reversed backwards capital letters first every number shortest remove repeat".split()
    )
    spoken = {word for wording in WORDINGS for word in re.findall(r"[a-z]+", wording.lower())}
    assert not names & (spoken | set(WORDS))
    assert not spoken & set(WORDS)
    assert len(set(WORDINGS)) == len(WORDINGS) >= 8 and len(SKILLS) >= 12


def test_fifty_thousand_rows(tmp_path):
    pool = written(tmp_path / "a", rows=50_000)["pool"]
    assert len({prompt(row) for row in pool}) == 50_000


def test_noise_is_of_the_demos_tasks(tmp_path):
    for task in ("soc_codes", "jee-math"):
        (tmp_path / "evals" / task).mkdir(parents=True)
        rows = [{"input": [{"role": "user", "content": f"{task} {i}"}], "ideal": f"{i}"} for i in range(60)]
        long = {"input": [{"role": "user", "content": "long " * 100}], "ideal": "x"}
        write_rows(tmp_path / "evals" / task / "samples.jsonl", [*rows, long])
    pool = written(tmp_path / "a", tmp_path / "evals", noise=0.2)["pool"]
    noise = [row for row in pool if row["skill"] not in SKILLS]
    assert len(pool) == 500 and len(noise) == 100
    assert {row["skill"] for row in noise} == {"soc_codes", "jee-math"}
    assert all(row["wording"] is None and "long" not in prompt(row) for row in noise)
    with pytest.raises(UserError, match="data.noise needs 125 short rows of the demo's tasks, and there are 120"):
        written(tmp_path / "b", tmp_path / "evals", noise=0.25)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"target": "srt-0"}, "data.target=srt-0: srt is not a skill of data=crossed; did you mean sort?"),
        ({"target": "srt"}, "data.target=srt: srt is not a skill of data=crossed; did you mean sort?"),
        ({"target": "sort"}, "data.target=sort names no wording; write sort-0 to sort-9"),
        ({"target": "sort-10"}, "data.target=sort-10: there is no wording 10; use 0 to 9"),
        ({"target": "sort-"}, "data.target=sort-: there is no wording without a number; use 0 to 9"),
        ({"target": "sort-one"}, "there is no wording one"),
        ({"target": "sort--1"}, "data.target=sort--1: sort- is not a skill"),
        ({"target": "sort-²"}, "there is no wording ²"),
        ({"target": "sort-0,reverse-1"}, "data.target=sort-0,reverse-1: sort-0,reverse is not a skill"),
        ({"target": "sort/0"}, "data.target=sort/0: sort/0 is not a skill"),
        ({"target": ""}, "data.target=: nothing is not a skill"),
        ({"left_out": "sort-1+revers"}, "data.left_out=revers: revers is not a skill, a cell such as sort-0"),
        ({"left_out": "12"}, "data.left_out=12: there is no wording 12"),
        ({"left_out": "0+1+2+3+4+5+6+7+8+9"}, "leaves nothing in the pool; leave out less"),
        ({"rows": 499}, "data.rows=499 is no whole number from 500 to 50,000"),
        ({"rows": 50_001}, "data.rows=50001 is no"),
        ({"rows": "1e3"}, "data.rows=1e3 is no"),
        ({"queries": 0}, "data.query_rows=0 is no"),
        ({"noise": "nan"}, "data.noise=nan is no number from 0 to 1"),
        ({"noise": 1.5}, "data.noise=1.5 is no"),
        ({"seed": -1}, "data.data_seed=-1 is no"),
    ],
)
def test_wrong_options_are_refused(changed, fault):
    with pytest.raises(UserError) as caught:
        options(**changed)
    assert fault in str(caught.value) and "\n" not in str(caught.value)


def test_options_that_mean_the_same_share_a_folder():
    assert options().folder == options(noise="0.0").folder == options(left_out="sort-0").folder
    folders = [options(**c).folder for c in ({}, {"seed": 1}, {"rows": 501}, {"left_out": "3"}, {"target": "sort-1"})]
    assert len(set(folders)) == 5
    assert options(left_out="reverse-1+3").folder == options(left_out="3+reverse-1+reverse-1").folder


def test_the_configuration_names_its_rows(tmp_path, cache):
    cfg = configured("train", "data=crossed", "data.target=last-4", "data.left_out=[reverse,3,sort-1]", "data.rows=500")
    check_sources(cfg)
    pool, queries = (load(cfg.data, part, str(cache)) for part in ("candidates", "queries"))
    assert (len(pool), len(queries), len(load(cfg.data, "eval", str(cache)))) == (500, 32, 48)
    assert "reverse" not in set(pool.sources()) and set(queries.sources()) == {"last"}
    assert dict(raw_rows(cfg.data, queries, queries.eligible()[:1], str(cache)))[0]["wording"] == 4


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["data.target=srt-1"], "data.target=srt-1: srt is not"),
        (["data.left_out=[srt]"], "data.left_out=srt: srt is not"),
        (["data.target=3"], "data.target=3"),
        (["data.rows=10"], "data.rows=10 is too small; use data.rows>=500"),
        (["data.noise=2"], "data.noise=2 is too large"),
        (["data.left_out=sort-1"], "data.left_out=sort-1"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(words, fault):
    with pytest.raises(UserError) as caught:
        check_sources(configured("train", "data=crossed", *words))
    assert str(caught.value).count(fault) == 1


def test_unknown_kinds_of_generated_data(tmp_path):
    with pytest.raises(UserError, match="no such built-in; did you mean crossed"):
        assets.resolve("builtin:crosed:rows=1/pool.jsonl", tmp_path)
    with pytest.raises(UserError, match="needs crossed:rows=...,seed=..."):
        assets.resolve("builtin:crossed:rows=1/pool.jsonl", tmp_path)
    with pytest.raises(UserError, match="pol.jsonl: no such member; did you mean pool.jsonl"):
        name = "rows=500,seed=0,queries=1,eval=1,noise=0,left_out=,target=sort-0"
        assets.resolve(f"builtin:crossed:{name}/pol.jsonl", tmp_path)

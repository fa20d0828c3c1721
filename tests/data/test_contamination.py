"""Rows of the pool that resemble held-out rows: what is found, as what, and what is out of reach."""

import json
import logging
import re

import numpy as np
import pytest
from omegaconf import OmegaConf

from near.app.check.check import check_sources
from near.common.config import identity
from near.common.errors import UserError
from near.data.contamination import overlaps_with, write_overlaps
from near.data.loading import load
from near.data.ngrams import COMMON
from near.data.pool import load_pool
from tests.conftest import configured, write_rows

# 40 words, no sequence of 8 twice
STORY = (
    "On a cold morning in late March the keeper of the lighthouse counted forty boats that had left the harbour, "
    "wrote their names into a green book, and asked the youngest sailor which of them would return before the storm."
)
MATHS = (
    "A baker sells 12 loaves every morning and 30 rolls every afternoon. Each loaf costs 4 dollars and each roll costs "
    "2 dollars. How many dollars does the baker earn during a week of 7 days?"
)
OTHER = {"question": "Name the largest of all deserts and say how dry it is.", "answer": "The polar one; quite dry."}
CHAT = {"messages": [{"role": "user", "content": "something else"}, {"role": "assistant", "content": "so"}]}


def qa(question: str, answer: str = "so") -> dict:
    return {"question": question, "answer": answer}


@pytest.fixture()
def loaded(tmp_path):
    """A configuration's data node with a pool and held-out rows, and what load_pool returns."""

    def of(pool, held_out, leakage="drop", action="warn"):
        cfg = configured("select", "data=files", f"cache_dir={tmp_path}/cache", f"data.leakage={leakage}")
        cfg.data.candidates.path = str(
            write_rows(tmp_path / "pool.jsonl", [*pool, OTHER if "question" in pool[0] else CHAT])
        )
        cfg.data.queries.path = str(write_rows(tmp_path / "queries.jsonl", held_out))
        cfg.data.decontaminate.action = action
        return load_pool(cfg.data, load(cfg.data, "queries", cfg.cache_dir, answer=False), cfg.cache_dir)

    return of


def kinds(pool) -> list[tuple]:
    return [(one.row, one.held_out_row, one.part, one.kind, one.other_numbers) for one in pool.overlaps]


def swapped(text: str, every: int) -> str:
    """`text` with every so many words replaced by another."""
    return " ".join(f"w{i}" if i % every == every - 1 else word for i, word in enumerate(text.split()))


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        (STORY, "exact"),
        (STORY.upper().replace(",", " --"), "exact"),
        (f"Read this. {STORY} Answer briefly.", "13-gram"),
        (" ".join(STORY.split()[5:18]), "13-gram"),
        (" ".join(STORY.split()[5:17]), None),  # 12 words of 40: neither
        (swapped(STORY, 20), "13-gram"),
        (swapped(STORY, 9), None),  # runs of 8: one 8-gram of nine
        ("The lighthouse keeper noted in the morning how many ships were out and asked who would be back first.", None),
        (STORY.replace("green", "red").replace("March", "May"), "13-gram"),
        (" ".join(reversed(STORY.split())), None),
    ],
)
def test_a_long_prompt(loaded, question, kind):
    found = kinds(loaded([qa(question)], [qa(STORY, "four")], leakage="keep"))
    assert found == ([] if kind is None else [(0, 0, "prompt", kind, False)])


@pytest.mark.parametrize(("words", "kind"), [(25, "8-gram"), (27, "8-gram"), (29, None)])
def test_half_of_the_sequences_of_eight_words(loaded, words, kind):
    """Two runs of 12 words have ten sequences of 8: of 18, of 20, or of 22."""
    text = STORY.split()
    row = " ".join([*text[:12], "other", *text[13:25]])
    assert [one.kind for one in loaded([qa(row)], [qa(" ".join(text[:words]))]).overlaps] == ([kind] if kind else [])


def test_what_overlaps_is_written(loaded, tmp_path):
    pool = loaded([qa(f"Please: {' '.join(STORY.split()[2:20])}")], [qa("unrelated one here"), qa(STORY)])
    counts = write_overlaps(tmp_path, pool)
    (line,) = map(json.loads, (tmp_path / "contaminated.jsonl").read_text().splitlines())
    words = "cold morning in late march the keeper of the lighthouse counted forty boats that had left the harbour"
    assert line["words"] == words and line["set"] == "queries" and line["held_out_row"] == 1 and line["row"] == 0
    assert line["share"] == pytest.approx(6 / 28, abs=1e-4)  # of the 13-grams of 40 words
    assert line["left_out"] is False and line["cosine"] is None
    assert counts == {"rows": 1, "left_out": 0, "held_out_rows": {"queries": 1}, "kinds": {"13-gram": 1}}


def changed(text: str) -> str:
    for number, other in (("12", "15"), ("30", "24"), ("4 d", "3 d"), ("2 d", "5 d"), ("7", "6")):
        text = text.replace(number, other)
    return text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (changed(MATHS), ("13-gram", True)),
        (MATHS, ("exact", False)),
        (f"Think. {MATHS}", ("13-gram", False)),
        (
            MATHS.replace("baker", "farmer")
            .replace("loaves", "eggs")
            .replace("rolls", "apples")
            .replace("loaf", "egg")
            .replace("roll ", "apple ")
            .replace("12", "15"),
            None,
        ),  # fmt: skip
    ],
)
def test_other_numbers_in_a_maths_problem(loaded, text, found):
    overlaps = [(kind, other) for *_, kind, other in kinds(loaded([qa(text)], [qa(MATHS, "9")]))]
    assert overlaps == ([] if found is None else [found])


def test_other_numbers_of_short_questions_are_no_overlap(loaded):
    held_out = [qa("What is the sum of 12 and 7?"), qa("How much is 3 times 4 and then 5 added?")]
    assert (
        kinds(loaded([qa("What is the sum of 2 and 9?"), qa("How much is 8 times 1 and then 6 added?")], held_out))
        == []
    )


def test_lists_of_numbers_are_not_masked(loaded):
    numbers = [" ".join(str(start + 7 * i) for i in range(20)) for start in (1, 2)]
    assert kinds(loaded([qa(f"Sort these numbers: {numbers[0]}")], [qa(f"Sort these numbers: {numbers[1]}")])) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("你知道长城为什么修建在北方的山上吗请告诉我", "exact"),
        ("请问长城为什么修建在北方的山上呢谢谢你啊", "13-gram"),
        ("长城为什么修建在哪里", None),
    ],
)
def test_characters_of_unspaced_scripts_are_words(loaded, text, kind):
    found = loaded([qa(text)], [qa("你知道长城为什么修建在北方的山上吗？请告诉我！")])
    assert [one.kind for one in found.overlaps] == ([kind] if kind else [])
    if kind == "13-gram":
        assert found.overlaps[0].words == "长城为什么修建在北方的山上"


@pytest.mark.parametrize(
    ("question", "answer", "parts"),
    [
        (STORY, "Another answer.", [("prompt", "exact")]),
        ("What did the keeper do?", STORY, [("prompt", "exact")]),  # the question is the pool's answer
        ("Tell me.", f"Well. {MATHS}", [("answer", "13-gram")]),
        (STORY, f"Well. {MATHS}", [("answer", "13-gram"), ("prompt", "exact")]),
        ("Tell me.", "so", []),
    ],
)
def test_parts(loaded, question, answer, parts):
    overlaps = loaded([qa(question, answer)], [qa(STORY, MATHS)]).overlaps
    assert sorted((one.part, one.kind) for one in overlaps) == parts


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("what is 12 + 7", True),
        ("What is 12+7??", True),
        ("What is 12 - 7?", False),
        ("What is 12 + 8?", False),
        ("Tell me: what is 12 + 7?", False),
    ],
)
def test_a_prompt_of_few_words_is_compared_as_a_whole(loaded, question, found):
    assert [one.kind for one in loaded([qa(question)], [qa("What is 12 + 7?", "19")]).overlaps] == ["exact"] * found


def test_short_answers_are_no_overlap(loaded):
    assert kinds(loaded([qa("Is water wet?", "Yes, of course.")], [qa("Is snow white?", "Yes, of course.")])) == []


def test_a_prompt_of_eight_to_twelve_words(loaded):
    held_out = [qa("Which river of Europe is longer than all others there?")]  # ten words: three 8-grams
    pool = [qa("Say which river of Europe is longer than all others, please"), qa("Which river of Europe is longer?")]
    assert kinds(loaded(pool, held_out)) == [(0, 0, "prompt", "8-gram", False)]


def test_turns_of_chats_and_system_texts(loaded):
    """A question among the turns of a chat, or as an example in a system text."""
    chat = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello"}]
    chats = [
        {
            "messages": [
                *chat,
                {"role": "user", "content": "What is 3 times 4?"},
                {"role": "assistant", "content": "12"},
            ]
        },
        {"messages": [{"role": "system", "content": f"For example: {STORY}"}, *chat]},
        {"messages": [{"role": "system", "content": "What is 3 times 4?"}, *chat]},
    ]
    cases = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": "12"}]}
             for q in ("What is 3 times 4", STORY)]  # fmt: skip
    assert kinds(loaded(chats, cases)) == [(0, 0, "prompt", "exact", False), (1, 1, "prompt", "13-gram", False)]


def test_words_that_all_rows_of_a_task_share_are_no_overlap(loaded):
    """Instructions of 20 words with a name for each row; more than COMMON rows have it."""
    names = ["anna", "ben", "carla", "dora", "emil", "fritz", "greta", "hans", "ida", "jan", "karl", "lena", "max"]
    task = (
        "Translate the following name into the secret language of our club and write nothing but the name itself now:"
    )
    rows, held_out = [qa(f"{task} {name}") for name in names], [qa(f"{task} {n}") for n in ("otto", "paul", "quirin")]
    assert len(rows) > COMMON and kinds(loaded(rows, held_out)) == []
    few = kinds(loaded(rows[:3], held_out))
    assert {kind for *_, kind, _ in few} == {"13-gram"}, "of few rows a template can't be told from a leak"
    tail = "and then more words of which really none at all is ever common to these rows"
    leak, long = [*rows, qa(f"{task} rosa {tail}")], [*held_out, qa(f"{task} zoe {tail}")]
    assert {(row, other) for row, other, *_ in kinds(loaded(leak, long))} == {(13, 3)}


def test_a_leak_that_the_pool_repeats_often_is_found(loaded):
    rows = [qa(f"Variant {i}. {STORY} Reply in style {i}.") for i in range(COMMON + 5)]
    assert len(loaded(rows, [qa(STORY), qa("unlike the others")]).overlaps) == COMMON + 5


def test_rows_are_kept_warned_of_or_left_out(loaded, caplog, tmp_path):
    caplog.set_level(logging.INFO)
    rows, held_out = [qa(f"Please. {STORY}"), qa("fine"), qa(f"Hello. {STORY}", "well")], [qa(STORY)]
    for action, eligible, level in (("keep", 4, "INFO"), ("warn", 4, "WARNING"), ("drop", 2, "INFO")):
        caplog.clear()
        pool = loaded(rows, held_out, action=action)
        assert len(pool.eligible()) == eligible and len(pool.overlaps) == 2
        (record,) = [r for r in caplog.records if "resemble" in r.message]
        assert record.levelname == level
        assert record.message.startswith("candidates: 2 rows resemble 1 row of queries (13-gram 2), ")
        assert ("left out" if action == "drop" else f"data.decontaminate.action={action}") in record.message
        counts = write_overlaps(tmp_path, pool)
        assert counts["left_out"] == (2 if action == "drop" else 0)


def test_equal_prompts_are_listed_though_left_out_before(loaded, tmp_path):
    pool = loaded([qa(STORY)], [qa(STORY, "x")])
    assert pool.eligible().tolist() == [1]
    write_overlaps(tmp_path, pool)
    assert json.loads((tmp_path / "contaminated.jsonl").read_text())["left_out"] is True


def test_all_rows_left_out(tmp_path):
    cfg = configured("select", "data=files", f"cache_dir={tmp_path}/cache", "data.decontaminate.action=drop")
    cfg.data.candidates.path = str(write_rows(tmp_path / "pool.jsonl", [qa(f"Now: {STORY}")]))
    cfg.data.queries.path = str(write_rows(tmp_path / "queries.jsonl", [qa(STORY)]))
    with pytest.raises(UserError, match="every row resembles a held-out row; set data.decontaminate.action=warn"):
        load_pool(cfg.data, load(cfg.data, "queries", cfg.cache_dir), cfg.cache_dir)


def test_every_held_out_set_counts(loaded, tmp_path):
    texts = {name: " ".join(f"{name}{i}" for i in range(14)) for name in ("queries", "eval", "more", "bench")}
    cfg = configured("select", "data=files", f"cache_dir={tmp_path}/cache")
    cfg.data.candidates.path = str(write_rows(tmp_path / "pool.jsonl", [qa(f"ok {t}") for t in texts.values()]))
    paths = {name: str(write_rows(tmp_path / f"{name}.jsonl", [qa(text)])) for name, text in texts.items()}
    cfg.data.queries.path, cfg.data.eval.path = paths["queries"], paths["eval"]
    OmegaConf.update(cfg, "data.more_eval", {"law": paths["more"]})
    OmegaConf.update(cfg, "data.decontaminate.benchmarks", {"gsm8k": {"path": paths["bench"], "limit": 1}})
    pool = load_pool(cfg.data, load(cfg.data, "queries", cfg.cache_dir), cfg.cache_dir)
    assert {one.row: one.set for one in pool.overlaps} == dict(
        enumerate(["queries", "eval", "more_eval.law", "benchmarks.gsm8k"])
    )


def test_nothing_is_compared_without_the_option(tmp_path):
    cfg = configured("select", "data=files", f"cache_dir={tmp_path}/cache", "data.decontaminate=null")
    cfg.data.candidates.path = str(write_rows(tmp_path / "pool.jsonl", [qa(f"Now: {STORY}")]))
    cfg.data.queries.path = str(write_rows(tmp_path / "queries.jsonl", [qa(STORY)]))
    pool = load_pool(cfg.data, load(cfg.data, "queries", cfg.cache_dir), cfg.cache_dir)
    assert pool.overlaps is None and write_overlaps(tmp_path, pool) is None
    assert not (tmp_path / "contaminated.jsonl").exists()


def test_overlaps_are_computed_once(loaded, monkeypatch):
    args = [qa(f"Now: {STORY}")], [qa(STORY)]
    first = loaded(*args)
    monkeypatch.setattr("near.data.contamination.overlaps_with", lambda *_: pytest.fail("computed again"))
    assert loaded(*args).overlaps == first.overlaps
    assert len(loaded(*args, action="drop").eligible()) == 1


def test_blocks_do_not_matter(loaded, monkeypatch):
    rng = np.random.default_rng(0)
    vocabulary = [f"v{i}" for i in range(30)]
    rows = [qa(" ".join(rng.choice(vocabulary, 40))) for _ in range(40)]
    rows[7] = qa(" ".join([*rows[3]["question"].split()[10:26], *rng.choice(vocabulary, 10)]))
    pool = loaded(rows, rows[:4])
    monkeypatch.setattr("near.data.contamination.BLOCK", 3)
    again = overlaps_with(pool, [pool])
    assert {(o.row, o.held_out_row) for o in pool.overlaps} == {(i, i) for i in range(4)} | {(7, 3)}
    assert {(o.row, o.held_out_row) for o in again} >= {(i, i) for i in range(41)} | {(7, 3), (3, 7)}


def by_hand(pool: list[list[str]], held_out: list[list[str]]) -> set[tuple[int, int]]:
    """Pairs with a common 13-gram, or half of the held-out text's 8-grams."""

    def grams(text, n):
        return {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}

    return {
        (i, j)
        for i, row in enumerate(pool)
        for j, text in enumerate(held_out)
        if grams(row, 13) & grams(text, 13)
        or 2 * len(grams(row, 8) & grams(text, 8)) >= max(1, len(grams(text, 8)))
        and len(text) >= 8
    }


def test_pairs_are_those_of_a_comparison_by_hand(loaded):
    rng = np.random.default_rng(3)
    held_out = [rng.choice([f"v{i}" for i in range(200)], rng.integers(8, 40)).tolist() for _ in range(20)]
    pool = []
    for _ in range(60):
        source = held_out[rng.integers(20)]
        start, count = rng.integers(len(source)), rng.integers(5, 30)
        pool.append([f"x{rng.integers(99)}", *source[start : start + count], *rng.choice(["y1", "y2", "z"], 4)])
    found = loaded([qa(" ".join(row)) for row in pool], [qa(" ".join(text)) for text in held_out])
    plain = {(o.row, o.held_out_row) for o in found.overlaps if not o.other_numbers}
    assert plain == by_hand(pool, held_out) and len(plain) > 10


def test_only_a_run_that_leaves_rows_out_is_another_run():
    cfg = configured("train", "data=files", "data.candidates.path=a", "data.queries.path=b")
    without = configured(
        "train", "data=files", "data.candidates.path=a", "data.queries.path=b", "data.decontaminate=null"
    )
    assert identity(cfg) == identity(without)
    cfg.data.decontaminate.action = "keep"
    assert identity(cfg) == identity(without)
    cfg.data.decontaminate.action = "drop"
    assert identity(cfg)["data"]["decontaminate"]["action"] == "drop"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["data.decontaminate.benchmarks={a: none.jsonl}"], "benchmarks.a.path=none.jsonl: no such file"),
        (["data.decontaminate.benchmarks={a: {limit: 5}}"], "data.decontaminate.benchmarks.a.path is missing"),
        (["data.decontaminate.benchmarks={a: {pth: b}}"], "benchmarks.a.pth is not in the configuration; did you mean"),
        (["data.decontaminate.benchmarks={a: 5}"], "data.decontaminate.benchmarks.a=5 is not a path"),
        (["data.decontaminate.benchmarks=gsm8k.jsonl"], "data.decontaminate.benchmarks=gsm8k.jsonl"),
        (["data.decontaminate.action=remove"], "data.decontaminate.action=remove"),
        (["data.decontaminate.cosine=1.5"], "data.decontaminate.cosine=1.5 is too large"),
        (["data.more_eval={law: gone.jsonl}"], "data.more_eval.law.path=gone.jsonl: no such file"),
    ],
)
def test_faults_are_told_before_anything_is_loaded(tmp_path, words, line):
    path = write_rows(tmp_path / "rows.jsonl", [OTHER])
    with pytest.raises(UserError, match=re.escape(line)):
        check_sources(
            configured("select", "data=files", f"data.candidates.path={path}", f"data.queries.path={path}", *words)
        )

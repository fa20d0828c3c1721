"""The format of rows is detected from their columns."""

import logging

import pytest

from near.common.errors import UserError
from near.data.formats.format_choice import decide, is_informative
from near.data.loading import load
from tests.conftest import configured, write_rows

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("columns", "format", "others"),
    [
        ("instruction input output prompt", "alpaca", []),  # no completion
        ("instruction output text", "alpaca", []),  # a text beside is the same once more
        ("question answer text", "question_answer", []),
        ("messages prompt prompt_id", "messages", []),
        ("instruction input output prompt completion", "alpaca", ["prompt_completion"]),
        ("prompt completion question answer system", "prompt_completion", ["question_answer"]),
        ("question", "question_answer", []),
        ("prompt", "prompt_completion", []),
        ("instruction input", "alpaca", []),
        ("instruction input prompt", "alpaca", ["prompt_completion"]),  # none is complete: the one with more of it
        ("text id", "text", []),
        ("messages question answer", "messages", ["question_answer"]),  # a chat holds the whole conversation
        ("conversations text", "sharegpt", []),
    ],
)
def test_auto_is_the_format_whose_columns_are_there(columns, format, others):
    row = {name: TURNS if name in ("messages", "conversations") else "x" for name in columns.split()}
    assert decide("auto", {}, row, "data.candidates", "p.jsonl") == (format, others)


WHOLE = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("row", "named", "prompt"),
    [
        ({"prompt": "q", "chosen": "a"}, "completion", "q"),
        ({"prompt": "q", "chosen": WHOLE[1:]}, "completion", "q"),
        ({"prompt": WHOLE[:1], "chosen": WHOLE[1:]}, "completion", "q"),
        ({"question": "q", "chosen": "a"}, "answer", "q"),
        ({"instruction": "q", "input": "r", "chosen": "a"}, "output", "q\nr"),
        ({"prompt": "q", "chosen": WHOLE}, "messages", "q"),  # the whole conversation once more
        ({"chosen": WHOLE}, "messages", "q"),
        ({"chosen": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "conversations", "q"),
    ],
)
def test_preferences_name_the_column_to_train_on(tmp_path, cache, row, named, prompt):
    row = {**row, "rejected": row["chosen"]}
    cfg = configured("select", "data=files")
    cfg.data.candidates.path = str(write_rows(tmp_path / "p.jsonl", [row, row]))
    match = f"p.jsonl: chosen and rejected are preference data, .* set data.candidates.columns.{named}=chosen$"
    with pytest.raises(UserError, match=match):
        load(cfg.data, "candidates", str(cache))
    cfg = configured("select", "data=files", f"data.candidates.columns.{named}=chosen")
    cfg.data.candidates.path = str(tmp_path / "p.jsonl")
    assert [m["content"] for m in load(cfg.data, "candidates", str(cache)).messages(0)] == [prompt, "a"]


def test_preferences_of_which_one_column_can_be_no_answer():
    turn = {"from": "gpt", "value": "a"}
    row = {"conversations": [{"from": "human", "value": "q"}], "chosen": turn, "rejected": turn}
    with pytest.raises(UserError, match="preference data.*; write the chosen answer as the last turn of each row"):
        decide("auto", {}, row, "w", "f")


@pytest.mark.parametrize("more", [{"messages": WHOLE}, {"prompt": "q", "completion": "a"}, {"text": "t"}])
def test_preferences_beside_an_answer_are_just_not_used(more):
    assert decide("auto", {}, {"chosen": "a", "rejected": "b", **more}, "w", "f")[1] == []


def test_a_chat_that_is_none_is_no_chat():
    assert decide("auto", {}, {"messages": "5", "question": "q", "answer": "a"}, "w", "f")[0] == "question_answer"


def test_named_columns_decide_too():
    row = {"q": "x", "a": "y", "prompt": "z"}
    assert decide("auto", {"question": "q", "answer": "a"}, row, "w", "f") == ("question_answer", [])
    assert decide("auto", {"instruction": "q", "output": "a"}, row, "w", "f") == ("alpaca", [])


@pytest.mark.parametrize("part", ["candidates", "queries", "eval"])
def test_faults_name_the_option(tmp_path, cache, part):
    cfg = configured("select", "data=files")
    cfg.data[part].path = str(write_rows(tmp_path / "p.jsonl", [{"one": 1, "two": 2}]))
    with pytest.raises(UserError, match=rf"set data\.{part}\.format and data\.{part}\.columns"):
        load(cfg.data, part, str(cache), answer=False)
    cfg.data[part].format = "alpaca"
    with pytest.raises(UserError, match=rf"data\.{part}\.format=alpaca"):
        load(cfg.data, part, str(cache), answer=False)


def test_a_choice_between_formats_is_logged(tmp_path, cache, caplog):
    caplog.set_level(logging.INFO)
    cfg = configured("select", "data=files")
    row = {"prompt": "p", "completion": "c", "instruction": "i", "input": "", "output": "o"}
    cfg.data.candidates.path = str(write_rows(tmp_path / "p.jsonl", [row] * 3))
    assert load(cfg.data, "candidates", str(cache)).messages(0)[0]["content"] == "i"
    assert caplog.text.count("read as alpaca; its columns also fit data.candidates.format=prompt_completion") == 1


def test_ids_and_scores_say_nothing():
    silent = ("id", "_id", "question_id", "rowId", "idx", "quality_score", "score", "uuid", "__index_level_0__", "rank")
    assert not any(map(is_informative, silent))
    assert all(map(is_informative, ("difficulty", "tags", "hidden", "idea", "scored_by", "solution", "video")))


def test_columns_that_a_grader_reads_are_used(tmp_path, cache, caplog):
    caplog.set_level(logging.INFO)
    cfg = configured("train", "data=files", "evaluation=code")
    names = sorted(set(filter(None, cfg.evaluation.graders.pass_at_1.column_names.values())))
    row = {"question": "q", "answer": "a", "difficulty": "d"} | dict.fromkeys(names, "x")
    for part in ("candidates", "eval"):
        cfg.data[part].path = str(write_rows(tmp_path / "p.jsonl", [row]))
        cfg.data[part].format = "question_answer"
        for _ in range(2):
            load(cfg.data, part, str(cache))
    logged = [r.message.split("not used: ")[1] for r in caplog.records if "not used" in r.message]
    assert logged == [", ".join(["difficulty", *names]), "difficulty"]  # each logged once

"""Parts of a row beside its text: tools, calls, reasoning, system texts, and turns that are not trained on."""

import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from near.common.errors import UserError
from near.data.formats.formats import Form, canonical
from near.data.loading import load
from near.data.row_keys import row_key
from tests.conftest import configured, write_rows

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = '[{"name": "f", "arguments": {"a": 1}}]'


@pytest.fixture()
def read(tmp_path, cache):
    """The rows of a file that holds these rows."""

    def of(*rows, **columns):
        cfg = configured("select", "data=files")
        cfg.data.candidates.path = str(write_rows(tmp_path / "p.jsonl", list(rows)))
        for field, column in columns.items():
            cfg.data.candidates.columns[field] = column
        return load(cfg.data, "candidates", str(cache))

    return of


def chat(*turns, **beside) -> dict:
    return {"messages": list(turns), **beside}


@pytest.mark.parametrize(
    ("beside", "trained"),
    [
        ({"weight": 0}, False),
        ({"weight": 0.0}, False),
        ({"weight": 1}, True),
        ({"weight": None}, True),
        ({"train": False}, False),
        ({"train": True}, True),
        ({"train": True, "weight": 0}, False),
    ],
)
def test_turns_that_are_not_trained_on(read, beside, trained):
    messages = read(chat(USER, {**ANSWER, **beside}, USER, ANSWER)).messages(0)
    assert [m.get("train", True) for m in messages] == [True, trained, True, True]
    assert all(value is not None for m in messages for value in m.values())


def test_a_weight_of_a_question_is_checked_and_means_nothing(read):
    assert read(chat({**USER, "weight": 0}, ANSWER)).messages(0)[0] == USER


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ({"weight": 0.5}, "messages[1].weight' is 0.5, not 0 or 1"),
        ({"weight": "0"}, "messages[1].weight' is '0', not 0 or 1"),
        ({"train": "false"}, "messages[1].train' is 'false', not true or false"),
        ({"tool_calls": "x"}, "messages[1].tool_calls' is not JSON"),
        ({"tool_calls": [{"function": {"arguments": "{}"}}]}, "is not a call with 'name' and 'arguments'"),
        ({"tool_calls": [{"name": "f", "arguments": "{"}]}, "tool_calls[0].arguments' is not JSON"),
        ({"tool_calls": [{"name": "f", "arguments": [1]}]}, "tool_calls[0].arguments' is of type list, not an object"),
        ({"tool_calls": [{"name": "f", "arguments": {"x": float("nan")}}]}, "has a value that JSON can't represent"),
        ({"reasoning": {"steps": 3}}, "messages[1].reasoning' is of type dict, not text"),
        ({"reasoning_content": "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_faults_of_turns_name_them(tmp_path, cache, turn, expected):
    cfg = configured("select", "data=files", f"data.candidates.path={tmp_path / 'p.jsonl'}")
    (tmp_path / "p.jsonl").write_text(json.dumps(chat(USER, {**ANSWER, **turn})))
    with pytest.raises(UserError) as caught:
        load(cfg.data, "candidates", str(cache))
    assert expected in str(caught.value) and "row 0 (line 1)" in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        {"tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]},
        {"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1, "filled": None}}}]},
        {"tool_calls": '[{"name": "f", "arguments": {"a": 1}}]'},
        {"tool_calls": [{"type": "function", "function": None, "name": "f", "parameters": {"a": 1}}]},
        {"function_call": {"name": "f", "arguments": '{"a": 1}'}, "tool_calls": None},
    ],
)
def test_calls_in_every_form_are_one(read, call):
    messages = read(
        chat(USER, {"role": "assistant", "content": None, **call}, {"role": "tool", "content": "r"}, ANSWER)
    )
    assert messages.messages(0)[1] == {"role": "assistant", "content": "", "calls": CALL}
    assert read(chat(USER, {"role": "assistant", **call})).messages(0)[1]["calls"] == CALL  # a call answers, too


@pytest.mark.parametrize(
    ("value", "content", "calls"),
    [
        ('{"name": "f", "arguments": {"a": 1}}', "", CALL),
        ('[{"name": "f", "arguments": "{\\"a\\": 1}"}]', "", CALL),
        ({"name": "f", "arguments": {"a": 1, "b": None}}, "", CALL),
        ('<think>hm</think>\n{"name": "f", "arguments": {"a": 1}}', "<think>hm</think>\n", CALL),
        ('<tool_call>\n{"name": "f"}\n</tool_call>', '<tool_call>\n{"name": "f"}\n</tool_call>', None),
    ],
)
def test_calls_of_sharegpt(read, value, content, calls):
    turns = [("human", "q"), ("function_call", value), ("observation", {"celsius": 3, "filled": None}), ("gpt", "a")]
    messages = read({"conversations": [{"from": f, "value": v} for f, v in turns]}).messages(0)
    assert (messages[1]["content"], messages[1].get("calls")) == (content, calls)
    assert messages[2] == {"role": "tool", "content": '{"celsius": 3}'}


@pytest.mark.parametrize(
    "tools", [[TOOL], json.dumps([TOOL]), TOOL, [json.dumps(TOOL)], [{**TOOL, "filled": None}], json.dumps(TOOL)]
)
@pytest.mark.parametrize(
    "row",
    [
        chat(USER, ANSWER),
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"instruction": "q", "output": "a"},
        {"prompt": [USER], "completion": [ANSWER]},
        {"question": "q", "answer": "a"},
    ],
)
def test_tools_lead_a_row_of_any_format(read, row, tools):
    rows = read({**row, "tools": tools, "system": "s"}, {**row, "tools": "[]"}, {**row, "tools": None})
    assert rows.messages(0) == [
        {"role": "tools", "content": json.dumps([TOOL])},
        {"role": "system", "content": "s"},
        USER,
        ANSWER,
    ]
    assert rows.messages(1) == rows.messages(2) == [USER, ANSWER]
    assert rows.texts(np.array([0]), "both") == ["q\na"]  # what is embedded does without them
    assert read({**row, "mine": tools}, tools="mine").messages(0)[0]["role"] == "tools"


def test_tools_of_a_system_turn(read):
    mine, other = ({**TOOL, "function": {"name": name}} for name in "mo")
    inside = {"role": "system", "content": "s", "tools": [mine]}
    rows = read(
        chat(inside, USER, ANSWER),
        chat({**inside, "tools": json.dumps([mine])}, USER, ANSWER),
        chat({"role": "system", "tools": [mine]}, USER, ANSWER),
        chat(inside, USER, ANSWER, tools=[other]),
        chat({**inside, "tools": None}, USER, ANSWER),
    )
    assert [json.loads(rows.messages(i)[0]["content"]) for i in range(4)] == [[mine]] * 3 + [[other]]
    assert [m["role"] for m in rows.messages(2)] == ["tools", "user", "assistant"]
    assert [m["role"] for m in rows.messages(4)] == ["system", "user", "assistant"]
    with pytest.raises(UserError, match=r"field 'messages\[0\].tools' is not JSON"):
        read(chat({**inside, "tools": "f"}, USER, ANSWER))


@pytest.mark.parametrize(
    "text", ['[ {"name":"f","parameters":null} ]', '[{"type":"function","function":{"name":"é"}}]']
)
def test_tools_that_are_text_stay_as_they_are(read, text):
    assert read(chat(USER, ANSWER, tools=text)).messages(0)[0]["content"] == text


@pytest.mark.parametrize(
    ("content", "results"),
    [
        ("<tool_response>\n1\n</tool_response>", ["1"]),
        ("<tool_response>\n1\n</tool_response>\n", ["1"]),
        ("<tool_response>1</tool_response>", ["1"]),
        ("<tool_response>\n{\n1}\n</tool_response>\n<tool_response>\n2\n</tool_response>", ["{\n1}", "2"]),
        ("<tool_response>\n\n</tool_response>", [""]),
        ("see <tool_response>\n1\n</tool_response>", ["see <tool_response>\n1\n</tool_response>"]),
        ("<tool_response>\n1\n", ["<tool_response>\n1\n"]),
        ("1", ["1"]),
    ],
)
def test_results_lose_the_tags_that_templates_write(read, content, results):
    call = {**ANSWER, "content": "<tool_call>\n{}\n</tool_call>"}
    rows = read(chat(USER, call, {"role": "tool", "content": content}, ANSWER))
    assert [m["content"] for m in rows.messages(0) if m["role"] == "tool"] == results
    turns = [("human", "q"), ("gpt", call["content"]), ("tool", content), ("gpt", "a")]
    rows = read({"conversations": [{"from": name, "value": text} for name, text in turns]})
    assert [m["content"] for m in rows.messages(0) if m["role"] == "tool"] == results


def test_results_lose_no_tags_under_an_entry():
    turns = [("human", "q"), ("gpt", "a"), ("observation", "<tool_response>\n1\n</tool_response>"), ("gpt", "a")]
    row = {"conversations": [{"from": name, "value": text} for name, text in turns]}
    form = Form("sharegpt", {"conversations": "conversations"}, {}, "sharegpt")
    assert canonical(row, form).messages[2]["content"] == turns[2][1]


@pytest.mark.parametrize("off", [False, ""])
def test_fields_that_are_switched_off(read, caplog, off):
    caplog.set_level(logging.INFO)
    rows = read(chat(USER, ANSWER, tools=[TOOL], system="s", system_prompt="t"), tools=off, system=off)
    assert rows.messages(0) == [USER, ANSWER]
    assert "not used: tools, system, system_prompt" in caplog.text


@pytest.mark.parametrize("tools", ["none", [1], [{"type": "function"}], 7, ["f"]])
def test_tools_that_are_none(read, tools):
    with pytest.raises(UserError, match="field 'tools"):
        read(chat(USER, ANSWER, tools=tools))


def test_nulls_that_arrow_fills_in_make_no_difference(tmp_path, cache):
    """Objects of different keys in one column: a struct with all of them."""
    turns = [[("f", {"a": 1})], [("g", {"b": {"c": "x"}})], [("h", {})]]
    rows = [
        chat(USER, {"role": "assistant", "content": "", "tool_calls": [{"name": n, "arguments": a} for n, a in calls]})
        | {"tools": [{"name": n, "parameters": {k: {"type": "x"} for k in a}} for n, a in calls]}
        for calls in turns
    ]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    write_rows(tmp_path / "p.jsonl", rows)
    cfg = configured("select", "data=files")
    read = []
    for name in ("p.jsonl", "p.parquet"):
        cfg.data.candidates.path = str(tmp_path / name)
        read.append(load(cfg.data, "candidates", str(cache)))
    assert [read[1].messages(i) for i in range(3)] == [read[0].messages(i) for i in range(3)]
    assert read[0].fingerprint == read[1].fingerprint
    assert json.loads(read[1].messages(0)[-1]["calls"]) == [{"name": "f", "arguments": {"a": 1}}]


@pytest.mark.parametrize(
    ("turn", "reasoning", "content"),
    [
        ({"reasoning_content": "t"}, "t", "a"),
        ({"thinking": "t"}, "t", "a"),
        ({"reasoning": "t", "reasoning_content": None}, "t", "a"),
        ({"content": [{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "b"}]}, "t", "b"),
        ({"content": "<think>t</think>b"}, None, "<think>t</think>b"),
        ({"reasoning_content": ""}, None, "a"),
    ],
)
def test_what_an_answer_thinks(read, turn, reasoning, content):
    message = read(chat(USER, {**ANSWER, **turn})).messages(0)[1]
    assert (message.get("reasoning"), message["content"]) == (reasoning, content)


def test_every_field_counts_for_a_rows_hash():
    plain = [USER, ANSWER]
    variants = [plain, [{"role": "tools", "content": "[]"}, *plain]]
    variants += [[USER, {**ANSWER, **more}] for more in ({"reasoning": "t"}, {"calls": CALL}, {"train": False})]
    assert len({row_key(v) for v in variants}) == len(variants)


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_an_empty_answer_in_the_middle_is_not_trained_on(read, caplog, empty):
    caplog.set_level(logging.INFO)
    rows = read(chat(USER, {**ANSWER, "content": empty}, USER, ANSWER), chat(USER, ANSWER))
    assert rows.messages(0)[1]["train"] is False
    assert "1 row with an empty answer in the middle, which is not trained on" in caplog.text
    with pytest.raises(UserError, match="has no answer at its end"):
        read(chat(USER, ANSWER, USER, {**ANSWER, "content": empty}))


def test_the_systems_column_is_the_rows_system_turn(read, caplog):
    caplog.set_level(logging.INFO)
    rows = read(
        chat(USER, ANSWER, system_prompt="two"),
        chat({"role": "system", "content": "turn"}, USER, ANSWER, system_prompt="two"),
        chat({"role": "system", "content": "two"}, USER, ANSWER, system_prompt="two"),
        chat(USER, ANSWER, system="one", system_prompt="two"),
        chat(USER, ANSWER, system="", system_prompt=None),
    )
    first = [rows.messages(i)[0] for i in range(5)]
    assert [m["content"] for m in first] == ["two", "turn", "two", "one", "q"]
    assert "2 rows with several system texts" in caplog.text
    assert read(chat(USER, ANSWER, rules="r", system="s"), system="rules").messages(0)[0]["content"] == "r"


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (chat(USER, {**ANSWER, "loss": False}, USER, {**ANSWER, "mask": True}), "messages[].loss, messages[].mask"),
        (
            chat({**USER, "tools": [TOOL]}, {**ANSWER, "train_on_turn": False}),
            "messages[].tools, messages[].train_on_turn",
        ),
        (chat({**USER, "reasoning_content": "t"}, ANSWER), "messages[].reasoning_content"),
        (chat({**USER, "id": 1, "name": "x", "timestamp": 2, "parent_id": "p", "created_at": 3}, ANSWER), None),
        (chat({**USER, "loss": None, "audio": {}}, {**ANSWER, "refusal": "", "annotations": []}), None),
        (chat({"role": "system", "content": "s", "tools": [TOOL]}, USER, ANSWER), None),
        (chat({"role": "system", "content": "s", "tools": [TOOL]}, USER, ANSWER, tools=[TOOL]), "messages[].tools"),
        ({"prompt": [USER], "completion": [{**ANSWER, "loss": 0}]}, "completion[].loss"),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "loss": False}]},
            "conversations[].loss",
        ),
        ({"question": "q", "answer": "a", "difficulty": 3, "tags": ["x"]}, "difficulty, tags"),
        ({"question": "q", "answer": "a", "id": 1, "row_id": 2, "quality_score": 0.5, "score": 1, "index": 3}, None),
        ({"question": "q", "answer": "a", "hint": None, "note": "", "refs": []}, None),
        (chat(USER, ANSWER, functions="f"), "functions"),
        ({"instruction": "q", "input": "", "output": "a", "system": "s", "history": []}, None),
        ({"instruction": "q", "output": "a", "question": "other"}, "question"),
    ],
)
def test_columns_that_are_not_used_are_named(read, caplog, row, named):
    caplog.set_level(logging.INFO)
    read(row, row)
    lines = [r.message for r in caplog.records if "not used" in r.message]
    assert [line.split("not used: ")[1] for line in lines] == ([named] if named else [])

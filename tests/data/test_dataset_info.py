"""LLaMA-Factory's dataset_info.json: entries by name, with their columns and tags."""

import gzip
import json
import logging

import numpy as np
import pytest

from near.common.errors import UserError
from near.data.loading import load, raw_rows
from tests.conftest import configured, write_rows

CHAT = [["user", "hi"], ["model", "hello"]]


@pytest.fixture()
def info(tmp_path):
    write_rows(tmp_path / "alpaca.jsonl", [{"q": "what", "more": "this", "a": "that"}] * 3)
    (tmp_path / "plain.json").write_text(json.dumps([{"instruction": "x", "input": "", "output": "y"}]))
    chat = [{"who": who, "text": text} for who, text in CHAT]
    write_rows(tmp_path / "chat.jsonl", [{"talk": chat, "rules": "be kind"}])
    tags = {"role_tag": "who", "content_tag": "text", "user_tag": "user", "assistant_tag": "model"}
    named = {"prompt": "q", "query": "more", "response": "a"}
    entries = {
        "plain": {"file_name": "plain.json"},
        "renamed": {"file_name": "alpaca.jsonl", "columns": named, "num_samples": 2},
        "chat": {
            "file_name": "chat.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "talk", "system": "rules"},
            "tags": tags,
        },
        "pairs": {"file_name": "plain.json", "ranking": True},
        "nowhere": {"ms_hub_url": "a/b"},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(entries))
    return tmp_path / "dataset_info.json"


def entry(info, name, cache):
    cfg = configured("select", "data=files")
    cfg.data.candidates.dataset_info, cfg.data.candidates.path = str(info), name
    return load(cfg.data, "candidates", str(cache))


def test_entries(info, cache):
    assert entry(info, "plain", cache).messages(0)[0]["content"] == "x"
    renamed = entry(info, "renamed", cache)
    assert len(renamed) == 3 and len(renamed.eligible()) == 2
    assert [m["content"] for m in renamed.messages(renamed.eligible()[0])] == ["what\nthis", "that"]
    chat = entry(info, "chat", cache)
    assert [(m["role"], m["content"]) for m in chat.messages(0)] == [
        ("system", "be kind"),
        ("user", "hi"),
        ("assistant", "hello"),
    ]


def test_several_entries_are_one_pool(info, cache):
    """Each entry has separate columns, a limit and a label by its name."""
    cfg = configured("select", "data=files")
    cfg.data.candidates.dataset_info, cfg.data.candidates.path = str(info), ["plain", "renamed", "chat"]
    rows = load(cfg.data, "candidates", str(cache))
    assert rows.sources(rows.eligible()).tolist() == ["plain", "renamed", "renamed", "chat"]
    assert [chat[-1]["content"] for chat in rows.chats(rows.eligible())] == ["y", "that", "that", "hello"]
    raw = dict(raw_rows(cfg.data, rows, np.array([0, 2, 4]), str(cache)))
    assert [list(raw[i]) for i in (0, 2, 4)] == [
        ["instruction", "input", "output"],
        ["q", "more", "a"],
        ["talk", "rules"],
    ]
    cfg.data.candidates.limit = 1
    rows = load(cfg.data, "candidates", str(cache))
    assert rows.sources(rows.eligible()).tolist() == ["plain", "renamed", "chat"]
    cfg.data.candidates.path = ["plain", "plian"]
    with pytest.raises(UserError, match="plian is not an entry of .*did you mean plain"):
        load(cfg.data, "candidates", str(cache))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("plian", "is not an entry of .*did you mean plain"),
        ("pairs", "ranking=true is preference data"),
        ("nowhere", "ms_hub_url=a/b is on ModelScope, which is not supported"),
    ],
)
def test_bad_entries(info, cache, name, match):
    with pytest.raises(UserError, match=match):
        entry(info, name, cache)


def test_a_file_that_is_not_there(tmp_path, cache):
    with pytest.raises(UserError, match="can't be read"):
        entry(tmp_path / "no.json", "x", cache)


ALPACA = {"instruction": "I", "input": "N", "output": "O", "system": "S", "history": [["q", "a"]], "tools": "[]"}
TALK = [("human", "q"), ("gpt", "a")]
OPENAI = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
OPENAI |= {"observation_tag": "tool", "function_tag": "call", "system_tag": "system"}


@pytest.fixture()
def read(tmp_path, cache):
    """What an entry makes of the rows of a file, or of files, as pairs of role and text."""

    def of(rows, name="p.json", **entry):
        files = rows if isinstance(rows, dict) else {name: json.dumps(rows)}
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(text)
        info = tmp_path / "dataset_info.json"
        info.write_text(json.dumps({"e": {"file_name": name, **entry}}))
        cfg = configured("select", "data=files")
        cfg.data.candidates.dataset_info, cfg.data.candidates.path = str(info), "e"
        return load(cfg.data, "candidates", str(cache))

    return of


def turns_of(rows, row=0) -> list[tuple[str, str]]:
    return [(m["role"], m.get("calls") or m["content"]) for m in rows.messages(row)]


def talk(turns, **beside) -> dict:
    return {"conversations": [{"from": f, "value": v} for f, v in turns], **beside}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (None, [("user", "I\nN"), ("assistant", "O")]),
        ({"prompt": "instruction", "response": "output"}, [("user", "I"), ("assistant", "O")]),
        ({"query": "input", "response": "output"}, [("user", "N"), ("assistant", "O")]),
        (
            {"prompt": "instruction", "response": "output", "system": "system"},
            [("system", "S"), ("user", "I"), ("assistant", "O")],
        ),
        (
            {"prompt": "instruction", "response": "output", "history": "history"},
            [("user", "q"), ("assistant", "a"), ("user", "I"), ("assistant", "O")],
        ),
        ({"prompt": "output", "response": "instruction"}, [("user", "O"), ("assistant", "I")]),
    ],
)
def test_what_columns_list_is_read_and_no_more(read, columns, expected):
    assert turns_of(read([ALPACA], **({} if columns is None else {"columns": columns}))) == expected


def test_an_empty_instruction_with_an_input(read):
    assert turns_of(read([{**ALPACA, "instruction": ""}])) == [("user", "N"), ("assistant", "O")]


def test_system_and_tools_of_chats_have_to_be_listed(read):
    row = talk(TALK, system="S", tools='[{"name": "f"}]')
    assert turns_of(read([row], formatting="sharegpt")) == [("user", "q"), ("assistant", "a")]
    listed = {"messages": "conversations", "system": "system", "tools": "tools"}
    assert turns_of(read([row], formatting="sharegpt", columns=listed)) == [
        ("tools", '[{"name": "f"}]'),
        ("system", "S"),
        ("user", "q"),
        ("assistant", "a"),
    ]
    with_system = talk([("system", "T"), *TALK], system="S")
    assert turns_of(read([with_system], formatting="sharegpt", columns=listed))[0] == ("system", "T")


def test_openai_is_read_as_llama_factory_does(read):
    """Its converter says in the system text whether the model is to think."""
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    entry = {"formatting": "openai", "columns": {"messages": "messages", "system": "system"}, "tags": OPENAI}
    assert turns_of(read([{"messages": turns, "system": None}], **entry))[0] == ("system", "detailed thinking off")
    assert turns_of(read([{"messages": turns, "system": "S"}], **entry))[0] == ("system", "S\ndetailed thinking off")
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
    messages = [turns[0], call, {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}, turns[1]]
    assert turns_of(read([{"messages": messages, "system": "S"}], **entry))[2:] == [
        ("assistant", '[{"name": "f", "arguments": {"x": 1}}]'),
        ("tool", "1"),
        ("tool", "2"),
        ("assistant", "a"),
    ]


@pytest.mark.parametrize(
    ("turns", "match"),
    [
        ([("human", "q"), ("human", "q"), ("gpt", "a")], r"conversations\[1\]' has role user, expected an answer"),
        ([("gpt", "a"), ("human", "q")], r"conversations\[0\]' has role assistant, expected a question"),
        ([*TALK, ("system", "s"), ("gpt", "a")], r"conversations\[2\]' has role system, expected"),
        ([("user", "q"), ("gpt", "a")], "is 'user', not one of human, gpt, function_call, observation, system"),
        ([*TALK, ("human", "q")], "has no answer at its end"),
    ],
)
def test_rows_that_llama_factory_leaves_out_are_faults(read, turns, match):
    with pytest.raises(UserError, match=match):
        read([talk(turns)], formatting="sharegpt")


def test_tags_are_all_the_roles_there_are(read):
    """LLaMA-Factory drops its default names if an entry has tags."""
    tags = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
    assert len(read([talk(TALK)], formatting="sharegpt", tags=tags)) == 1
    with pytest.raises(UserError, match="is 'system', not one of human, gpt"):
        read([talk([("system", "s"), *TALK])], formatting="sharegpt", tags=tags)


@pytest.mark.parametrize(
    "files",
    [
        {"d/a.csv": "instruction,output\na,b\n", "d/b.csv": "instruction,output\nc,d\n"},
        {"d/a.json": json.dumps([ALPACA]), "d/b.jsonl": json.dumps(ALPACA), "d/.hidden": "x", "d/README.md": "x"},
        {"d/a.txt.gz": None, "d/b.txt": "text"},
    ],
)
def test_a_folder_of_files(read, tmp_path, caplog, files):
    caplog.set_level(logging.INFO)
    entry = {}
    if "d/a.txt.gz" in files:
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "a.txt.gz").write_bytes(gzip.compress(b"packed"))
        files, entry = {"d/b.txt": "text"}, {"columns": {"prompt": "text", "response": "text"}}
    rows = read(files, name="d", **entry)
    assert len(rows) == 2 and rows.sources().tolist() == ["e", "e"]
    assert ("not read: README.md" in caplog.text) == ("d/README.md" in files)


def test_files_of_several_kinds_in_a_folder(read):
    with pytest.raises(UserError, match="has files of several kinds"):
        read({"d/a.csv": "instruction,output\na,b\n", "d/b.json": "[]"}, name="d")
    with pytest.raises(UserError, match="has no supported file"):
        read({"other/a.md": "x"}, name="other")


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"columns": "x"}, "columns is of type str, not an object"),
        ({"columns": ["a"]}, "columns is of type list, not an object"),
        ({"columns": {"prompt": 3}}, "columns.prompt is of type int, not text"),
        ({"columns": {}}, "lists nothing, but no prompt; add prompt or query"),
        ({"columns": {"response": "output"}}, "lists response, but no prompt"),
        ({"formatting": "sharegpt", "columns": {"system": "s"}}, "no prompt; add messages"),
        ({"columns": {"prompt": "instructoin", "response": "output"}}, "no column 'instructoin'"),
        ({"tags": 3}, "tags is of type int, not an object"),
        ({"tags": {"user_tag": 3}}, "tags.user_tag is of type int"),
        ({"formatting": "chatml"}, "formatting=chatml is none of alpaca, sharegpt, openai"),
        ({"ranking": True}, "ranking=true is preference data"),
        ({"columns": {"prompt": "instruction", "kto_tag": "k"}}, "columns.kto_tag is preference data"),
        ({"columns": {"prompt": "instruction", "images": "i"}}, "columns.images is multimodal data"),
        ({"num_samples": "5"}, "num_samples is of type str, not a number"),
        ({"num_samples": 0}, "num_samples=0 is less than one row"),
        ({"split": "test"}, "split=test of a file"),
        ({"split": 3}, "split is of type int, not text"),
        ({"ms_hub_url": "a/b"}, "ms_hub_url=a/b is on ModelScope"),
        ({"om_hub_url": "a/b"}, "om_hub_url=a/b is on Openmind"),
        ({"script_url": "x"}, "script_url=x is a program"),
        ({"cloud_file_name": "s3://x"}, "cloud_file_name=s3://x is in cloud storage"),
        ({"hf_hub_url": "some-org/some-data"}, "is neither a local file nor a data set"),  # goes before file_name
        ({"file_name": None}, "file_name=None is not a text"),
        ({"file_name": "none.json"}, "no such file"),
    ],
)
def test_what_can_not_be_used_is_named(read, entry, match):
    with pytest.raises(UserError, match=match) as caught:
        read([ALPACA], **entry)
    assert "\n" not in str(caught.value)


def test_keys_that_mean_nothing_here_are_named(read, caplog):
    caplog.set_level(logging.INFO)
    columns = {"prompt": "instruction", "response": "output", "chosen": "c"}
    read([ALPACA], file_sha1="x", subset="s", columns=columns, tags={"user": "human"})
    assert "not used: file_sha1, columns.chosen, tags.user, subset" in caplog.text


def test_samples_and_parts_of_a_file(read, caplog):
    caplog.set_level(logging.INFO)
    rows = [{**ALPACA, "instruction": f"I{i}"} for i in range(20)]
    assert read(rows, split="train[:5]").eligible().tolist() == [0, 1, 2, 3, 4]
    assert read(rows, split="train[50%:75%]").eligible().tolist() == [10, 11, 12, 13, 14]
    sample = read(rows, num_samples=6).eligible().tolist()
    assert len(sample) == 6 and sample != list(range(6))
    assert read(rows, num_samples=6).eligible().tolist() == sample
    assert "14 of 20 rows left out by split or num_samples of their entry" in caplog.text
    assert set(read(rows, num_samples=3, split="train[:8]").eligible()) <= set(range(8))
    assert len(read(rows, num_samples=50).eligible()) == 20
    files = {f"d/{n}.json": json.dumps(rows[10 * n : 10 * n + 10]) for n in range(2)}
    assert read(files, name="d", num_samples=6).eligible().tolist() == sample  # a folder is one data set


def test_rows_outside_of_a_sample_may_be_faulty(read):
    rows = [ALPACA] * 3 + [{"instruction": 3}]
    assert read(rows, split="train[:3]").eligible().tolist() == [0, 1, 2]

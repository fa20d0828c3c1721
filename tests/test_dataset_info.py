"""LLaMA-Factory's dataset_info.json: entries by name, with their columns and tags."""

import json

import numpy as np
import pytest

from near.data import load, raw_rows
from near.errors import UserError
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
    """Each by its own columns, a limit for each, and labels by their names."""
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
    with pytest.raises(UserError, match="plian is no entry of .*did you mean plain"):
        load(cfg.data, "candidates", str(cache))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("plian", "is no entry of .*did you mean plain"),
        ("pairs", "ranking=true is preference data"),
        ("nowhere", "ms_hub_url=a/b is on ModelScope, which is not read"),
    ],
)
def test_bad_entries(info, cache, name, says):
    with pytest.raises(UserError, match=says):
        entry(info, name, cache)


def test_a_file_that_is_not_there(tmp_path, cache):
    with pytest.raises(UserError, match="can't be read"):
        entry(tmp_path / "no.json", "x", cache)

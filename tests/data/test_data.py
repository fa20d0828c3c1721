"""Files of every format become the same canonical rows; ids stay; faults name file, row and field."""

import gzip
import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from omegaconf import OmegaConf

from near.common.errors import UserError
from near.common.files import read_json, write_json
from near.data.formats.formats import embedded_text
from near.data.loading import load
from near.data.pool import load_pool
from near.data.sources import compression, json_stream
from near.data.sources.readers import Kind, read_rows
from tests.conftest import configured, write_rows

CHAT = [{"role": "user", "content": "what is 2+2"}, {"role": "assistant", "content": "4"}]
ALPACA = {"instruction": "what is 2+2", "input": "", "output": "4"}


def loaded(path, cache, *overrides, part="candidates", answer=True, limit=None, refresh=False):
    cfg = configured("select", "data=files", "data.queries.path=q", "data.candidates.path=x")
    cfg.data.candidates.path, cfg.data.candidates.limit, cfg.data.refresh = str(path), limit, refresh
    for override in overrides:
        OmegaConf.update(cfg, *override.split("=", 1))
    return load(cfg.data, part, str(cache), answer)


def refused(path, cache, *overrides) -> str:
    with pytest.raises(UserError) as caught:
        loaded(path, cache, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("format", "row"),
    [
        ("alpaca", ALPACA),
        ("messages", {"messages": CHAT}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "what is 2+2"}, {"from": "gpt", "value": "4"}]}),
        ("prompt_completion", {"prompt": "what is 2+2", "completion": "4"}),
        ("prompt_completion", {"prompt": CHAT[:1], "completion": CHAT[1:]}),
        ("question_answer", {"question": "what is 2+2", "answer": "4"}),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "jsonl.gz", "jsonl.zst", "parquet", "folder"])
def test_formats_and_files_agree(tmp_path, cache, format, row, suffix):
    rows, path = [row, {**row, "extra": 1}], tmp_path / f"pool.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "parquet":
        datasets.Dataset.from_list([row, row]).to_parquet(path)
    elif suffix == "folder":
        datasets.Dataset.from_list([row, row]).save_to_disk(path := tmp_path / "pool")
    elif suffix == "jsonl":
        write_rows(path, rows)
    elif suffix == "jsonl.zst":
        with pa.output_stream(str(path), compression="zstd") as file:
            file.write("".join(json.dumps(r) + "\n" for r in rows).encode())
    else:
        path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    for chosen in (format, "auto"):
        rows = loaded(path, cache, f"data.candidates.format={chosen}")
        assert len(rows) == 2
        assert rows.messages(1) == CHAT
        assert rows.sources().tolist() == ["pool", "pool"]


def test_csv(tmp_path, cache):
    path = tmp_path / "pool.csv"
    path.write_text('question,answer,kind\n"what, exactly, is ""2+2""?",4,sum\n"two\nlines",b,text\n', encoding="utf-8")
    columns = {"instruction": "question", "output": "answer", "source": "kind"}
    rows = loaded(path, cache, *(f"data.candidates.columns.{k}={v}" for k, v in columns.items()))
    assert rows.messages(0)[0]["content"] == 'what, exactly, is "2+2"?'
    assert rows.messages(1)[0]["content"] == "two\nlines"
    assert rows.sources().tolist() == ["sum", "text"]


def test_alpaca_input_system_and_history(tmp_path, cache):
    row = {**ALPACA, "input": "in words", "system": "be brief", "history": [["hi", "hello"]]}
    rows = loaded(write_rows(tmp_path / "p.jsonl", [row]), cache)
    assert [m["role"] for m in rows.messages(0)] == ["system", "user", "assistant", "user", "assistant"]
    assert rows.messages(0)[3]["content"] == "what is 2+2\nin words"


def test_sharegpt_tool_turns(tmp_path, cache):
    turns = [
        ("human", "weather?"),
        ("function_call", '{"name": "look"}'),
        ("observation", "rain"),
        ("gpt", "It rains."),
    ]
    row = {"conversations": [{"from": f, "value": v} for f, v in turns]}
    rows = loaded(write_rows(tmp_path / "p.jsonl", [row]), cache)
    assert [m["role"] for m in rows.messages(0)] == ["user", "assistant", "tool", "assistant"]


def test_what_is_embedded():
    chat = [{"role": "system", "content": "S"}, *CHAT]
    assert embedded_text(chat, "prompt") == "what is 2+2"
    assert embedded_text(chat, "answer") == "4"
    assert embedded_text(chat, "both") == "what is 2+2\n4"
    assert embedded_text([chat[0], CHAT[1]], "prompt") == "S"


def test_limit_and_fingerprint(tmp_path, cache):
    rows = [{**ALPACA, "output": str(i)} for i in range(10)]
    path = write_rows(tmp_path / "p.jsonl", rows)
    whole, part = loaded(path, cache), loaded(path, cache, limit=3)
    assert (len(whole), len(part)) == (10, 3)
    assert whole.fingerprint != part.fingerprint
    same = loaded(write_rows(tmp_path / "q.jsonl", rows), cache, "data.candidates.columns.output=output")
    assert same.sources()[0] == "q"
    changed = loaded(write_rows(path, rows[:9] + [{**ALPACA, "output": "x"}]), cache)
    assert changed.fingerprint != whole.fingerprint
    swapped = loaded(write_rows(path, rows[::-1]), cache)
    assert swapped.fingerprint != whole.fingerprint


FAULTY = [
    ('{"instruction": "a", "output": ""}', "field 'output' is empty"),
    ('{"instruction": "a", "output": null}', "field 'output' is null"),
    ('{"instruction": "a"}', "field 'output' is missing"),
    ('{"instruction": "a", "output": 4}', "field 'output' is of type int, not text"),
    ('{"instruction": "", "output": "b"}', "field 'instruction' is empty"),
    ('{"instruction": "a\\ud800", "output": "b"}', "has half of a surrogate pair"),
    ("[" * 100000, "field 'line' is not JSON"),
    ('{"instruction": ' + "9" * 5000 + "}", "field 'line' is not JSON"),
    ('{"instruction": "a", "input": ["x"], "output": "b"}', "field 'input' is of type list, not text"),
    ('{"instruction": "a", "history": [["x"]], "output": "b"}', "field 'history' must contain only"),
    ('{"instruction": "a", "output": "b"', "field 'line' is not JSON"),
    ("[1, 2]", "field 'row' is of type list"),
    ("\xff", "field 'line' is not"),
]


@pytest.mark.parametrize(("line", "expected"), FAULTY)
def test_a_faulty_row_is_named_or_skipped(tmp_path, cache, line, expected):
    good = json.dumps(ALPACA).encode()
    path = tmp_path / "pool.jsonl"
    path.write_bytes(b"\n".join([good, b"", line.encode("latin-1"), good]) + b"\n")
    message = refused(path, cache)
    assert expected in message
    assert f"{path}, row 1 (line 3)" in message
    assert "data.on_error=skip" in message
    rows = loaded(path, cache, "data.on_error=skip")
    assert len(rows) == 3
    assert rows.eligible().tolist() == [0, 2]  # ids stay
    assert rows.messages(2) == CHAT
    assert expected in refused(path, cache)  # the cached table does not hide the fault from on_error=raise


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([], "field 'messages' is empty"),
        ([{"role": "user", "content": "a"}], "has no answer at its end"),
        ([{"role": "assistant", "content": "a"}], "holds no prompt"),
        ([{"role": "robot", "content": "a"}], "field 'messages[0].role' is 'robot', not one of"),
        ([{"role": "user", "content": None}], "field 'messages[0].content' is of type NoneType"),
        ([{"role": ["user"], "content": "a"}], "field 'messages[0].role' is ['user'], not one of"),
        ([{"role": "user"}], "is not a turn with 'role' and 'content'"),
        ("hello", "is of type str, not a list"),
    ],
)
def test_faulty_chats(tmp_path, cache, turns, expected):
    assert expected in refused(write_rows(tmp_path / "p.jsonl", [{"messages": turns}]), cache)


def test_missing_file_column_split_and_empty(tmp_path, cache):
    path = write_rows(tmp_path / "pool.jsonl", [ALPACA])
    assert "did you mean pool.jsonl" in refused(tmp_path / "poll.jsonl", cache)
    assert "no such file; there is no folder" in refused(tmp_path / "no" / "poll.jsonl", cache)
    message = refused(path, cache, "data.candidates.columns.output=anser")
    assert "no row has an answer (row 0 (line 1): field 'anser' is missing); its columns: instruction, input" in message
    message = refused(path, cache, "data.candidates.columns.instruction=question")
    assert "no column 'question' (columns.instruction); its columns: instruction, input, output" in message
    assert "data.candidates.path is missing: set data.candidates.path=FILE" in refused_null(cache)
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(path.read_bytes() * 500)[:-20])
    assert "is a damaged gzip file" in refused(tmp_path / "p.jsonl.gz", cache)
    assert "columns.prompt is not a field of data.candidates.format=alpaca" in refused(
        path, cache, "data.candidates.columns.prompt=instruction", "data.candidates.format=alpaca"
    )
    assert "no column 'messages' (data.candidates.format=messages)" in refused(
        path, cache, "data.candidates.format=messages"
    )
    assert "a file has no name or split" in refused(path, cache, "data.candidates.split=train")
    assert "is a folder without a saved data set; name a file in it" in refused(tmp_path, cache)
    assert "no file matches" in refused(tmp_path / "*.nothing", cache)
    (tmp_path / "p.jsonl.zst").write_bytes(b"not zstd")
    assert "is a damaged zstd file" in refused(tmp_path / "p.jsonl.zst", cache)
    assert "has no rows" in refused(write_rows(tmp_path / "empty.jsonl", []), cache)
    broken = write_rows(tmp_path / "allbad.jsonl", [{**ALPACA, "output": ""}])
    assert "no row has an answer" in refused(broken, cache, "data.on_error=skip")
    bare = write_rows(tmp_path / "bare.jsonl", [{**ALPACA, "instruction": ""}])
    assert "has no usable row" in refused(bare, cache, "data.on_error=skip")
    (tmp_path / "p.xyz").write_text("x")
    assert "files can be .json" in refused(tmp_path / "p.xyz", cache)
    (tmp_path / "p.json").write_text('{"a": 1}')
    assert "holds an object, not a list of rows" in refused(tmp_path / "p.json", cache)
    (tmp_path / "p.json").write_text('[{"text": "a"}\n{"text": "b"}]')
    assert "is not JSON near row 1" in refused(tmp_path / "p.json", cache)
    (tmp_path / "p.parquet").write_text("x")
    assert "not a readable parquet file" in refused(tmp_path / "p.parquet", cache)
    unknown = write_rows(tmp_path / "unknown.jsonl", [{"a": "b"}])
    assert "no known format fits; its columns: a" in refused(unknown, cache)


def refused_null(cache) -> str:
    cfg = configured("select", "data=files")
    with pytest.raises(UserError) as caught:
        load(cfg.data, "candidates", str(cache))
    return str(caught.value)


def test_the_same_content_under_another_name_is_the_same_pool(tmp_path):
    """In one cache and in another; labels and messages name the file of the configuration."""
    rows = [ALPACA, {"instruction": "b", "output": ""}]
    first, second = write_rows(tmp_path / "aa.jsonl", rows), write_rows(tmp_path / "bb.jsonl", rows)
    skip = "data.on_error=skip"
    rows = [loaded(path, tmp_path / c, skip) for path, c in ((first, "c"), (second, "c"), (second, "d"))]
    assert len({f.fingerprint for f in rows}) == 1
    assert rows[1].sources().tolist() == ["bb", "bb"]
    assert str(second) in refused(second, tmp_path / "c")
    unanswered = loaded(second, tmp_path / "c", answer=False)  # as select.py may read it
    assert unanswered.fingerprint == rows[0].fingerprint
    assert (len(unanswered.eligible()), len(rows[0].eligible())) == (2, 1)


def test_a_first_row_without_an_answer_is_one_faulty_row(tmp_path, cache):
    path = write_rows(tmp_path / "p.jsonl", [{"instruction": "a"}, ALPACA])
    assert "row 0 (line 1): field 'output' is missing" in refused(path, cache)
    assert loaded(path, cache, "data.on_error=skip").eligible().tolist() == [1]


def test_damaged_rows_in_the_cache_are_read_again(tmp_path, caplog):
    path = write_rows(tmp_path / "p.jsonl", [ALPACA])
    loaded(path, tmp_path / "c")
    for name in ("info.json", "rows.arrow"):
        file = next((tmp_path / "c" / "data").glob(f"*/{name}"))
        file.write_bytes(file.read_bytes()[:20])
        caplog.clear()
        assert len(loaded(path, tmp_path / "c")) == 1
        assert str(file.parent) in caplog.text and "it is made again" in caplog.text
        caplog.clear()
        assert len(loaded(path, tmp_path / "c")) == 1 and "again" not in caplog.text


def test_a_hub_out_of_reach_is_one_line(cache):
    message = refused("someone/some-data", cache)
    assert "data=demo" in message


def test_a_hub_data_set(tmp_path, monkeypatch):
    """The hub stood in for by what `datasets` gives and raises: splits, and rows that keep their place."""
    rows = datasets.Dataset.from_list([ALPACA, {**ALPACA, "output": "four"}])

    def load_dataset(path, name=None, split=None, revision=None):
        if split not in (None, "train"):
            raise ValueError(f"Unknown split \"{split}\". Should be one of ['train', 'test'].")
        return rows if split else datasets.DatasetDict(train=rows, test=rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = loaded("someone/some-data", tmp_path, "data.candidates.split=train")
    assert (rows.messages(1)[-1]["content"], rows.sources()[0]) == ("four", "some-data")
    assert "split is missing: set it to one of train, test" in refused("someone/some-data", tmp_path)
    message = refused("someone/some-data", tmp_path, "data.candidates.split=trian")
    assert "data.candidates.split=trian: Unknown split" in message
    assert "'train', 'test'" in message


def test_nothing_half_written_stays(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text(json.dumps(ALPACA) + "\n{broken\n")
    refused(path, tmp_path / "c")
    assert list((tmp_path / "c" / "data").iterdir()) == []


def test_queries_may_come_without_answers(tmp_path, cache):
    path = write_rows(tmp_path / "q.jsonl", [{"instruction": "a"}, {"instruction": "b", "output": ""}])
    rows = loaded("x", cache, f"data.queries.path={path}", part="queries", answer=False)
    assert rows.texts(np.array([1, 0]), "prompt") == ["b", "a"]


def test_several_sources_make_one_pool(tmp_path, cache):
    """A list, a glob and a mapping of labels; ids go on from file to file, each file is read once."""
    parts = [
        write_rows(tmp_path / f"part{i}.jsonl", [{**ALPACA, "output": f"{i}{j}"} for j in range(3)]) for i in (0, 1)
    ]
    csv = tmp_path / "other.csv"
    csv.write_text("question,answer\nq,a\n")

    def loaded_from(path, limit=None):
        cfg = configured("select", "data=files")
        cfg.data.candidates.path, cfg.data.candidates.limit = path, limit
        return load(cfg.data, "candidates", str(cache))

    listed = loaded_from([str(parts[0]), str(csv), str(parts[1])])
    assert [listed.messages(i)[-1]["content"] for i in range(7)] == ["00", "01", "02", "a", "10", "11", "12"]
    assert listed.sources().tolist() == ["part0"] * 3 + ["other"] + ["part1"] * 3
    globbed = loaded_from(str(tmp_path / "part*.jsonl"))
    assert globbed.sources().tolist() == ["part0"] * 3 + ["part1"] * 3
    assert globbed.fingerprint != listed.fingerprint
    labelled = loaded_from({"sums": str(tmp_path / "part*.jsonl"), "talk": str(csv)})
    assert labelled.sources().tolist() == ["sums"] * 6 + ["talk"]
    assert len(loaded_from([str(parts[0]), str(parts[1])], limit=4)) == 4
    with pytest.raises(UserError, match="3 is not a path"):
        loaded_from([3])
    with pytest.raises(UserError, match="names no file"):
        loaded_from([])


def test_a_filter_leaves_rows_out_and_ids_in_place(tmp_path, cache):
    rows = [
        {**ALPACA, "lang": lang, "output": out} for lang, out in (("en", "1"), ("de", ""), ("fr", "3"), ("en", "4"))
    ]
    cfg = configured("select", "data=files")
    cfg.data.candidates.path = str(write_rows(tmp_path / "p.jsonl", rows))

    def eligible(filter):
        cfg.data.candidates.filter = filter
        return load(cfg.data, "candidates", str(cache)).eligible().tolist()

    assert eligible({"lang": "en"}) == [0, 3]  # the faulty row is not in the way: it is filtered out
    assert eligible({"lang": ["fr", "en"]}) == [0, 2, 3]
    with pytest.raises(UserError, match="no column 'language'; its columns: instruction, input, output, lang"):
        eligible({"language": "en"})
    with pytest.raises(UserError, match="matches no row; widen it"):
        eligible({"lang": "it"})


def test_a_csv_field_of_any_length(tmp_path, cache):
    path = tmp_path / "p.csv"
    path.write_text(f"instruction,output\n{'a' * 300_000},b\n")
    assert len(loaded(path, cache).messages(0)[0]["content"]) == 300_000


def test_plain_text_by_line_and_by_column(tmp_path, cache):
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfthe first line\n\n  the second one\r\n")
    by_line = loaded(tmp_path / "p.txt", cache)
    by_column = loaded(
        write_rows(tmp_path / "p.jsonl", [{"text": "the first line"}, {"text": "  the second one"}]), cache
    )
    for rows in (by_line, by_column):
        assert rows.messages(0) == [{"role": "assistant", "content": "the first line"}]
        for field in ("prompt", "answer", "both"):
            assert rows.texts(rows.eligible(), field) == ["the first line", "  the second one"]
    assert by_line.fingerprint == by_column.fingerprint


def test_plain_text_leaks_by_itself_and_not_by_its_lack_of_a_prompt(tmp_path, cache):
    paths = [tmp_path / "pool.txt", tmp_path / "target.txt"]
    for path, lines in zip(paths, (["one", "two", "three"], ["two", "four"]), strict=True):
        path.write_text("\n".join(lines))
    cfg = configured("select", "data=files", f"data.candidates.path={paths[0]}", f"data.queries.path={paths[1]}")
    cfg.cache_dir = str(cache)
    assert load_pool(cfg.data, load(cfg.data, "queries", str(cache)), str(cache)).eligible().tolist() == [0, 2]


def test_a_json_list_is_read_as_a_stream(tmp_path, cache):
    rows = [
        {"instruction": f"é {i}", "output": "1.5", "n": 1.5, "big": 10**30, "deep": {"a": [None, True]}}
        for i in range(5)
    ]
    path = tmp_path / "p.json"
    path.write_bytes(b"\xef\xbb\xbf\n " + json.dumps(rows, ensure_ascii=False).encode())
    rows = loaded(path, cache)
    assert [rows.messages(i)[0]["content"] for i in range(5)] == [f"é {i}" for i in range(5)]


@pytest.mark.parametrize("block", [1, 2, 7, 1000])
def test_a_json_list_is_the_same_at_any_block(tmp_path, monkeypatch, block):
    monkeypatch.setattr(json_stream, "BLOCK", block)
    values = [{"a": [1, {"b": "],[{"}]}, 12, -3.5e10, "x", None, True, [], {}, "é" * 30, 10**30]
    path = tmp_path / "p.json"
    for text in (json.dumps(values), json.dumps(values, indent=2) + "\n", "[]", " [ ] "):
        path.write_text(text, encoding="utf-8")
        assert [row for _, row in read_rows(path, Kind(".json", ""))] == json.loads(text)
    for broken in ("[1, 2", "[1,]", "[1 2]", "[1] 2", "[", "[,1]", '["a]', "[1]]", "[1}"):
        path.write_text(broken)
        with pytest.raises(UserError, match="is not JSON near row"):
            list(read_rows(path, Kind(".json", "")))


def test_tool_calls_parts_and_developer_turns(tmp_path, cache):
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
    turns = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "weather"}, {"type": "text", "text": " in Ulm?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "tool_calls": [call], "content": "I look again."},
    ]
    rows = loaded(write_rows(tmp_path / "p.jsonl", [{"messages": turns}]), cache).messages(0)
    calls = json.dumps([{"name": "weather", "arguments": {"city": "Ulm"}}])
    assert rows == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "weather in Ulm?"},
        {"role": "assistant", "content": "", "calls": calls},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "I look again.", "calls": calls},
    ]


def test_splits_of_a_saved_data_set_and_arrow_files(tmp_path, cache):
    whole = datasets.Dataset.from_list([ALPACA, {**ALPACA, "output": "four"}])
    datasets.DatasetDict({"train": whole, "test": whole.select([1])}).save_to_disk(tmp_path / "saved")
    assert len(loaded(tmp_path / "saved", cache, "data.candidates.split=test")) == 1
    assert "saved has the splits train, test; name one" in refused(tmp_path / "saved", cache)
    assert "has no splits" in refused(tmp_path / "saved" / "train", cache, "data.candidates.split=train")
    (stream,) = (tmp_path / "saved" / "train").glob("*.arrow")
    assert loaded(stream, cache).messages(1)[-1]["content"] == "four"
    with pa.ipc.new_file(str(tmp_path / "file.arrow"), whole.data.table.schema) as file:
        file.write_table(whole.data.table)
    assert loaded(tmp_path / "file.arrow", cache).fingerprint == loaded(stream, cache).fingerprint


@pytest.mark.parametrize("compression", ["snappy", "none"])
def test_damage_inside_a_parquet_file_is_one_line(tmp_path, cache, compression):
    rows = [{**ALPACA, "output": f"{i} é" * 30} for i in range(2000)]
    path = tmp_path / "p.parquet"
    pa.parquet.write_table(pa.Table.from_pylist(rows), path, compression=compression, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[20000:20400] = b"\xff" * 400
    path.write_bytes(content)
    assert "not a readable parquet file" in refused(path, cache) or compression == "none"


def test_only_the_main_rank_reads_again(tmp_path, cache, monkeypatch):
    path = write_rows(tmp_path / "p.jsonl", [ALPACA])
    loaded(path, cache)
    monkeypatch.setitem(compression.OPENERS, "", lambda path: 1 / 0)
    monkeypatch.setenv("RANK", "1")
    assert len(loaded(path, cache, refresh=True)) == 1
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ZeroDivisionError):
        loaded(path, cache, refresh=True)


def test_lines_of_plain_text_end_in_any_way(tmp_path, cache):
    (tmp_path / "p.txt").write_bytes(b"one\rtwo\r\nthree\nfour")
    rows = loaded(tmp_path / "p.txt", cache)
    assert rows.texts(rows.eligible(), "prompt") == ["one", "two", "three", "four"]


def test_names_that_are_no_unicode_are_written_as_escapes(tmp_path, cache):
    (tmp_path / "p.jsonl").write_text(json.dumps({**ALPACA, "\ud800": "z"}))
    rows = loaded(tmp_path / "p.jsonl", cache)
    assert rows.messages(0) == CHAT
    write_json(tmp_path / "x.json", {"path": "bad\udcff.jsonl"})
    assert read_json(tmp_path / "x.json") == {"path": "bad\udcff.jsonl"}

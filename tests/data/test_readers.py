"""Unusual files: compressed, with upper-case names, nested, with unreadable columns, with odd line ends."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet
import pytest

from near.common.errors import UserError
from near.common.files import read_jsonl, write_jsonl
from near.data.loading import load
from near.data.sources import json_stream
from near.data.sources.readers import Kind, read_rows
from tests.conftest import configured

ROWS = [{"question": f"q{i}", "answer": f"a\u2028{i}"} for i in range(5)]
TABLE = [["question", "answer"], *([r["question"], r["answer"]] for r in ROWS)]
TEXTS = {
    ".jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
    ".ndjson": "\r\n".join(json.dumps(row) for row in ROWS),
    ".json": json.dumps(ROWS, indent=1),
    ".csv": "\n".join(",".join(line) for line in TABLE),
    ".tsv": "\n".join("\t".join(line) for line in TABLE),
}
PACKED = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def _zst(content: bytes) -> bytes:
    return pa.compress(content, "zstd", asbytes=True)


PACKED[".zst"] = _zst


@pytest.fixture()
def read(tmp_path, cache):
    def of(name: str, content: bytes | str, **options):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        cfg = configured("select", "data=files")
        cfg.data.candidates.path = str(tmp_path / name)
        for key, value in options.items():
            cfg.data.candidates[key] = value
        return load(cfg.data, "candidates", str(cache))

    return of


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("ending", TEXTS)
def test_every_format_in_every_packing(read, ending, packing):
    for name in (f"p{ending}{packing}", f"P{ending}{packing}".upper()):
        rows = read(name, PACKED[packing](b"\xef\xbb\xbf" + TEXTS[ending].encode()))
        chats = [[m["content"] for m in rows.messages(i)] for i in range(len(rows))]
        assert chats == [[row["question"], row["answer"]] for row in ROWS]


@pytest.mark.parametrize("packing", [p for p in PACKED if p])
@pytest.mark.parametrize("harm", ["cut", "head", "middle", "other"])
def test_damaged_packed_files_are_one_line(read, packing, harm):
    content = PACKED[packing]("\n".join(json.dumps({**row, "n": i}) for i in range(500) for row in ROWS).encode())
    half = len(content) // 2
    content = {
        "cut": content[:-30],
        "head": b"xx" + content[2:],
        "middle": content[:half] + bytes(b ^ 255 for b in content[half : half + 40]) + content[half + 40 :],
        "other": b"no such thing",
    }[harm]
    match = "is a damaged (gzip|bzip2|xz|zstd) file"
    with pytest.raises(UserError, match=f"{match}|'line' is not" if harm == "middle" else match):
        read(f"p.jsonl{packing}", content)


def test_plain_text_in_any_packing(read):
    assert len(read("P.TXT.XZ", lzma.compress(b"one\rtwo\r\n\nthree"))) == 3


@pytest.mark.parametrize("name", ["p.parquet.gz", "p.zip", "p.tar.gz", "p.gz", "pjsonl", "p.json.7z"])
def test_kinds_that_are_not_read(read, name):
    with pytest.raises(UserError, match=r"files can be \.jsonl.*also packed: \.gz, \.bz2, \.xz, \.zst"):
        read(name, b"x")


NESTED = {"meta": {"n": 2, "names": ["x"]}, "data": {"examples": ROWS, "a.b": ROWS[:1], "parts": [[], ROWS[:2]]}}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(("key", "rows"), [("data.examples", 5), ("data.a.b", 1), ("data.parts.1", 2)])
def test_rows_inside_of_a_json_file(read, key, rows, indent, monkeypatch):
    monkeypatch.setattr(json_stream, "BLOCK", 7)
    assert len(read(f"{key}.json", json.dumps(NESTED, indent=indent), key=key)) == rows
    assert len(read(f"{key}.json.gz", gzip.compress(json.dumps(NESTED).encode()), key=key)) == rows


@pytest.mark.parametrize(
    ("key", "match"),
    [
        (None, "set data.candidates.key=meta.names or data.candidates.key=data.examples or"),
        ("data", "holds an object at data.candidates.key=data, not a list of rows; set"),
        ("data.exmaples", "not found: this object has no 'exmaples'; there are: examples, a.b, parts"),
        ("meta.n", "holds number at data.candidates.key=meta.n, not a list"),
        ("data.parts.7", "not found: this list has no '7'"),
    ],
)
def test_keys_that_lead_nowhere(read, key, match):
    with pytest.raises(UserError, match=match):
        read("p.json", json.dumps(NESTED), key=key)


def test_a_key_is_for_json(read):
    with pytest.raises(UserError, match=r"data\.candidates\.key=rows: only \.json files have rows under a key"):
        read("p.jsonl", TEXTS[".jsonl"], key="rows")


@pytest.mark.parametrize("block", [1, 3, 50, 10_000])
def test_values_are_passed_over_at_any_block(tmp_path, monkeypatch, block):
    monkeypatch.setattr(json_stream, "BLOCK", block)
    before = {"a": ['x"]}', {"b": "\\"}], "c": "\\\\", "d": -1.5e3, "e": None, "f": {}, "g": [], "h": "é\u2028"}
    (tmp_path / "p.json").write_text(json.dumps({**before, "rows": [1, [2], "3"], "z": 1}, ensure_ascii=False))
    rows = read_rows(tmp_path / "p.json", Kind(".json", ""), "rows")
    assert [row for _, row in rows] == [1, [2], "3"]


def test_a_json_file_of_an_object_a_line(read):
    lines = [json.dumps(row) for row in ROWS]
    assert len(read("p.json", "\n".join(lines))) == 5
    with pytest.raises(UserError, match=r"row 2 \(line 3\): field 'line' is not JSON"):
        read("p.json", "\n".join([*lines[:2], "{broken"]))


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("p.json", '[{"question":"caf\xe9","answer":"b"}]'.encode("latin-1"), "is not UTF-8 near row 0"),
        ("p.json", json.dumps(ROWS).encode("utf-16"), "is not UTF-8 near row 0"),
        ("p.jsonl", TEXTS[".jsonl"].encode("utf-16"), "is not UTF-8"),
        ("p.csv", TEXTS[".csv"].encode("utf-16"), "not readable as CSV"),
        ("p.json", b'{"a": ', "is not JSON"),
        ("p.json", b"[" * 200_000, "is not JSON"),
        ("p.jsonl", b'{"question": ' + b"[" * 200_000, "is not JSON"),
        ("p.jsonl", b'{"question": "q", "answer": NaN}', "field 'answer' is of type float, not text"),
    ],
)
def test_odd_files_are_one_line(read, name, content, match):
    with pytest.raises(UserError, match=match):
        read(name, content)


def test_a_repeated_key_and_mixed_line_ends(read):
    rows = read(
        "p.jsonl", b'{"question": "x", "question": "q", "answer": "a"}\r\n\r\n{"question": "r", "answer": "a"}\r'
    )
    assert [rows.messages(i)[0]["content"] for i in range(2)] == ["q", "r"]


def table_file(path, table: pa.Table) -> bytes:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["p.parquet", "p.arrow", "p.feather"])
def test_columns_that_are_not_read_do_not_matter(tmp_path, read, name):
    table = pa.table(
        {
            "far": pa.array([10**18], pa.timestamp("us")),
            "zone": pa.array([0], pa.timestamp("us", tz="No/Where")),
            "question": ["q"],
            "answer": ["a"],
        }
    )
    content = table_file(tmp_path / name, table)
    assert len(read(name, content)) == 1
    assert read(name, content, columns={"source": "far"}).sources().tolist() == ["1000000000000000000 (timestamp[us])"]
    with pytest.raises(UserError, match="matches no row"):
        read(name, content, filter={"far": ">2020"})


@pytest.mark.parametrize("name", ["p.parquet", "p.arrow"])
def test_columns_of_one_name_are_refused(tmp_path, read, name):
    columns = [pa.array(["q"]), pa.array(["a"]), pa.array(["b"])]
    content = table_file(tmp_path / name, pa.Table.from_arrays(columns, names=["question", "answer", "answer"]))
    with pytest.raises(UserError, match="has several columns named answer; rename them"):
        read(name, content)


def test_lines_of_ours_end_at_line_ends_alone(tmp_path):
    """Characters that str.splitlines takes for ends of lines, in an answer that was written as it came."""
    rows = [{"answer": text} for text in ("a\u2028b", "a\x85b", "a\x0bb\x0c", "a\r\nb", "")]
    write_jsonl(tmp_path / "answers.jsonl", rows)
    assert read_jsonl(tmp_path / "answers.jsonl") == rows


@pytest.mark.parametrize("packing", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "ndjson", "csv", "tsv", "txt"])
def test_a_line_has_a_bound_however_it_is_packed(read, monkeypatch, kind, packing):
    monkeypatch.setattr("near.data.sources.readers.LONGEST_LINE", 1 << 20)
    first = {"csv": b"question,answer", "tsv": b"question\tanswer", "txt": b"text"}
    body = first.get(kind, b'{"question": "q", "answer": "a"}') + b"\n" + b"x" * (2 << 20) + b"\n"
    packed = PACKED[packing](body)
    with pytest.raises(UserError, match=rf"p\.{kind}{packing}: line 2 is longer than 1 MB, the limit for one row"):
        read(f"p.{kind}{packing}", packed)


@pytest.mark.parametrize(
    "text", ['[{"a": "%s"}]', '{"rows": [], "b": "%s"}', '{"b": {"c": ["%s"]}, "rows": []}', '["%s']
)
def test_a_value_of_a_json_file_has_a_bound(read, monkeypatch, text):
    monkeypatch.setattr("near.data.sources.json_stream.LONGEST", 3 << 20)
    with pytest.raises(UserError, match="a value of more than 3 million characters"):
        read("p.json.gz", gzip.compress((text % ("x" * (9 << 20))).encode()))


def test_a_carriage_return_between_a_lines_tokens_ends_no_line(read):
    assert len(read("p.jsonl", b'{"question": "q",\r "answer": "a"}\r\n{"question": "r", "answer": "b"}')) == 2

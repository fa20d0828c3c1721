"""Whatever a user brings: one line with the fault, a status of 1, and nothing half-written."""

import gzip
import json

import pytest
import yaml
from omegaconf import OmegaConf

from near.app import scripts as app
from near.app.check.check import check
from near.selection.select import select
from tests.conftest import ROOT, configured, process, run_script, write_rows

GOOD = [{"instruction": f"say {i}", "output": str(i)} for i in range(6)]
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def lines(*rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


PICK = "selector={_target_: near.selection.selectors.near.Near}"
# name of the candidates' file, its bytes, overrides, what the line says
FILES = [
    ("none.jsonl", None, (), "none.jsonl: no such file"),
    ("p.jsonl", b"", (), "p.jsonl has no rows"),
    ("p.jsonl", b"\n \n", (), "p.jsonl has no rows"),
    ("p.jsonl", lines(*GOOD) + b"{broken\n", (), "row 6 (line 7): field 'line' is not JSON"),
    ("p.jsonl", lines(*GOOD) + b"\xff\xfe\n", (), "row 6 (line 7): field 'line' is not UTF-8"),
    ("p.jsonl", b"[1, 2]\n", (), "is of type list, not an object"),
    ("p.jsonl", b'{"question": "a"}\n', (), "field 'answer' is missing"),
    ("p.jsonl", b'{"instruction": "a", "output": ["b"]}\n', (), "field 'output' is of type list, not text"),
    ("p.jsonl", b'{"instruction": "\\ud800", "output": "b"}\n', (), "half of a surrogate pair"),
    (
        "p.jsonl",
        b'{"one": 1, "two": 2}\n',
        (),
        "no known format fits; its columns: one, two; set data.candidates.format",
    ),
    ("p.jsonl", lines({"messages": []}), (), "field 'messages' is empty"),
    ("p.jsonl", lines({"messages": [{"role": "narrator", "content": "x"}]}), (), "messages[0].role' is 'narrator'"),
    ("p.jsonl", lines({"messages": [{"role": "user", "content": [1]}]}), (), "messages[0].content' is of type list"),
    (
        "p.jsonl",
        lines(CHAT),
        ("data.candidates.format=alpaca",),
        "no column 'instruction' (data.candidates.format=alpaca)",
    ),
    ("p.jsonl", lines(*GOOD), ("data.candidates.format=text",), "no column 'text' (data.candidates.format=text)"),
    ("p.jsonl", lines(*GOOD), ("data.candidates.columns={output: reply}",), "row 0 (line 1): field 'reply' is missing"),
    ("p.jsonl", lines(*GOOD), ("data.candidates.columns={instruction: ask}",), "no column 'ask'"),
    ("p.jsonl", lines(*GOOD), ("data.candidates.filter={lang: en}",), "filter: no column 'lang'"),
    ("p.jsonl", lines(*GOOD), ("data.candidates.filter={output: z}",), "matches no row; widen it"),
    ("p.jsonl", lines(*GOOD), ("data.candidates.split=train",), "a file has no name or split"),
    ("p.jsonl", lines(*GOOD), ("data.candidates.limit=0",), "data.candidates.limit=0 is too small"),
    ("p.jsonl", lines(*GOOD), ("max_K=7",), "max_K=7 is more than the 6 candidates"),
    ("p.jsonl", lines({"instruction": "the target", "output": "a"}), (), "every row is one of the queries"),
    ("p.jsonl.gz", gzip.compress(lines(*GOOD), mtime=0)[:40], (), "is a damaged gzip file"),
    ("p.jsonl.gz", b"no gzip", (), "is a damaged gzip file"),
    ("p.jsonl.zst", b"no zstd", (), "is a damaged zstd file"),
    ("p.json", lines(*GOOD) + b"{broken", (), "row 6 (line 7): field 'line' is not JSON"),
    ("p.json", b'{"rows": []}', (), "not a list of rows; set data.candidates.key=rows"),
    ("p.json", json.dumps(GOOD).encode()[:-20], (), "p.json is not JSON"),
    ("p.json", b"[]", (), "p.json has no rows"),
    ("p.json", b"", (), "p.json is not JSON"),
    ("p.csv", b"question,answer\na,b,c\n", (), "has 3 columns, expected 2"),
    ("p.csv", b"question,answer\n\xff,b\n", (), "not readable as CSV"),
    ("p.csv", b"text,text\na,b\n", (), "has several columns named text; rename them"),
    ("p.csv", b'question,answer\n"a,b\nc,d\n', (), "not readable as CSV near line"),
    (
        "p.jsonl",
        lines({**GOOD[0], "from": "\ud800"}),
        ("data.candidates.columns={source: from}",),
        "half of a surrogate",
    ),
    ("p.jsonl", lines(*GOOD), ("data.candidates.filter=3",), "data.candidates.filter=3 is not a mapping"),
    ("p.jsonl", lines(*GOOD), ("data.candidates.filter=[output]",), "is not a mapping; write it like {name: value}"),
    ("p.jsonl", lines(*GOOD), ("data.candidates.tags=abc",), "data.candidates.tags=abc is not a mapping"),
    ("p.jsonl", lines(*GOOD), ("data.candidates.columns=3",), "data.candidates.columns=3 is not a mapping"),
    (
        "p.jsonl",
        lines(*GOOD),
        ("data.candidates.path=true",),
        "data.candidates.path=True is not a path, a list of paths",
    ),
    ("p.arrow", b"ARROW1 not really", (), "is not a readable Arrow file"),
    ("p.parquet", b"PAR1 not really", (), "is not a readable parquet file"),
    ("p.txt", b"a line\n\xff\xfe\n", (), "row 1 (line 2): field 'line' is not UTF-8"),
    ("p.txt", b"", (), "p.txt has no rows"),
    ("p.xlsx", b"x", (), "files can be .jsonl"),
    ("p.jsonl", lines(*GOOD), ("data.candidates.path=FOLDER",), "is a folder without a saved data set"),
    ("p.jsonl", lines(*GOOD), ("data.candidates.path=FOLDER/*.csv",), "no file matches"),
    ("p.jsonl", lines(*GOOD), ("data.candidates.path=[FOLDER/p.jsonl, FOLDER/q.jsonl]",), "q.jsonl: no such file"),
    ("p.jsonl", lines(*GOOD), ("data.candidates.path={law: 3}",), "3 is not a path"),
    ("p.jsonl", lines(*GOOD), ("data.candidates.path=[]",), "names no file"),
    ("p.jsonl", lines(*GOOD), ("data.candidates.path=null",), "data.candidates.path is missing"),
    ("p.jsonl", lines(*GOOD), ("data.candidates.path=some-org/some-data",), "is neither a local file nor a data set"),
    (
        "p.jsonl",
        lines(*GOOD),
        ("data.candidates.dataset_info=FOLDER/i.json",),
        "dataset_info=FOLDER/i.json can't be read",
    ),
    ("p.jsonl", lines(*GOOD), ("data.queries.path=FOLDER/q.jsonl",), "q.jsonl: no such file"),
    ("p.jsonl", lines(*GOOD), ("data.dedup=most",), "data.dedup=most is not one of none, exact, near"),
    ("p.jsonl", lines(*GOOD), ("data.dedup_threshold=2",), "data.dedup_threshold=2 is too large"),
    ("p.jsonl", lines(*GOOD), ("cache_dir=FOLDER/p.jsonl",), "p.jsonl"),
    ("p.jsonl", lines(*GOOD), ("dry_run=maybe",), "dry_run=maybe is not true or false"),
    ("p.jsonl", lines(*GOOD), ("n=5",), "n=5 picks no rows without selector; add selector=near"),
    (
        "p.jsonl",
        lines(*GOOD),
        ("export=jsonl",),
        "export=jsonl picks no rows without selector and n; add selector=near",
    ),
    ("p.jsonl", lines(*GOOD), (PICK,), "selector picks no rows without n; add n=ROWS"),
    ("p.jsonl", lines(*GOOD), (PICK, "export=parquet"), "export=parquet selector picks no rows without n; add n=ROWS"),
    ("p.jsonl", lines(*GOOD), (PICK, "n=0"), "n=0 is too small; use n>=1"),
    ("p.jsonl", lines(*GOOD), (PICK, "n=half"), "n=half is not a whole number"),
    ("p.jsonl", lines(*GOOD), (PICK, "n=7"), "n=7 is more than the 6 rows that may be selected; use n<=6"),
    ("p.jsonl", lines(*GOOD), (PICK, "n=2", "export=csv"), "export=csv is not one of jsonl, parquet"),
    ("p.jsonl", lines(*GOOD), (PICK, "n=2", "selector.subset_size=1"), "bounds a round of training; use n=1"),
    (
        "p.jsonl",
        lines(*GOOD, {**GOOD[0], "instruction": "say 9", "output": "9", "more": 1}, {**GOOD[1], "more": "1"}),
        ("selector={_target_: near.selection.selectors.full.Full}", "n=8", "export=parquet"),
        "column 'more' does not fit one type",
    ),
]
HUB = "embedder.model=no-such-org/no-such-model"
SERVER = "embedder.backend=vllm_server"
# embedder, overrides, what the line says
EMBEDDERS = [
    ("hashing", ("embedder.chunk=0",), "embedder.chunk=0 is too small"),
    ("hashing", ("embedder.store_dtype=int8",), "embedder.store_dtype=int8 is not one of float32, float16"),
    ("hashing", ("embedder.launcher=slurm",), "embedder.launcher=slurm is not one of ray"),
    ("hashing", ("embedder.launcher=ray",), 'Ray is not installed; pip install "near[ray]"'),
    ("hashing", ("embedder.embed=chat",), "embedder.embed=chat is for embedder=rds"),
    ("hashing", ("embedder.dim=0",), "embedder.dim=0 is too small"),
    ("hashing", ("embedder.dims=4",), "embedder.dims is not an option of HashingEmbedder; did you mean dim"),
    ("minilm", ("embedder.backend=tgi",), "embedder.backend=tgi is not one of auto, sentence-transformers, vllm"),
    ("minilm", ("embedder.backend=vllm",), 'not installed; pip install "near[vllm]"'),
    ("minilm", (SERVER,), "embedder.server.url is missing"),
    ("minilm", (SERVER, "embedder.server.url=localhost"), "embedder.server.url=localhost is not a URL"),
    ("minilm", (SERVER, "embedder.server.retries=-1"), "embedder.server.retries=-1 is too small"),
    ("minilm", (HUB,), "no such folder, and the hub did not provide it"),
    ("minilm", ("embedder.model=FOLDER",), "the folder has no model"),
    ("minilm", ("embedder.model=FOLDER/none",), "no such folder"),
    ("minilm", ("embedder.truncate_dim=0",), "embedder.truncate_dim=0 is too small"),
    ("minilm", ("embedder.dtype=int4",), "embedder.dtype=int4 is not one of"),
    ("minilm", ("embedder.max_length=none",), "embedder.max_length=none is not a whole number"),
]


def answer(folder, choice: str, overrides) -> str:
    """The line that select.py would end with; fails where it would end well or with a traceback."""
    cfg = configured("select", "data=files", f"embedder={choice}")
    cfg.cache_dir, cfg.max_K = str(folder / "cache"), 3
    cfg.data.queries.path = str(write_rows(folder / "target.jsonl", [{"instruction": "the target", "output": "a"}]))
    for override in overrides:
        key, _, value = override.replace("FOLDER", str(folder)).partition("=")
        OmegaConf.update(cfg, key, yaml.safe_load(value), force_add=True, merge=False)
    with pytest.raises(Exception) as caught:
        check(cfg, overrides)
        select(cfg, folder / "out")
    line = app.fault_line(caught.value)
    assert line is not None, f"a traceback: {caught.value!r}"
    assert "\n" not in line
    assert not (folder / "out" / "manifest.json").exists()
    return line.replace(str(folder), "FOLDER")


@pytest.mark.parametrize(("name", "content", "overrides", "says"), FILES)
def test_data(tmp_path, name, content, overrides, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert says in answer(tmp_path, "hashing", (f"data.candidates.path={tmp_path / name}", *overrides))
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(("choice", "overrides", "says"), EMBEDDERS)
def test_embedders(tmp_path, choice, overrides, says, packages):
    packages(ray=False, vllm=False)
    write_rows(tmp_path / "p.jsonl", GOOD)
    assert says in answer(tmp_path, choice, (f"data.candidates.path={tmp_path / 'p.jsonl'}", *overrides))


def test_there_are_enough_of_them():
    assert len(FILES) + len(EMBEDDERS) >= 60


@pytest.mark.process
@pytest.mark.parametrize(("case", "started"), [(3, process), (24, run_script)])
def test_a_process_ends_with_one_line_and_status_1(tmp_path, case, started):
    name, content, overrides, says = FILES[case]
    (tmp_path / name).write_bytes(content)
    target = write_rows(tmp_path / "target.jsonl", GOOD[:1])
    words = ["data=files", "embedder=hashing", f"data.candidates.path={tmp_path / name}", f"data.queries.path={target}"]
    done = started("select.py", *words, *overrides, f"cache_dir={tmp_path}/c", f"output_dir={tmp_path}/out")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and says in line
    assert not (tmp_path / "out").exists()


@pytest.mark.process
@pytest.mark.parametrize(("script", "key"), [("report", "runs"), ("merge", "export_dir")])
def test_a_missing_option_is_named_once(script, key, tmp_path):
    done = run_script(str(ROOT / f"{script}.py"), cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count(f"{key} is missing") == 1 and f"set {key}=..." in done.stderr

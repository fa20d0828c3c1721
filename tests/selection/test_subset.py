"""The rows that a selector picks, written for other trainers: the right ones as they were, or none at all."""

import datetime
import decimal
import gzip
import json
import logging

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from omegaconf import OmegaConf

from near.common.config import CONF
from near.common.errors import UserError
from near.common.outputs import LIST
from near.data.loading import load
from near.data.pool import load_pool
from near.embedding.embedders.hashing import HashingEmbedder
from near.searching import find as selection
from near.searching import material
from near.searching.neighbours import Neighbours
from near.selection import subset_files
from near.selection.round import Round
from near.selection.select import select
from near.selection.selectors.near import Near
from near.selection.selectors.random import Random
from near.selection.subset_files import WRITERS, as_json, nearest
from tests.app.test_configs import choices
from tests.conftest import configured, write_rows

OURS = ("row", "rank", "score", "nearest_query", "source")
ROWS = [{"question": f"what is {i} and {i % 7}", "answer": str(i), "kind": f"k{i % 3}"} for i in range(24)]
TARGET = [{"question": f"what is {i} and 3, please", "answer": "?"} for i in (30, 2, 11)]


@pytest.fixture()
def config(tmp_path):
    """The configuration of a selection of `path` into tmp_path/out; options by their keys."""

    def of(path, selector="near", **options):
        cfg = configured("select", "data=files", "embedder=hashing", f"selector={selector}", "n=5")
        cfg.cache_dir, cfg.max_K = str(tmp_path / "cache"), 6
        cfg.data.candidates.path = path if isinstance(path, list | dict) else str(path)
        cfg.data.queries.path = str(write_rows(tmp_path / "target.jsonl", TARGET))
        for key, value in options.items():
            OmegaConf.update(cfg, key.replace("__", "."), value, merge=False)
        return cfg

    return of


@pytest.fixture()
def pool(tmp_path):
    return write_rows(tmp_path / "pool.jsonl", ROWS)


def plain(cfg):
    """`cfg` without a selector: the matrix alone."""
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    del cfg["selector"]
    cfg.n = cfg.export = None
    return cfg


def strict(path) -> list[dict]:
    """The rows of a .jsonl file, which must be JSON to the letter."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")) for line in lines]


def written(out, kind) -> list[dict]:
    if kind == "parquet":
        return pa.parquet.read_table(out / "subset.parquet").to_pylist()
    return strict(out / "subset.jsonl")


def without(row: dict, names=OURS) -> dict:
    return {name: value for name, value in row.items() if name not in names}


MATRIX = {"manifest.json", "top_indices.npy", "top_scores.npy", "pool_keys.npy", "query_keys.npy"}


def files(folder) -> dict[str, bytes]:
    entries = folder.iterdir() if folder.exists() else ()
    return {p.name: p.read_bytes() for p in entries if p.name != LIST}


def write(kind: str, folder, rows: list[dict]):
    path = folder / f"pool.{kind}"
    if kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "jsonl":
        write_rows(path, rows)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif kind == "csv":
        text = "\n".join(",".join(f'"{value}"' for value in row.values()) for row in rows)
        path.write_text(",".join(rows[0]) + "\n" + text)
    elif kind == "parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "txt":
        path.write_text("\n\n".join(row["question"] for row in rows))
    else:
        datasets.Dataset.from_list(rows).save_to_disk(path := folder / "pool")
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("source", ["json", "jsonl", "jsonl.gz", "csv", "parquet", "txt", "folder"])
def test_the_rows_are_those_of_the_source_in_the_selectors_order(config, tmp_path, source, kind):
    cfg, out = config(write(source, tmp_path, ROWS), export=kind, n=9), tmp_path / "out"
    select(cfg, out)
    ids, matrix = np.load(out / "subset.npy"), np.load(out / "top_indices.npy")
    assert (ids.dtype, ids.shape) == (np.int64, (9,))
    walk = list(dict.fromkeys(matrix.T.ravel().tolist()))
    assert ids.tolist() == walk[:9]
    rows = written(out, kind)
    assert [(row["row"], row["rank"]) for row in rows] == list(zip(ids.tolist(), range(1, 10), strict=True))
    assert {row["source"] for row in rows} == {"pool"}
    expected = [{"text": row["question"]} for row in ROWS] if source == "txt" else ROWS
    assert [without(row) for row in rows] == [expected[i] for i in ids]


def test_score_and_nearest_query_against_the_matrix(config, pool, tmp_path):
    """A faulty query keeps its id, so that the matrix's rows are not the queries' ids."""
    cfg, out = config(pool, export="jsonl", n=12, data__on_error="skip"), tmp_path / "out"
    write_rows(tmp_path / "target.jsonl", [{"question": ""}, *TARGET[:1], {"question": 3}, *TARGET[1:]])
    select(cfg, out)
    ids, scores = np.load(out / "top_indices.npy"), np.load(out / "top_scores.npy")
    for row, chosen in zip(written(out, "jsonl"), np.load(out / "subset.npy"), strict=True):
        matches = [(-scores[q, k], (1, 3, 4)[q]) for q, k in zip(*np.nonzero(ids == chosen), strict=True)]
        assert (-row["score"], row["nearest_query"]) == min(matches)


def test_of_equal_scores_the_lowest_query_and_null_for_what_is_not_in_the_matrix(config, pool):
    matrix = Neighbours(np.array([[4, 2], [2, 9]]), np.array([[0.5, 0.25], [0.25, 0.125]], dtype=np.float32), {})
    queries = load(config(pool).data, "queries", config(pool).cache_dir)
    assert nearest(np.array([9, 2, 7, 4]), queries, matrix) == [(0.125, 1), (0.25, 0), (None, None), (0.5, 0)]


@pytest.mark.parametrize("limit", [4, 8, 10, 13, None])
def test_labelled_sources_with_faulty_rows_and_a_limit_over_all_of_them(config, tmp_path, limit):
    """Ids count faulty rows and go on from part to part; rows beyond the limit are in none."""
    lines = [json.dumps(row) for row in ROWS]
    (tmp_path / "law1.jsonl").write_text("\n".join([lines[0], "{broken", "", *lines[1:4]]))
    (tmp_path / "law2.jsonl").write_text("\n".join(["[1]", '{"question": ""}', lines[4]]))
    table = "question,answer,kind\n" + "".join(",".join(row.values()) + "\n" for row in ROWS[5:9])
    (tmp_path / "talk.csv").write_text(table)
    write_rows(tmp_path / "rest.jsonl", ROWS[9:12])
    at = [ROWS[0], None, *ROWS[1:4], None, None, *ROWS[4:12]]
    labels = ["law"] * 8 + ["talk"] * 4 + ["more"] * 3
    path = {"law": f"{tmp_path}/law*.jsonl", "talk": f"{tmp_path}/talk.csv", "more": f"{tmp_path}/rest.jsonl"}
    eligible = [i for i, row in enumerate(at[:limit]) if row]
    options = {"n": len(eligible), "export": "jsonl", "data__candidates__limit": limit, "data__on_error": "skip"}
    cfg, out = config(path, max_K=len(eligible), **options), tmp_path / "out"
    select(cfg, out)
    ids = np.load(out / "subset.npy").tolist()
    rows = written(out, "jsonl")
    assert sorted(ids) == eligible
    assert [without(row) for row in rows] == [at[i] for i in ids]
    assert [row["source"] for row in rows] == [labels[i] for i in ids]


def test_an_entry_of_a_dataset_info(config, tmp_path):
    write_rows(tmp_path / "d.jsonl", [{"q": row["question"], "a": row["answer"]} for row in ROWS])
    entry = {"file_name": "d.jsonl", "columns": {"prompt": "q", "response": "a"}, "num_samples": 7}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": entry}))
    info = str(tmp_path / "dataset_info.json")
    select(config("mine", n=7, max_K=7, export="jsonl", data__candidates__dataset_info=info), tmp_path / "out")
    ids = np.load(tmp_path / "out" / "subset.npy")
    assert [row["q"] for row in written(tmp_path / "out", "jsonl")] == [ROWS[i]["question"] for i in ids]


CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
TOOLS = [
    {
        "messages": [
            {"role": "user", "content": f"weather in {city}?"},
            {"role": "assistant", "tool_calls": [CALL], "content": None},
            {"role": "tool", "content": "räin", "name": "w"},
            {"role": "assistant", "content": "It rains."},
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"strict": True}}}],
        "meta": {"weight": 1.5, "n": 10**15, "none": None},
    }
    for city in ("Ulm", "Bonn", "Kiel")
]


def dense(value):
    """`value` without nulls, which a table with one type for all rows has for what a row lacks."""
    if isinstance(value, dict):
        return {k: dense(v) for k, v in value.items() if v is not None}
    return [dense(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_chats_with_tools_and_back_again(config, tmp_path, kind):
    path, out = write_rows(tmp_path / "pool.jsonl", TOOLS), tmp_path / "out"
    cfg = config(path, n=3, max_K=3, export=kind)
    select(cfg, out)
    ids, rows = np.load(out / "subset.npy"), written(out, kind)
    shape = (lambda value: value) if kind == "jsonl" else dense
    assert [shape(without(row)) for row in rows] == [shape(TOOLS[i]) for i in ids]
    first = load(cfg.data, "candidates", cfg.cache_dir)
    cfg.data.candidates.path = str(out / f"subset.{kind}")
    again = load(cfg.data, "candidates", cfg.cache_dir)
    assert again.chats(np.arange(3)) == first.chats(ids)


@pytest.mark.parametrize("name", ["random", "full"])
def test_a_selector_without_neighbours_embeds_nothing(config, pool, tmp_path, monkeypatch, name):
    monkeypatch.setattr(HashingEmbedder, "embed", lambda *a: pytest.fail("embedded"))
    monkeypatch.setattr(material, "find_neighbours", lambda *a: pytest.fail("searched"))
    cfg, out = config(pool, name, n=7, max_K=1000, export="jsonl", seed=3), tmp_path / "out"
    cfg.data.queries.path = None  # nobody needs them
    select(cfg, out)
    ids, rows = np.load(out / "subset.npy"), written(out, "jsonl")
    assert set(files(out)) == {"subset.npy", "subset.jsonl", "manifest.json", "pool_keys.npy"}
    assert [without(row) for row in rows] == [ROWS[i] for i in ids]
    assert {(row["score"], row["nearest_query"]) for row in rows} == {(None, None)}
    before = files(out)
    select(cfg, out)  # the same again
    assert files(out)["subset.npy"] == before["subset.npy"]
    cfg.export, cfg.overwrite = "parquet", True
    select(cfg, out)
    assert pa.parquet.read_schema(out / "subset.parquet").field("score").type == pa.float32()


# test_model_runs.py has those that need the model, training/test_mix_runs.py mix, test_oracle.py oracle, which needs
# labels; near_rds embeds with the model
WITHOUT_MODEL = sorted(
    name
    for name in set(choices("selector")) - {"near_rds", "queries", "mix", "oracle", "column", "icons"}
    if "shortlist" not in (CONF / "selector" / f"{name}.yaml").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", WITHOUT_MODEL)
def test_every_selector_picks_what_it_picks_in_training(config, pool, tmp_path, name):
    cfg = config(pool, name)
    write_rows(tmp_path / "target.jsonl", [*TARGET, ROWS[4]])  # row 4 is a query's, so that it may not be picked
    select(cfg, tmp_path / "out")
    ids = np.load(tmp_path / "out" / "subset.npy")
    assert 1 <= len(ids) == len(set(ids.tolist())) <= 5
    assert 4 not in ids
    described = json.loads((tmp_path / "out" / "manifest.json").read_text())["subset"]
    assert (described["n"], described["rows"], described["seed"], described["export"]) == (5, len(ids), 42, None)
    eligible = load_pool(cfg.data, load(cfg.data, "queries", cfg.cache_dir), cfg.cache_dir).eligible()
    round = {"index": 0, "count": 1, "step": 0, "size": 5, "seed": 42, "draws": 5, "trained": np.zeros(24, dtype=int)}
    if name == "random":
        assert ids.tolist() == Random().select(Round(**round, eligible=eligible)).ids.tolist()
    if name == "near":
        matrix = Neighbours(*(np.load(tmp_path / "out" / f"top_{n}.npy") for n in ("indices", "scores")), {})
        assert ids.tolist() == Near().select(Round(**round, eligible=eligible, neighbours=matrix)).ids.tolist()


@pytest.mark.parametrize("name", ["near", "random"])
def test_more_rows_than_may_be_picked(config, tmp_path, name, monkeypatch):
    monkeypatch.setattr(material, "find_neighbours", lambda *a: pytest.fail("searched"))
    path = write_rows(tmp_path / "pool.jsonl", [*ROWS, ROWS[0]])
    with pytest.raises(UserError, match="n=25 is more than the 24 rows that may be selected; use n<=24"):
        select(config(path, name, n=25, data__dedup="exact"), tmp_path / "out")
    if name == "random":  # near duplicates are known later
        with pytest.raises(UserError, match="n=24 is more than the 1 row that may be selected; use n<=1"):
            select(config(path, name, n=24, data__dedup="near", data__dedup_threshold=0.0), tmp_path / "out")
    assert not files(tmp_path / "out")


def test_a_narrow_matrix_gives_what_it_has_and_says_so(config, pool, tmp_path, caplog):
    select(config(pool, n=20, max_K=1, export="jsonl"), tmp_path / "out")
    ids = np.load(tmp_path / "out" / "subset.npy")
    assert len(written(tmp_path / "out", "jsonl")) == len(ids) <= 3
    line = f"selector near picked {len(ids)} rows, fewer than n=20; a larger max_K than 1 reaches more"
    assert line in caplog.messages
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["subset"]["rows"] == len(ids)


def test_a_folder_holds_one_selection(config, pool, tmp_path, monkeypatch):
    cfg, out = config(pool, export="jsonl"), tmp_path / "out"
    select(plain(cfg), out)
    assert set(files(out)) == MATRIX
    monkeypatch.setattr(selection, "_search", lambda *a: pytest.fail("searched"))
    with pytest.raises(UserError, match="out holds another selection; set overwrite=true or another output_dir"):
        select(config(pool, "random"), out)
    select(cfg, out)  # a subset of the matrix that is there
    first = files(out)
    select(cfg, out)
    assert files(out).keys() == first.keys()
    for key, value, says in (("n", 6, "n was 5, now 6"), ("export", "parquet", "export was jsonl, now parquet")):
        other = cfg.copy()
        other[key] = value
        with pytest.raises(UserError, match=rf"holds another subset \({says}\); set overwrite=true or another output"):
            select(other, out)
    select(plain(cfg), out)  # the matrix again: its subset stays, and the manifest goes on saying so
    assert files(out)["subset.jsonl"] == first["subset.jsonl"]
    assert json.loads((out / "manifest.json").read_text())["subset"]["n"] == 5

    select(config(pool, n=6, export="parquet", overwrite=True), out)  # without a search
    assert {p.name for p in out.glob("subset.*")} == {"subset.npy", "subset.parquet"}
    assert len(written(out, "parquet")) == 6


def test_a_subset_goes_with_its_matrix_and_a_matrix_with_its_folder(config, pool, tmp_path):
    cfg, out = config(pool, export="jsonl"), tmp_path / "out"
    select(cfg, out)
    wider = plain(cfg)
    wider.max_K, wider.overwrite = 7, True
    select(wider, out)
    assert set(files(out)) == MATRIX
    assert "subset" not in json.loads((out / "manifest.json").read_text())
    select(config(pool, "random", overwrite=True), out)
    assert set(files(out)) == {"manifest.json", "subset.npy", "pool_keys.npy"}
    for other, says in (
        (plain(cfg), "selection;"),
        (config(pool), r"subset \(selector._target_ was Random, now"),
    ):
        with pytest.raises(UserError, match=f"holds another {says}"):
            select(other, out)
    (out / "manifest.json").write_text("{broken")
    with pytest.raises(UserError, match="manifest.json is damaged"):
        select(config(pool, "random"), out)
    select(config(pool, "random", overwrite=True), out)


def test_columns_of_our_names_stay_and_ours_move(config, tmp_path, caplog):
    caplog.set_level(logging.INFO, "near")
    rows = [{**row, "score": -1} if i == 20 else row for i, row in enumerate(ROWS)]
    path, out = write_rows(tmp_path / "pool.jsonl", rows), tmp_path / "out"
    select(config(path, "full", n=24, export="jsonl"), out)
    exported, ids = written(out, "jsonl"), np.load(out / "subset.npy")
    moved = tuple(f"near_{name}" for name in OURS)
    assert all(set(moved) <= set(row) and not set(row) & {"rank", "source"} for row in exported)
    assert [without(row, moved) for row in exported] == [rows[i] for i in ids]
    ours = ", ".join(moved)
    assert any(f"ours are {ours}" in m for m in caplog.messages)
    select(config(out / "subset.jsonl", "full", n=24, export="parquet"), tmp_path / "twice")
    names = pa.parquet.read_schema(tmp_path / "twice" / "subset.parquet").names
    assert {*moved, *(f"near_near_{name}" for name in OURS), "score"} < set(names)


@pytest.mark.parametrize("how", ["grown", "gone", "swapped"])
def test_a_source_that_changed_meanwhile_is_refused(config, tmp_path, monkeypatch, how):
    for i in (0, 1):
        write_rows(tmp_path / f"part{i}.jsonl", ROWS[12 * i : 12 * i + 12])
    search, out = material.find_neighbours, tmp_path / "out"

    def meanwhile(*args):
        if how == "gone":
            (tmp_path / "part1.jsonl").unlink()
        elif how == "grown":
            write_rows(tmp_path / "part0.jsonl", [*ROWS[:12], ROWS[0]])
        else:
            write_rows(tmp_path / "part1.jsonl", ROWS[12:24][::-1])
        return search(*args)

    monkeypatch.setattr(material, "find_neighbours", meanwhile)
    with pytest.raises(UserError) as caught:
        select(config(f"{tmp_path}/part*.jsonl", export="jsonl"), out)
    assert ("names fewer files" if how == "gone" else "has changed since it was loaded; run again") in str(caught.value)
    assert not files(out)


def test_values_that_json_has_no_form_for(config, tmp_path):
    day, zone = datetime.datetime(2026, 11, 24, 5, 6, 7), datetime.UTC
    extra = {
        "raw": b"\x00\xff",
        "at": day.replace(tzinfo=zone),
        "on": day.date(),
        "took": datetime.timedelta(minutes=2),
        "price": decimal.Decimal("1.50"),
        "odd": [float("nan"), float("inf"), 1.0],
        "deep": {"at": [day]},
    }
    path = tmp_path / "pool.parquet"
    pa.parquet.write_table(pa.Table.from_pylist([{**row, **extra} for row in ROWS]), path)
    select(config(path, "random", n=2, export="jsonl"), tmp_path / "out")
    row = written(tmp_path / "out", "jsonl")[0]
    assert {name: row[name] for name in extra} == {
        "raw": "AP8=",
        "at": "2026-11-24T05:06:07+00:00",
        "on": "2026-11-24",
        "took": 120.0,
        "price": "1.50",
        "odd": [None, None, 1.0],
        "deep": {"at": ["2026-11-24T05:06:07"]},
    }
    select(config(path, "random", n=2, export="parquet"), tmp_path / "typed")
    row = written(tmp_path / "typed", "parquet")[0]
    assert without({n: row[n] for n in extra}, ["odd"]) == without(extra, ["odd"])
    assert as_json([np.float32("nan"), np.int64(3), np.array([[1.5]]), np.bool_(True)]) == [None, 3, [[1.5]], True]


def test_what_no_form_fits_is_one_line(tmp_path):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    says = "column 'odd' of the subset's row 2 has a value that JSON can't hold"
    for value, reason in ((object(), " (it is of type object)"), (deep, "")):
        with pytest.raises(UserError) as caught:
            WRITERS["jsonl"](tmp_path / "x", [{"fine": 1}, {"odd": value}], {})
        assert says + reason in str(caught.value)
        with pytest.raises(UserError, match="column 'odd' does not fit one type .*; use export=jsonl"):
            WRITERS["parquet"](tmp_path / "y", [{"fine": 1}, {"odd": value}], {})
    assert not (tmp_path / "x").exists()
    WRITERS["jsonl"](tmp_path / "x", [{"half": "\ud800", "é": "ü"}], {})
    assert strict(tmp_path / "x") == [{"half": "\ud800", "é": "ü"}]
    assert "ü".encode() in (tmp_path / "x").read_bytes()


def test_a_table_of_several_sources_has_all_columns(config, tmp_path, monkeypatch):
    monkeypatch.setattr(subset_files, "ROW_GROUP", 4)
    first = [{**row, "weight": 1, "parts": []} for row in ROWS[:5]]
    second = [{**row, "weight": 2.5, "lang": "en", "parts": ["a"]} for row in ROWS[5:11]]
    paths = [str(write_rows(tmp_path / f"{i}.jsonl", rows)) for i, rows in enumerate((first, second))]
    select(config(paths, "full", n=11, export="parquet"), tmp_path / "out")
    ids, rows = np.load(tmp_path / "out" / "subset.npy"), written(tmp_path / "out", "parquet")
    names = {*first[0], *second[0]}
    assert [without(row) for row in rows] == [{n: (first + second)[i].get(n) for n in names} for i in ids]
    file = pa.parquet.ParquetFile(tmp_path / "out" / "subset.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4, 4, 3]
    types = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
    assert (types["weight"], types["rank"], types["nearest_query"]) == (pa.float64(), pa.int64(), pa.int64())


ODD = [["a list"], {"of": 1}, 10**30, 3, True, "\ud800", {}]


@pytest.mark.parametrize("odd", ODD, ids=map(ascii, ODD))
def test_columns_of_several_types_fit_no_table_and_replace_nothing(config, tmp_path, odd):
    """The former files stay as they were, though overwrite=true; as JSON they are written."""
    rows = [{**row, "extra": "text" if i % 2 else odd} for i, row in enumerate(ROWS)]
    path, out = tmp_path / "pool.jsonl", tmp_path / "out"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    select(config(path, export="jsonl", n=12, max_K=12), out)
    before = files(out)
    with pytest.raises(UserError, match="export=parquet: column 'extra' does not fit one type .*; use export=jsonl"):
        select(config(path, export="parquet", n=12, max_K=12, overwrite=True), out)
    assert files(out) == before
    assert [without(row) for row in written(out, "jsonl")] == [rows[i] for i in np.load(out / "subset.npy")]


def test_other_ranks_write_nothing(config, pool, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("near", "random"):
        select(config(pool, name, export="jsonl"), tmp_path / "out")
    assert not files(tmp_path / "out")


def test_a_dry_run_writes_nothing(config, pool, tmp_path, caplog):
    caplog.set_level(logging.INFO, "near")
    select(config(pool, "random", export="jsonl", dry_run=True), tmp_path / "out")
    assert "dry run: selector random needs no neighbours: nothing would be embedded" in caplog.messages
    assert set(files(tmp_path / "out")) == {"dry_run.json"}


def test_a_class_that_is_no_selector(config, pool, tmp_path):
    cfg = config(pool)
    OmegaConf.update(cfg, "selector", {"_target_": "fractions.Fraction"}, merge=False)
    with pytest.raises(UserError, match="selector._target_=fractions.Fraction is not a selector"):
        select(cfg, tmp_path / "out")

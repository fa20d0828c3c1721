"""A subset in Parquet keeps the types of its source, those that Python has no values for among them."""

import decimal
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from near.selection.select import select
from tests.conftest import configured, write_rows

N = 4
COLUMNS = {
    "question": pa.array([f"q{i}" for i in range(N)]),
    "answer": pa.array(["a"] * N),
    "u": pa.array([2**63 + i for i in range(N)], pa.uint64()),
    "byte": pa.array(range(N), pa.uint8()),
    "half": pa.array([0.5] * N, pa.float32()),
    "far": pa.array([10**18] * N, pa.timestamp("us")),
    "zone": pa.array([0] * N, pa.timestamp("us", tz="No/Where")),
    "nano": pa.array([123456789] * N, pa.timestamp("ns")),
    "money": pa.array([decimal.Decimal("1.20")] * N, pa.decimal128(10, 2)),
    "kind": pa.array(["x", "y"] * 2).dictionary_encode(),
    "map": pa.array([[("k", 1)]] * N, pa.map_(pa.string(), pa.int64())),
    "struct": pa.array([{"a": 1, "b": None}] * N, pa.struct({"a": pa.int16(), "b": pa.string()})),
    "list": pa.array([[1, None]] * N, pa.list_(pa.int8())),
    "null": pa.nulls(N),
}


@pytest.fixture()
def exported(tmp_path):
    def of(paths, export: str, folder: str = "out"):
        cfg = configured("select", "data=files", "embedder=hashing", "selector=full", f"n={N}", f"export={export}")
        cfg.cache_dir = str(tmp_path / "cache")
        cfg.data.candidates.path = [str(path) for path in paths]
        select(cfg, tmp_path / folder)
        return tmp_path / folder / f"subset.{export}"

    return of


def test_types_of_the_source_stay(tmp_path, exported):
    table = pa.table(COLUMNS)
    pa.parquet.write_table(table, tmp_path / "p.parquet")
    back = pa.parquet.read_table(exported([tmp_path / "p.parquet"], "parquet"))
    assert {name: back.schema.field(name).type for name in COLUMNS} == dict(
        zip(table.schema.names, table.schema.types, strict=True)
    )
    order = np.load(tmp_path / "out" / "subset.npy")
    plain = [name for name in COLUMNS if name != "kind"]  # its dictionary is in the order of the subset
    assert back.select(plain).equals(table.select(plain).take(order))
    assert back.column("kind").to_pylist() == table.column("kind").take(order).to_pylist()


def test_values_without_a_form_are_text_in_json(tmp_path, exported):
    pa.parquet.write_table(pa.table(COLUMNS), tmp_path / "p.parquet")
    first = json.loads(min(exported([tmp_path / "p.parquet"], "jsonl").read_text().splitlines()))
    assert first["u"] == 2**63 and first["far"] == "1000000000000000000 (timestamp[us])" and first["money"] == "1.20"


def test_types_that_sources_do_not_share_come_from_the_values(tmp_path, exported):
    rows = {"question": ["q", "r"], "answer": ["a", "a"]}
    for name, kind in (("one", pa.int8()), ("two", pa.int64())):
        pa.parquet.write_table(pa.table({**rows, "n": pa.array([1, 2], kind)}), tmp_path / f"{name}.parquet")
    both = exported([tmp_path / "one.parquet", tmp_path / "two.parquet"], "parquet")
    assert pa.parquet.read_table(both).schema.field("n").type == pa.int64()
    lines = write_rows(tmp_path / "three.jsonl", [{"question": "q", "answer": "a", "n": 1}] * 2)
    mixed = exported([tmp_path / "one.parquet", lines], "parquet", "mixed")
    assert sorted(pa.parquet.read_table(mixed).column("n").to_pylist()) == [1, 1, 1, 2]

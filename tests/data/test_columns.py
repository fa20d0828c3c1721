"""Further columns of loaded rows: by row id, whatever lies between, in one pass and cached."""

import pytest

from near.common.errors import UserError
from near.data import columns
from near.data.columns import columns_of
from near.data.loading import load
from tests.conftest import configured, write_rows


def loaded(tmp_path, *paths, on_error="raise", **candidates):
    cfg = configured("select", "data=files", f"cache_dir={tmp_path}/cache")
    cfg.data.candidates.path, cfg.data.on_error = [str(p) for p in paths], on_error
    for key, value in candidates.items():
        cfg.data.candidates[key] = value
    return cfg.data, load(cfg.data, "candidates", cfg.cache_dir), cfg.cache_dir


def rows_of(*values: dict) -> list[dict]:
    return [{"instruction": f"q{i}", "output": "a", **value} for i, value in enumerate(values)]


def test_values_of_every_row_over_several_files(tmp_path):
    first = write_rows(tmp_path / "a.jsonl", rows_of({"skill": "sort"}, {}, {"skill": None}))
    second = write_rows(tmp_path / "b.jsonl", rows_of({"skill": "up", "meta": {"score": 0.5}}, {"skill": 3}))
    data, rows, cache = loaded(tmp_path, first, second)
    assert columns_of(data, rows, ["skill", "meta.score"], cache) == {
        "skill": ["sort", None, None, "up", 3],
        "meta.score": [None, None, None, 0.5, None],
    }


def test_a_column_with_a_dot_in_its_name_comes_first(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", rows_of({"a.b": 1, "a": {"b": 2}}, {"a": {"b": 2}}, {"a": "text"}))
    data, rows, cache = loaded(tmp_path, path)
    assert columns_of(data, rows, ["a.b"], cache) == {"a.b": [1, 2, None]}


def test_ids_stay_beside_faulty_and_filtered_rows(tmp_path):
    lines = [{"instruction": "q", "output": "a", "n": 1}, "no object", {"instruction": 5, "output": "a", "n": 2}]
    path = write_rows(tmp_path / "a.jsonl", [*lines, {"instruction": "r", "output": "a", "n": 3}])
    data, rows, cache = loaded(tmp_path, path, on_error="skip", filter={"n": "!=3"})
    assert len(rows) == 4
    assert columns_of(data, rows, ["n"], cache) == {"n": [1, None, None, 3]}


def test_a_limit_and_several_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "BATCH", 2)
    path = write_rows(tmp_path / "a.jsonl", rows_of(*({"n": i} for i in range(7))))
    data, rows, cache = loaded(tmp_path, path, limit=5)
    assert columns_of(data, rows, ["n"], cache) == {"n": [0, 1, 2, 3, 4]}


def test_read_once(tmp_path, monkeypatch):
    path = write_rows(tmp_path / "a.jsonl", rows_of({"n": [1, {"x": 2}], "m": "ä"}))
    data, rows, cache = loaded(tmp_path, path)
    first = columns_of(data, rows, ["n", "m"], cache)
    monkeypatch.setattr(columns, "raw_rows", None)
    assert columns_of(data, rows, ["m", "n"], cache) == first == {"n": [[1, {"x": 2}]], "m": ["ä"]}


def test_a_column_that_no_row_has(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", rows_of({"skill": "sort"}))
    data, rows, cache = loaded(tmp_path, path)
    with pytest.raises(UserError, match="data.candidates: no row has a column 'skil'; did you mean skill"):
        columns_of(data, rows, ["skil"], cache)
    assert not list((tmp_path / "cache" / "columns").glob("*.parquet"))


def test_other_content_other_values(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", rows_of({"n": 1}))
    data, rows, cache = loaded(tmp_path, path)
    assert columns_of(data, rows, ["n"], cache) == {"n": [1]}
    write_rows(path, rows_of({"n": 2}))
    data, rows, cache = loaded(tmp_path, path)
    assert columns_of(data, rows, ["n"], cache) == {"n": [2]}

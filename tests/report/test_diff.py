"""near diff: what two selections share, against counts by hand; without a model."""

import json
from pathlib import Path

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from near.app import diff
from near.common.config import public
from near.common.errors import UserError
from near.common.records import RowsRecord, RunIdentity, SelectionManifest, TrainMetrics
from near.data.loading import load
from near.selection.round import Subset
from near.selection.select import select
from near.training.folder import write_config
from near.training.rounds.record import Record
from near.training.rounds.schedule import Phase
from tests.conftest import configured, write_rows

ROWS = [{"instruction": f"question {i}", "output": str(i), "kind": "odd" if i % 2 else "even"} for i in range(10)]


@pytest.fixture(autouse=True)
def no_command(monkeypatch):
    monkeypatch.setattr("near.common.command_line._current", None)


@pytest.fixture()
def made(tmp_path, cache):
    """made(name, ids, scores, rows): a folder of select.py with such a subset of a pool of `rows`."""

    def make(name: str, ids: list[int], scores: list[float] | None = None, rows: list[dict] = ROWS, keys=True) -> Path:
        folder, data = tmp_path / name, write_rows(tmp_path / f"{name}.jsonl", rows)
        folder.mkdir()
        options = (
            f"data.candidates.path={data}",
            "data.queries.path=null",
            "data.labels=[kind]",
            "selector=random",
            "n=1",
        )
        cfg = configured("select", "data=files", *options, f"cache_dir={cache}")
        pool = load(cfg.data, "candidates", str(cache))
        np.save(folder / "subset.npy", np.array(ids, dtype=np.int64))
        if scores is not None:
            np.save(folder / "subset_scores.npy", np.array(scores, dtype=np.float32))
        if keys:
            np.save(folder / "pool_keys.npy", pool.content_keys())
        record = RowsRecord(fingerprint=pool.fingerprint, rows=len(pool))
        SelectionManifest(candidates=record, subset={"rows": len(ids)}, config=public(cfg)).write(
            folder / "manifest.json"
        )
        return folder

    return make


def compared(a: Path, b: Path, cache: Path, tmp_path: Path, *options: str) -> dict:
    GlobalHydra.instance().clear()
    diff.main([str(a), str(b), f"cache_dir={cache}", f"json={tmp_path}/diff.json", *options])
    return json.loads((tmp_path / "diff.json").read_text())


def test_counts_by_hand(made, cache, tmp_path, capsys):
    a = made("a", [5, 3, 1, 7, 2], [0.9, 0.8, 0.7, 0.6, float("nan")])
    b = made("b", [7, 3, 9, 5], [0.5, 0.4, 0.3, 0.2])
    result = compared(a, b, cache, tmp_path)
    names = ("rows_of_a", "rows_of_b", "both", "a_only", "b_only", "jaccard", "share_of_a", "share_of_b")
    assert [result[name] for name in names] == [5, 4, 3, 2, 1, 3 / 6, 3 / 5, 3 / 4]
    assert (result["a_not_in_pool_of_b"], result["b_not_in_pool_of_a"]) == (None, None)
    # 5, 3, 7: ranks 1, 2, 3 in A, 3, 2, 1 in B
    assert (result["scored"], result["rank_correlation"]) == (3, pytest.approx(-1.0))
    (kind,) = [one for one in result["labels"] if one["label"] == "kind"]
    assert kind["values"] == ["even", "odd"]
    assert kind["rows"] == {"pool": [5, 5], "A only": [1, 1], "both": [0, 3], "B only": [0, 1]}
    rows = [(row["side"], row["row"], row["place"], row["other"]) for row in result["rows"]]
    # absent in the other first, then by how much further back it is there
    assert rows == [("A", 1, 3, None), ("A", 2, 5, None), ("A", 5, 1, 4), ("B", 9, 3, None), ("B", 7, 1, 4)]
    assert result["rows"][0]["text"] == "question 1" and result["rows"][4]["other_score"] == pytest.approx(0.6)
    said = capsys.readouterr().out
    assert "A: " in said and "Rows that B prefers most" in said and "0.500" in said and "-1.000 (3 rows)" in said


def test_the_rows_that_differ_are_limited(made, cache, tmp_path):
    a, b = made("a", [0, 1, 2, 3]), made("b", [4, 5, 6])
    result = compared(a, b, cache, tmp_path, "rows=2")
    assert [(row["side"], row["row"]) for row in result["rows"]] == [("A", 0), ("A", 1), ("B", 4), ("B", 5)]
    assert (result["both"], result["jaccard"], result["rank_correlation"]) == (0, 0.0, None)
    assert compared(a, b, cache, tmp_path, "rows=0")["rows"] == []


def test_different_pools_are_matched_by_content(made, cache, tmp_path, capsys):
    others = [*ROWS[::-1][:9], {"instruction": "new", "output": "n", "kind": "new"}]  # row 0 is not there
    a, b = made("a", [0, 3, 8]), made("b", [1, 9, 6], rows=others)  # in B's pool rows 8, new, 3
    result = compared(a, b, cache, tmp_path)
    assert (result["both"], result["a_only"], result["b_only"]) == (2, 1, 1)
    assert (result["a_not_in_pool_of_b"], result["b_not_in_pool_of_a"]) == (1, 1)
    assert [(row["side"], row["row"], row["other"]) for row in result["rows"]] == [
        ("A", 0, None),
        ("A", 3, 3),
        ("B", 9, None),
        ("B", 1, 3),
    ]
    assert next(row["text"] for row in result["rows"] if row["row"] == 9) == "new"
    assert "1 row of A not in B's pool, 1 row of B not in A's" in capsys.readouterr().out
    assert any("1 row of B not in A's pool: not among the labels" in line for line in result["absent"])
    bare = made("bare", [1], rows=others[:5], keys=False)
    with pytest.raises(UserError, match=r"are of different pools, and .*bare has no pool_keys.npy"):
        compared(a, bare, cache, tmp_path)


def test_a_pool_that_is_not_here_leaves_the_counts(made, cache, tmp_path):
    a, b = made("a", [0, 1]), made("b", [1, 2])
    write_rows(tmp_path / "a.jsonl", ROWS[:4])
    (tmp_path / "b.jsonl").unlink()
    result = compared(a, b, cache, tmp_path)
    assert result["both"] == 1 and result["labels"] == [] and result["rows"][0]["text"] is None
    assert len(result["absent"]) == 2 and "are other rows now" in result["absent"][0]
    write_rows(tmp_path / "mine.jsonl", ROWS)
    result = compared(a, b, cache, tmp_path, f"data.candidates.path={tmp_path}/mine.jsonl")
    assert result["absent"] == [] and result["rows"][0]["text"] == "question 0"


def test_matrices_and_rounds(small_data, cache, tmp_path):
    out, run = tmp_path / "out", tmp_path / "run"
    words = [*small_data, f"cache_dir={cache}", "embedder=hashing"]
    select(configured("select", *words, "max_K=5"), out)
    run.mkdir()
    cfg = configured("train", *words, "selector=near")
    write_config(cfg, run, True)
    pool = load(cfg.data, "candidates", str(cache))
    record = Record(run / "rounds", "near", pool, 1, True)
    record.add(Phase(0, 0, 1, True), Subset(np.array([4])), 0.1, np.array([4]))
    scores = [np.array(values, dtype=np.float32) for values in ([0.5, 0.25], [0.75, 0.5])]
    record.add(Phase(1, 1, 2, False), Subset(np.array([8, 1]), scores[0]), 0.1, np.array([8, 1]))
    record.add(Phase(2, 3, 2, False), Subset(np.array([1, 7]), scores[1]), 0.1, np.array([1, 7]))
    TrainMetrics(identity=RunIdentity(fingerprints={"candidates": pool.fingerprint})).write(run / "train_metrics.json")
    result = compared(run / "rounds" / "001.npy", run / "rounds" / "002.npy", cache, tmp_path)
    assert (result["both"], result["a_only"], result["b_only"]) == (1, 1, 1)
    result = compared(run, run / "rounds" / "002.npy", cache, tmp_path)  # 8, 1, 7 over both rounds
    assert (result["rows_of_a"], result["both"], result["a"]["what"]) == (3, 2, "2 rounds by near")
    assert result["scored"] == 2
    result = compared(out, run, cache, tmp_path)
    assert result["rows_of_a"] == len(np.unique(np.load(out / "top_indices.npy")))
    assert result["a"]["what"] == "the 5 nearest of 4 queries"


def test_faults_are_one_line(made, tmp_path):
    a = made("a", [0])
    for words, message in (
        ([str(a)], "1 folders were given; near diff A B"),
        ([str(a), "nowhere"], "nowhere: no such folder or .npy file"),
        ([str(a), str(a), "rows=-1"], "rows=-1 is too small"),
        ([str(a), str(a), "row=1"], "row is not in the configuration; did you mean rows?"),
    ):
        GlobalHydra.instance().clear()
        with pytest.raises(UserError) as fault:
            diff.main(words)
        assert message in str(fault.value) and "\n" not in str(fault.value)


def test_rows_outside_the_pool_are_one_line(made, cache, tmp_path):
    a, b = made("a", [1, 2]), made("b", [3, 10])
    for pair in ((a, b), (b, a)):
        with pytest.raises(UserError, match=r"b names row 10 of 10; name a folder that is whole"):
            compared(*pair, cache, tmp_path)


def test_a_folder_causes_no_request(made, cache, tmp_path, monkeypatch):
    def request(*args, **options):
        raise AssertionError(f"a request: {args}")

    monkeypatch.setattr("datasets.load_dataset", request)
    a, b = made("a", [1, 2]), made("b", [2, 3])
    content = json.loads((b / "manifest.json").read_text())
    content["config"]["data"]["candidates"]["path"] = "stranger/data"
    content["candidates"]["fingerprint"] = "0" * 32
    (b / "manifest.json").write_text(json.dumps(content))
    (absent,) = compared(a, b, cache, tmp_path)["absent"]
    assert "data.candidates.path=stranger/data is the folder's, and on a hub; type it" in absent
    with pytest.raises(AssertionError, match="a request"):
        compared(a, b, cache, tmp_path, "data.candidates.path=stranger/data")

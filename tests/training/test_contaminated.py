"""Runs with rows of the pool that resemble evaluated rows: listed, left out by choice, and told apart in the report."""

import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from near.common.errors import UserError
from near.report.runs import collect
from near.training.train import train
from tests.conftest import configured, write_rows

pytestmark = pytest.mark.model

QUESTION = "count the wooden boats that lie in the old harbour of the town on a cold and windy morning number"


@pytest.fixture()
def leaky(tiny, tmp_path) -> list[str]:
    """The pool's first row has the question of the second eval row, in other company."""
    words = dict(word.split("=", 1) for word in tiny)
    pool = [json.loads(line) for line in Path(words["data.candidates.path"]).read_text().splitlines()]
    evals = [json.loads(line) for line in Path(words["data.eval.path"]).read_text().splitlines()]
    pool[0]["instruction"], evals[1]["instruction"] = f"please {QUESTION} today", QUESTION
    paths = {
        "candidates": write_rows(tmp_path / "pool.jsonl", pool),
        "eval": write_rows(tmp_path / "eval.jsonl", evals),
    }
    return [*tiny, *(f"data.{part}.path={path}" for part, path in paths.items()), "selector=random"]


def trained(words: list[str], folder: Path, **options) -> dict:
    cfg = configured("train", *words, f"output_dir={folder}")
    OmegaConf.update(cfg, "data.decontaminate", options)
    train(cfg, folder)
    return json.loads((folder / "train_metrics.json").read_text())


def rows_trained(folder: Path) -> set[int]:
    return set(np.concatenate([np.load(path) for path in (folder / "rounds").glob("*_order.npy")]).tolist())


def test_kept_or_left_out(leaky, tmp_path):
    counts = {"rows": 1, "left_out": 0, "held_out_rows": {"eval": 1}, "kinds": {"13-gram": 1}}
    long = [*leaky, "trainer.update_step=20"]
    metrics = trained(long, tmp_path / "kept")
    assert metrics["contamination"] == counts and 0 in rows_trained(tmp_path / "kept")
    line = json.loads((tmp_path / "kept" / "contaminated.jsonl").read_text())
    assert (line["row"], line["set"], line["held_out_row"], line["left_out"]) == (0, "eval", 1, False)
    left = trained(long, tmp_path / "left", action="drop")
    assert left["contamination"] == counts | {"left_out": 1} and 0 not in rows_trained(tmp_path / "left")
    runs = {run.folder.name: run.contaminated for run in collect(tmp_path)[0] if run.folder}
    assert runs == {"kept": {1}, "left": frozenset()}
    assert "decontaminate" not in metrics["identity"]["config"]["data"]
    with pytest.raises(UserError, match="data.decontaminate"):
        trained(long, tmp_path / "left", action="warn")
    assert trained(long, tmp_path / "kept", action="keep") == metrics, "it is done already"


def test_a_benchmark_counts_for_a_run_that_leaves_rows_out(leaky, tmp_path):
    bench = write_rows(
        tmp_path / "bench.jsonl", [{"question": "which animal lives in cage 102 of all these many houses?"}]
    )
    words = [*leaky, "trainer.warmup_step=1", "trainer.update_times=0"]
    first = trained(words, tmp_path / "out", action="drop", benchmarks={"zoo": str(bench)})
    assert "decontaminate.benchmarks.zoo" in first["identity"]["fingerprints"]
    write_rows(bench, [{"question": "another row"}])
    with pytest.raises(UserError, match="benchmarks.zoo"):
        trained(words, tmp_path / "out", action="drop", benchmarks={"zoo": str(bench)})


def test_queries_that_are_trained_are_compared_with_the_evaluated_rows(leaky, tmp_path):
    words = dict(word.split("=", 1) for word in leaky)
    queries = [json.loads(line) for line in Path(words["data.queries.path"]).read_text().splitlines()]
    queries[2]["instruction"] = f"now {QUESTION} and then stop"
    path = write_rows(tmp_path / "queries.jsonl", queries)
    leaky = [*leaky, f"data.queries.path={path}", "selector=queries"]
    metrics = trained(leaky, tmp_path / "out", action="drop")
    lines = [json.loads(line) for line in (tmp_path / "out" / "contaminated.jsonl").read_text().splitlines()]
    assert 60 + 2 in [line["row"] for line in lines] and metrics["contamination"]["left_out"] == 2
    assert rows_trained(tmp_path / "out") == {60, 61, 63}

"""Jobs of a sweep: the same rounds are trained once, what they share is computed once, failed ones are told of."""

import json
import re

import numpy as np
import pytest

from tests.conftest import ROOT, process

pytestmark = pytest.mark.model


def table(done) -> str:
    """The words of a row stand in the order that they were typed in."""
    return re.sub(r"selector=(\w+) max_K=(\d+)", r"max_K=\2 selector=\1", done.stdout)


def sweep(tiny, tmp_path, *words):
    folder = tmp_path / "sweep"
    words = ["-m", *tiny, *words, f"output_dir={folder}", f"cache_dir={tmp_path}/cache"]
    return process(str(ROOT / "train.py"), *words, cwd=tmp_path), folder


def test_the_same_rounds_are_trained_once(tiny, tmp_path):
    """8 rows a round: of 4 queries, no column beyond the tenth is reached; near_repeat is near by another name."""
    done, folder = sweep(tiny, tmp_path, "selector=near,near_repeat,random", "max_K=10,15,20")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("train_runtime") <= 3
    runs = {p.parent.name: json.loads(p.read_text()) for p in folder.glob("*/metrics.json")}
    assert len(runs) == 9
    trained = {name for name, m in runs.items() if not m.get("same_rows_as")}
    assert sorted((runs[name]["selector"]) for name in trained) == ["near", "random"]
    for name, metrics in runs.items():
        twin = metrics.get("same_rows_as")
        if twin is None:
            continue
        assert f"same rows as {twin}: not trained again" in done.stdout
        assert metrics["target_loss"] == runs[twin]["target_loss"]
        assert (folder / name / "adapter" / "adapter_model.safetensors").is_file()
        assert (metrics["selector"], metrics["max_K"]) == tuple(
            json.loads((folder / name / "train_metrics.json").read_text())[k] for k in ("selector", "max_K")
        )
        for path in sorted((folder / twin / "rounds").glob("*_order.npy")):
            np.testing.assert_array_equal(np.load(path), np.load(folder / name / "rounds" / path.name))
    assert re.search(
        r"max_K=15 selector=near_repeat +done +[\d.]+ +[\d.]+ +same rows as max_K=\d+ selector=near", table(done)
    )
    assert done.stdout.count("base model: evaluated on") == 1
    assert len(re.findall(r"embedded [1-9]\d* texts", done.stdout)) == 1
    again, _ = sweep(tiny, tmp_path, "selector=near,near_repeat,random", "max_K=10,15,20")
    assert again.returncode == 0 and again.stdout.count("is done already") == 9
    assert again.stdout.count("done before") == 9


def test_rows_in_another_order_are_no_twins(tiny, tmp_path):
    done, folder = sweep(tiny, tmp_path, "selector=random", "seed=1,2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert not any("same_rows_as" in p.read_text() for p in folder.glob("*/metrics.json"))


def test_a_sweep_ends_with_a_table_of_all_jobs(tiny, tmp_path):
    done, folder = sweep(tiny, tmp_path, "selector=near", "max_K=61,15")
    assert done.returncode == 1
    table = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip().startswith("max_K=")}
    assert " failed " in table["max_K=61"]
    assert "max_K=61 is more than the 60 candidates; use max_K<=60" in table["max_K=61"]
    assert " done " in table["max_K=15"]
    assert done.stderr.strip().splitlines()[-1] == (
        "error: 1 of the sweep's jobs did not end well; the first: max_K=61 is more than the 60 candidates; "
        "use max_K<=60"
    )
    again, _ = sweep(tiny, tmp_path, "selector=near", "max_K=15")
    assert again.returncode == 0 and "max_K=61" not in again.stdout, "another sweep's jobs"

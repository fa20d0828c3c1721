"""A sweep over max_K searches once, at the largest."""

import json

import numpy as np
import pytest

from near.common.sweep import swept
from near.searching import find as selection
from near.selection.select import select
from tests.conftest import ROOT, configured, run_script


def sweep(small_data, tmp_path, *words):
    return run_script("select.py", "-m", *small_data, f"cache_dir={tmp_path}/cache", "embedder=hashing", *words)


def jobs(tmp_path):
    """max_K of each finished job, with its folder and manifest."""
    manifests = [(path.parent, json.loads(path.read_text())) for path in (tmp_path / "out").glob("*/manifest.json")]
    return {manifest["max_K"]: (folder, manifest) for folder, manifest in manifests}


@pytest.mark.process
@pytest.mark.parametrize("values", ["max_K=3,20,7", "max_K=choice(3,7,2e1)", "file"])
def test_one_search_for_all(values, small_data, tmp_path):
    words = [values]
    if values == "file":
        folder = tmp_path / "conf" / "sweeps"
        folder.mkdir(parents=True)
        text = "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      max_K: 3,20,7\n"
        (folder / "mine.yaml").write_text(text)
        words = ["sweeps=mine", f"hydra.searchpath=[file://{tmp_path}/conf]"]
    done = sweep(small_data, tmp_path, *words, f"output_dir={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("embedded 0 texts") == 2
    manifests = jobs(tmp_path)
    assert sorted(manifests) == [3, 7, 20]
    wide = np.load(manifests[20][0] / "top_indices.npy")
    for k, (folder, manifest) in manifests.items():
        np.testing.assert_array_equal(np.load(folder / "top_indices.npy"), wide[:, :k])
        assert manifest["searched_max_K"] == 20
    assert len(list((tmp_path / "cache" / "neighbours").iterdir())) == 1


@pytest.mark.process
def test_a_value_that_is_too_large_fails_alone(small_data, tmp_path):
    done = sweep(small_data, tmp_path, "max_K=3,61", f"output_dir={tmp_path}/out")
    assert done.returncode == 1
    assert "max_K=61 is more than the 60 candidates" in done.stderr
    assert list(jobs(tmp_path)) == [3]


def test_outside_a_sweep_nothing_is_known():
    configured("select")
    assert swept("max_K") == []
    assert ROOT.is_dir()


def test_a_wider_matrix_is_sliced_and_leaves_the_narrow_one(small_data, tmp_path, monkeypatch):
    words = [*small_data, f"cache_dir={tmp_path}/cache", "embedder=hashing"]
    select(configured("select", *words, "max_K=5"), tmp_path / "narrow")
    select(configured("select", *words, "max_K=30"), tmp_path / "wide")
    monkeypatch.setattr(selection, "_search", lambda *a: pytest.fail("searched"))
    select(configured("select", *words, "max_K=9"), tmp_path / "slice")
    for name in ("top_indices.npy", "top_scores.npy"):
        wide = np.load(tmp_path / "wide" / name)
        np.testing.assert_array_equal(np.load(tmp_path / "narrow" / name), wide[:, :5])
        np.testing.assert_array_equal(np.load(tmp_path / "slice" / name), wide[:, :9])
    assert len(list((tmp_path / "cache" / "neighbours").iterdir())) == 2, "one for each width searched"

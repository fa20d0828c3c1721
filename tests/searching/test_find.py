"""What select.py writes, keeps and refuses; without a model."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest

from near.common.errors import UserError
from near.data.loading import load
from near.embedding.embedders.hashing import HashingEmbedder
from near.searching import find as selection
from near.searching import material
from near.selection.select import select
from tests.conftest import configured


@pytest.fixture()
def settings(small_data, tmp_path):
    return [*small_data, f"cache_dir={tmp_path}/cache", "embedder=hashing", "max_K=7"]


def test_the_matrix_is_brute_forces_and_bound_to_its_data(settings, tmp_path):
    select(configured("select", *settings), tmp_path)
    ids, scores = np.load(tmp_path / "top_indices.npy"), np.load(tmp_path / "top_scores.npy")
    assert (ids.dtype, scores.dtype, ids.shape, scores.shape) == (np.int64, np.float32, (4, 7), (4, 7))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    cfg = configured("select", *settings)
    pool, queries = (load(cfg.data, part, cfg.cache_dir) for part in ("candidates", "queries"))
    embed = HashingEmbedder().embed
    vectors = [embed(rows.texts(rows.eligible(), "prompt")).astype(np.float64) for rows in (queries, pool)]
    wanted = np.argsort(-np.round(vectors[0] @ vectors[1].T, 7), axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(ids, wanted)
    assert (manifest["candidates"]["fingerprint"], manifest["queries"]["rows"]) == (pool.fingerprint, 4)


def test_another_selection_is_refused_before_it_is_made(settings, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    out = tmp_path / "out"
    select(configured("select", *settings), out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(selection, "_search", lambda *a: pytest.fail("searched"))
        for words, says in (
            (["max_K=9"], r"holds another selection \(max_K was 7, now 9\); output_dir=.*out-max_K-9 keeps both"),
            (["max_K=3"], r"holds another selection \(max_K was 7, now 3\); output_dir=.*out-max_K-3 keeps both"),
            (["embedder.dim=64"], r"\(embedder.dim was 1024, now 64\); set overwrite=true or another output_dir"),
        ):
            with pytest.raises(UserError, match=says):
                select(configured("select", *settings, *words), out)
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before
        select(configured("select", *settings), out)  # the same one again is found
    assert "embedded 0 texts" in caplog.text
    select(configured("select", *settings, "max_K=9", "overwrite=true"), out)
    assert np.load(out / "top_indices.npy").shape == (4, 9)


def test_another_max_k_in_a_folder_leaves_what_is_there_and_names_a_place(settings, tmp_path):
    out = tmp_path / "out"
    select(configured("select", *settings, "selector=near", "n=5"), out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(UserError) as fault:
        select(configured("select", *settings, "max_K=null"), out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    place = Path(re.search(r"output_dir=(\S+)", str(fault.value))[1])
    select(configured("select", *settings, "max_K=null"), place)
    assert np.load(place / "top_indices.npy").shape == (4, 60)


@pytest.mark.parametrize(
    ("max_K", "candidates", "reach", "tried"),
    [
        (None, 60, 0, [60]),
        (None, 5000, 0, [1000]),
        (None, 5000, 900, [1000]),
        (None, 5000, 3000, [1000, 2000, 3000]),
        (None, 1500, 9999, [1000, 1500]),
        (7, 60, 50, [7]),
        (60, 60, 0, [60]),
    ],
)
def test_as_needed(max_K, candidates, reach, tried):
    assert list(selection.widths(max_K, candidates, reach)) == tried


def test_the_default_fits_the_pool_and_is_said(settings, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    select(configured("select", *(w for w in settings if "max_K" not in w)), tmp_path / "out")
    assert np.load(tmp_path / "out" / "top_indices.npy").shape == (4, 60)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["max_K"] == 60
    assert "max_K: the 60 nearest of 60 candidates for each query, as needed" in caplog.text


def test_it_is_widened_until_the_selector_has_its_rows(settings, tmp_path, monkeypatch):
    """Of 4 queries that all have the same neighbours no 2 columns hold 20 rows."""
    monkeypatch.setattr(selection, "AS_NEEDED", 2)
    words = [w for w in settings if "max_K" not in w]
    select(configured("select", *words, "selector=near", "n=20"), tmp_path / "out")
    assert len(np.load(tmp_path / "out" / "subset.npy")) == 20
    width = np.load(tmp_path / "out" / "top_indices.npy").shape[1]
    assert 5 <= width <= 20
    select(configured("select", *words, "selector=near", "n=20", "max_K=60"), tmp_path / "whole")
    both = [np.load(tmp_path / name / "subset.npy").tolist() for name in ("out", "whole")]
    assert both[0] == both[1]


def test_more_neighbours_than_candidates(settings, tmp_path):
    with pytest.raises(UserError, match="max_K=61 is more than the 60 candidates; use max_K<=60"):
        select(configured("select", *settings, "max_K=61"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_of_two_selections_into_one_folder_at_once_the_second_is_refused(tiny, tmp_path, monkeypatch):
    words = [w for w in tiny if w.startswith(("data", "cache_dir", "embedder"))]
    found = material.find_neighbours

    def meanwhile(*args):
        monkeypatch.setattr(material, "find_neighbours", found)
        select(configured("select", *words, "max_K=4"), tmp_path / "out")
        return found(*args)

    monkeypatch.setattr(material, "find_neighbours", meanwhile)
    with pytest.raises(UserError, match="holds another selection"):
        select(configured("select", *words, "max_K=5"), tmp_path / "out")
    assert np.load(tmp_path / "out" / "top_indices.npy").shape == (4, 4)


def test_what_is_left_of_a_cached_selection_is_replaced(tiny, tmp_path):
    words = [w for w in tiny if w.startswith(("data", "embedder"))]
    cfg = configured("select", *words, "max_K=4", f"cache_dir={tmp_path}/c")
    select(cfg, tmp_path / "one")
    (folder,) = (tmp_path / "c" / "neighbours").iterdir()
    for name in ("manifest.json", "top_indices.npy"):
        (folder / name).unlink()
    select(cfg, tmp_path / "two")
    for name in ("top_indices.npy", "top_scores.npy"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

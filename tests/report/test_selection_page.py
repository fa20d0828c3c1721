"""select.py page=true: what the page of a selection shows, and that nothing is computed for it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from near.common.errors import UserError
from near.common.records import SelectionManifest
from near.embedding.embedders.hashing import HashingEmbedder
from near.report.labels import label
from near.report.page.reach import by_max_K, by_n, steps
from near.report.page.selection import write_page
from near.report.page.suspects import hubs
from near.searching.indexes.flat import Flat
from near.searching.neighbours import Neighbours
from near.selection.select import select
from near.selection.selectors.near import Near
from tests.conftest import RANKS, configured, run_script, write_rows

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[str]:
    """40 rows of two skills, two queries; as overrides."""
    folder = tmp_path_factory.mktemp("rows")
    pool = [
        {"instruction": f"{skill} the words w{i} w{i + 1} w{i + 2}", "output": f"x{i}", "skill": skill, "domain": "d"}
        for i, skill in enumerate(["sort", "reverse"] * 19)
    ]
    pool += [
        {"instruction": f"count {HOSTILE}", "output": HOSTILE, "skill": HOSTILE, "domain": HOSTILE},
        {"instruction": "sort the words w0 w1 w2", "output": "another answer", "skill": "sort", "domain": "d"},
    ]
    queries = [{"instruction": f"sort the words w{i} v{i}", "output": "y", "skill": "sort"} for i in (4, 8)]
    paths = {"candidates": write_rows(folder / "pool.jsonl", pool), "queries": write_rows(folder / "q.jsonl", queries)}
    return [
        *("data=files", *(f"data.{part}.path={path}" for part, path in paths.items())),
        *("data.candidates.columns.source=domain", "data.labels=[skill]", "embedder=hashing", "map=pca"),
        f"cache_dir={folder / 'cache'}",
    ]


def written(rows: list[str], folder: Path, *words: str) -> str:
    """selection.html of a run of select.py in this process."""
    cfg = configured("select", *rows, "page=true", *words)
    write_page(cfg, folder, select(cfg, folder))
    return (folder / "selection.html").read_text()


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_of_a_selector(rows, tmp_path):
    text = written(rows, tmp_path, "selector=near", "n=6", "max_K=12")
    ids = np.load(tmp_path / "subset.npy")
    pool = [json.loads(line) for line in open(rows[1].partition("=")[2])]
    share = np.mean([pool[i]["skill"] == "sort" for i in ids])
    assert "near picked 6 of 40 rows that may be selected for 2 queries." in text
    assert f"<li>near: {share:.0%} skill sort" in text
    data = data_of(text)
    assert [len(q[2]) for q in data["browser"]["queries"]] == [12, 12]
    badged = {int(row) for row, described in data["browser"]["rows"].items() if described[2]}
    assert badged == set(ids.tolist())
    assert data["map"]["of"] == 40 and data["map"]["taken"][0]["all"] == 6
    assert {chart["layout"]["title"]["text"] for chart in data["charts"]["labels 0"]} == {
        "Rows by skill",
        "Rows by source",
        "Rows by length",
    }
    assert "median" in text and "By words:" in text and "By embeddings:" in text


def test_nothing_of_the_data_is_markup_and_nothing_is_fetched(rows, tmp_path):
    text = written(rows, tmp_path, "selector=full", "n=40")
    assert "<script>window.hacked" not in text and "<img src=x" not in text
    assert "&lt;/script&gt;" in text, "the label is shown"
    for outside in ('src="http', "src='http", '<link rel="stylesheet"', "@import"):
        assert outside not in text


def test_the_matrix_alone(rows, tmp_path):
    text = written(rows, tmp_path, "max_K=15")
    assert "Neighbours of 15 ranks for 2 queries in a pool of 40 rows" in text and "no subset" not in text
    assert not (tmp_path / "subset.npy").exists()
    data = data_of(text)
    assert all(not described[2] for described in data["browser"]["rows"].values()), "no row is marked as picked"
    reached = len(np.unique(np.load(tmp_path / "top_indices.npy")[:, :10]))
    assert data["map"]["taken"][0]["all"] == reached and "<label hidden>" in text


def test_a_finished_folder_gets_its_page_and_nothing_is_computed(rows, tmp_path, monkeypatch):
    words = ("selector=near", "n=6", "max_K=12", "export=jsonl")
    select(configured("select", *rows, *words), tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("[!.]*")}
    assert "selection.html" not in before
    for of, name in ((HashingEmbedder, "embed"), (Flat, "search"), (Near, "select")):
        monkeypatch.setattr(of, name, lambda *a, **k: pytest.fail("computed"))
    first = written(rows, tmp_path, *words)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("[!.]*")}
    assert after.keys() - before.keys() == {"selection.html"} and before.items() <= after.items()
    assert "near picked 6 of 40 rows" in first
    select(configured("select", *rows, *words[:2], "max_K=12", "export=jsonl", "page=true"), tmp_path)
    assert (tmp_path / "selection.html").is_file()


def test_a_finished_folder_needs_no_cache(rows, tmp_path, monkeypatch):
    words = [f"cache_dir={tmp_path}/cache" if word.startswith("cache_dir") else word for word in rows]
    select(configured("select", *words, "selector=near", "n=6", "max_K=12"), tmp_path / "out")
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(HashingEmbedder, "embed", lambda *a: pytest.fail("embedded"))
    text = written(words, tmp_path / "out", "selector=near", "n=6", "max_K=12")
    assert "near picked 6 of 40 rows" in text and text.count("these rows were never embedded") == 2
    assert len(data_of(text)["browser"]["queries"]) == 2


def test_a_page_goes_with_its_selection(rows, tmp_path):
    written(rows, tmp_path, "selector=near", "n=6", "max_K=12")
    select(configured("select", *rows, "selector=near", "n=6", "max_K=12"), tmp_path)
    assert (tmp_path / "selection.html").is_file(), "the same selection"
    select(configured("select", *rows, "selector=near", "n=5", "max_K=12", "overwrite=true"), tmp_path)
    assert not (tmp_path / "selection.html").exists(), "it showed another selection"
    with pytest.raises(UserError, match="another subset"):
        written(rows, tmp_path, "selector=near", "n=6", "max_K=12")


@pytest.mark.parametrize("name", ["subset.npy", "top_scores.npy", "subset.jsonl"])
def test_a_folder_that_lost_a_file_is_made_whole(rows, tmp_path, name):
    words = ("selector=near", "n=6", "max_K=12", "export=jsonl")
    written(rows, tmp_path, *words)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    written(rows, tmp_path, *words)
    assert (tmp_path / name).read_bytes() == content


def test_without_vectors_the_page_says_what_is_missing(rows, tmp_path):
    cache = ["selector=random", "n=7", f"cache_dir={tmp_path}/cache"]
    text = written([word for word in rows if not word.startswith("cache_dir")], tmp_path / "out", *cache)
    assert "No map of the pool: these rows were never embedded." in text
    assert "random picked 7 of 40 rows" in text and "<li>random: " in text
    assert "map" not in data_of(text) and data_of(text)["browser"] is None


@pytest.mark.parametrize(
    "words",
    [
        ("data.labels=null",),
        ("data.queries.limit=1",),
        ("data.candidates.limit=3",),  # fewer than max_K would be by default
        ("data.candidates.limit=1",),
        ("data.candidates.limit=2", "selector=near", "n=2"),
        ("max_K=1",),
        ("selector=near", "n=1", "max_K=1"),
        ("map=null", "queries=0", "neighbours=0"),
        ("map_rows=4", "queries=1", "neighbours=2", "selector=near", "n=9"),
        ("data.dedup=near", "data.leakage=keep"),
        ("selector=random", "n=3", "data.queries.path=null"),
    ],
)
def test_small_and_bare_selections_have_a_page(rows, tmp_path, words):
    text = written(rows, tmp_path, *words)
    data = data_of(text)
    if "queries=1" in words:
        assert len(data["browser"]["queries"]) == 1 and len(data["browser"]["queries"][0][2]) == 2
        assert len(data["map"]["text"]) <= 4
    assert data["groups"][0]["runs"] == 1


def test_a_label_that_no_row_has_is_refused_before_anything_is_embedded(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(HashingEmbedder, "embed", lambda *a: pytest.fail("embedded"))
    words = [f"cache_dir={tmp_path}/cache" if word.startswith("cache_dir") else word for word in rows]
    with pytest.raises(UserError, match="no row has a column 'skil'; did you mean skill"):
        written(words, tmp_path / "out", "data.labels=[skil]")


def test_leaks_and_repeats_are_listed(tmp_path):
    words = [f"w{i}" for i in range(20)]
    pool = [{"instruction": " ".join(words), "output": "a"}, {"instruction": " ".join(words), "output": "b"}]
    pool += [{"instruction": " ".join(words[::-1]), "output": "c"}, {"instruction": "the QUERY  itself", "output": "d"}]
    pool += [{"instruction": f"other{i} text{i}", "output": "e"} for i in range(5)]
    write_rows(tmp_path / "pool.jsonl", pool)
    write_rows(
        tmp_path / "q.jsonl", [{"instruction": "the query itself", "output": "z"}, {"instruction": "query the itself"}]
    )
    rows = ["data=files", f"data.candidates.path={tmp_path}/pool.jsonl", f"data.queries.path={tmp_path}/q.jsonl"]
    rows += ["embedder=hashing", f"cache_dir={tmp_path}/cache", "map=null"]
    text = written(rows, tmp_path / "dropped", "selector=near", "n=8")
    assert "1 row with the prompt of a query is left out (data.leakage=drop)." in text
    assert "2 picked rows have the prompt of another one (1 prompt)." in text
    text = written(rows, tmp_path / "kept", "selector=near", "n=9", "data.leakage=keep")
    assert "1 row with the prompt of a query is in the pool (data.leakage=keep)." in text
    assert "By embeddings: 1 row with a similarity of 0.95 or more to one of 2 queries." in text, "the words reordered"


def test_rows_that_resemble_held_out_rows_are_listed(rows, tmp_path):
    asked = " ".join(f"v{i}" for i in range(20))
    write_rows(tmp_path / "q.jsonl", [{"instruction": asked, "output": "y"}])
    pool = [{"instruction": f"now {asked} {i}", "output": f"{i}"} for i in range(3)]
    write_rows(tmp_path / "pool.jsonl", pool + [{"instruction": f"w{i}", "output": "x"} for i in range(9)])
    words = ["data=files", f"data.candidates.path={tmp_path}/pool.jsonl", f"data.queries.path={tmp_path}/q.jsonl"]
    words += ["embedder=hashing", f"cache_dir={tmp_path}/cache", "map=null", "selector=near", "n=2"]
    text = written(words, tmp_path / "out")
    assert "3 rows resemble 1 held-out row; 2 of them are picked" in text and "queries 0" in text
    with pytest.raises(UserError, match="holds another"):
        written([*words, "data.decontaminate.action=drop"], tmp_path / "out")
    text = written([*words, "data.decontaminate=null"], tmp_path / "null")
    assert "not compared with held-out rows" in text
    written(words, tmp_path / "null")
    assert (tmp_path / "null" / "contaminated.jsonl").is_file(), "a folder without it is made whole"


def test_scores_of_bm25_are_not_taken_for_cosines(rows, tmp_path):
    words = [f"cache_dir={tmp_path}/cache" if word.startswith("cache_dir") else word for word in rows]
    text = written([*words, "similarity=bm25"], tmp_path / "out", "selector=near", "n=6", "max_K=12")
    assert data_of(text)["browser"]["embedder"] == "BM25"
    assert "never embedded" in text and "Check whether they give away" not in text
    select(configured("select", *words, "max_K=12"), tmp_path / "embedded")  # now the vectors are there
    text = written([*words, "similarity=bm25"], tmp_path / "out", "selector=near", "n=6", "max_K=12")
    assert "by HashingEmbedder: median" in text and "without a near row" not in text


def test_two_processes_write_one_page(rows, tmp_path):
    result = run_script(*RANKS, "select.py", *rows, "selector=near", "n=4", "page=true", f"output_dir={tmp_path}/out")
    assert result.returncode == 0, result.stderr
    assert (result.stdout + result.stderr).count("page: ") == 1
    assert (tmp_path / "out" / "selection.html").is_file()


def test_hubs_and_reach_against_hand_counts():
    ids = np.array([[5, 2, 7], [5, 9, 2], [5, 7, 9]])
    scores = np.array([[0.9, 0.8, 0.5], [0.7, 0.6, 0.4], [0.8, 0.7, 0.3]], dtype=np.float32)
    matrix = Neighbours(ids, scores, SelectionManifest())

    class Rows:
        def sources(self, ids):
            return np.array(["s"] * len(ids))

        def texts(self, ids, embed):
            return [f"row {i}" for i in ids]

    shared = hubs(matrix, Rows())
    assert [row[:3] for row in shared.rows] == [["5", "s", "3"], ["2", "s", "2"], ["7", "s", "2"], ["9", "s", "2"]]
    assert "go to 2 of 4 rows; one row is among them for 3 of 3 queries (100%)" in shared.sentence
    skill = label("skill", ["sort" if i in (5, 7) else "x" for i in range(10)], np.arange(10), ["sort"])
    heads, cells = by_max_K(matrix, [skill], 10)
    assert heads[-1] == "skill sort"
    assert cells == [
        ["1", "1", "10%", "0.800", "0.700", "100%"],
        ["2", "4", "40%", "0.700", "0.600", "50%"],
        ["3", "4", "40%", "0.400", "0.300", "50%"],
    ]
    (heads, cells), note = by_n(matrix, [skill], np.array([5, 2]))
    assert cells == [["1", "0.900", "0.900", "100%"], ["2", "0.800", "0.800", "50%"], ["4", "0.700", "0.600", "50%"]]
    assert "beyond the 2" in note
    (_, cells), note = by_n(matrix, [skill], np.array([3, 5]))  # a random row, in no query's reach
    assert cells == [["1", "-", "-", "0%"], ["2", "0.900", "0.900", "50%"]] and "beyond" not in note
    assert list(steps(1)) == [1] and list(steps(10)) == [1, 2, 5, 10] and list(steps(11))[-2:] == [10, 11]


def test_the_script_writes_the_page(rows, tmp_path):
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    result = run_script("select.py", *rows, "selector=near", "n=4", "page=true", f"output_dir={tmp_path}/out")
    assert result.returncode == 0, result.stderr
    assert "page: " in result.stdout + result.stderr and (tmp_path / "out" / "selection.html").is_file()
    result = run_script("select.py", *rows, "dry_run=true", "page=true", f"output_dir={tmp_path}/dry")
    assert result.returncode == 0, result.stderr
    assert not list((tmp_path / "dry").glob("*.html")) and (tmp_path / "dry" / "dry_run.json").is_file()

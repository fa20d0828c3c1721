"""near.search and near.select from Python, on arrays, files and rows."""

import subprocess
import sys

import datasets
import numpy as np
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import near
from near.common.errors import UserError
from near.selection.select import select
from tests.conftest import ROOT, configured, write_rows

POOL = np.random.default_rng(0).normal(size=(300, 6))
QUERIES = np.random.default_rng(1).normal(size=(4, 6))


def cosines(queries, pool):
    return (queries @ pool.T) / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(pool, axis=1)


@pytest.mark.parametrize("index", ["flat", "ivf", "hnsw"])
@pytest.mark.parametrize("kind", ["array", "list", "file", "map", "float16"])
def test_vectors_of_any_kind(index, kind, tmp_path):
    pool = POOL.astype(np.float16) if kind == "float16" else POOL
    np.save(tmp_path / "pool.npy", pool)
    given = {"list": pool.tolist(), "file": tmp_path / "pool.npy", "map": np.load(tmp_path / "pool.npy", mmap_mode="r")}
    neighbours = near.search(QUERIES, given.get(kind, pool), 300, index=index)
    expected = cosines(QUERIES, pool.astype(np.float64))
    np.testing.assert_array_equal(neighbours.ids, np.argsort(-expected, axis=1, kind="stable"))
    np.testing.assert_allclose(neighbours.scores, -np.sort(-expected, axis=1), atol=1e-6)
    assert (neighbours.ids.dtype, neighbours.scores.dtype) == (np.int64, np.float32)


def test_inner_products_of_vectors_as_they_are():
    neighbours = near.search(QUERIES, POOL, 5, normalise=False)
    np.testing.assert_allclose(neighbours.scores, -np.sort(-(QUERIES @ POOL.T), axis=1)[:, :5], rtol=1e-5)


def test_the_selectors_choice_among_vectors():
    chosen = near.select(QUERIES, POOL, 9, 50)
    walk = list(dict.fromkeys(np.argsort(-cosines(QUERIES, POOL), axis=1).T.ravel()))
    assert chosen.ids.tolist() == walk[:9]
    drawn = [near.select(QUERIES, POOL, 9, 50, selector="random", seed=seed).ids for seed in (1, 1, 2)]
    assert drawn[0].tolist() == drawn[1].tolist() != drawn[2].tolist()
    assert len(set(drawn[0].tolist())) == 9


@pytest.fixture()
def rows():
    pool = [{"instruction": f"add {i} and {i + 1}", "output": str(2 * i + 1)} for i in range(40)]
    return [{"instruction": "add 7 and 9", "output": "16"}, {"instruction": "add 30 and 31", "output": "61"}], pool


def test_rows_give_what_select_py_writes(rows, tmp_path):
    queries, pool = rows
    write_rows(tmp_path / "pool.jsonl", pool)
    write_rows(tmp_path / "target.jsonl", queries)
    words = [f"data.candidates.path={tmp_path}/pool.jsonl", f"data.queries.path={tmp_path}/target.jsonl"]
    cfg = configured("select", "data=files", *words, "embedder=hashing", "max_K=11", f"cache_dir={tmp_path}/one")
    select(cfg, tmp_path / "out")
    options = {"overrides": ["embedder=hashing"], "cache_dir": tmp_path / "two, with=odd 'name'"}
    for given in (rows, [datasets.Dataset.from_list(part) for part in rows]):
        neighbours = near.search(*given, 11, **options)
        np.testing.assert_array_equal(neighbours.ids, np.load(tmp_path / "out" / "top_indices.npy"))
        np.testing.assert_array_equal(neighbours.scores, np.load(tmp_path / "out" / "top_scores.npy"))
    pool = datasets.Dataset.from_list(pool)
    chosen = near.select(queries, pool, 3, 11, **options)
    assert chosen.ids[:2].tolist() == neighbours.ids[:, 0].tolist()
    assert "add 30 and 31" not in pool.select(chosen.ids)["instruction"], "the query's own prompt is no candidate"
    texts = near.search(["boil rice"], ["how to boil rice", "the sky is blue"], 2, **options)
    assert texts.ids.tolist() == [[0, 1]]


def test_rows_are_those_that_may_be_selected_whatever_the_selector(tmp_path):
    pool = [{"instruction": "the query", "output": "x"}] + [
        {"instruction": f"row {i}", "output": "x"} for i in (1, 2, 1)
    ]
    options = {"overrides": ["embedder=hashing", "data.dedup=exact"], "cache_dir": tmp_path}
    for selector in ("near", "random", "full"):
        chosen = near.select([{"instruction": "the query"}], pool, 2, 2, selector=selector, **options)
        assert sorted(chosen.ids.tolist()) == [1, 2]
        with pytest.raises(UserError, match="n=3 is more than the 2 rows that may be selected"):
            near.select([{"instruction": "the query"}], pool, 3, 2, selector=selector, **options)


def test_rows_with_columns_of_their_own(tmp_path):
    pool = [{"instruction": "x", "output": "a"}, {"instruction": "y", "input": "zebra", "output": ["a", 1][0]}]
    options = {"overrides": ["embedder=hashing"], "cache_dir": tmp_path}
    for order in (pool, pool[::-1]):
        neighbours = near.search([{"instruction": "zebra"}], order, 2, **options)
        assert order[neighbours.ids[0, 0]]["instruction"] == "y" and neighbours.scores[0, 0] > 0.5


def test_under_a_hydra_of_the_callers(tmp_path):
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        mine = GlobalHydra.instance().hydra
        assert near.search(np.eye(3)[:1], np.eye(3), 1).ids.tolist() == [[0]]
        assert GlobalHydra.instance().hydra is mine


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: near.search(QUERIES, POOL, 301), "max_K=301 is more than the 300 candidates; use max_K<=300"),
        (lambda: near.search(QUERIES, POOL[:, :5], 3), "queries have 6 dimensions, candidates 5"),
        (lambda: near.search(QUERIES, ["a text"], 1), "must be of one kind"),
        (lambda: near.search(QUERIES[0], POOL, 1), "queries: float64 .6,. is not a matrix of numbers"),
        (lambda: near.search(QUERIES, POOL[:0], 1), "candidates: .* is not a matrix"),
        (lambda: near.search(QUERIES, np.where(POOL > 2, np.nan, POOL), 3), "candidates: row .* holds NaN or infinity"),
        (lambda: near.search("nowhere.npy", POOL, 1), "nowhere.npy is not a readable .npy file"),
        (lambda: near.search([], POOL, 1), "queries: .* is not a matrix"),
        (lambda: near.search(QUERIES, POOL, 0), "max_K"),
        (lambda: near.select(QUERIES, POOL, 0, 3), "n=0 is not a number of rows"),
        (lambda: near.select(QUERIES, POOL, 301, 3), "n=301 is more than the 300 rows"),
        (lambda: near.select(QUERIES, POOL, 2.5, 3), "n=2.5 is not a number of rows; use a whole number"),
        (lambda: near.search(["a"], datasets.Dataset.from_list([]), 1), "candidates: no row; give at least one"),
        (lambda: near.search(["a"], ["b", {"instruction": "c"}], 1), "candidates: rows are str and dict"),
        (lambda: near.search(["a"], [{"text": {1, 2}}], 1), "candidates: a row is not JSON"),
        (lambda: near.search(QUERIES, POOL, 3, overrides=["index.blocks=3"]), "blocks"),
        (lambda: near.search(QUERIES, POOL, 3, overrides=["index=null"]), "overrides: "),
        (lambda: near.search(QUERIES, POOL, 3, overrides=["seed=${oc.env:NOPE}"]), "NOPE"),
        (lambda: near.search(QUERIES, POOL, 3, overrides=[5]), "overrides: 5 is not an override"),
        (lambda: near.search(QUERIES, POOL, 3, cache_dir=5), "cache_dir=5 is not a path"),
        (lambda: near.search(["a"], ["b"], 1, cache_dir="x${y}"), "cache_dir=x.* contains"),
        (
            lambda: near.select(QUERIES, POOL, 9, 50, overrides=["selector.budgets=equal"]),
            "reads more of rows than vectors",
        ),
    ],
)
def test_what_is_refused(call, says):
    with pytest.raises(UserError, match=says):
        call()
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    ("selector", "overrides", "says"),
    [
        ("near", ["selector.budgets={maths: 0.5}"], "no query is of the task 'maths'"),
        ("quantile", ["selector.quantiles=41"], "selector.quantiles=41 is more than the 40 rows"),
    ],
)
def test_a_selector_checks_its_rows_as_in_select_py(rows, tmp_path, selector, overrides, says):
    options = ["embedder=hashing", "data.leakage=keep", *overrides]
    with pytest.raises(UserError, match=says):
        near.select(*rows, 5, selector=selector, cache_dir=tmp_path, overrides=options)


def test_without_max_k_it_looks_as_far_as_it_has_to(rows, tmp_path):
    queries, pool = rows
    options = {"overrides": ["embedder=hashing"], "cache_dir": tmp_path}
    assert len(near.select(queries, pool, n=10, **options).ids) == 10
    assert near.search(queries, pool, **options).ids.shape == (2, 39), "one row asks what a query asks"
    assert near.select(QUERIES[:1], np.tile(POOL, (5, 1)), n=1200).ids.shape == (1200,)
    assert near.search(QUERIES, np.tile(POOL, (5, 1))).ids.shape == (4, 1000)
    with pytest.raises(UserError, match="max_K=41 is more than the 39 candidates; use max_K<=39"):
        near.select(queries, pool, n=10, max_K=41, **options)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: near.select(QUERIES, POOL, 3, selector="nosuch"),
            "selector=nosuch: no such choice; there are: .*near",
        ),
        (lambda: near.select(QUERIES, POOL, 3, selector="neer"), "selector=neer: no such choice; did you mean near?"),
        (lambda: near.search(QUERIES, POOL, 3, index="ifv"), "index=ifv: no such choice; did you mean ivf?"),
        (lambda: near.select(["a"], ["b"], 1, overrides=["embedder=none"]), "embedder=none: no such choice; "),
    ],
)
def test_a_choice_that_there_is_not_lists_those_there_are(call, says):
    with pytest.raises(UserError, match=says):
        call()


def test_importing_near_imports_nothing_heavy():
    code = (
        "import near, sys; assert not {'faiss', 'numpy', 'hydra', 'torch'} & set(sys.modules); near.search; near.select"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        near.serach  # noqa: B018


@pytest.mark.parametrize("selector", ["tsds", "knn_uniform", "uot", "doubly_greedy", "mean_sim"])
def test_selectors_over_neighbours(selector):
    rng = np.random.default_rng(0)
    chosen = near.select(rng.normal(size=(3, 8)), rng.normal(size=(30, 8)), n=6, max_K=20, selector=selector)
    assert 1 <= len(set(chosen.ids.tolist())) == len(chosen.ids) <= 6


@pytest.mark.parametrize("selector", ["less", "loss", "queries", "delta_loss", "nice", "cluster_less"])
def test_selectors_that_need_training_are_refused(selector):
    with pytest.raises(UserError, match="use select.py or train.py"):
        near.select(np.eye(3), np.eye(5, 3), n=2, max_K=2, selector=selector)

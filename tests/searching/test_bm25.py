"""similarity=bm25: against a count by hand and against brute force, and what select.py makes of it."""

import json
import logging
import math
import re
from collections import Counter

import numpy as np
import pytest

import near
from near.common.errors import UserError
from near.data.loading import load
from near.data.words import pieces
from near.embedding.embedders.hashing import HashingEmbedder
from near.searching.bm25 import Bm25
from near.searching.find import find_neighbours
from near.searching.settings import SearchSettings
from near.selection.select import select
from near.selection.word_similarity import WordSimilarity
from tests.conftest import configured, write_rows


class Texts:
    """The part of Rows that the search uses."""

    def __init__(self, texts: list[str]):
        self._texts = texts

    def eligible(self) -> np.ndarray:
        return np.arange(len(self._texts))

    def texts(self, ids: np.ndarray, embed: str) -> list[str]:
        return [self._texts[i] for i in ids]


def search(queries: list[str], pool: list[str], k: int, **options):
    return Bm25(**options).search(Texts(pool), np.arange(len(pool)), Texts(queries), k)


def brute_force(queries: list[str], pool: list[str], k1: float, b: float) -> np.ndarray:
    """Float64 (n_queries, n_pool), word by word."""
    rows = [text.split() for text in pool]
    mean = sum(map(len, rows)) / len(rows)
    scores = np.zeros((len(queries), len(pool)))
    for q, query in enumerate(queries):
        for word in query.split():
            n = sum(word in row for row in rows)
            idf = math.log(1 + (len(rows) - n + 0.5) / (n + 0.5))
            for d, row in enumerate(rows):
                if f := row.count(word):
                    scores[q, d] += idf * f / (f + k1 * (1 - b + b * len(row) / mean))
    return scores


def test_by_hand():
    """3 rows of 1, 2 and 3 words, 2 on average; `a` is in two of them, `b` in one."""
    scores, rows, most = search(["a b"], ["c", "a b", "a a c"], 3, k1=1.2, b=0.5)
    a, b = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)
    second, third = a / (1 + 1.2) + b / (1 + 1.2), a * 2 / (2 + 1.2 * 1.25)
    assert rows.tolist() == [[1, 2, 0]]
    np.testing.assert_allclose(scores, [[second, third, 0]], rtol=1e-6)
    np.testing.assert_allclose(most, [a + b], rtol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_brute_force_on_random_texts(seed):
    rng = np.random.default_rng(seed)
    vocabulary = [f"w{i}" for i in range(15)]
    pool, queries = (
        [" ".join(rng.choice(vocabulary, rng.integers(0, 12), p=np.arange(1, 16) / 120)) for _ in range(n)]
        for n in (60, 7)
    )
    queries[0], k1, b = "w1 unknown w1", rng.uniform(0, 3), rng.uniform(0, 1)
    expected = brute_force(queries, pool, k1, b).astype(np.float32)
    for k in (1, 9, 60):
        scores, rows, most = search(queries, pool, k, k1=k1, b=b)
        np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1, kind="stable")[:, :k])
        np.testing.assert_allclose(scores, np.take_along_axis(expected, rows, axis=1), rtol=1e-6)
        assert (scores[most > 0] < most[most > 0, None]).all() and (scores[most == 0] == 0).all()


def test_equal_scores_go_to_the_lower_row():
    """Whatever the order of their words, and whichever of equally rare words they have."""
    pool = ["x", "c a b", "b c d", "a d c", "x", "b a c"]
    scores, rows, _ = search(["a b c"], [*pool, "a b c"], 7)
    assert rows[0, :3].tolist() == [1, 5, 6] and rows[0, -2:].tolist() == [0, 4]
    assert scores[0, 0] == scores[0, 2] and scores[0, -1] == 0


def test_empty_texts_and_unknown_words():
    scores, rows, most = search(["", "zzz !?", "a"], ["", "a", "", "b a"], 4)
    assert rows[:2].tolist() == [[0, 1, 2, 3]] * 2 and not scores[:2].any()
    assert rows[2].tolist() == [1, 3, 0, 2]
    assert most[0] == 0 < most[1]
    scores, rows, _ = search(["a"], ["", "...", ""], 2)
    assert rows.tolist() == [[0, 1]] and not scores.any()


def test_extreme_options():
    for options in ({"k1": 0.0, "b": 1.0}, {"k1": 1000.0, "b": 0.0}, {"k1": 2.0, "b": 1.0}):
        expected = brute_force(["a b b"], ["a a", "b", "b a c"], **options)[0]
        scores, rows, _ = search(["a b b"], ["a a", "b", "b a c"], 3, **options)
        np.testing.assert_allclose(scores[0], expected[rows[0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("query", "pool"),
    [
        ("STRASSE", ["weg", "die Straße"]),
        ("cafe\u0301", ["cafe", "Café!"]),  # composed and decomposed
        ("हिन्दी", ["हिन्दू", "हिन्दी में"]),  # vowel signs are parts of words
        ("世界", ["你好", "新世界"]),  # no spaces: every character is a word
        ("ภาษา", ["กขค", "สองภาษา"]),
        ("1974-07-11", ["20.08.1975", "1999/07/12"]),  # dates share parts
    ],
)
def test_words_of_any_script(query, pool):
    scores, rows, _ = search([query], pool, 2)
    assert rows[0, 0] == 1 and scores[0, 0] > scores[0, 1]


# select.py


def row(prompt: str, answer: str) -> dict:
    return {"instruction": prompt, "output": answer}


POOL = [row("sort the list", "a b"), row("add two numbers", "four"), row("sort numbers", "one two"), row("!!", "sort")]


@pytest.fixture()
def settings(tmp_path):
    queries = [row("sort these numbers", "x"), row("hello", "two")]
    files = [
        f"data.{part}.path={write_rows(tmp_path / f'{part}.jsonl', rows)}"
        for part, rows in {"candidates": POOL, "queries": queries}.items()
    ]
    return ["data=files", *files, f"cache_dir={tmp_path}/cache", "similarity=bm25", "max_K=3"]


@pytest.fixture(autouse=True)
def no_embedder(monkeypatch):
    monkeypatch.setattr(HashingEmbedder, "embed", lambda *a: pytest.fail("embedded"))
    monkeypatch.setattr("near.embedding.embed.embedder_of", lambda *a, **k: pytest.fail("loaded"))


def of_field(field: str) -> tuple[np.ndarray, np.ndarray]:
    texts = {"prompt": lambda r: r["instruction"], "answer": lambda r: r["output"]}
    texts["both"] = lambda r: f"{r['instruction']} {r['output']}"
    pool = [" ".join(re.findall(r"\w+", texts[field](r))) for r in POOL]
    queries = [texts[field](row("sort these numbers", "x")), texts[field](row("hello", "two"))]
    scores = brute_force(queries, pool, 1.5, 0.75).astype(np.float32)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    return rows, np.take_along_axis(scores, rows, axis=1)


@pytest.mark.parametrize("field", ["prompt", "answer", "both"])
def test_the_matrix_of_select(settings, tmp_path, field, caplog):
    caplog.set_level(logging.INFO)
    out, cfg = tmp_path / "out", configured("select", *settings, f"similarity.embed={field}")
    select(cfg, out)
    rows, scores = of_field(field)
    np.testing.assert_array_equal(np.load(out / "top_indices.npy"), rows)
    np.testing.assert_allclose(np.load(out / "top_scores.npy"), scores, rtol=1e-6)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["similarity"]["embed"] == field and manifest.get("embedder") is None
    if field == "prompt":
        assert "1 of 2 queries without a word of any row, first query 1" in caplog.text


def test_rows_that_may_not_be_selected_do_not_count(settings, tmp_path):
    """A query's own prompt in the pool is left out: its words are as rare as without it, and ids stay."""
    rows = [row("sort these numbers", "leak"), *POOL, row("add 7", "")]
    write_rows(tmp_path / "candidates.jsonl", rows)
    select(configured("select", *settings, "data.candidates.filter={instruction: '!=add 7'}"), tmp_path / "out")
    ids, scores = of_field("prompt")
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "top_indices.npy"), ids + 1)
    np.testing.assert_allclose(np.load(tmp_path / "out" / "top_scores.npy"), scores, rtol=1e-6)


def test_it_is_computed_once(settings, tmp_path, monkeypatch):
    select(configured("select", *settings), tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(Bm25, "search", lambda *a: pytest.fail("searched"))
        select(configured("select", *settings), tmp_path / "out")
        select(configured("select", *settings, "max_K=2", "seed=3"), tmp_path / "other")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for words_, reason in (
        (["similarity.k1=2"], "similarity.k1 was 1.5, now 2"),
        (["similarity.embed=both"], "similarity.embed was prompt, now both"),
        (["similarity=embeddings", "embedder=hashing"], "holds another selection"),
    ):
        with pytest.raises(UserError, match=reason):
            select(configured("select", *settings, *words_), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_matrix_of_vectors_is_replaced(settings, tmp_path, monkeypatch):
    select(configured("select", *settings), tmp_path / "out")
    assert (tmp_path / "out" / "query_scales.npy").is_file()
    monkeypatch.undo()
    select(
        configured("select", *settings, "similarity=embeddings", "embedder=hashing", "overwrite=true"), tmp_path / "out"
    )
    assert not (tmp_path / "out" / "query_scales.npy").exists()


@pytest.mark.parametrize("name", ["near", "near_sample", "doubly_greedy", "mean_sim", "uot", "tsds", "knn_uniform"])
def test_every_selector_over_neighbours(settings, tmp_path, name):
    out = tmp_path / "out"
    select(configured("select", *settings, f"selector={name}", "n=2", "export=jsonl"), out)
    ids = np.load(out / "subset.npy")
    assert len(ids) == 2
    if name not in ("near_sample", "tsds", "knn_uniform"):  # which draw
        assert ids[0] == 2  # the row that shares most words
    line = json.loads((out / "subset.jsonl").read_text().splitlines()[0])
    assert line["score"] is None or 0 <= line["score"] < 1


def test_dry_run_and_library(settings, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    select(configured("select", *settings, "dry_run=true"), tmp_path / "out")
    assert "4 candidates, 2 queries; nothing is embedded" in caplog.text
    found = near.search(["sort"], ["list", "sort it"], 1, overrides=["similarity=bm25"], cache_dir=tmp_path)
    assert found.ids.tolist() == [[1]]
    assert near.select(
        ["sort"], ["list", "sort it"], 1, overrides=["similarity=bm25"], cache_dir=tmp_path
    ).ids.tolist() == [1]
    with pytest.raises(UserError, match="compares the words of rows"):
        near.search(np.eye(2), np.eye(2), 1, overrides=["similarity=bm25"], cache_dir=tmp_path)


# beyond the matrix


@pytest.fixture()
def similarity(settings):
    cfg = configured("select", *settings)
    pool, queries = (load(cfg.data, part, cfg.cache_dir) for part in ("candidates", "queries"))
    neighbours = find_neighbours(SearchSettings.of(cfg, cfg.cache_dir), pool, queries)
    return WordSimilarity(SearchSettings.of(cfg, cfg.cache_dir).words, cfg.cache_dir, pool, queries, neighbours)


def test_means_are_of_shares(similarity):
    pool = [" ".join(pieces(r["instruction"])) for r in POOL]
    shares = []
    for query in ("sort these numbers", "hello"):
        idf = {w: math.log(1 + (4 - (n := sum(w in t.split() for t in pool)) + 0.5) / (n + 0.5)) for w in query.split()}
        most = sum(idf[w] * times for w, times in Counter(query.split()).items())
        shares.append(brute_force([query], pool, 1.5, 0.75)[0] / most)
    np.testing.assert_allclose(similarity.means(), np.mean(shares, axis=0), rtol=1e-6)
    np.testing.assert_allclose(similarity.neighbours.similarities[0], np.sort(shares[0])[::-1][:3], rtol=1e-6)


def test_rows_with_the_same_words_are_one(tmp_path):
    """Density counts them together, and clusters have them in one."""
    texts = ["sort the list", "add two numbers", "list, sort the!", "", "numbers two add"]

    class Rows(Texts):
        fingerprint = "f"

        def __len__(self) -> int:
            return len(self._texts)

    similarity = WordSimilarity(Bm25(), str(tmp_path), Rows(texts), Rows(["sort"]), None)
    np.testing.assert_allclose(similarity.density(np.array([0, 2, 1]), 0.1, 10), [2, 2, 1], atol=1e-3)
    clusters = similarity.clusters(2, 0)
    assert clusters[0] == clusters[2] != clusters[1] == clusters[4]

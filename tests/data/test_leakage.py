"""Rows with a query's prompt are leaks, also with other case, other white space, or among other turns."""

import logging

import numpy as np
import pytest
from omegaconf import OmegaConf

from near.data.loading import load
from near.data.pool import load_pool
from near.data.row_keys import normalised
from near.searching.equal_rows import same_direction
from near.searching.vectors import ArrayVectors
from near.selection.select import select
from tests.conftest import configured, write_rows

QUESTION = "What is the postal code of Lisbon?"


def chat(*questions: str, system: str | None = None) -> dict:
    turns = [{"role": "system", "content": system}] if system else []
    for question in questions:
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": "so"}]
    return {"messages": turns}


@pytest.fixture()
def pool_of(tmp_path):
    def of(rows, queries, **options):
        cfg = configured("select", "data=files", f"cache_dir={tmp_path}/cache")
        rows = [*rows, chat("something that nobody else asks")]
        cfg.data.candidates.path = str(write_rows(tmp_path / "pool.jsonl", rows))
        cfg.data.queries.path = str(write_rows(tmp_path / "queries.jsonl", queries))
        for key, value in options.items():
            cfg.data[key] = value
        return load_pool(cfg.data, load(cfg.data, "queries", cfg.cache_dir, answer=False), cfg.cache_dir)

    return of


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("what IS  this?\n", " What is\tthis? "),
        ("Straße", "STRASSE"),
        ("ﬁne Ａ１", "fine a1"),
        ("cafe\u0301", "CAFÉ"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("a\u00a0b\u3000c", "a b c"),
        ("ΣΑΣ", "σας"),
        ("x²", "x2"),
    ],
)
def test_texts_that_are_the_same(text, same):
    assert normalised(text) == normalised(same)


@pytest.mark.parametrize(("text", "other"), [("a b", "ab"), ("1.5", "15"), ("naïve", "naive"), ("a?", "a")])
def test_texts_that_are_not(text, other):
    assert normalised(text) != normalised(other)


@pytest.mark.parametrize(
    ("row", "leaks"),
    [
        (chat(QUESTION), True),
        (chat(QUESTION + " "), True),
        (chat(QUESTION.lower()), True),
        (chat(QUESTION.upper(), system="Be brief."), True),
        ({"messages": chat("What is the postal code of", "Lisbon?")["messages"]}, True),  # together the same
        (chat("Hello", QUESTION), True),
        (chat(QUESTION, "And of Oslo?"), True),
        (chat("Hello", QUESTION.replace(" ", "  "), "Thanks"), True),
        (chat(QUESTION + " And of Oslo?"), False),
        (chat("Lisbon?"), False),
    ],
)
def test_a_single_question_leaks(pool_of, row, leaks):
    assert (0 not in pool_of([row], [chat(QUESTION)]).eligible()) == leaks


@pytest.mark.parametrize(
    ("row", "leaks"),
    [
        (chat("Hi", QUESTION, "Go on."), True),
        (chat("Before", "HI", QUESTION, "go on.", "After"), True),
        (chat("Go on."), True),
        (chat("Tell a tale", "Go on."), False),  # shares the last turn alone
        (chat("Hi", "Go on."), False),
        (chat("Hi", QUESTION), False),
        (chat("Hi", "Other", QUESTION, "Go on."), False),
    ],
)
def test_several_questions_leak_together(pool_of, row, leaks):
    assert (0 not in pool_of([row], [chat("Hi", QUESTION, "Go on.")]).eligible()) == leaks


def test_rows_that_share_the_last_turn_alone_are_counted(pool_of, caplog):
    caplog.set_level(logging.INFO)
    pool = pool_of([chat("Tell a tale", "Go on."), chat("And now", "go  on.")], [chat("Hi", "Go on.")])
    assert pool.eligible().tolist() == [0, 1, 2]
    assert "2 rows kept that share the last of several turns with a query or an eval row" in caplog.text


def test_rows_that_are_kept_are_counted(pool_of, caplog):
    pool = pool_of([chat(QUESTION), chat(QUESTION.lower())], [chat(QUESTION)], leakage="keep")
    assert len(pool.eligible()) == 3
    assert "2 rows with the prompt of a query or an eval row kept, as data.leakage=keep" in caplog.text


def test_turns_of_many_rows_are_found_in_every_source(tmp_path, monkeypatch):
    """Ids across sources, and blocks of turns."""
    monkeypatch.setattr("near.data.table.TURNS", 3)
    rows = [chat(f"one {i}", f"two {i}") for i in range(10)]
    paths = [str(write_rows(tmp_path / f"{n}.jsonl", rows[5 * n : 5 * n + 5])) for n in range(2)]
    cfg = configured("select", "data=files", f"cache_dir={tmp_path}/cache")
    cfg.data.candidates.path = paths
    cfg.data.queries.path = str(write_rows(tmp_path / "q.jsonl", [chat("TWO 3"), chat("one 8", "two 8")]))
    pool = load_pool(cfg.data, load(cfg.data, "queries", cfg.cache_dir), cfg.cache_dir)
    assert pool.eligible().tolist() == [0, 1, 2, 4, 5, 6, 7, 9]


def test_rows_with_a_querys_vector_are_counted(tmp_path, caplog):
    """The hashing embedder does not see the order of words; nor does it matter that they were embedded before."""
    rows = [{"question": q, "answer": "a"} for q in ("north of the sea", "the sea of north", "other words here")]
    cfg = configured("select", "data=files", "embedder=hashing", f"cache_dir={tmp_path}/cache", "max_K=2")
    cfg.embedder.embed = "prompt"
    cfg.data.candidates.path = str(write_rows(tmp_path / "pool.jsonl", rows))
    cfg.data.queries.path = str(write_rows(tmp_path / "q.jsonl", [{"question": "sea north of the", "answer": "b"}]))
    for run in range(2):
        caplog.clear()
        select(cfg, tmp_path / f"out{run}")
        assert "2 rows with cosine 1 to a query (1 of 1 query), kept" in caplog.text
    assert np.load(tmp_path / "out0" / "top_scores.npy").shape == (1, 2)


@pytest.mark.parametrize("part", ["eval", "more_eval.maths"])
def test_rows_with_an_eval_rows_vector_are_counted(tmp_path, caplog, part):
    """Beyond the matrix, too, which is one row wide; compared once, logged every time."""
    rows = [{"question": q, "answer": "a"} for q in ("other words", "north of the sea", "the sea of north", "more")]
    cfg = configured("select", "data=files", "embedder=hashing", f"cache_dir={tmp_path}/cache", "max_K=1")
    cfg.embedder.embed = "prompt"
    cfg.data.candidates.path = str(write_rows(tmp_path / "pool.jsonl", rows))
    cfg.data.queries.path = str(write_rows(tmp_path / "q.jsonl", [{"question": "words", "answer": "b"}]))
    held_out = str(write_rows(tmp_path / "e.jsonl", [{"question": "sea north of the"}, {"question": "unlike any"}]))
    OmegaConf.update(cfg, f"data.{part}" + (".path" if part == "eval" else ""), held_out, force_add=True)
    for run in range(2):
        caplog.clear()
        select(cfg, tmp_path / f"out{run}")
        assert f"2 rows with cosine 1 to a row of {part}, kept, first row 1; check" in caplog.text


def test_vectors_of_one_direction_are_found_in_every_block(monkeypatch):
    monkeypatch.setattr("near.searching.equal_rows.BLOCK", 3)
    vectors = np.eye(8, dtype=np.float32)[[0, 1, 2, 3, 4, 5, 1, 6]]
    vectors[3] = [0, 0.9999, 0, 0.01414, 0, 0, 0, 0]  # near the second, and another one
    assert same_direction(ArrayVectors(vectors), np.eye(8, dtype=np.float32)[[1, 7]]).tolist() == [1, 6]
    assert same_direction(ArrayVectors(vectors), np.eye(8, dtype=np.float32)[[7]]).tolist() == []

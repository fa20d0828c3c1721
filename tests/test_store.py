"""A text is embedded once, whatever pool, order or process it comes in."""

import multiprocessing

import numpy as np
import pytest

from near import store as store_module
from near.embedders.hashing import HashingEmbedder
from near.errors import UserError
from near.store import Store, keys_of

TEXTS = [f"text number {i}" for i in range(50)]
EMBEDDER = HashingEmbedder(dim=16)


class Counting:
    def __init__(self):
        self.seen = []

    def __call__(self, texts):
        self.seen += texts
        return EMBEDDER.embed(texts)


def test_every_text_once_and_in_order(tmp_path):
    counting = Counting()
    keys, distinct, embedded = Store(tmp_path, {"a": 1}).fill(iter([TEXTS[:30], TEXTS[20:] + TEXTS[:5]]), counting)
    assert (len(keys), distinct, embedded) == (65, 50, 50)
    assert sorted(counting.seen) == sorted(TEXTS)
    opened = Store(tmp_path, {"a": 1})
    assert opened.fill(iter([TEXTS[::-1]]), counting)[2] == 0
    np.testing.assert_array_equal(opened.get(keys_of(TEXTS[::-1])), EMBEDDER.embed(TEXTS[::-1]))


def test_new_rows_alone_are_embedded(tmp_path):
    Store(tmp_path, {}).fill(iter([TEXTS]), Counting())
    counting = Counting()
    Store(tmp_path, {}).fill(iter([["new"], TEXTS]), counting)
    assert counting.seen == ["new"]


def test_spaces_do_not_mix(tmp_path):
    Store(tmp_path, {"model": "a"}).fill(iter([TEXTS]), Counting())
    other = Store(tmp_path, {"model": "b"})
    assert not other.has(keys_of(TEXTS)).any()
    with pytest.raises(KeyError, match="50 texts are not in the store"):
        other.get(keys_of(TEXTS))


def test_a_crash_loses_only_the_chunk_in_flight(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "CHUNK", 10)

    def failing(texts):
        if TEXTS[25] in texts:
            raise RuntimeError("killed")
        return EMBEDDER.embed(texts)

    with pytest.raises(RuntimeError):
        Store(tmp_path, {}).fill(iter([[t] for t in TEXTS]), failing)
    counting = Counting()
    Store(tmp_path, {}).fill(iter([TEXTS]), counting)
    assert counting.seen == TEXTS[20:]


def test_a_half_written_shard_is_never_seen(tmp_path):
    store = Store(tmp_path, {})
    (store.folder / ".1-abc.safetensors.123.part").write_bytes(b"half")
    assert len(Store(tmp_path, {})) == 0


def test_a_damaged_shard_is_named(tmp_path):
    store = Store(tmp_path, {})
    store.fill(iter([TEXTS]), Counting())
    shard = store.shards[0]
    shard.write_bytes(shard.read_bytes()[:20])
    with pytest.raises(UserError, match=shard.name):
        Store(tmp_path, {})


def test_vectors_that_are_not_finite_are_refused(tmp_path):
    store = Store(tmp_path, {})
    with pytest.raises(UserError, match="1 vectors with NaN or inf"):
        store.add(keys_of(["a", "b"]), np.array([[1.0, np.nan], [1.0, 0.0]], dtype=np.float32))
    assert len(Store(tmp_path, {})) == 0


def _fill(folder):
    Store(folder, {}).fill(iter([[t] for t in TEXTS]), EMBEDDER.embed)


def test_two_writers_both_end_right(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "CHUNK", 5)
    workers = [multiprocessing.get_context("fork").Process(target=_fill, args=(tmp_path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0, 0]
    np.testing.assert_array_equal(Store(tmp_path, {}).get(keys_of(TEXTS)), EMBEDDER.embed(TEXTS))

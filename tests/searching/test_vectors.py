"""Vectors read into a buffer: from arrays, files and the store."""

import pickle

import numpy as np
import pytest

from near.common.errors import UserError
from near.common.files import read_whole
from near.embedding import store as store_module
from near.embedding.store import Store
from near.searching.vectors import ArrayVectors, StoredVectors


def read(vectors, rows):
    out = np.full((len(range(vectors.n)[rows]) if isinstance(rows, slice) else len(rows), vectors.dim), 7, np.float32)
    vectors.read(rows, out)
    return out


ARRAY = np.random.default_rng(0).normal(size=(50, 6))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("rows", [slice(0, 50), slice(13, 29), np.array([0, 3, 4, 49])])
def test_any_array(dtype, order, mapped, rows, tmp_path):
    array = np.asarray(10 * ARRAY, dtype=dtype, order=order)
    if mapped:
        np.save(tmp_path / "v.npy", array)
        array = np.load(tmp_path / "v.npy", mmap_mode="r")
    np.testing.assert_array_equal(read(ArrayVectors(array), rows), np.asarray(array[rows], dtype=np.float32))
    part = ArrayVectors(array[5:])
    np.testing.assert_array_equal(read(part, slice(2, 9)), np.asarray(array[7:14], dtype=np.float32))


def test_at_unit_length():
    array = np.array([[3, 4], [0, 0], [1e-30, 0], [1e25, 1e25]])
    vectors = read(ArrayVectors(array, normalise=True), slice(0, 4))
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0], [1, 0], [0.5**0.5, 0.5**0.5]], rtol=1e-6)


def test_lengths_beyond_float32():
    for dtype, scale in (("f8", 1e60), ("f8", 1e-60), ("f4", 3e38), ("f4", 1e-30)):
        array = np.array([[3, 4], [1, 1]]).astype(dtype) / 4 * np.array(scale, dtype)
        vectors = read(ArrayVectors(array, normalise=True), slice(0, 2))
        np.testing.assert_allclose(vectors, [[0.6, 0.8], [0.5**0.5, 0.5**0.5]], rtol=1e-6)
    with pytest.raises(UserError, match="pool: row 1 is too large for float32"):
        read(ArrayVectors(np.array([[1.0, 2.0], [1e60, 1.0]]), "pool"), slice(0, 2))


def test_changes_in_a_copy_of_a_map_count(tmp_path):
    np.save(tmp_path / "v.npy", ARRAY.astype(np.float32))
    copy = np.load(tmp_path / "v.npy", mmap_mode="c")
    copy[3] = 7
    assert (read(ArrayVectors(copy), slice(3, 4)) == 7).all()


def test_rows_of_a_map_are_read_from_the_file_not_the_map(tmp_path):
    np.save(tmp_path / "v.npy", ARRAY.astype(np.float32))
    part = np.load(tmp_path / "v.npy", mmap_mode="r")[10:40][5:]
    vectors = ArrayVectors(part)
    assert vectors._file == str(tmp_path / "v.npy")
    np.testing.assert_array_equal(read(vectors, np.array([0, 1, 7, 24])), part[[0, 1, 7, 24]])


def test_a_file_that_was_cut_since_it_was_opened(tmp_path):
    np.save(tmp_path / "v.npy", ARRAY)
    vectors = ArrayVectors(np.load(tmp_path / "v.npy", mmap_mode="r"))
    with open(tmp_path / "v.npy", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(OSError, match="ended .* bytes too early"):
        read(vectors, slice(0, 50))
    with open(tmp_path / "v.npy", "rb", buffering=0) as file:
        read_whole(file, np.empty(1000, dtype=np.uint8))


@pytest.mark.parametrize(
    "array", [np.zeros(3), np.zeros((0, 3)), np.zeros((3, 0)), np.array([["a"]]), np.zeros((2, 2, 2))]
)
def test_no_matrix_of_numbers(array):
    with pytest.raises(UserError, match=r"queries: .* is not a matrix of numbers; give \(rows, dimensions\)"):
        ArrayVectors(array, "queries")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_of_a_store_in_any_order_and_after_travelling(dtype, tmp_path):
    rng = np.random.default_rng(0)
    keys, values = rng.integers(0, 2**63, size=(90, 2), dtype=np.uint64), rng.normal(size=(90, 5)).astype(np.float32)
    with Store(tmp_path, {"a": 1}, dtype) as store:
        offsets = np.concatenate([store.add(keys[a : a + 40], values[a : a + 40]) for a in (0, 40, 80)])
        order = rng.integers(0, 90, size=300)
        vectors = StoredVectors(store, offsets[order])
        expected = values[order].astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(read(vectors, slice(0, 300)), expected)
        np.testing.assert_array_equal(read(vectors, slice(17, 20)), expected[17:20])
        copy = pickle.loads(pickle.dumps(vectors))  # a shard's number is this store's own: it must travel along
        np.testing.assert_array_equal(read(copy, np.arange(0, 300, 7)), expected[::7])
        copy.store.close()


def test_a_store_of_a_relative_folder_travels_to_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys, values = np.arange(8, dtype=np.uint64).reshape(4, 2), np.eye(4, dtype=np.float32)
    with Store("cache", {"a": 1}) as store:
        vectors = StoredVectors(store, store.add(keys, values))
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        copy = pickle.loads(pickle.dumps(vectors))
        np.testing.assert_array_equal(read(copy, slice(0, 4)), values)
        copy.store.close()


def test_a_shuffled_pool_is_read_once_not_once_a_block(tmp_path, monkeypatch):
    """Blocks of few rows of each shard read these, not the whole shard again and again."""
    rng, sizes = np.random.default_rng(0), []
    keys = np.arange(8000, dtype=np.uint64).reshape(4000, 2)
    with Store(tmp_path, {"a": 1}) as store:
        offsets = np.concatenate(
            [store.add(keys[a : a + 1000], rng.normal(size=(1000, 5))) for a in range(0, 4000, 1000)]
        )
        vectors = StoredVectors(store, rng.permutation(offsets))
        inner = store_module._Stored.read
        monkeypatch.setattr(
            store_module._Stored, "read", lambda self, at, out: sizes.append(len(out)) or inner(self, at, out)
        )
        for start in range(0, 4000, 200):
            read(vectors, slice(start, start + 200))
    assert sum(sizes) == 4000

"""Look-ups by key agree with a dictionary."""

import numpy as np

from near.common.keys import Sorted, hashed


def columns(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(keys[:, 0]), np.ascontiguousarray(keys[:, 1])


def test_runs_begin_where_a_text_comes_first():
    rng = np.random.default_rng(0)
    texts = [f"text {i}" for i in rng.integers(0, 300, 1000)]
    keys = Sorted(*columns(hashed(texts)))
    firsts = {}
    for i, text in enumerate(texts):
        firsts.setdefault(text, i)
    assert sorted(keys.order[keys.begins]) == sorted(firsts.values())
    queries = [f"text {i}" for i in range(400)]
    positions = keys.find(hashed(queries))
    assert [int(keys.order[p]) if p >= 0 else None for p in positions] == [firsts.get(t) for t in queries]


def test_keys_with_the_same_first_half_are_distinguished():
    keys = np.array([[7, 3], [7, 1], [5, 1], [7, 2], [7, 1], [9, 9]], dtype=np.uint64)
    ordered = Sorted(*columns(keys))
    assert sorted(ordered.order[ordered.begins]) == [0, 1, 2, 3, 5]
    queries = np.array([[7, 1], [7, 2], [7, 3], [7, 4], [9, 9], [9, 1], [1, 1], [10, 0]], dtype=np.uint64)
    assert [int(ordered.order[p]) if p >= 0 else -1 for p in ordered.find(queries)] == [1, 3, 0, -1, 5, -1, -1, -1]


def test_none_at_all():
    empty = np.empty(0, dtype=np.uint64)
    assert Sorted(empty, empty).find(hashed(["a"])).tolist() == [-1]
    assert hashed([]).shape == (0, 2)


def test_a_lone_surrogate_is_a_text_too():
    assert not np.array_equal(hashed(["\ud800"]), hashed(["\udfff"]))

"""Cached results: complete or absent, made by one process at a time; damaged ones are logged and made again."""

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from near.common.cached import Unusable, cached, cached_array, existing
from near.common.errors import UserError


def write(text: str):
    def make(new: Path) -> None:
        (new / "a.txt").write_text(text)

    return make


def read(folder: Path) -> str:
    if (text := (folder / "a.txt").read_text()) == "odd":
        raise Unusable("it is odd")
    return text


def never(new: Path) -> None:
    pytest.fail("made again")


def test_made_once(tmp_path):
    place = tmp_path / "part" / "key"
    assert cached(place, write("one"), read) == "one"
    assert cached(place, never, read) == "one"
    assert cached(place, write("two"), read, again=True) == "two"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["locks", "part"]


@pytest.mark.parametrize("damage", ["odd", "gone", "bytes"])
def test_a_damaged_result_is_logged_and_made_again(tmp_path, caplog, damage):
    place = tmp_path / "part" / "key"
    cached(place, write("one"), read)
    if damage == "gone":
        (place / "a.txt").unlink()
    else:
        (place / "a.txt").write_bytes(b"odd" if damage == "odd" else b"\xff\xfe")
    assert existing(place, read) is None
    assert cached(place, write("two"), read) == "two"
    assert f"{place}" in caplog.text and "; it is made again" in caplog.text
    assert existing(place, read) == "two"


@pytest.mark.parametrize("error", [UserError("no"), RuntimeError("no"), KeyboardInterrupt()])
def test_what_fails_leaves_nothing(tmp_path, error):
    def make(new: Path) -> None:
        (new / "a.txt").write_text("half")
        raise error

    with pytest.raises(type(error)):
        cached(tmp_path / "part" / "key", make, read)
    assert not list((tmp_path / "part").iterdir())


def test_a_fault_of_what_is_read_that_is_no_damage_is_raised(tmp_path):
    cached(tmp_path / "part" / "key", write("one"), read)
    with pytest.raises(ZeroDivisionError):
        cached(tmp_path / "part" / "key", never, lambda folder: 1 / 0)


def test_an_array_of_another_shape_is_made_again(tmp_path, caplog):
    path = tmp_path / "part" / "key.npy"
    assert cached_array(path, lambda: np.zeros(3), (3,)).shape == (3,)
    assert cached_array(path, lambda: np.ones(4)).tolist() == [0, 0, 0]
    assert cached_array(path, lambda: np.ones(4), (4,)).tolist() == [1] * 4
    assert "its shape is (3,), not (4,)" in caplog.text
    path.write_bytes(b"\x93NUMPY cut")
    assert cached_array(path, lambda: np.ones(4), (4,)).tolist() == [1] * 4


def _one_of_several(place: Path) -> str:
    def make(new: Path) -> None:
        with open(place.parent.parent / "makers", "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.2)
        (new / "a.txt").write_text(str(os.getpid()))

    return cached(place, make, read)


def test_of_several_processes_one_makes_it(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        results = pool.map(_one_of_several, [tmp_path / "part" / "key"] * 4)
    [maker] = (tmp_path / "makers").read_text().split()
    assert results == [maker] * 4

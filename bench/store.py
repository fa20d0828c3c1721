"""The store with 1,000,000 keys: writes, look-ups of all texts, reads and appends, compared with SQLite.

    python bench/store.py [keys=1000000 dim=384 appended=20480]

Both have the same content. Each step runs in a separate process, so that its peak memory is its own.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import sqlite3
import tempfile

import numpy as np

from bench import common
from near.common.errors import UserError
from near.common.keys import hashed
from near.embedding.missing import look_up
from near.embedding.store import Store

CHUNK = 2048


def texts(start: int, stop: int) -> list[str]:
    return [f"what is the name of number {i}" for i in range(start, stop)]


def vectors(start: int, stop: int, dim: int) -> np.ndarray:
    return np.random.default_rng(start).normal(size=(stop - start, dim)).astype(np.float32)


def chunks(start: int, stop: int):
    for at in range(start, stop, CHUNK):
        yield at, min(at + CHUNK, stop)


def near_write(folder: str, start: int, stop: int, dim: int) -> None:
    with Store(folder, {"bench": dim}) as store:
        result = look_up(store, lambda at: texts(start + at[0], start + at[-1] + 1), stop - start, CHUNK)
        assert len(result.missing) == stop - start
        for a, b in chunks(start, stop):
            keys = hashed(texts(a, b))
            with store.claim(keys) as mine:
                store.add(keys[mine], vectors(a, b, dim)[mine])


def near_look_up(folder: str, n: int, dim: int, read: bool) -> None:
    with Store(folder, {"bench": dim}) as store:
        result = look_up(store, lambda at: texts(at[0], at[-1] + 1), n, CHUNK)
        assert len(result.missing) == 0
        if read:
            out = np.empty((50_000, dim), dtype=np.float32)
            for a in range(0, n, len(out)):
                store.read(result.offsets[a : a + len(out)], out[: min(len(out), n - a)])
            np.testing.assert_array_equal(store.read(result.offsets[:CHUNK]), vectors(0, min(CHUNK, n), dim))


def sqlite_write(folder: str, start: int, stop: int, dim: int) -> None:
    base = sqlite3.connect(f"{folder}/base.sqlite")
    base.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB)")
    for a, b in chunks(start, stop):
        keys, values = hashed(texts(a, b)), vectors(a, b, dim)
        with base:
            base.executemany(
                "INSERT OR IGNORE INTO vectors VALUES (?, ?)",
                [(key.tobytes(), value.tobytes()) for key, value in zip(keys, values, strict=True)],
            )


def sqlite_look_up(folder: str, n: int, dim: int, read: bool) -> None:
    base = sqlite3.connect(f"{folder}/base.sqlite")
    column = "vector" if read else "rowid"
    for a, b in chunks(0, n):
        for key in hashed(texts(a, b)):
            (value,) = base.execute(f"SELECT {column} FROM vectors WHERE key = ?", (key.tobytes(),)).fetchone()
            if read:
                np.frombuffer(value, dtype=np.float32)


def step(store: str, work: str, folder: str, start: int, stop: int, dim: int) -> list[float]:
    """One step, on the keys `start` to `stop`: seconds, and the increase of this process's peak memory in bytes."""
    write, look_up_ = (near_write, near_look_up) if store == "near" else (sqlite_write, sqlite_look_up)
    before = common.peak()
    if work == "write":
        seconds, _ = common.timed(lambda: write(folder, start, stop, dim))
    else:
        seconds, _ = common.timed(lambda: look_up_(folder, stop, dim, work == "read"))
    return [seconds, common.peak() - before]


def main(keys: int = 1_000_000, dim: int = 384, appended: int = 10 * CHUNK) -> None:
    if min(keys, dim, appended) < 1:
        raise UserError(f"keys={keys} dim={dim} appended={appended}: use 1 or more of each")
    steps = {
        f"write {keys} vectors": ("write", 0, keys),
        f"look up {keys} stored texts": ("look up", 0, keys),
        "look up and read all vectors": ("read", 0, keys),
        f"append {appended} vectors": ("write", keys, keys + appended),
    }
    print(f"{'':34}" + "".join(f"{store:>12} s{'peak MB':>10}" for store in ("near", "sqlite")))
    with tempfile.TemporaryDirectory() as folder:
        for name, (work, start, stop) in steps.items():
            line = f"{name:34}"
            for store in ("near", "sqlite"):
                seconds, rise = common.apart(step, store, work, folder, start, stop, dim)
                line += f"{seconds:14.1f}{rise / 1e6:10.0f}"
            print(line, flush=True)
        for store, pattern in (("near", "embeddings/*/*.safetensors"), ("sqlite", "base.sqlite")):
            size = sum(p.stat().st_size for p in Path(folder).glob(pattern))
            print(f"{store} on disk: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    common.script(main, step)

"""The store at 1,000,000 keys: writes, look-ups of all texts, reads and appends, beside SQLite with the same content.

    python bench/store.py [keys=1000000 dim=384]

Each step runs in a process of its own, so that its peak memory is its own.
"""

import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from near.common.keys import hashed
from near.embedding.missing import look_up
from near.embedding.store import Store

CHUNK = 2048
APPENDED = 10 * CHUNK


def texts(start: int, stop: int) -> list[str]:
    return [f"what is the name of number {i}" for i in range(start, stop)]


def vectors(start: int, stop: int, dim: int) -> np.ndarray:
    return np.random.default_rng(start).normal(size=(stop - start, dim)).astype(np.float32)


def chunks(start: int, stop: int):
    for at in range(start, stop, CHUNK):
        yield at, min(at + CHUNK, stop)


def near_write(folder: str, start: int, stop: int, dim: int) -> None:
    with Store(folder, {"bench": dim}) as store:
        looked = look_up(store, lambda at: texts(start + at[0], start + at[-1] + 1), stop - start, CHUNK)
        assert len(looked.missing) == stop - start
        for a, b in chunks(start, stop):
            keys = hashed(texts(a, b))
            with store.claim(keys) as mine:
                store.add(keys[mine], vectors(a, b, dim)[mine])


def near_look_up(folder: str, n: int, dim: int, read: bool) -> None:
    with Store(folder, {"bench": dim}) as store:
        looked = look_up(store, lambda at: texts(at[0], at[-1] + 1), n, CHUNK)
        assert len(looked.missing) == 0
        if read:
            out = np.empty((50_000, dim), dtype=np.float32)
            for a in range(0, n, len(out)):
                store.read(looked.offsets[a : a + len(out)], out[: min(len(out), n - a)])
            np.testing.assert_array_equal(store.read(looked.offsets[:CHUNK]), vectors(0, min(CHUNK, n), dim))


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
            (found,) = base.execute(f"SELECT {column} FROM vectors WHERE key = ?", (key.tobytes(),)).fetchone()
            if read:
                np.frombuffer(found, dtype=np.float32)


def step(name: str, folder: str, n: int, dim: int) -> None:
    """One step in this process: prints its seconds and how much its peak memory rose, in bytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    store, _, doing = name.partition(" ")
    write, find = (near_write, near_look_up) if store == "near" else (sqlite_write, sqlite_look_up)
    if doing == "write":
        write(folder, 0, n, dim)
    elif doing == "append":
        write(folder, n, n + APPENDED, dim)
    else:
        find(folder, n, dim, doing == "read")
    seconds = time.perf_counter() - begun
    print(json.dumps([seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024]))


def main(n: int, dim: int) -> None:
    told = {
        "write": f"write {n} vectors",
        "look-up": f"look up {n} known texts",
        "read": "look up and read all vectors",
        "append": f"append {APPENDED} vectors",
    }
    print(f"{'':34}" + "".join(f"{store:>12} s{'peak MB':>10}" for store in ("near", "sqlite")))
    with tempfile.TemporaryDirectory() as folder:
        for doing, shown in told.items():
            line = f"{shown:34}"
            for store in ("near", "sqlite"):
                words = [sys.executable, __file__, "step", f"{store} {doing}", folder, str(n), str(dim)]
                done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
                seconds, peak = json.loads(done.stdout.splitlines()[-1])
                line += f"{seconds:14.1f}{peak / 1e6:10.0f}"
            print(line, flush=True)
        for store, pattern in (("near", "embeddings/*/*.safetensors"), ("sqlite", "base.sqlite")):
            size = sum(p.stat().st_size for p in Path(folder).glob(pattern))
            print(f"{store} on disk: {size / 1e6:.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["step"]:
        step(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        asked = dict(word.split("=") for word in sys.argv[1:])
        main(int(asked.get("keys", 1_000_000)), int(asked.get("dim", 384)))

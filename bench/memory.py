"""Peak memory of loading, hashing and embedding at 100,000 and 1,000,000 short rows, and what a row of the pool adds.

    python bench/memory.py [small=100000 large=1000000 only=pool|search]

Each size runs in a process of its own with an empty cache: it loads a JSON-lines file, looks its texts up and embeds
them (hashing, 16 dimensions, so that the embedder's own memory does not hide the rest), then reads the vectors back.

Then the search: 256 queries, max_K=1000, of 100,000, 300,000 and 1,000,000 vectors of 384 dimensions in a file on disk.
Its peak is VmHWM above what the process held before, set back through /proc/self/clear_refs; slopes are of logarithms
over logarithms of rows: 1 is in proportion. The disk is read past the page cache, for a pool that no cache holds.
"""

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # in place of this folder, which has a select.py


def write_pool(path: Path, rows: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for i in range(rows):
            file.write(json.dumps({"instruction": f"what is the name of number {i}", "output": f"name {i}"}) + "\n")


def work(folder: str) -> None:
    """Load, embed and read; print the peak after each, in bytes, and its seconds."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from near.common.config import CONF, register_resolvers
    from near.data.loading import load
    from near.data.pool import load_pool
    from near.embedding.embed import embed_rows
    from near.embedding.store import Store

    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = ["data=files", "embedder=hashing", "embedder.dim=16", f"cache_dir={folder}/cache", "data.dedup=exact"]
        paths = [f"data.candidates.path={folder}/pool.jsonl", f"data.queries.path={folder}/target.jsonl"]
        cfg = compose("select", overrides=[*words, *paths])
    told, begun = {}, time.perf_counter()

    def tell(name: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        told[name] = (peak, round(time.perf_counter() - begun, 1))

    tell("imports")
    queries = load(cfg.data, "queries", cfg.cache_dir)
    load(cfg.data, "candidates", cfg.cache_dir)
    tell("load")
    pool = load_pool(cfg, queries)
    tell("leakage and exact duplicates")
    embedder = instantiate(cfg.embedder, cache_dir=cfg.cache_dir)
    with Store(cfg.cache_dir, embedder.space) as store:
        ids = pool.eligible()
        embed_rows(store, embedder, pool, ids)
        tell("hash and embed")
        embedded = embed_rows(store, embedder, pool, ids)
        tell("look up again")
        for start in range(0, len(ids), 10_000):
            store.read(embedded.offsets[start : start + 10_000])
        tell("read")
    print(json.dumps(told))


QUERIES, MAX_K, DIM = 256, 1000, 384
SEARCHED = (100_000, 300_000, 1_000_000)


def write_vectors(path: Path, rows: int, dim: int = DIM) -> None:
    import numpy as np

    out = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dim))
    for start in range(0, rows, 10_000):
        part = np.random.default_rng(start).normal(size=(min(10_000, rows - start), dim)).astype(np.float32)
        out[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    out.flush()


def search(path: str) -> None:
    """Search a file; print seconds and by how many bytes the peak rose."""
    import numpy as np

    from near.searching.indexes.flat import Flat
    from near.searching.vectors import ArrayVectors

    pool = ArrayVectors(np.load(path, mmap_mode="r"))
    queries = np.random.default_rng(7).normal(size=(QUERIES, DIM)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    Flat().search(queries[:2], ArrayVectors(np.ones((10, DIM), dtype=np.float32)), 5)  # libraries are loaded by now
    Path("/proc/self/clear_refs").write_text("5")
    before, begun = status("VmHWM"), time.perf_counter()
    scores, ids = Flat().search(queries, pool, MAX_K)
    seconds = time.perf_counter() - begun
    assert ids.shape == scores.shape == (QUERIES, MAX_K)
    print(json.dumps([seconds, status("VmHWM") - before]))


def status(name: str) -> int:
    """Bytes that /proc/self/status gives."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def disk(path: Path) -> float:
    """Bytes a second of reading a file that is not in the page cache."""
    with open(path, "rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        buffer, begun, size = bytearray(1 << 24), time.perf_counter(), 0
        while got := file.readinto(buffer):
            size += got
        return size / (time.perf_counter() - begun)


def searching() -> None:
    found = []
    print(
        f"\nsearch, {QUERIES} queries, max_K={MAX_K}, {DIM} dimensions: rows, seconds, MB above the start, of vectors"
    )
    for rows in SEARCHED:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pool.npy"
            write_vectors(path, rows)
            words = [sys.executable, __file__, "search", str(path)]
            told = [json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout) for _ in range(3)]
            seconds, peak = min(t[0] for t in told), max(t[1] for t in told)
            found.append((rows, seconds, peak))
            print(f"{rows:>10}{seconds:10.2f}{peak / 1e6:10.0f}{rows * DIM * 4 / 1e6:10.0f}", flush=True)
            speed = disk(path)
    (first, *_), (last, took, _) = (x for x in (found[0], found[-1]))
    for name, at in (("seconds", 1), ("memory", 2)):
        print(f"slope of {name}: {math.log(found[-1][at] / found[0][at]) / math.log(last / first):.2f}")
    large, size = 10_000_000, 10_000_000 * DIM * 4
    print(
        f"{large} rows, reckoned: {size / 1e9:.0f} GB, {took / last * large:.0f} s of products, {size / speed:.0f} s "
        f"of reading at the disk's {speed / 1e6:.0f} MB/s while they run; memory as above"
    )


def pools(sizes: list[int]) -> None:
    peaks = []
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_pool(Path(folder) / "pool.jsonl", rows)
            write_pool(Path(folder) / "target.jsonl", 10)
            words = [sys.executable, __file__, "work", folder]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            peaks.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'peak resident memory after':32}" + "".join(f"{rows:>12} rows" for rows in sizes) + "   bytes a row")
    for name in peaks[0]:
        (low, _), (high, seconds) = (peak[name] for peak in peaks)
        share = (high - low) / (sizes[1] - sizes[0])
        print(f"{name:32}{low / 1e6:14.1f} MB {high / 1e6:13.1f} MB{share:14.1f}   ({seconds} s)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2])
    elif sys.argv[1:2] == ["search"]:
        search(sys.argv[2])
    else:
        asked = dict(word.split("=") for word in sys.argv[1:])
        if asked.get("only") != "search":
            pools([int(asked.get("small", 100_000)), int(asked.get("large", 1_000_000))])
        if asked.get("only") != "pool":
            searching()

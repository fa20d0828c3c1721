"""Peak memory of loading, hashing and embedding for 100,000 and 1,000,000 short rows, and the bytes per row.

    python bench/memory.py [small=100000 large=1000000 only=pool|search]
    python bench/memory.py only=search [searched=100000,300000,1000000 queries=256 max_K=1000 dim=384 turns=3]

Each size runs in a separate process with an empty cache. It loads a JSON-lines file, looks its texts up and embeds
them (hashing, 16 dimensions, so that the embedder's memory does not hide the rest), then reads the vectors back.

Then the search: 256 queries, max_K=1000, of 100,000, 300,000 and 1,000,000 vectors of 384 dimensions in a file on disk.
Its peak is the increase of VmHWM, which is reset through /proc/self/clear_refs before the search. Slopes are on
logarithmic scales: 1 means proportional to the rows. The speed of the disk is measured without the page cache, for a
pool that is larger than memory.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import math
import tempfile
import time

from bench import common
from bench.material import disk_speed, write_examples, write_vectors
from near.common.errors import UserError

TARGET = 10  # rows, each of them also in the pool, from which it is left out


def write_pool(path: Path, rows: int) -> None:
    write_examples(path, ((f"what is the name of number {i}", f"name {i}") for i in range(rows)))


def work(folder: str) -> dict[str, list[float]]:
    """Load, embed and read; the peak after each, in bytes, and the seconds so far."""
    from hydra.utils import instantiate

    from near.data.loading import load
    from near.data.pool import load_pool
    from near.embedding.embed import embed_rows
    from near.embedding.store import Store

    words = ["data=files", "embedder=hashing", "embedder.dim=16", f"cache_dir={folder}/cache", "data.dedup=exact"]
    paths = [f"data.candidates.path={folder}/pool.jsonl", f"data.queries.path={folder}/target.jsonl"]
    cfg = common.composed("select", *words, *paths)
    peaks, started = {}, time.perf_counter()

    def note(name: str) -> None:
        peaks[name] = [common.peak(), round(time.perf_counter() - started, 1)]

    note("imports")
    queries = load(cfg.data, "queries", cfg.cache_dir)
    load(cfg.data, "candidates", cfg.cache_dir)
    note("load")
    pool = load_pool(cfg.data, queries, cfg.cache_dir)
    note("leakage and exact duplicates")
    embedder = instantiate(cfg.embedder, cache_dir=cfg.cache_dir)
    with Store(cfg.cache_dir, embedder.space) as store:
        ids = pool.eligible()
        embed_rows(store, embedder, pool, ids)
        note("hash and embed")
        embedded = embed_rows(store, embedder, pool, ids)
        note("look up again")
        for start in range(0, len(ids), 10_000):
            store.read(embedded.offsets[start : start + 10_000])
        note("read")
    return peaks


def search(path: str, queries: int, max_K: int) -> list[float]:
    """Search a file of vectors (N, dim): seconds, and the increase of the peak memory in bytes."""
    import numpy as np

    from near.searching.indexes.flat import Flat
    from near.searching.vectors import ArrayVectors

    pool = ArrayVectors(np.load(path, mmap_mode="r"))
    query_vectors = np.random.default_rng(7).normal(size=(queries, pool.dim)).astype(np.float32)
    query_vectors /= np.linalg.norm(query_vectors, axis=1, keepdims=True)
    Flat().search(query_vectors[:2], ArrayVectors(np.ones((10, pool.dim), dtype=np.float32)), 5)  # loads the libraries
    Path("/proc/self/clear_refs").write_text("5")
    before = common.peak()
    seconds, (scores, ids) = common.timed(lambda: Flat().search(query_vectors, pool, max_K))
    assert ids.shape == scores.shape == (queries, max_K)
    return [seconds, common.peak() - before]


def searches(sizes: list[int], queries: int, max_K: int, dim: int, turns: int) -> None:
    """Print seconds and memory of searching `sizes` vectors, their slopes, and an estimate for ten million."""
    table = []
    print(f"\nsearch, {queries} queries, max_K={max_K}, {dim} dimensions")
    print(f"{'rows':>10}{'seconds':>10}{'MB more':>10}{'MB of vectors':>16}")
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pool.npy"
            write_vectors(path, rows, dim)
            runs = [common.apart(search, path, queries, max_K) for _ in range(turns)]
            seconds, peak = min(took for took, _ in runs), max(rise for _, rise in runs)
            table.append((rows, seconds, peak))
            print(f"{rows:>10}{seconds:10.2f}{peak / 1e6:10.1f}{rows * dim * 4 / 1e6:16.1f}", flush=True)
            speed = disk_speed(path)
    (first, *low), (last, *high) = table[0], table[-1]
    for name, a, b in zip(("seconds", "memory"), low, high, strict=True):
        slope = math.log(max(b, 1e-9) / max(a, 1e-9)) / math.log(last / first)
        print(f"slope of {name}: {slope:.2f}")
    large = 10_000_000
    print(
        f"{large} rows, estimated: {large * dim * 4 / 1e9:.0f} GB, {high[0] / last * large:.0f} s of products, "
        f"{large * dim * 4 / speed:.0f} s of reading at the disk's {speed / 1e6:.0f} MB/s while they run"
    )


def pools(sizes: list[int]) -> None:
    """Print the peak memory after each part of the work at both sizes, and the bytes per row."""
    peaks = []
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_pool(Path(folder) / "pool.jsonl", rows)
            write_pool(Path(folder) / "target.jsonl", TARGET)
            peaks.append(common.apart(work, folder))
    print(f"{'peak resident memory after':32}" + "".join(f"{rows:>12} rows" for rows in sizes) + "   bytes a row")
    for name in peaks[0]:
        (low, _), (high, seconds) = (peak[name] for peak in peaks)
        share = (high - low) / (sizes[1] - sizes[0])
        print(f"{name:32}{low / 1e6:14.1f} MB {high / 1e6:13.1f} MB{share:14.1f}   ({seconds} s)")


def main(
    small: int = 100_000,
    large: int = 1_000_000,
    only: str = "",
    searched: list[int] = (100_000, 300_000, 1_000_000),
    queries: int = 256,
    max_K: int = 1000,
    dim: int = 384,
    turns: int = 3,
) -> None:
    if only not in ("", "pool", "search"):
        raise UserError(f"only={only}: use pool or search")
    if not TARGET < small < large:
        raise UserError(f"small={small} large={large}: use {TARGET} < small < large; the target has {TARGET} rows")
    if len(searched) < 2 or min(searched) < max_K or turns < 1:
        raise UserError(
            f"searched={','.join(map(str, searched))} turns={turns}: use two sizes or more, each "
            f"at least max_K={max_K}, and turns>=1"
        )
    if only != "search":
        pools([small, large])
    if only != "pool":
        searches(list(searched), queries, max_K, dim, turns)


if __name__ == "__main__":
    common.script(main, work, search)

"""One search in 1, 2 and 4 shards over as many processes: equal results, seconds, and what a larger pool would take.

    python bench/scale.py [rows=400000 dim=384 queries=512 max_K=1000]

Every shard is searched by a process of its own that reads its rows from one .npy file; on a machine with as many
cores as shards they run at once, here each gets an equal part of the cores. Also measured: the disk, read past the
page cache where the system lets us, and the merge. From these the times for 10 million and a billion rows are reckoned.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose select.py hides the standard library's

import numpy as np

from bench.memory import disk, write_vectors
from near.searching.indexes.flat import Flat
from near.searching.indexes.ties import with_slack
from near.searching.indexes.topk import merged
from near.searching.shards import Shards, cuts, put_together
from near.searching.vectors import ArrayVectors


def shards(folder: Path, count: int, k: int) -> Shards:
    pool = ArrayVectors(np.load(folder / "pool.npy", mmap_mode="r"))
    queries = np.load(folder / "queries.npy")
    place = folder / f"shards-{count}"
    return Shards(Flat(), queries, pool, k, place, place / "done", cuts(pool.n, count, pool.n))


def main(rows: int, dim: int, queries: int, max_K: int) -> None:
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_vectors(folder / "pool.npy", rows, dim)
        np.save(
            folder / "queries.npy", np.load(folder / "pool.npy", mmap_mode="r")[:: max(rows // queries, 1)][:queries]
        )
        print(f"{rows} x {dim} vectors, {queries} queries, max_K={max_K}, {cores} cores")
        print(f"{'shards':>8}{'seconds':>10}{'merge s':>10}   result")
        first, alone = None, 0.0
        for count in (1, 2, 4):
            job = shards(folder, count, with_slack(max_K, rows))
            env = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores // count))}
            begun = time.perf_counter()
            ran = [
                subprocess.Popen(
                    [sys.executable, __file__, "shard", name, str(count), str(i), str(with_slack(max_K, rows))], env=env
                )
                for i in range(count)
            ]
            if any(process.wait() for process in ran):
                sys.exit("error: a shard's process failed")
            searched = time.perf_counter()
            found = put_together(job, max_K)
            merge = time.perf_counter() - searched
            took = searched - begun
            first, alone = first or found, alone or took
            same = all(a.tobytes() == b.tobytes() for a, b in zip(found, first, strict=True))
            print(f"{count:8d}{took:10.2f}{merge:10.2f}   {'equal, to the bit' if same else 'DIFFERENT'}", flush=True)
        keys = [job.keys(i) for i in range(len(job))]
        job, begun = shards(folder, 1, with_slack(max_K, rows)), time.perf_counter()
        job.index.search(job.queries, job.pool, max_K)
        within = time.perf_counter() - begun
        begun = time.perf_counter()
        merged(keys, max_K)
        per_merge = (time.perf_counter() - begun) / (len(keys) - 1)
        speed = disk(folder / "pool.npy")
    flops = 2 * rows * dim * queries / within
    print(
        f"\none process without its start: {within:.2f} s, {flops / 1e9:.0f} GFLOP/s; a merge of two shards "
        f"{per_merge:.3f} s"
    )
    print(f"the disk: {speed / 1e6:.0f} MB/s past the page cache")
    for n in (10_000_000, 1_000_000_000):
        size = n * dim * 4
        print(
            f"{n:>13,} rows: {size / 1e9:,.0f} GB of vectors; reading {size / speed / 60:,.1f} min, products "
            f"{2 * n * dim * queries / flops / 60:,.1f} min on these {cores} cores (they overlap), "
            f"{-(-n // (1 << 20))} shards to merge {-(-n // (1 << 20)) * per_merge / 60:.1f} min"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["shard"]:
        where, total, number, k = sys.argv[2:]
        shards(Path(where), int(total), int(k)).search(int(number))
    else:
        asked = {"rows": 400_000, "dim": 384, "queries": 512, "max_K": 1000}
        main(**{**asked, **{k: int(v) for k, v in (word.split("=") for word in sys.argv[1:])}})

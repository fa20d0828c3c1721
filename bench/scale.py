"""One search in 1, 2 and 4 shards over as many processes: equal results, seconds, and estimates for larger pools.

    python bench/scale.py [rows=400000 dim=384 queries=512 max_K=1000 counts=1,2,4]

A separate process searches each shard and reads its rows from one .npy file. The processes run at the same time, each
with an equal part of the cores. The speed of the disk without the page cache (if the system allows that) and of the
merge are measured, too. From these follow the estimates for 10 million and a billion rows.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bench import common
from bench.material import disk_speed, write_vectors
from near.common.errors import UserError
from near.searching.indexes.flat import Flat
from near.searching.indexes.ties import with_slack
from near.searching.indexes.topk import merged
from near.searching.shards import Shards, cuts, put_together
from near.searching.vectors import ArrayVectors


def shards(folder: Path, count: int, k: int) -> Shards:
    pool = ArrayVectors(np.load(folder / "pool.npy", mmap_mode="r"))
    queries = np.load(folder / "queries.npy")
    output = folder / f"shards-{count}"
    return Shards(Flat(), queries, pool, k, output, output / "done", cuts(pool.n, count, pool.n))


def search(folder: str, count: int, number: int, k: int) -> None:
    """Search one of `count` shards."""
    shards(Path(folder), count, k).search(number)


def main(
    rows: int = 400_000, dim: int = 384, queries: int = 512, max_K: int = 1000, counts: list[int] = (1, 2, 4)
) -> None:
    if max(counts) < 2 or min(counts) < 1:
        raise UserError(f"counts={','.join(map(str, counts))}: use 1 or more shards, and once 2 or more")
    if max_K > rows or queries > rows:
        raise UserError(f"rows={rows} queries={queries} max_K={max_K}: use rows>=queries and rows>=max_K")
    cores = common.cores()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_vectors(folder / "pool.npy", rows, dim)
        np.save(
            folder / "queries.npy", np.load(folder / "pool.npy", mmap_mode="r")[:: max(rows // queries, 1)][:queries]
        )
        print(f"{rows} x {dim} vectors, {queries} queries, max_K={max_K}, {cores} cores")
        print(f"{'shards':>8}{'seconds':>10}{'merge (s)':>11}   result")
        first, alone = None, 0.0
        for count in counts:
            job = shards(folder, count, with_slack(max_K, rows))
            env = {"OMP_NUM_THREADS": str(max(1, cores // count))}
            words, started = (name, count), time.perf_counter()
            with ThreadPoolExecutor(count) as pool:  # each waits for a process
                ran = [pool.submit(common.apart, search, *words, i, job.k, env=env) for i in range(count)]
                for process in ran:
                    process.result()
            took = time.perf_counter() - started
            merge, result = common.timed(lambda job=job: put_together(job, max_K))
            first, alone = first or result, alone or took
            same = all(a.tobytes() == b.tobytes() for a, b in zip(result, first, strict=True))
            print(f"{count:8d}{took:10.2f}{merge:11.2f}   {'equal, to the bit' if same else 'DIFFERENT'}", flush=True)
        keys = [job.keys(i) for i in range(len(job))]
        whole = shards(folder, 1, job.k)
        seconds, _ = common.timed(lambda: whole.index.search(whole.queries, whole.pool, max_K))
        per_merge = common.timed(lambda: merged(keys, max_K))[0] / (len(keys) - 1)
        speed = disk_speed(folder / "pool.npy")
    flops = 2 * rows * dim * queries / seconds
    print(
        f"\none process without its start: {seconds:.2f} s, {flops / 1e9:.0f} GFLOP/s; a merge of two shards "
        f"{per_merge:.3f} s"
    )
    print(f"the disk: {speed / 1e6:.0f} MB/s without the page cache")
    for n in (10_000_000, 1_000_000_000):
        size = n * dim * 4
        print(
            f"{n:>13,} rows: {size / 1e9:,.0f} GB of vectors; reading {size / speed / 60:,.1f} min, products "
            f"{2 * n * dim * queries / flops / 60:,.1f} min on these {cores} cores (they overlap), "
            f"{-(-n // (1 << 20))} shards to merge {-(-n // (1 << 20)) * per_merge / 60:.1f} min"
        )


if __name__ == "__main__":
    common.script(main, search)

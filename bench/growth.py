"""How select.py grows with the pool: seconds, peak memory and disk from 10,000 to 1,000,000 rows.

    python bench/growth.py [sizes=10000,100000,1000000 queries=64 max_K=100 dim=256]

Each size is one process with an empty cache: it reads a JSON-lines file, embeds it (hashing, no model), searches and
saves the matrix. Disk is what it leaves in cache and output. Slopes are on logarithmic scales from one size to the next
and over all: 1 means proportional to the rows, less means that fixed costs still count.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import math
import tempfile

from bench import common
from bench.material import write_examples
from near.common.errors import UserError

COLUMNS = ("seconds", "memory", "disk")


def write_rows(path: Path, rows: int, start: int = 0) -> None:
    """Questions and answers of a few words each."""
    prompt = "What is the distance between town {} and village {} on road {}?"
    examples = ((prompt.format(i % 977, i, i % 31), f"{i % 613} miles") for i in range(start, start + rows))
    write_examples(path, examples)


def work(folder: str, max_K: int, dim: int) -> list[float]:
    """Select in this process: seconds without imports, its peak memory and the bytes that it left on disk."""
    import numpy as np

    from near.selection.select import select

    paths = [f"data.candidates.path={folder}/pool.jsonl", f"data.queries.path={folder}/target.jsonl"]
    words = ["data=files", *paths, "embedder=hashing", f"embedder.dim={dim}", f"max_K={max_K}"]
    cfg = common.composed("select", *words)
    cfg.cache_dir = f"{folder}/cache"
    seconds, _ = common.timed(lambda: select(cfg, Path(folder) / "out"))
    assert np.load(f"{folder}/out/top_indices.npy", mmap_mode="r").shape[1] == max_K
    files = [path for name in ("cache", "out") for path in (Path(folder) / name).rglob("*") if path.is_file()]
    return [seconds, common.peak(), sum(path.stat().st_size for path in files)]


def main(sizes: list[int] = (10_000, 100_000, 1_000_000), queries: int = 64, max_K: int = 100, dim: int = 256) -> None:
    if len(sizes) < 2 or list(sizes) != sorted(set(sizes)) or sizes[0] < max_K:
        raise UserError(f"sizes={','.join(map(str, sizes))}: use two or more, ascending, the first at least {max_K}")
    print(f"{queries} queries, max_K={max_K}, {dim} dimensions")
    print(f"{'rows':>10}{'seconds':>10}{'peak (MB)':>12}{'disk (MB)':>12}")
    table = []
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_rows(Path(folder) / "pool.jsonl", rows)
            write_rows(Path(folder) / "target.jsonl", queries, rows)
            table.append(common.apart(work, folder, max_K, dim))
        seconds, memory, disk = table[-1]
        print(f"{rows:>10}{seconds:10.2f}{memory / 1e6:12.1f}{disk / 1e6:12.1f}", flush=True)
    pairs = [*((i, i + 1) for i in range(len(sizes) - 1)), *([(0, len(sizes) - 1)] if len(sizes) > 2 else [])]
    for low, high in pairs:
        grown = math.log(sizes[high] / sizes[low])
        slopes = [math.log(table[high][i] / table[low][i]) / grown for i in range(len(COLUMNS))]
        shown = ", ".join(f"{name} {slope:.2f}" for name, slope in zip(COLUMNS, slopes, strict=True))
        print(f"slopes from {sizes[low]} to {sizes[high]} rows: {shown}")


if __name__ == "__main__":
    common.script(main, work)

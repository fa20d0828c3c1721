"""Peak memory of loading, hashing and embedding at 100,000 and 1,000,000 short rows, and what a row of the pool adds.

    python bench/memory.py [small=100000 large=1000000]

Each size runs in a process of its own with an empty cache: it loads a JSON-lines file, looks its texts up and embeds
them (hashing, 16 dimensions, so that the embedder's own memory does not hide the rest), then reads the vectors back.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def write_pool(path: Path, rows: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for i in range(rows):
            file.write(json.dumps({"instruction": f"what is the name of number {i}", "output": f"name {i}"}) + "\n")


def work(folder: str) -> None:
    """Load, embed and read; print the peak after each, in bytes, and its seconds."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from near.config import CONF, register_resolvers
    from near.data import load
    from near.embedding import embed_rows
    from near.pool import load_pool
    from near.store import Store

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
            store.read(embedded.places[start : start + 10_000])
        tell("read")
    print(json.dumps(told))


def main(sizes: list[int]) -> None:
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
    else:
        asked = dict(word.split("=") for word in sys.argv[1:])
        main([int(asked.get("small", 100_000)), int(asked.get("large", 1_000_000))])

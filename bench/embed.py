"""Embedding real rows: ours against sentence-transformers' own encode, same model, same machine, one run.

    python bench/embed.py [rows=2000]

Prints seconds of both (alternating, the median of three), padding, and a second run over the same rows.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from near.config import CONF, register_resolvers
from near.data import load
from near.store import Store


def main(rows: int) -> None:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("select")
    embedder = instantiate(cfg.embedder, cache_dir=cfg.cache_dir)
    pool = load(cfg.data, "candidates", cfg.cache_dir)
    texts = list(dict.fromkeys(pool.texts(np.arange(min(rows, len(pool))), "prompt")))
    embedder.embed(texts[:64])  # loads the model
    seconds: dict[str, list[float]] = {"near": [], "sentence-transformers": []}
    work = {"near": embedder.embed, "sentence-transformers": lambda t: embedder._model.encode(t, batch_size=32)}
    for _ in range(3):
        for name, run in work.items():
            begun = time.perf_counter()
            run(texts)
            seconds[name].append(time.perf_counter() - begun)
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        print(f"{name:24}{middle:8.1f} s  {len(texts) / middle:6.1f} texts/s  ({', '.join(f'{s:.1f}' for s in taken)})")
    print(f"padding {embedder.padding / (embedder.tokens + embedder.padding):.2%} of all tokens")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cold", "warm"):
            begun = time.perf_counter()
            _, _, embedded = Store(folder, embedder.space).fill(iter([texts]), embedder.embed)
            print(f"{name:24}{time.perf_counter() - begun:8.2f} s, {embedded} embedded")


if __name__ == "__main__":
    main(int(sys.argv[1].removeprefix("rows=")) if len(sys.argv) > 1 else 2000)

"""What of a row to embed: how often a query's nearest rows are of its own task, for prompt, answer and both.

    python bench/embed_field.py [embedder=minilm]

Every task of the demo is the target in turn: 64 of its questions are the queries, the pool holds its other rows among
those of ten other tasks. Shown is the share of the target's rows among each query's 10 and 100 nearest.
"""

import logging
import sys
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from near.common.config import CONF, register_resolvers
from near.data.builtin.demo_data import TASKS
from near.data.loading import load
from near.data.pool import load_pool
from near.searching.find import find_neighbours

FIELDS = ("prompt", "answer", "both")
DEPTHS = (10, 100)


def shares(embedder: str, target: str, field: str) -> list[float]:
    words = [f"embedder={embedder}", f"data.target={target}", f"embedder.embed={field}", f"max_K={max(DEPTHS)}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("select", overrides=words)
    queries = load(cfg.data, "queries", cfg.cache_dir)
    pool = load_pool(cfg, queries)
    if target not in set(pool.sources()):  # a task so small that all of it became queries and evaluation
        return []
    found = pool.sources(find_neighbours(cfg, pool, queries).ids.ravel()).reshape(len(queries), -1)
    return [float((found[:, :k] == target).mean()) for k in DEPTHS]


def main(embedder: str) -> None:
    register_resolvers()
    logging.getLogger("near").setLevel(logging.WARNING)
    print(f"{'target':28}" + "".join(f"{f'{field} @{k}':>13}" for field in FIELDS for k in DEPTHS))
    table = []
    for target in sorted(TASKS):
        row = [share for field in FIELDS for share in shares(embedder, target, field)]
        if not row:
            continue
        table.append(row)
        print(f"{target:28}" + "".join(f"{share:13.3f}" for share in table[-1]), flush=True)
    print(f"{'mean':28}" + "".join(f"{share:13.3f}" for share in np.mean(table, axis=0)))


if __name__ == "__main__":
    main(sys.argv[1].removeprefix("embedder=") if len(sys.argv) > 1 else "minilm")

"""Which part of a row to embed: how often a query's nearest rows are of its task, for prompt, answer and both.

    python bench/embed_field.py [embedder=minilm targets=all depths=10,100]

Every task of the demo is the target once: 64 of its questions are the queries, and the pool has its other rows and
those of ten other tasks. The table has the share of the target's rows among each query's nearest rows, at each depth.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import logging

import numpy as np

from bench import common
from near.common.errors import UserError, did_you_mean
from near.data.builtin.demo_data import TASKS
from near.data.loading import load
from near.data.pool import load_pool
from near.searching.find import find_neighbours
from near.searching.settings import SearchSettings

FIELDS = ("prompt", "answer", "both")


def shares(embedder: str, target: str, field: str, depths: list[int]) -> list[float]:
    """The share of the target's rows among the nearest, for each depth; empty if all of its rows are queries."""
    words = [f"embedder={embedder}", f"data.target={target}", f"embedder.embed={field}", f"max_K={max(depths)}"]
    cfg = common.composed("select", *words)
    queries = load(cfg.data, "queries", cfg.cache_dir)
    pool = load_pool(cfg.data, queries, cfg.cache_dir)
    if target not in set(pool.sources()):  # a task so small that all of it became queries and evaluation
        return []
    neighbours = find_neighbours(SearchSettings.of(cfg, cfg.cache_dir), pool, queries)
    sources = pool.sources(neighbours.ids.ravel()).reshape(neighbours.ids.shape)
    return [float((sources[:, :k] == target).mean()) for k in depths]


def main(embedder: str = "minilm", targets: list[str] = ("all",), depths: list[int] = (10, 100)) -> None:
    targets = sorted(TASKS) if list(targets) == ["all"] else targets
    for target in targets:
        if target not in TASKS:
            raise UserError(f"targets={target} is not a task of the demo data{did_you_mean(target, TASKS)}")
    logging.getLogger("near").setLevel(logging.WARNING)
    print(f"{'target':28}" + "".join(f"{f'{field} @{k}':>13}" for field in FIELDS for k in depths))
    table = []
    for target in targets:
        row = [share for field in FIELDS for share in shares(embedder, target, field, depths)]
        if not row:
            continue
        table.append(row)
        print(f"{target:28}" + "".join(f"{share:13.3f}" for share in table[-1]), flush=True)
    print(f"{'mean':28}" + "".join(f"{share:13.3f}" for share in np.mean(table, axis=0)))


if __name__ == "__main__":
    common.script(main)

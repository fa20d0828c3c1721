"""Embedding real rows: near against sentence-transformers' encode, and the cost of later runs relative to the first.

    python bench/embed.py [rows=20000 sample=2000 queries=100 max_K=100 turns=3 tasks=all|demo]

First both embed the same texts (alternating, the median of `turns`); the share of padding is printed, too. Then
select.py runs on `rows` rows of OpenAI's evals, each run in its own process: cold, the same pool again, and the pool
with 1% new rows. Seconds are with and without the start and the imports of the process, and as shares of the cold run.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import json
import statistics
import tempfile

from bench import common
from bench.material import evals_rows


def against_encode(cfg, texts: list[str], turns: int) -> None:
    """Print texts per second of both, and the share of padding."""
    from hydra.utils import instantiate

    embedder = instantiate(cfg.embedder, cache_dir=cfg.cache_dir)
    embedder.embed(texts[:64])  # loads the model
    embedder.tokens = embedder.padding = 0
    seconds: dict[str, list[float]] = {"near": [], "encode": []}
    work = {"near": embedder.embed, "encode": lambda t: embedder._model.encode(t, batch_size=32)}
    for _ in range(turns):
        for name, run in work.items():
            seconds[name].append(common.timed(lambda run=run: run(texts))[0])
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        print(f"{name:24}{middle:8.1f} s  {len(texts) / middle:6.1f} texts/s  ({', '.join(f'{s:.1f}' for s in taken)})")
    print(f"padding {embedder.padding / (embedder.tokens + embedder.padding):.2%} of all tokens, {len(texts)} texts")


def work(folder: str, pool: str, max_K: int, model: str) -> list[float]:
    """One run of select in this process: seconds without imports, and the number of embedded texts."""
    import faiss  # noqa: F401
    import sentence_transformers  # noqa: F401
    import torch  # noqa: F401

    from near.selection.select import select

    paths = [f"data.candidates.path={folder}/{pool}.jsonl", f"data.queries.path={folder}/target.jsonl"]
    cfg = common.composed("select", "data=files", *paths, f"max_K={max_K}")
    cfg.cache_dir, cfg.embedder.model = f"{folder}/cache", model
    output = Path(folder) / f"out-{pool}-{max_K}"
    seconds, _ = common.timed(lambda: select(cfg, output))
    return [seconds, json.loads((output / "manifest.json").read_text())["figures"]["embedded"]]


def runs(texts: list[str], model: str, queries: int, max_K: int) -> None:
    """Print the seconds of a cold run and of the runs after it."""
    with tempfile.TemporaryDirectory() as folder:
        target, texts = texts[:queries], texts[queries:]
        new = max(1, len(texts) // 101)
        for name, part in (("target", target), ("pool", texts[new:]), ("more", texts)):
            rows = "".join(json.dumps({"instruction": t, "output": "x"}) + "\n" for t in part)
            (Path(folder) / f"{name}.jsonl").write_text(rows, encoding="utf-8")
        first = None
        print(f"{'':30}{'embedded':>10}{'seconds':>10}{'share':>8}{'with imports':>14}{'share':>8}")
        named = {"cold": ("pool", max_K), "again, another max_K": ("pool", 2 * max_K), "1% new rows": ("more", max_K)}
        for name, (pool, k) in named.items():
            whole, (seconds, embedded) = common.timed(lambda pool=pool, k=k: common.apart(work, folder, pool, k, model))
            first = first or (seconds, whole)
            shares = f"{seconds / first[0]:8.1%}{whole:14.1f}{whole / first[1]:8.1%}"
            print(f"{name:30}{embedded:10}{seconds:10.1f}{shares}", flush=True)


def main(
    rows: int = 20_000, sample: int = 2000, queries: int = 100, max_K: int = 100, turns: int = 3, tasks: str = "all"
) -> None:
    from near.data.builtin.assets import resolve

    cfg = common.composed("select")
    drawn = evals_rows(cfg.cache_dir, rows + max(1, rows // 100) + queries, tasks)
    texts = [question for question, _ in drawn]
    against_encode(cfg, texts[:sample], turns)
    runs(texts, resolve(cfg.embedder.model, cfg.cache_dir), queries, max_K)


if __name__ == "__main__":
    common.script(main, work)

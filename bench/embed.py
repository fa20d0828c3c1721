"""Embedding real rows: ours against sentence-transformers' own encode, and what later runs cost beside the first.

    python bench/embed.py [rows=20000 sample=2000]

First the same texts through both (alternating, the median of three), and the padding. Then select.py's work on `rows`
rows of OpenAI's evals in a process for each run: cold, the same pool again, and the pool with 1% new rows; seconds with
and without the process's start and imports, as shares of the cold run.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

LARGEST = 4000  # rows of a task, so that none outweighs the others


def real_texts(cache_dir: str, count: int) -> list[str]:
    """`count` distinct user turns of the evals package, drawn at random from its tasks of up to LARGEST rows."""
    from near.common.files import folder_aside
    from near.data.builtin.assets import EVALS, unpack

    folder = Path(cache_dir) / "assets" / "evals-all"
    if not folder.is_dir():
        with folder_aside(folder) as new:
            unpack(EVALS, new, lambda member: member.endswith(".jsonl"))
    found: dict[str, None] = {}
    for task in sorted(folder.iterdir()):
        texts = [t for path in sorted(task.glob("*.jsonl")) for t in _turns(path)]
        if len(texts) <= LARGEST:
            found.update(dict.fromkeys(texts))
    texts = list(found)
    if count > len(texts):
        sys.exit(f"error: rows={count} is more than the {len(texts)} texts there are")
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:count]]


def _turns(path: Path):
    for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        try:
            asked = json.loads(line).get("input")
        except (ValueError, AttributeError):
            continue
        if isinstance(asked, list):
            asked = "\n".join(m["content"] for m in asked if m.get("role") == "user" and isinstance(m["content"], str))
        if isinstance(asked, str) and asked.strip():
            yield asked


def against_encode(cfg, texts: list[str]) -> None:
    from hydra.utils import instantiate

    embedder = instantiate(cfg.embedder, cache_dir=cfg.cache_dir)
    embedder.embed(texts[:64])  # loads the model
    embedder.tokens = embedder.padding = 0
    seconds: dict[str, list[float]] = {"near": [], "encode": []}
    work = {"near": embedder.embed, "encode": lambda t: embedder._model.encode(t, batch_size=32)}
    for _ in range(3):
        for name, run in work.items():
            begun = time.perf_counter()
            run(texts)
            seconds[name].append(time.perf_counter() - begun)
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        print(f"{name:24}{middle:8.1f} s  {len(texts) / middle:6.1f} texts/s  ({', '.join(f'{s:.1f}' for s in taken)})")
    print(f"padding {embedder.padding / (embedder.tokens + embedder.padding):.2%} of all tokens, {len(texts)} texts")


def composed(*overrides: str):
    from hydra import compose, initialize_config_dir

    from near.common.config import CONF, register_resolvers

    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("select", overrides=list(overrides))


def work(folder: str, pool: str, max_K: str) -> None:
    """One run of select in this process; prints the seconds without imports and how many texts were embedded."""
    import faiss  # noqa: F401
    import sentence_transformers  # noqa: F401
    import torch  # noqa: F401

    from near.selection.select import select

    paths = [f"data.candidates.path={folder}/{pool}.jsonl", f"data.queries.path={folder}/target.jsonl"]
    cfg = composed("data=files", *paths, f"max_K={max_K}")
    cfg.cache_dir, cfg.embedder.model = f"{folder}/cache", os.environ["BENCH_MODEL"]
    begun = time.perf_counter()
    select(cfg, Path(folder) / f"out-{pool}-{max_K}")
    seconds = time.perf_counter() - begun
    told = json.loads((Path(folder) / f"out-{pool}-{max_K}" / "manifest.json").read_text())["figures"]
    print(json.dumps([seconds, told["embedded"], told["search_seconds"]]))


def runs(texts: list[str], model: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        queries, texts = texts[:100], texts[100:]
        new = len(texts) // 101
        for name, part in (("target", queries), ("pool", texts[new:]), ("more", texts)):
            rows = "".join(json.dumps({"instruction": t, "output": "x"}) + "\n" for t in part)
            (Path(folder) / f"{name}.jsonl").write_text(rows, encoding="utf-8")
        first = None
        print(f"{'':30}{'embedded':>10}{'seconds':>10}{'share':>8}{'with imports':>14}{'share':>8}")
        named = {"cold": ("pool", 100), "again, another max_K": ("pool", 200), "1% new rows": ("more", 100)}
        for name, (pool, max_K) in named.items():
            begun = time.perf_counter()
            words = [sys.executable, __file__, "work", folder, pool, str(max_K)]
            done = subprocess.run(
                words, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "BENCH_MODEL": model}
            )
            whole = time.perf_counter() - begun
            seconds, embedded, _ = json.loads(done.stdout.splitlines()[-1])
            first = first or (seconds, whole)
            shares = f"{seconds / first[0]:8.1%}{whole:14.1f}{whole / first[1]:8.1%}"
            print(f"{name:30}{embedded:10}{seconds:10.1f}{shares}", flush=True)


def main(rows: int, sample: int) -> None:
    from near.data.builtin.assets import resolve

    cfg = composed()
    texts = real_texts(cfg.cache_dir, rows + rows // 100 + 100)
    against_encode(cfg, texts[:sample])
    runs(texts, resolve(cfg.embedder.model, cfg.cache_dir))


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(*sys.argv[2:])
    else:
        asked = dict(word.split("=") for word in sys.argv[1:])
        main(int(asked.get("rows", 20_000)), int(asked.get("sample", 2000)))

"""Search, compared with the matrix product alone and other methods: seconds, recall, queries with too few results.

    python bench/search.py [rows=100000 dim=384 queries=2000 max_K=1000 hnsw=true turns=3 depths=1000,2000,4000]

First vectors drawn around 200 centres, in a store on disk that is read during the search, warm; then the demo's real
embeddings (minilm) at each of `depths`, computed first if `make demo` has not done so; demo=false leaves them out. The
product alone is `q @ b.T` in blocks into one buffer, the fastest of several block sizes of numpy and torch in the same
run. `torch on the CPU` is the search that runs on GPUs, with torch's CPU as its device. Recall is against float64: the
share of rows whose score is at most 1e-6 below the k-th best. DataFlex's index is its class with its defaults
(bench/peer.py). Exact methods run in turns and the fastest of `turns` counts, so that other load on the machine affects
all of them. Approximate ones are timed once, after they were built.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import logging
import tempfile
import time
from collections.abc import Callable
from functools import partial

import faiss
import numpy as np
import torch
from faiss.contrib.exhaustive_search import knn_ground_truth

from bench import common
from bench.material import clustered
from bench.peer import peer_ivf
from near.common.errors import UserError
from near.embedding.store import Store
from near.searching.indexes.flat import Flat
from near.searching.indexes.hnsw import Hnsw
from near.searching.indexes.ivf import Ivf
from near.searching.vectors import ArrayVectors, StoredVectors

CHUNK = 2048  # vectors of a shard of the store, as embedding writes them
REST = 0.3  # seconds before each method, because threads of the one before still spin for a while


def stored(folder: str, vectors: np.ndarray) -> StoredVectors:
    """The vectors in a store, as embedding writes them."""
    store, offsets = Store(folder, {"bench": "search"}), []
    for start in range(0, len(vectors), CHUNK):
        part = vectors[start : start + CHUNK]
        keys = np.repeat(np.arange(start, start + len(part), dtype=np.uint64)[:, None], 2, axis=1)
        offsets.append(store.add(keys, part))
    return StoredVectors(store, np.concatenate(offsets))


def seconds(work: Callable[[], object]) -> float:
    time.sleep(REST)
    return common.timed(work)[0]


def in_turns(methods: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Seconds of the fastest of `turns`, after one that does not count."""
    took = {name: [] for name in methods}
    for turn in range(turns + 1):
        for name, work in methods.items():
            took[name] += [seconds(work)] if turn else [work() and 0.0 or 9e9]
    return {name: min(times) for name, times in took.items()}


def products(q: np.ndarray, b: np.ndarray) -> dict[str, Callable[[], object]]:
    """The product alone in blocks of several sizes, by numpy and by torch, into one buffer each."""
    tq, tb, methods = torch.from_numpy(q), torch.from_numpy(b), {}
    for size in (1024, 4096, 16384, len(b)):
        if size > len(b):
            continue
        out = np.empty((len(q), size), dtype=np.float32)
        ends = [(a, min(a + size, len(b))) for a in range(0, len(b), size)]

        shared = torch.from_numpy(out)

        def numpy_(ends=ends, out=out):
            for a, e in ends:
                np.matmul(q, b[a:e].T, out=out[:, : e - a] if e - a == out.shape[1] else None)

        def torch_(ends=ends, out=shared):
            for a, e in ends:
                torch.mm(tq, tb[a:e].T, out=out) if e - a == out.shape[1] else torch.mm(tq, tb[a:e].T)

        methods[f"numpy {size}"], methods[f"torch {size}"] = numpy_, torch_
    return methods


def exact_kth(q: np.ndarray, b: np.ndarray, k: int) -> np.ndarray:
    """Each query's k-th best inner product, float64 (Q,)."""
    wide, best = b.astype(np.float64), np.empty(len(q))
    for a in range(0, len(q), 256):
        scores = q[a : a + 256].astype(np.float64) @ wide.T
        best[a : a + 256] = np.partition(scores, len(b) - k, axis=1)[:, len(b) - k]
    return best


def recall(q: np.ndarray, b: np.ndarray, ids: np.ndarray, kth: np.ndarray) -> float:
    good = 0
    for row in range(len(q)):
        distinct = np.unique(ids[row][ids[row] >= 0])
        good += np.count_nonzero(b[distinct].astype(np.float64) @ q[row] >= kth[row] - 1e-6)
    return good / ids.size


def compare(b: np.ndarray, q: np.ndarray, k: int, hnsw: bool, turns: int) -> None:
    """Print a table of all methods on the vectors `b` (N, D) and the queries `q` (Q, D)."""
    print(f"\n{len(b)} x {b.shape[1]} vectors, {len(q)} queries, max_K={k}")
    results: dict[str, np.ndarray] = {}

    def keep(name: str, work: Callable[[], np.ndarray]) -> Callable[[], object]:
        def run():
            results[name] = work()

        return run

    def blocks():
        return (b[a : a + 50_000] for a in range(0, len(b), 50_000))

    with tempfile.TemporaryDirectory() as folder:
        pool, kth = stored(folder, b), exact_kth(q, b, k)
        alone = in_turns(products(q, b), turns)
        shape = min(alone, key=alone.get)
        methods = {
            "product": products(q, b)[shape],
            "near index=flat": keep("near index=flat", lambda: Flat().search(q, pool, k)[1]),
            "near, torch on the CPU": keep(
                "near, torch on the CPU", lambda: Flat(device=["cpu"]).search(q, pool, k)[1]
            ),
            "faiss.knn, in memory": keep(
                "faiss.knn, in memory", lambda: faiss.knn(q, b, k, metric=faiss.METRIC_INNER_PRODUCT)[1]
            ),
            "faiss contrib, 50k blocks": keep(
                "faiss contrib, 50k blocks",
                lambda: knn_ground_truth(q, blocks(), k, metric_type=faiss.METRIC_INNER_PRODUCT, ngpu=0)[1],
            ),
        }
        took = in_turns(methods, turns)
        base = took.pop("product")
        print(f"{'':30}{'seconds':>9}{'relative':>10}{'build (s)':>11}{'recall':>9}{'with -1':>9}")
        print(f"{'product alone, ' + shape:30}{base:9.3f}{1:10.2f}")
        built = {}
        approximate = {"near index=ivf": Ivf(recall_queries=1)} | (
            {"near index=hnsw": Hnsw(recall_queries=1)} if hnsw else {}
        )
        for name, index in approximate.items():
            search = partial(index.search, q, pool, k, cache=Path(folder, name))
            search()
            built[name] = index.figures["build_seconds"]
            took[name] = seconds(keep(name, lambda search=search: search()[1]))
        peer, why = "DataFlex, IVF nprobe 10", None
        try:
            results[peer], built[peer], took[peer] = peer_ivf(b, q, k)
        except UserError as error:
            why = error
        for name, best in took.items():
            short = int((results[name] < 0).any(axis=1).sum())
            build = f"{built[name]:11.1f}" if name in built else f"{'':11}"
            share = recall(q, b, results[name], kth)
            print(f"{name:30}{best:9.3f}{best / base:10.2f}{build}{share:9.4f}{short:9d}", flush=True)
        if why:
            common.not_measured(peer, why)
        pool.store.close()


def search_rows(device: str, rows: int, queries: int, K: int, dim: int = 384, turns: int = 3) -> dict:
    """Exact search on a device of torch, beside torch's product and top-k in blocks, and the product alone.

    Both searches read the same array in host memory; `near, from the store` reads files. The product alone has its
    pool on the device.

    Returns:
        seconds: of the fastest of `turns`, by method; relative: near's to torch's blocks; same_ids: bool, whether
        near's ids are those of its search on the CPU, for up to 200 queries; same_as_torch: the share of torch's ids,
        rank by rank (near ties differ); peak_bytes: by method, the most memory on the device, None on a CPU.
    """
    b, q = clustered(rows, dim, 1), clustered(queries, dim, 2)
    index, results, peaks = Flat(device=[device]), {}, {}
    on_device = torch.from_numpy(b).to(device)

    def measured(name: str, work: Callable[[], np.ndarray | None]) -> Callable[[], object]:
        def run():
            _reset_peak(device)
            results[name] = work()
            peaks[name] = _peak(device)
            return True

        return run

    with tempfile.TemporaryDirectory() as folder:
        store = stored(folder, b)
        methods = {
            "near": lambda: index.search(q, ArrayVectors(b), K)[1],
            "near, from the store": lambda: index.search(q, store, K)[1],
            "torch blocks": lambda: torch_blocks(q, b, K, device),
        }
        took = in_turns({name: measured(name, work) for name, work in methods.items()}, turns)
        took |= in_turns({"product": measured("product", lambda: product_on(q, on_device))}, turns)
        store.store.close()
    exact = Flat(device="cpu").search(q[:200], ArrayVectors(b), K)[1]
    return {
        "device": device,
        **{"rows": rows, "queries": queries, "K": K, "dim": dim},
        "seconds": took,
        "relative": took["near"] / took["torch blocks"],
        "same_ids": all(bool((results[name][:200] == exact).all()) for name in ("near", "near, from the store")),
        "same_as_torch": float((results["near"] == results["torch blocks"]).mean()),
        "peak_bytes": peaks,
    }


def torch_blocks(q: np.ndarray, b: np.ndarray, k: int, device: str, size: int = 65_536) -> np.ndarray:
    """Ids of each query's k best rows: the loop that one writes with torch, with blocks from host memory."""
    tq, best, ids = torch.from_numpy(q).to(device), None, None
    for a in range(0, len(b), size):
        scores = tq @ torch.from_numpy(b[a : a + size]).to(device).T
        top, at = scores.topk(min(k, scores.shape[1]))
        at += a
        if best is not None:
            top, at = torch.cat([best, top], 1), torch.cat([ids, at], 1)
            top, order = top.topk(min(k, top.shape[1]))
            at = at.gather(1, order)
        best, ids = top, at
    return ids.cpu().numpy()


def product_on(q: np.ndarray, pool: torch.Tensor, size: int = 65_536) -> None:
    """The product alone, of a pool that is on its device."""
    tq = torch.from_numpy(q).to(pool.device)
    for a in range(0, len(pool), size):
        scores = tq @ pool[a : a + size].T
    scores[-1, -1].item()  # wait for the device


def _reset_peak(device: str) -> None:
    if torch.device(device).type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)


def _peak(device: str) -> int | None:
    return None if torch.device(device).type == "cpu" else torch.accelerator.max_memory_allocated(device)


def demo_vectors() -> tuple[np.ndarray, np.ndarray]:
    """The demo's pool and queries as minilm embeds them, from the store."""
    from near.data.loading import load
    from near.data.pool import load_pool
    from near.embedding.embed import embed_rows, embedder_of

    cfg = common.composed("select")
    queries = load(cfg.data, "queries", cfg.cache_dir)
    pool, embedder = load_pool(cfg.data, queries, cfg.cache_dir), embedder_of(cfg.embedder, cfg.cache_dir)
    with Store.of(embedder, cfg.cache_dir) as store:
        offsets = [embed_rows(store, embedder, pool, pool.eligible()).offsets]
        offsets.append(embed_rows(store, embedder, queries, queries.eligible(), query=True).offsets)
        return tuple(map(store.read, offsets))


def main(
    rows: int = 100_000,
    dim: int = 384,
    queries: int = 2000,
    max_K: int = 1000,
    depths: list[int] = (1000, 2000, 4000),
    hnsw: bool = True,
    demo: bool = True,
    turns: int = 3,
) -> None:
    if not 0 < max_K <= rows or queries < 1 or turns < 1:
        raise UserError(
            f"rows={rows} queries={queries} max_K={max_K} turns={turns}: use 1 <= max_K <= rows, others >= 1"
        )
    logging.disable(logging.WARNING)
    compare(clustered(rows, dim, 1), clustered(queries, dim, 2), max_K, hnsw, turns)
    if demo:
        pool, target = demo_vectors()
        for k in depths:
            compare(pool, target, k, hnsw, turns)


if __name__ == "__main__":
    common.script(main)

"""Exact search: every query with every row of the pool, which is read block by block and never held."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from near.indexes.base import Index, Progress
from near.indexes.gpu import gpus, search_on_gpus
from near.indexes.ties import settle, with_slack
from near.indexes.topk import Best, merged
from near.vectors import Vectors

TILE = 1024  # rows of one matrix product; always all of them, so that a score never depends on where a block ends
BATCH = 1024  # queries of one matrix product, at most; a larger product wastes less
SAMPLED = (1024, 1 << 15)  # rows from which the scores worth looking at are estimated: one in 64 within these bounds


class Flat(Index):
    """Inner product of every query with every row, in float32. `block_rows` rows are read while as many are searched.

    Scores come from matrix products of BATCH queries with TILE rows at fixed places of the pool, one thread each, so
    that ids and scores are the same bits for any block size, number of threads and shards. With a GPU and FAISS's
    GPU build its own kernels are used, and scores may differ by their rounding.
    """

    exact = True

    def __init__(
        self,
        block_rows: int = 16_384,
        device: str = "auto",
        shard_rows: int = 1 << 20,
        launcher: str | None = None,
        workers: int | None = None,
    ):
        """device: auto, cpu or gpu; the others: see near/shards.py."""
        super().__init__()
        self.block_rows, self.device = -(-block_rows // TILE) * TILE, device
        self.shard_rows, self.launcher, self.workers = shard_rows, launcher, workers

    @property
    def signature(self) -> dict:
        return {"index": "flat", "exact": True}

    def search(self, queries, pool, k, progress=lambda rows: None, keep=None):
        """See Index.search. Nothing is built."""
        keys = self.best(queries, pool, with_slack(k, pool.n), 0, pool.n, progress)
        return settle(self, queries, pool, keys, k)

    def best(
        self,
        queries: np.ndarray,
        pool: Vectors,
        k: int,
        start: int,
        stop: int,
        progress: Progress = lambda rows: None,
        only: np.ndarray | None = None,
    ) -> np.ndarray:
        """Keys (near/indexes/topk.py) of each query's k best rows among `start` to `stop`, uint64 (Q, k), best first,
        0 where there are fewer. `start` is a multiple of TILE; `only`: bool (Q,), the queries to search for."""
        found = gpus(self.device, k)
        if found:
            keys, asked = np.zeros((len(queries), k), dtype=np.uint64), slice(None) if only is None else only
            keys[asked] = search_on_gpus(found, queries[asked], pool, k, start, stop, self.block_rows, progress)
            return keys
        count = -(-len(queries) // BATCH)
        ends = np.arange(count + 1) * len(queries) // count  # fixed by the number of queries alone
        batches = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        keys = np.zeros((len(queries), k), dtype=np.uint64)
        if only is None:
            self._pass(queries, pool, k, start, stop, progress, self._floor, batches, keys)
            only = keys[:, min(k, stop - start) - 1] == 0  # the estimate was too high for these
        if only.any():  # in the same products as ever, so that scores are the same bits
            floor = np.where(only, -np.inf, np.inf).astype(np.float32)
            again = [batch for batch in batches if only[batch].any()]
            self._pass(queries, pool, k, start, stop, lambda rows: None, lambda *_: floor, again, keys)
        return keys

    def _pass(self, queries, pool, k, start, stop, progress, estimate, batches, keys) -> None:
        """Put into `keys` those of `batches` with scores above what `estimate` gives; leave it where there is none."""
        threads, count = threads_to_use(), len(batches)
        # tiles are shared out too where there are few batches, so that no thread has nothing to do
        stripes = next(s for s in range(1, threads + 1) if s * count % threads == 0 or s * count >= 4 * threads)
        size = min(self.block_rows, -(-(stop - start) // TILE) * TILE)
        buffers = [np.zeros((size, pool.dim), dtype=np.float32) for _ in range(1 if stop - start <= size else 2)]
        scratch = threading.local()
        with (
            threadpool_limits(1, user_api="blas"),
            ThreadPoolExecutor(threads) as workers,
            ThreadPoolExecutor(1) as reader,
        ):
            floor = estimate(queries, pool, k, start, stop, buffers[0], workers, batches)
            work = [(b, Best(k, TILE, floor[b]), s) for b in batches for s in range(stripes)]
            blocks = [(a, min(a + size, stop)) for a in range(start, stop, size)]
            ahead = reader.submit(pool.read, slice(*blocks[0]), buffers[0][: blocks[0][1] - start])
            for number, (a, b) in enumerate(blocks):
                ahead.result()
                block = buffers[number % len(buffers)]
                if number + 1 < len(blocks):
                    after = slice(*blocks[number + 1])
                    ahead = reader.submit(pool.read, after, buffers[(number + 1) % 2][: after.stop - after.start])
                list(workers.map(partial(_search_block, queries, block, a, b - a, stripes, scratch), work))
                progress(b - a)
            parts = list(workers.map(lambda item: item[1].keys(), work))
        for number, batch in enumerate(batches):
            found = merged(parts[number * stripes : (number + 1) * stripes], k)
            keys[batch] = np.where(found[:, :1] > 0, found, keys[batch])

    def _floor(self, queries, pool, k, start, stop, buffer, workers, batches) -> np.ndarray:
        """A score for each query, float32 (Q,), that very likely k rows exceed, from a sample of the rows: without
        one, the first tiles would all be taken."""
        rows = stop - start
        size = min(len(buffer), max(SAMPLED[0], min(rows // 64, SAMPLED[1])))
        mean = size * k / rows  # rows of the sample among the k best
        rank = int(mean + 4 * mean**0.5 + 4)  # too few exceed the score at this rank once in ten thousand queries
        if rank > size // 2 or 4 * size > rows:
            return np.full(len(queries), -np.inf, dtype=np.float32)
        sample = buffer[:size]
        drawn = np.random.default_rng(0).choice(rows, size, replace=False, shuffle=False)
        pool.read(np.sort(drawn) + start, sample)
        floor = np.empty(len(queries), dtype=np.float32)

        def estimate(batch: slice) -> None:
            floor[batch] = np.partition(queries[batch] @ sample.T, size - rank, axis=1)[:, size - rank]

        list(workers.map(estimate, batches))
        return floor


def _search_block(queries, block, first, rows, stripes, scratch, item: tuple[slice, Best, int]) -> None:
    """Offer every `stripes`-th tile of a block to one batch's best."""
    batch, best, stripe = item
    some = queries[batch]
    if not hasattr(scratch, "scores"):
        scratch.scores, scratch.above = np.empty(BATCH * TILE, np.float32), np.empty(BATCH * TILE, bool)
    scores, above = (s[: len(some) * TILE].reshape(len(some), TILE) for s in (scratch.scores, scratch.above))
    for a in range(stripe * TILE, rows, stripes * TILE):
        with np.errstate(over="ignore", invalid="ignore"):  # told by `whole`
            np.matmul(some, block[a : a + TILE].T, out=scores)  # after the last row the block holds old values
        scores[:, max(rows - a, 0) :] = -np.inf
        best.offer(scores, first + a, above)


def threads_to_use() -> int:
    """As many as OMP_NUM_THREADS says, which torchrun sets for its ranks, else one for each core this process has."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else len(os.sched_getaffinity(0))

"""Exact search: every query with every row of the pool, read block by block; only two blocks are in memory."""

import importlib.util
import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Literal

import numpy as np

from near.common.bounds import at_least, between
from near.common.errors import UserError
from near.common.progress import Progress
from near.common.threads import one_blas_thread, threads_to_use
from near.searching.indexes.base import Index, Vectors
from near.searching.indexes.ties import CLOSE, settle, with_slack
from near.searching.indexes.topk import Best, merged

log = logging.getLogger(__name__)

TILE = 1024  # rows of each matrix product, even the last, so that a score never depends on where a block ends
BATCH = 1024  # queries of one matrix product, at most; larger products are faster per query
MAX_KEYS = 1 << 24  # keys in memory at most, but at least one set for each query
BLOCK_ROWS = 16_384  # rows of a block on the CPU
WORTH = 1 << 34  # multiplications that take a device less time than the CPU, with its start
UNLOADED = 8  # times more where torch is not imported yet
DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/dri")  # one is there where torch may find an accelerator
SAMPLED = 36, 1024, 1 << 15  # a query's floor is estimated from every 36th row, at least and at most so many


class Flat(Index):
    """Inner product of every query with every row, in float32. One block is read while another is searched.

    Scores come from matrix products of up to BATCH queries with TILE rows at fixed positions of the pool, one thread
    each, so ids and scores are the same bits for any block size, number of threads and shards. On a device of torch
    (near/searching/indexes/device.py) ids are the same, and scores may differ by rounding.
    """

    exact = True

    def __init__(
        self,
        block_rows: Annotated[int, at_least(1)] | Literal["auto"] = "auto",
        device: str | list[str] = "auto",
        shard_rows: int = 1 << 20,
        launcher: Literal["ray"] | None = None,
        workers: Annotated[int, between(1, 100_000)] | None = None,
    ):
        """block_rows: on the CPU rounded up to a multiple of TILE; device: cpu, auto, or devices of torch; shard_rows,
        launcher, workers: see near/searching/shards.py."""
        super().__init__()
        self.block_rows, self.device = block_rows, device if isinstance(device, str) else tuple(device)
        self.shard_rows, self.launcher, self.workers = shard_rows, launcher, workers

    @property
    def signature(self) -> dict:
        return {"index": "flat", "exact": True}

    def search(self, queries, pool, k, progress=lambda rows: None, cache=None):
        """See Index.search. Nothing is built. `figures` are the device and the rows of a block."""
        self.figures, products = {}, []
        keys = self.best(queries, pool, with_slack(k, pool.n), 0, pool.n, progress, products=products)
        return self.settled(queries, pool, keys, k, *products)

    def settled(self, queries, pool, keys, k, products=None):
        """The result of a search (see Index.search) from each query's `with_slack` best keys; products: see settle."""
        close = CLOSE
        if self.devices(len(queries) * pool.n * pool.dim):
            from near.searching.indexes.device import rounding

            close = max(CLOSE, rounding(pool.dim))

        def again(query_ids: np.ndarray, width: int) -> np.ndarray:
            return self.best(queries, pool, width, 0, pool.n, only=query_ids)

        return settle(again, queries, pool, keys, k, close, products)

    def check(self):
        """See Index.check."""
        if self.device not in ("auto", "cpu"):
            self.devices(0)

    def devices(self, work: int) -> tuple[str, ...]:
        """The devices of torch to search on with this many multiplications; () stands for the CPU without torch."""
        if self.device == "cpu" or self.device == "auto" and not _worth(work):
            return ()
        try:
            from near.searching.indexes.devices import devices_of
        except ModuleNotFoundError as error:
            raise UserError(f'index.device={self.device} needs torch; pip install "near[embed]", or use cpu') from error
        return devices_of(self.device)

    def best(
        self,
        queries: np.ndarray,
        pool: Vectors,
        k: int,
        start: int,
        stop: int,
        progress: Progress = lambda rows: None,
        only: np.ndarray | None = None,
        products: list | None = None,
    ) -> np.ndarray:
        """Each query's k best rows among rows `start` to `stop` of the pool, as keys (near/searching/indexes/topk.py).

        Args:
            queries: float32 (n_queries, dim).
            start: a multiple of TILE.
            only: int64 (m,), ascending: search for these queries alone. Whole batches are multiplied all the same, so
                that scores are the same bits.
            products: see search_on (near/searching/indexes/device.py).

        Returns:
            uint64 (n_queries, k), or (m, k) with `only`; best first, 0 where there are fewer rows.
        """
        selected = queries if only is None else queries[only]
        if devices := self.devices(len(selected) * (stop - start) * pool.dim):
            from near.searching.indexes.device import search_on

            block_rows = None if self.block_rows == "auto" else self.block_rows
            keys, rows = search_on(devices, selected, pool, k, start, stop, block_rows, progress, products)
            self._note(", ".join(devices), rows)
            return keys
        self._note("cpu", self._rows)
        if only is not None:
            return self._pass(queries, pool, k, start, stop, progress, None, only)
        everyone = np.arange(len(queries))
        keys = self._pass(queries, pool, k, start, stop, progress, self._floor, everyone)
        short = np.flatnonzero(keys[:, min(k, stop - start) - 1] == 0)
        if len(short):  # the estimate was too high for these
            keys[short] = self._pass(queries, pool, k, start, stop, lambda rows: None, None, short)
        return keys

    @property
    def _rows(self) -> int:
        """Rows of a block on the CPU."""
        return BLOCK_ROWS if self.block_rows == "auto" else -(-self.block_rows // TILE) * TILE

    def _note(self, device: str, rows: int) -> None:
        """Log a device that was not used before; what was used first stands in the manifest."""
        if device != "cpu" and device != self.figures.get("device"):
            log.info(f"searching on {device} in blocks of {rows} rows")
        self.figures = {"device": device, "block_rows": rows} | self.figures

    def _pass(self, queries, pool, k, start, stop, progress, estimate, query_ids) -> np.ndarray:
        """Keys, uint64 (m, k), of queries `query_ids`, int64 (m,), among scores above `estimate`; None: among all."""
        batches = [(b, query_ids[(query_ids >= b.start) & (query_ids < b.stop)]) for b in _batches(len(queries))]
        batches = [(b, selected) for b, selected in batches if len(selected)]
        threads, count = threads_to_use(), len(batches)
        # with few batches, tiles are divided too (into stripes), so that every thread has work
        stripes = next(s for s in range(1, threads + 1) if s * count % threads == 0 or s * count >= 4 * threads)
        stripes = min(stripes, max(1, MAX_KEYS // (len(query_ids) * (2 * k + TILE))))
        size = min(self._rows, -(-(stop - start) // TILE) * TILE)
        buffers = [np.zeros((size, pool.dim), dtype=np.float32) for _ in range(1 if stop - start <= size else 2)]
        scratch = threading.local()
        with one_blas_thread(), ThreadPoolExecutor(threads) as workers, ThreadPoolExecutor(1) as reader:
            floor = np.full(len(queries), -np.inf, dtype=np.float32)
            if estimate is not None:
                estimate(queries, pool, k, start, stop, buffers[0], workers, floor)
            work = [(b, selected, Best(k, TILE, floor[selected]), s) for b, selected in batches for s in range(stripes)]
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
            parts = list(workers.map(lambda item: item[2].keys(), work))
        return np.concatenate([merged(parts[i : i + stripes], k) for i in range(0, len(parts), stripes)])

    def _floor(self, queries, pool, k, start, stop, buffer, workers, floor) -> None:
        """Write into `floor`, float32 (n_queries,), a score that very likely k rows exceed, estimated from a sample of
        rows. Without a floor, all scores of the first tiles would be kept and sorted."""
        rows = stop - start
        size = min(len(buffer), max(SAMPLED[1], min(rows // SAMPLED[0], SAMPLED[2])))
        mean = size * k / rows  # rows of the sample among the k best
        rank = int(mean + 4 * mean**0.5 + 4)  # fewer than k exceed the score at this rank once in ten thousand queries
        if rank > size // 2 or 4 * size > rows:
            return
        sample = buffer[:size]
        drawn = np.sort(np.random.default_rng(0).choice(rows, size, replace=False, shuffle=False)) + start
        halves = slice(0, size // 2), slice(size // 2, size)
        list(workers.map(lambda half: pool.read(drawn[half], sample[half]), halves))

        def estimate(batch: slice) -> None:
            scores = queries[batch] @ sample.T  # (n_batch, n_sample)
            floor[batch] = np.partition(scores, size - rank, axis=1)[:, size - rank]

        list(workers.map(estimate, _batches(len(queries))))


def _worth(work: int) -> bool:
    """Whether a device may be faster than the CPU for so many multiplications; without importing torch."""
    if "torch" in sys.modules:
        return work >= WORTH
    if work < UNLOADED * WORTH or importlib.util.find_spec("torch") is None:
        return False
    return sys.platform == "darwin" or any(map(os.path.exists, DRIVERS))


def _batches(queries: int) -> list[slice]:
    """Which queries are multiplied together; depends on their number alone."""
    count = -(-queries // BATCH)
    ends = (np.arange(count + 1) * queries // count).tolist()
    return [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]


def _search_block(queries, block, first, rows, stripes, scratch, item: tuple[slice, np.ndarray, Best, int]) -> None:
    """Offer the scores of every `stripes`-th tile of a block to `Best`, for the selected queries of one batch."""
    batch, selected, best, stripe = item
    batch_queries = queries[batch]
    if not hasattr(scratch, "scores"):
        scratch.scores, scratch.above = np.empty(BATCH * TILE, np.float32), np.empty(BATCH * TILE, bool)
    scores, above = (
        s[: len(batch_queries) * TILE].reshape(len(batch_queries), TILE) for s in (scratch.scores, scratch.above)
    )
    for a in range(stripe * TILE, rows, stripes * TILE):
        with np.errstate(over="ignore", invalid="ignore"):  # `whole` raises
            np.matmul(batch_queries, block[a : a + TILE].T, out=scores)  # after the last row the block holds old values
        scores[:, max(rows - a, 0) :] = -np.inf
        if len(selected) == len(batch_queries):
            best.offer(scores, first + a, above)
        else:
            best.offer(scores[selected - batch.start], first + a, above[: len(selected)])

"""Exact search with torch on GPUs and other accelerators: they share the pool's blocks and pick the best rows.

A thread for each device takes the next block. It is read into pinned memory and copied on a stream of its own, while
the block before is searched.
"""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from near.common.errors import UserError
from near.common.progress import Progress
from near.common.threads import threads_to_use
from near.searching.indexes.base import Vectors
from near.searching.indexes.device_topk import DeviceBest, room
from near.searching.indexes.topk import merged

log = logging.getLogger(__name__)

BUFFERS = 3  # blocks in memory: one is searched, one is ready, one is read
LEAST, MOST = 4096, 32_768  # rows of a block that is sized by memory
BLOCK_BYTES = 1 << 27  # of such a block, at most: pinning memory takes time
SCORE_BYTES = 96  # memory for one score of a tile while it is packed
AREA = 1 << 27  # scores of a tile, at most
READERS = 8  # threads that read a block, at most
PRODUCTS = 1 << 24  # numbers multiplied at a time in float64
MEMORY = 1 << 31  # bytes to use where a device does not say how much is free


def rounding(dim: int) -> float:
    """How far apart a device's scores of unit vectors with equal products may be.

    A kernel that sums in sequence is off by up to 0.9 * sqrt(dim) * 2**-24 (measured for 128 to 4,096 dimensions).
    """
    return 2 * dim**0.5 * 2.0**-24


def search_on(
    devices: tuple[str, ...],
    queries: np.ndarray,
    pool: Vectors,
    k: int,
    start: int,
    stop: int,
    block_rows: int | None = None,
    progress: Progress = lambda rows: None,
    products: list | None = None,
) -> tuple[np.ndarray, int]:
    """Like Flat.best: keys uint64 (n_queries, k), best first; and the rows of a block.

    Args:
        block_rows: rows of a block; None: by size and free memory.
        products: where the pool fits into the devices' memory, it stays there, and a function that settles near ties
            is appended: (queries int64 (m,), rows int64 (m,)) -> their inner products in float64, as float32 (m,).

    Raises:
        UserError: even the smallest block does not fit in a device's memory.
    """
    free = min(_free(device) for device in devices)
    rows = min(block_rows or sized_block(stop - start, pool.dim, free), stop - start)
    size = max(1, free // 4 // (8 * (k + room(k, stop - start)) + 4 * pool.dim))  # queries that are searched at a time
    stay = products is not None and size >= len(queries) and 4 * (stop - start) * pool.dim <= free // 4
    parts = []
    for first in range(0, len(queries), size):
        part = queries[first : first + size]
        searches, rows = _started(devices, part, pool, k, (start, stop), rows, free // 4, stay)
        blocks = deque((a, min(a + rows, stop)) for a in range(start, stop, rows))
        report: Progress = progress if first + size >= len(queries) else lambda rows: None
        parts.append(merged(_run(searches, blocks, report), k))
    if products is not None and searches and all(search.resident is not None for search in searches):
        products.append(partial(_products, searches, start, rows))
    return np.concatenate(parts), rows


def _products(searches: list["_Search"], start: int, rows: int, query: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Each device multiplies the rows of its blocks; `rows`: of a block."""
    number, out = (row - start) // rows, np.empty(len(row), dtype=np.float32)
    for search in searches:
        at = np.flatnonzero(np.isin(number, [(a - start) // rows for a in search.taken]))
        if len(at):
            out[at] = search.products(query[at], row[at])
    return out


def _run(searches: list["_Search"], blocks: deque[tuple[int, int]], progress: Progress) -> list[np.ndarray]:
    """Keys that each device picked."""
    with _full_precision(), ThreadPoolExecutor(len(searches)) as workers:
        try:
            return list(workers.map(lambda search: search.run(blocks, progress), searches))
        finally:
            blocks.clear()  # after an interrupt, devices stop at their next block


def sized_block(rows: int, dim: int, free: int) -> int:
    """Rows of a block: an eighth of the pool, so that reading and searching overlap, within limits of memory."""
    most = min(MOST, min(BLOCK_BYTES, free // 8 // BUFFERS) // (4 * dim))
    return 1 << max(min(rows // 8, most), LEAST).bit_length() - 1


def _free(device: str) -> int:
    """Half the free memory of a device, in bytes; memory that torch holds without need counts as free."""
    if torch.empty(0, device=device).device.type == "cpu":  # an accelerator is initialised by this
        return MEMORY
    with contextlib.suppress(RuntimeError, AttributeError, NotImplementedError):
        memory = torch.accelerator
        cached = memory.memory_reserved(device) - memory.memory_allocated(device)
        return (memory.get_memory_info(device)[0] + cached) // 2
    return MEMORY


def _started(devices, queries, pool, k, bounds, rows, budget, stay) -> tuple[list["_Search"], int]:
    """A search for each device, and the rows of a block: fewer than `rows` where memory is short."""
    while True:
        try:
            return [_Search(device, queries, pool, k, bounds, rows, budget, stay) for device in devices], rows
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            if rows <= 1 and not stay:
                raise _too_small(", ".join(devices)) from error
        if stay:  # outside the handler, whose error holds on to the tensors
            stay = False
            continue
        rows = -(-rows // 2)
        log.warning(f"index.device={', '.join(devices)}: out of memory; blocks have {rows} rows now")


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)


def _too_small(device: str) -> UserError:
    return UserError(f"index.device={device}: too little free memory for a search; free some, or set index.device=cpu")


class _Search:
    """The part of one device in a search."""

    def __init__(self, device, queries, pool, k, bounds: tuple[int, int], rows: int, budget: int, stay: bool):
        """bounds: the rows to search; rows: of a block; budget: bytes for scores; stay: keep the rows on the device."""
        self.device, self.pool, self.start = device, pool, bounds[0]
        total = bounds[1] - bounds[0]
        self.area = max(1024, min(AREA, budget // SCORE_BYTES))  # scores of a tile
        self.best = DeviceBest(queries, k, total, device)
        capacity = self.best.keys.shape[1]
        self.room, self.seen, self.warned = (total if capacity >= total else capacity - k), 0, False
        cuda = torch.device(device).type == "cuda"
        shape, count = (min(rows, total), pool.dim), min(BUFFERS, -(-total // rows))
        self.host = [torch.empty(shape, dtype=torch.float32, device="cpu", pin_memory=cuda) for _ in range(count)]
        stay &= torch.device(device).type in ("cpu", "cuda")  # where float64 is
        self.resident = torch.empty((total, pool.dim), dtype=torch.float32, device=device) if stay else None
        self.taken: list[int] = []  # first rows of the blocks that were read
        own = device != "cpu" and not stay
        self.blocks = [torch.empty_like(h, device=device) for h in self.host] if own else self.host
        self.stream = torch.cuda.Stream(device) if cuda else None
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def run(self, blocks: deque[tuple[int, int]], progress: Progress) -> np.ndarray:
        """Search blocks (first row, row after the last) while any are left; keys uint64 (n_queries, k)."""
        try:
            with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(min(READERS, threads_to_use())) as readers:
                ahead = deque(self._next(blocks, reader, readers, slot) for slot in range(max(1, len(self.host) - 1)))
                slot = len(ahead)
                while (ready := ahead.popleft()) is not None:
                    first, block, copied = ready.result()
                    if copied:
                        torch.cuda.current_stream(self.device).wait_event(copied)
                    ahead.append(self._next(blocks, reader, readers, slot % len(self.host)))
                    slot += 1
                    self._search(first, block)
                    progress(len(block))
        except BaseException:
            blocks.clear()  # the other devices stop
            raise
        finally:
            if self.stream:
                self.stream.synchronize()
        self.blocks = self.host = []
        return self.best.result(max(1, self.area // self.best.keys.shape[1]))

    def products(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Inner products of these queries and resident rows, both int64 (m,): in float64, returned as float32 (m,)."""
        queries, rows = (torch.from_numpy(ids).to(self.device) for ids in (query, row - self.start))
        parts, done, size = [], 0, max(1, PRODUCTS // self.pool.dim)
        while done < len(queries):
            at = slice(done, done + size)
            try:
                terms = self.best.queries[queries[at]].double()
                parts.append(terms.mul_(self.resident[rows[at]]).sum(1).float())
                done += size
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                if size == 1:
                    raise _too_small(self.device) from error
                size //= 2
        return torch.cat(parts).cpu().numpy()

    def _next(self, blocks: deque, reader: ThreadPoolExecutor, readers: ThreadPoolExecutor, slot: int) -> Future | None:
        try:
            a, b = blocks.popleft()
        except IndexError:
            return None
        self.taken.append(a)
        return reader.submit(self._read, a, b, slot, readers)

    def _read(self, a: int, b: int, slot: int, readers: ThreadPoolExecutor):
        """Read rows a to b and copy them to the device: a, the block, and an event on which its use must wait."""
        if self.resident is not None:
            block = self.resident[a - self.start : b - self.start]
        else:
            block = self.blocks[slot][: b - a]
        host = block if self.device == "cpu" else self.host[slot][: b - a]
        size = max(1024, -(-(b - a) // readers._max_workers))
        list(
            readers.map(
                lambda at: self.pool.read(slice(at, min(at + size, b)), host[at - a : at - a + size].numpy()),
                range(a, b, size),
            )
        )
        if self.stream is None:
            return a, block if block is host else block.copy_(host), None
        with torch.cuda.stream(self.stream):
            block.copy_(host, non_blocking=True)
            return a, block, self.stream.record_event()

    def _search(self, first: int, block: torch.Tensor) -> None:
        """Offer all scores of a block in tiles. As many rows as were seen before are expected to add k per query."""
        done, queries = 0, len(self.best.queries)
        while done < len(block):
            width = min(len(block) - done, max(self.room, self.seen))
            size = max(1, self.area // width)
            tiles = [(q, min(q + size, queries), done, done + width) for q in range(0, queries, size)]
            while tiles:
                q, r, a, b = tiles.pop()
                if not self._fits(slice(q, r), block[a:b], first + a):
                    tiles += _halves(q, r, a, b, self.room)
            done += width
            self.seen += width

    def _fits(self, batch: slice, block: torch.Tensor, first: int) -> bool:
        size = len(block) * (batch.stop - batch.start)
        try:
            return self.best.offer(batch, block, first)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            if size <= 1:
                raise _too_small(self.device) from error
        self.area = min(self.area, size // 2)  # halves of this tile come next
        if not self.warned:
            log.warning(f"index.device={self.device}: out of memory; continuing with fewer scores at a time")
        self.warned = True
        return False


def _halves(q: int, r: int, a: int, b: int, room: int) -> list[tuple[int, int, int, int]]:
    """A tile of queries q to r and rows a to b in two: by rows, down to `room`, which always fit; then by queries."""
    if b - a > room or r - q == 1:
        middle = (a + b) // 2
        return [(q, r, middle, b), (q, r, a, middle)]
    middle = (q + r) // 2
    return [(middle, r, a, b), (q, middle, a, b)]


_precision_lock, _precisions = threading.Lock(), []  # one entry per running search: the settings before the first


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Products in float32, not in TF32 or bfloat16, while any search runs; the last one restores the settings."""
    backends = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    with _precision_lock:
        _precisions.append(_precisions[0] if _precisions else [backend.fp32_precision for backend in backends])
        for backend in backends:
            backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        with _precision_lock:
            before = _precisions.pop()
            if not _precisions:
                for backend, precision in zip(backends, before, strict=True):
                    backend.fp32_precision = precision

"""Exact search with FAISS's GPU kernels, where its GPU build is installed: the pool's blocks over all GPUs."""

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import faiss
import numpy as np

from near.common.errors import UserError
from near.searching.indexes.base import Vectors
from near.searching.indexes.ties import SLACK
from near.searching.indexes.topk import merged, pack

log = logging.getLogger(__name__)

LARGEST = 2048  # neighbours of a query that FAISS's GPU kernels find, at most


def gpus(device: str, k: int) -> int:
    """Number of GPUs to search on; 0: search on the CPU, as `auto` does where there is no GPU or k is too large.

    Raises:
        UserError: device is gpu, and there is none or k is too large.
    """
    devices = faiss.get_num_gpus() if hasattr(faiss, "knn_gpu") and hasattr(faiss, "StandardGpuResources") else 0
    if device == "cpu" or device == "auto" and not devices:
        return 0
    if not devices:
        raise UserError("index.device=gpu: FAISS sees no GPU; install faiss-gpu-cu12, or set index.device=cpu")
    if k > LARGEST:
        reason = f"FAISS's GPU kernels find at most {LARGEST} neighbours, not {k - SLACK} and {SLACK} more for ties"
        if device == "gpu":
            raise UserError(f"index.device=gpu: {reason}; use max_K<={LARGEST - SLACK}, or set index.device=cpu")
        log.info(f"searching on the CPU: {reason}")
        return 0
    return devices


def search_on_gpus(devices, queries, pool: Vectors, k, start, stop, block_rows, progress) -> np.ndarray:
    """Like Flat.best: keys uint64 (n_queries, k). Each GPU takes the next block."""
    resources = [faiss.StandardGpuResources() for _ in range(devices)]
    best = np.zeros((len(queries), k), dtype=np.uint64)
    blocks = [(a, min(a + block_rows, stop)) for a in range(start, stop, block_rows)]
    buffers = [np.empty((min(block_rows, stop - start), pool.dim), dtype=np.float32) for _ in range(devices)]
    with ThreadPoolExecutor(devices) as workers:
        for turn in range(0, len(blocks), devices):
            now = blocks[turn : turn + devices]
            parts = workers.map(partial(_block, queries, pool, k), now, range(len(now)), resources, buffers)
            best = merged([best, *parts], k)
            progress(sum(b - a for a, b in now))
    return best


def _block(queries, pool: Vectors, k: int, rows: tuple[int, int], device: int, resources, buffer) -> np.ndarray:
    a, b = rows
    block = buffer[: b - a]
    pool.read(slice(a, b), block)
    scores, ids = faiss.knn_gpu(
        resources, queries, block, min(k, b - a), metric=faiss.METRIC_INNER_PRODUCT, device=device
    )
    return np.where(ids < 0, np.uint64(0), pack(scores, np.maximum(ids, 0) + a))  # -1: no row, for NaN

"""The number of threads or processes to use, and a limit for BLAS's threads."""

import contextlib
import functools
import os
import threading
from collections.abc import Iterator

from threadpoolctl import ThreadpoolController

# Read when a process starts: by torch, FAISS and BLAS, and by the tokenizers
THREADS = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")

_limit_lock, _limits = threading.Lock(), []  # one entry per running search: the limiter of the first one


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to the calling thread while any search of this process runs; the last one restores the setting."""
    with _limit_lock:
        _limits.append(_blas().limit(limits=1) if not _limits else _limits[0])
    try:
        yield
    finally:
        with _limit_lock:
            limit = _limits.pop()
            if not _limits:
                limit.restore_original_limits()


@functools.cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of this process, listed once: that takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


def threads_to_use() -> int:
    """OMP_NUM_THREADS (set by torchrun for its ranks, by launchers for their jobs), else the number of cores."""
    return threads_set() or cores()


def threads_set() -> int | None:
    """The number in OMP_NUM_THREADS, the first of a list for nested loops; None if it is not set."""
    setting = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(setting) or None if setting.isdecimal() else None


def cores() -> int:
    """The cores available to this process: by its affinity, and by the quota of a container."""
    import joblib

    return joblib.cpu_count()

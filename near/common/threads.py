"""The number of threads or processes to use, and a limit for BLAS's threads."""

import contextlib
import functools
import os
import threading
from collections.abc import Iterator

from threadpoolctl import ThreadpoolController

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
    """OMP_NUM_THREADS (torchrun sets it for its ranks), else the number of cores available to this process."""
    setting = os.environ.get("OMP_NUM_THREADS", "")
    return int(setting) if setting.isdecimal() and int(setting) else len(os.sched_getaffinity(0))

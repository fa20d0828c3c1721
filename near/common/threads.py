"""How many threads or processes share work here, and that no matrix product starts further threads."""

import contextlib
import os
import threading
from collections.abc import Iterator

from threadpoolctl import threadpool_limits

_limit_lock, _limits = threading.Lock(), []  # how many searches this process runs, and what they found set


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Products on the calling thread alone, for all searches of this process; the last one puts back what was set."""
    with _limit_lock:
        _limits.append(threadpool_limits(1, user_api="blas") if not _limits else _limits[0])
    try:
        yield
    finally:
        with _limit_lock:
            limit = _limits.pop()
            if not _limits:
                limit.restore_original_limits()


def threads_to_use() -> int:
    """As many as OMP_NUM_THREADS says, which torchrun sets for its ranks, else one for each core this process has."""
    setting = os.environ.get("OMP_NUM_THREADS", "")
    return int(setting) if setting.isdecimal() and int(setting) else len(os.sched_getaffinity(0))

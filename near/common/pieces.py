"""Numbered pieces of one work, done by however many processes there are: ranks, tasks of a cluster, other runs."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from near.common.locks import acquire
from near.common.processes import world_size


def share(
    numbers: Iterable[int],
    lock: Callable[[int], Path],
    done: Callable[[int], bool],
    work: Callable[[int], object],
    wait: bool = True,
) -> int:
    """Do the pieces that nobody else does; how many this process did.

    First those that are free; then (`wait`) those that another process had: the kernel frees the lock of a process that
    dies, and the next one does its piece.

    Args:
        lock: the file that is locked while a piece is done; it is removed afterwards.
        done: whether a piece is there and whole; asked again under its lock.
    """
    numbers, count = list(numbers), 0
    start = int(os.environ.get("RANK", "0")) * len(numbers) // world_size()  # ranks begin apart
    for waiting in (False, True) if wait else (False,):
        for number in numbers[start:] + numbers[:start]:
            if done(number) or (claim := acquire(lock(number), wait=waiting)) is None:
                continue
            try:
                if not done(number):
                    work(number)
                    count += 1
            finally:
                lock(number).unlink(missing_ok=True)
                claim.close()
    return count

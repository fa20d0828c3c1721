"""Numbered pieces of work that several processes share: ranks, tasks of a cluster, other runs."""

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
    """Do the pieces that no other process does.

    Free pieces come first. Then, with `wait`, those that other processes had locked: if one of them dies, its lock is
    freed and another process does its piece.

    Args:
        numbers: the pieces.
        lock: the file that is locked while a piece is done, and removed afterwards.
        done: whether a piece is complete; checked again under its lock.
        work: does a piece.
        wait: wait for pieces of other processes.

    Returns:
        How many pieces this process did.
    """
    numbers, count = list(numbers), 0
    start = int(os.environ.get("RANK", "0")) * len(numbers) // world_size()  # ranks start at different pieces
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

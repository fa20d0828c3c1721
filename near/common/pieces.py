"""Numbered pieces of work that several processes share: ranks, tasks of a cluster, other runs."""

import contextlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from near.common.locks import Lock, acquire
from near.common.processes import world_size


def share(
    numbers: Iterable[int],
    lock: Callable[[int], Path],
    done: Callable[[int], bool],
    work: Callable[[int], Callable[[], object] | None],
    wait: bool = True,
) -> int:
    """Do the pieces that no other process does.

    Free pieces come first. Then, with `wait`, those that other processes had locked: if one of them dies, its lock is
    freed and another process does its piece.

    Args:
        numbers: the pieces.
        lock: the file that is locked while a piece is done, and removed afterwards.
        done: whether a piece is complete; checked again under its lock.
        work: does a piece. What it returns, if anything, completes the piece: it is called in a thread while the next
            piece is done, under the piece's lock. Its error is raised here.
        wait: wait for pieces of other processes.

    Returns:
        How many pieces this process did.
    """
    numbers, count = list(numbers), 0
    start = int(os.environ.get("RANK", "0")) * len(numbers) // world_size()  # ranks start at different pieces
    completing: Future | None = None
    with ThreadPoolExecutor(1, "writer") as behind:  # waits for the thread, also after an error
        for waiting in (False, True) if wait else (False,):
            for number in numbers[start:] + numbers[:start]:
                if done(number) or (claim := acquire(lock(number), wait=waiting)) is None:
                    continue
                with contextlib.ExitStack() as claimed:
                    claimed.callback(_release, claim, lock(number))
                    if done(number):
                        continue
                    complete = work(number)
                    count += 1
                    if completing is not None:
                        completing.result()
                    completing = behind.submit(_complete, complete, claimed.pop_all()) if complete else None
            if completing is not None:  # before this process waits for others
                completing.result()
    return count


def _complete(complete: Callable[[], object], claimed: contextlib.ExitStack) -> None:
    with claimed:
        complete()


def _release(claim: Lock, path: Path) -> None:
    path.unlink(missing_ok=True)
    claim.close()

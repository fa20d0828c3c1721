"""A progress bar that one of several processes shows."""

from collections.abc import Callable

from tqdm import tqdm

from near.common.processes import is_main

Progress = Callable[[int], object]


def bar(total: int, doing: str, unit: str = "text") -> tqdm:
    """A progress bar with the time left; quick work shows none, and of several processes one does."""
    return tqdm(total=total, desc=doing, unit=unit, mininterval=1, delay=1, disable=not is_main())


Progress = Callable[[int], object]  # told how many rows of the pool were searched since the last call

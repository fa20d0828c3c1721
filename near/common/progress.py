"""A progress bar; of several processes only the main one shows it."""

from collections.abc import Callable

from tqdm import tqdm

from near.common.processes import is_main

Progress = Callable[[int], object]  # called with the rows that were searched since the last call


def bar(total: int, doing: str, unit: str = "text") -> tqdm:
    """A progress bar with the remaining time; work of less than a second shows none. `doing`: the label."""
    return tqdm(total=total, desc=doing, unit=unit, mininterval=1, delay=1, disable=not is_main())

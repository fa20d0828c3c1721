"""A progress bar; of several processes only the main one shows it."""

from collections.abc import Callable

from tqdm import tqdm

from near.common.processes import is_main

Progress = Callable[[int], object]  # called with the rows that were searched since the last call


def bar(total: int, doing: str, unit: str = "text", done: int = 0) -> tqdm:
    """A progress bar with the remaining time; work of less than a second shows none.

    Args:
        total: units of work.
        doing: the label.
        unit: of the work.
        done: units that were done before, at no cost.
    """
    return tqdm(total=total, initial=done, desc=doing, unit=unit, mininterval=1, delay=1, disable=not is_main())

"""Results that are computed once and then read from the cache: complete or absent, made by one process at a time."""

import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from near.common.errors import UserError, one_line
from near.common.files import aside, folder_aside, write_npy
from near.common.locks import lock_file, locked

log = logging.getLogger(__name__)
T = TypeVar("T")


class Unusable(Exception):
    """A cached result that can't be used; the message is the reason."""


DAMAGED = (Unusable, UserError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def cached(
    path: Path,
    make: Callable[[Path], object],
    read: Callable[[Path], T],
    lock: Path | None = None,
    again: bool = False,
) -> T:
    """Read the result at `path`, which is made first if it is missing or damaged.

    Of several processes one makes the result; the others wait and read it.

    Args:
        path: a folder <cache_dir>/PART/KEY, or a file there if it has a suffix.
        make: writes the result to a temporary path (an empty folder, or no file yet), which replaces `path` when `make`
            returns. A process that is killed before leaves nothing at `path`.
        read: returns the result. It raises one of DAMAGED for a result that can't be used, which is logged, and the
            result is made again.
        lock: the lock's file; None: <cache_dir>/locks/KEY.
        again: make the result even if it exists.

    Returns:
        What `read` returns.
    """
    with locked(lock or lock_file(path.parent.parent, path.stem)):
        if path.exists() and not again:
            try:
                return read(path)
            except DAMAGED as error:
                reason = one_line(error)
                log.warning(f"{reason if str(path) in reason else f'{path}: {reason}'}; it is made again")
        with aside(path) if path.suffix else folder_aside(path, replace=True) as new:
            make(new)
        return read(path)


def existing(path: Path, read: Callable[[Path], T]) -> T | None:
    """The result at `path`; None if it is missing or damaged. For results that several processes make together."""
    try:
        return read(path) if path.exists() else None
    except DAMAGED:
        return None


def cached_array(path: Path, make: Callable[[], np.ndarray], shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The array in the file `path` (.npy), which is made first if it is missing, damaged or of another shape."""

    def read(path: Path) -> np.ndarray:
        array = np.load(path, allow_pickle=False)
        if shape is not None and array.shape != shape:
            raise Unusable(f"its shape is {array.shape}, not {shape}")
        return array

    return cached(path, lambda new: write_npy(new, make()), read)

"""Arrays of many rows, computed chunk by chunk by any number of processes.

A chunk is one safetensors file, complete or absent. A thread writes it while the next one is computed, so a killed
process loses the chunk in work and the one that is being written. Ranks, and other runs that need the same arrays at
the same time, share the chunks.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from near.common.files import aside
from near.common.pieces import share
from near.common.progress import bar

Work = Callable[[np.ndarray, Callable[[int], object]], dict[str, np.ndarray]]


class Chunks:
    """Arrays of n rows in `folder`. `parts`: the positions of each chunk's rows, int64; together 0 to n - 1."""

    def __init__(self, folder: Path, parts: list[np.ndarray]):
        self.folder, self.parts = folder, parts
        self.computed = 0  # chunks that this process computed

    def path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def compute(self, work: Work, doing: str, together: int = 1) -> None:
        """Compute the chunks that are missing.

        Args:
            work: (positions, progress) -> arrays by name, of the rows at these positions; it calls progress with the
                number of rows done.
            doing: the label of the progress bar.
            together: so many chunks in a row are computed by one call of `work`, by one process.

        Raises:
            OSError: a chunk can't be written, as on a full disk.
        """
        missing = [number for number in range(len(self.parts)) if not self.whole(number)]
        total, left = sum(map(len, self.parts)), sum(len(self.parts[number]) for number in missing)
        elsewhere = {number for number in missing if not self.path(number).exists()}  # may be computed elsewhere
        groups: dict[int, list[int]] = {}  # by the number of the first chunk, whether it is missing or not
        for number in missing:
            groups.setdefault(number // together * together, []).append(number)

        with bar(total, doing, "row", total - left) as progress:

            def compute(first: int) -> Callable[[], None] | None:
                numbers = [number for number in groups[first] if not self.whole(number)]
                if not numbers:  # a process with other groups was faster
                    return None
                elsewhere.difference_update(numbers)
                self._count(elsewhere, progress.update)
                arrays = work(np.concatenate([self.parts[number] for number in numbers]), progress.update)
                self.computed += len(numbers)
                return functools.partial(self._write, numbers, arrays)

            share(groups, self._lock, lambda first: all(map(self.whole, groups[first])), compute)
            progress.update(progress.total - progress.n)

    def _count(self, elsewhere: set[int], progress: Callable[[int], object]) -> None:
        """Count the rows of chunks that other processes have written, and remove these from `elsewhere`."""
        names = set(os.listdir(self.folder)) if elsewhere and self.folder.is_dir() else set()
        written = {number for number in elsewhere if self.path(number).name in names}
        elsewhere -= written
        progress(sum(len(self.parts[number]) for number in written))

    def _write(self, numbers: list[int], arrays: dict[str, np.ndarray]) -> None:
        """Write chunks. arrays: of their rows, one chunk's after the other's."""
        start = 0
        for number in numbers:
            stop = start + len(self.parts[number])
            with aside(self.path(number)) as temporary:
                save_file({name: values[start:stop] for name, values in arrays.items()}, temporary)
            start = stop

    def _lock(self, number: int) -> Path:
        return self.path(number).with_suffix(".lock")

    def whole(self, number: int) -> bool:
        """Whether a chunk exists and is complete."""
        try:
            with safe_open(self.path(number), framework="numpy"):
                return True
        except (FileNotFoundError, SafetensorError):
            return False

    def read(self, number: int, name: str) -> np.ndarray:
        """Read an array of a chunk, its rows in the order of `parts`."""
        with safe_open(self.path(number), framework="numpy") as file:
            return file.get_tensor(name)

    def gathered(self, name: str) -> np.ndarray:
        """Read an array of all chunks, (n, ...); its rows have the same shape in all of them."""
        rows = np.concatenate([self.read(number, name) for number in range(len(self.parts))])
        out = np.empty_like(rows)
        out[np.concatenate(self.parts)] = rows
        return out

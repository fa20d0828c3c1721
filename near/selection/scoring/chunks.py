"""Arrays of many rows, computed chunk by chunk by any number of processes; a killed process loses one chunk.

A chunk is one safetensors file, complete or absent. Ranks, and other runs that need the same arrays at the same time,
share the chunks.
"""

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

    def compute(self, work: Work, doing: str) -> None:
        """Compute the chunks that are missing.

        Args:
            work: (positions, progress) -> arrays by name, of the rows at these positions; it calls progress with the
                number of rows done.
            doing: the label of the progress bar.
        """
        with bar(sum(map(len, self.parts)), doing, "row") as progress:

            def compute(number: int) -> None:
                arrays = work(self.parts[number], progress.update)
                with aside(self.path(number)) as temporary:
                    save_file(arrays, temporary)

            self.computed += share(range(len(self.parts)), self._lock, self.whole, compute)
            progress.update(progress.total - progress.n)

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

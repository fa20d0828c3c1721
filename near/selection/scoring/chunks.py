"""Arrays of many rows, computed chunk by chunk by however many processes there are; a killed one loses its chunk.

A chunk is one safetensors file that is whole or not there. Ranks, and runs that need the same at the same time, take
chunks that nobody has.
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
    """Rows 0 to n - 1 of some arrays in `folder`, cut into `parts`, int64 positions that together are all rows."""

    def __init__(self, folder: Path, parts: list[np.ndarray]):
        self.folder, self.parts = folder, parts
        self.computed = 0  # chunks that this process computed

    def path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def compute(self, work: Work, doing: str) -> None:
        """See that all chunks are there. `work` gives the arrays of some rows, told by their positions, and calls what
        it is handed with the number of rows done."""
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
        """Whether a chunk is there and not cut short."""
        try:
            with safe_open(self.path(number), framework="numpy"):
                return True
        except (FileNotFoundError, SafetensorError):
            return False

    def read(self, number: int, name: str) -> np.ndarray:
        """An array of a chunk, its rows in the order of `parts`; read when it is asked for, from a memory map."""
        with safe_open(self.path(number), framework="numpy") as file:
            return file.get_tensor(name)

    def gathered(self, name: str) -> np.ndarray:
        """An array whose rows have one shape in all chunks, (n, ...)."""
        found = [self.read(number, name) for number in range(len(self.parts))]
        out = np.empty((sum(map(len, found)), *found[0].shape[1:]), dtype=found[0].dtype)
        out[np.concatenate(self.parts)] = np.concatenate(found)
        return out

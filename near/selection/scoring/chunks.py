"""Arrays of many rows, computed chunk by chunk by however many processes there are; a killed one loses its chunk.

A chunk is one safetensors file that is whole or not there. Ranks, and runs that need the same at the same time, take
chunks that nobody has.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from near.common.files import aside
from near.common.locks import acquire
from near.common.processes import world_size
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
        count = len(self.parts)
        first = int(os.environ.get("RANK", "0")) * count // world_size()  # ranks begin apart
        with bar(sum(map(len, self.parts)), doing, "row") as progress:
            for wait in (False, True):  # then those that others were at
                for number in [*range(first, count), *range(first)]:
                    self._compute_if_free(number, work, wait, progress.update)
            progress.update(progress.total - progress.n)

    def _compute_if_free(self, number: int, work: Work, wait: bool, progress: Callable[[int], object]) -> None:
        if self.whole(number):
            return
        held = acquire(self.path(number).with_suffix(".lock"), wait=wait)
        if held is None:
            return
        try:
            if not self.whole(number):
                arrays = work(self.parts[number], progress)
                with aside(self.path(number)) as temporary:
                    save_file(arrays, temporary)
                self.computed += 1
        finally:
            held.close()
            self.path(number).with_suffix(".lock").unlink(missing_ok=True)

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

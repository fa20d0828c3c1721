"""Vectors that are read piece by piece into a buffer of the reader's: from the store, an array or a file."""

from typing import Protocol

import numpy as np

from near.errors import UserError
from near.store import Store


class Vectors(Protocol):
    """float32 vectors (n, dim), finite."""

    n: int
    dim: int

    def read(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        """Put vectors `rows` (a slice without step, or ascending int64 (m,)) into `out`, float32 (m, dim)."""


class StoredVectors:
    """Vectors of a store, by their places, int64 (n,). Cheap to pickle but for the places."""

    def __init__(self, store: Store, places: np.ndarray):
        self.store, self.places = store, places
        self.n = len(places)
        self.dim = store.read(places[:1]).shape[1]

    def read(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        self.store.read(self.places[rows], out)


class ArrayVectors:
    """An array (n, dim) of numbers; `normalise`: its rows at unit length, zeros as they are.

    Of a memory map the file is read, not the map, which would stay in memory.
    """

    def __init__(self, array: np.ndarray, name: str = "vectors", normalise: bool = False):
        if not isinstance(array, np.memmap):
            array = np.asarray(array)
        if array.ndim != 2 or not all(array.shape) or array.dtype.kind not in "fiu":
            raise UserError(f"{name}: {array.dtype} {array.shape} is not a matrix of numbers; give (rows, dimensions)")
        self.array, self.name, self.normalise = array, name, normalise
        self.n, self.dim = array.shape
        plain = isinstance(array, np.memmap) and array.flags.c_contiguous and array.base is not None
        self._file = str(array.filename) if plain and type(array.base).__name__ == "mmap" else None

    def read(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        if self._file is not None:
            into = out if self.array.dtype == out.dtype else np.empty(out.shape, self.array.dtype)
            self._from_file(rows, into)
            if into is not out:
                out[:] = into
        else:
            out[:] = self.array[rows]
        check_finite(out, rows, self.name)
        if self.normalise:
            lengths = np.sqrt(np.einsum("ij,ij->i", out, out, dtype=np.float64))
            out /= np.where(lengths > 0, lengths, 1).astype(np.float32)[:, None]

    def _from_file(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        width = self.dim * self.array.dtype.itemsize
        with open(self._file, "rb", buffering=0) as file:
            if isinstance(rows, slice):
                file.seek(self.array.offset + rows.indices(self.n)[0] * width)
                return read_whole(file, out)
            starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
            for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
                file.seek(self.array.offset + int(rows[start]) * width)
                read_whole(file, out[start:stop])


def read_whole(file, out: np.ndarray) -> None:
    """Fill the contiguous `out` from an unbuffered file; a file that ends before is an OSError."""
    view, done = memoryview(out).cast("B"), 0
    while done < len(view):
        got = file.readinto(view[done:])
        if not got:
            raise OSError(f"{file.name} ended {len(view) - done} bytes too early")
        done += got


def check_finite(vectors: np.ndarray, rows: slice | np.ndarray, name: str) -> None:
    """UserError for the first vector that holds NaN or infinity. A sum shows whether there can be one."""
    with np.errstate(all="ignore"):
        if np.isfinite(vectors.sum()):
            return
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        first = bad[0] + rows.start if isinstance(rows, slice) and rows.start else bad[0]
        row = rows[bad[0]] if isinstance(rows, np.ndarray) else first
        raise UserError(f"{name}: row {row} holds NaN or infinity; leave it out or embed it again")

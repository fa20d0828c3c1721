"""Vectors of the store, an array or a memory-mapped file, read block by block into the caller's buffer."""

import threading

import numpy as np

from near.common.errors import UserError
from near.common.files import read_whole
from near.embedding.store import Store

_largest_lock = threading.Lock()  # of ArrayVectors.largest, as blocks are read by several threads


class StoredVectors:
    """Vectors of a store at `offsets`, int64 (n,). Pickled without the vectors."""

    def __init__(self, store: Store, offsets: np.ndarray):
        self.store, self.offsets, self.largest = store, offsets, 1.0  # embedders give unit lengths
        self.n = len(offsets)
        self.dim = store.read(offsets[:1]).shape[1]

    def read(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        self.store.read(self.offsets[rows], out)


class ArrayVectors:
    """The rows of an array, as float32.

    A memory map is read through its file: pages of the map would count as this process's memory.

    Args:
        array: (n, dim), any integers or floats.
        name: what errors call it.
        normalise: scale rows to length 1; zero rows stay zero.

    Raises:
        UserError: the array is not such a matrix; on reading, for a row with NaN, infinity or beyond float32.
    """

    def __init__(self, array: np.ndarray, name: str = "vectors", normalise: bool = False):
        if not isinstance(array, np.memmap):
            array = np.asarray(array)
        if array.ndim != 2 or not all(array.shape) or array.dtype.kind not in "fiu":
            raise UserError(f"{name}: {array.dtype} {array.shape} is not a matrix of numbers; give (rows, dimensions)")
        self.array, self.name, self.normalise = array, name, normalise
        self.n, self.dim = array.shape
        self.largest = 1.0 if normalise else 0.0
        self._file, self._begin = _file_of(array)

    def read(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        if self._file is not None:
            values = out if self.array.dtype == out.dtype else np.empty(out.shape, self.array.dtype)
            self._from_file(rows, values)
        else:
            values = self.array[rows]
        check_finite(values, rows, self.name)
        if self.normalise:
            _normalise(values, out)
            return
        if values is not out:
            with np.errstate(over="ignore"):
                out[:] = values
            check_finite(out, rows, self.name, "is too large for float32")
        squares = np.einsum("ij,ij->i", out, out).max(initial=0.0)
        with _largest_lock:
            self.largest = max(self.largest, float(squares) ** 0.5)

    def _from_file(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        width = self.dim * self.array.dtype.itemsize
        with open(self._file, "rb", buffering=0) as file:
            if isinstance(rows, slice):
                file.seek(self._begin + rows.indices(self.n)[0] * width)
                return read_whole(file, out)
            starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
            for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
                file.seek(self._begin + int(rows[start]) * width)
                read_whole(file, out[start:stop])


def _file_of(array: np.ndarray) -> tuple[str | None, int]:
    """The file of a memory map or of a slice of its rows, and the array's first byte in it; None where the array must
    be read from memory, as a copy-on-write map that was changed."""
    root = array
    while isinstance(root, np.memmap) and isinstance(root.base, np.memmap):
        root = root.base
    if (
        not isinstance(root, np.memmap)
        or root.mode == "c"
        or not array.flags.c_contiguous
        or not root.flags.c_contiguous
    ):
        return None, 0
    if type(root.base).__name__ != "mmap" or root.filename is None:
        return None, 0
    return str(root.filename), root.offset + array.ctypes.data - root.ctypes.data


def _normalise(values: np.ndarray, out: np.ndarray) -> None:
    """Write `values` scaled to length 1 into `out`, float32; zeros stay. In float64 where squares overflow float32."""
    if values.dtype == np.float32:
        with np.errstate(all="ignore"):
            lengths = np.sqrt(np.einsum("ij,ij->i", values, values))
        if ((lengths > 1e-15) & (lengths < 1e15)).all():
            np.divide(values, lengths[:, None], out=out)
            return
    for start in range(0, len(values), 1024):
        part = values[start : start + 1024].astype(np.float64)
        part /= np.maximum(np.abs(part).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        lengths = np.sqrt((part * part).sum(axis=1, keepdims=True))
        out[start : start + 1024] = part / np.where(lengths > 0, lengths, 1)


def check_finite(
    vectors: np.ndarray, rows: slice | np.ndarray, name: str, fault: str = "holds NaN or infinity"
) -> None:
    """UserError for the first vector with NaN or infinity. The sum of all is finite where there is none: quick."""
    with np.errstate(all="ignore"):
        if vectors.dtype.kind != "f" or np.isfinite(vectors.sum()):
            return
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        row = rows[bad[0]] if isinstance(rows, np.ndarray) else bad[0] + (rows.start or 0)
        raise UserError(f"{name}: row {row} {fault}; leave it out or embed it again")

"""The store of embeddings: one vector for each (space, text), shared by all runs, processes and hosts.

A space (see Embedder) is a folder <cache_dir>/embeddings/KEY of shards: safetensors files of `keys` (uint64 (n, 2), see
near/common/keys.py) and `vectors` (float32 or float16 (n, dim)). A shard is written aside and renamed, so that it is
complete or absent, and never changes; its name is the SHA-256 of its bytes, so that damage shows. A claim is a file of
the keys that one process is embedding, locked while that process lives. An offset is a vector's place in the store:
its shard's number in Store.shards, shifted by ROW_BITS, plus its row.
"""

import contextlib
import hashlib
import json
import logging
import os
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from near.common.errors import UserError, one_line
from near.common.files import aside, cache_folder, digest, note_use, read_whole, write_json
from near.common.keys import Sorted
from near.common.locks import acquire, locked
from near.common.text import plural
from near.embedding.embedders.base import Embedder

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"
ROW_BITS = 32  # the low bits of an offset, which are the row within a shard


class Store:
    """Vectors of one space. While it is open nobody can prune the space; `close` it, or use it as a context."""

    def __init__(self, cache_dir: str | Path, space: dict, dtype: str = "float32", model: str | None = None):
        """space: see Embedder.space; dtype: of stored vectors; model: its configured name, for people."""
        self._arguments = (str(Path(cache_dir).expanduser().resolve()), space, dtype, model)
        self.folder = cache_folder(cache_dir, "embeddings", digest(space))
        self.dtype = np.dtype(dtype)
        self._lock = acquire(self.folder / "lock", shared=True)
        if not (self.folder / "space.json").exists():
            write_json(self.folder / "space.json", {**space, "model": model} if model else space)
        note_use(self.folder / "lock")  # its last use
        self.shards: list[str] = []  # an offset's shard is a position in this list
        self._numbers: dict[str, int] = {}
        self._seen: set[str] = set()  # shards listed by the last look-up or claim
        self._arrived = np.empty(0, dtype=np.uint64)  # first halves of the keys that others wrote since, sorted

    @classmethod
    def of(cls, embedder: Embedder, cache_dir: str | Path) -> "Store":
        """The store of an embedder's space."""
        return cls(cache_dir, embedder.space, embedder.store_dtype, embedder.model)

    def __reduce__(self):
        return _reopened, (self._arguments, self.shards)  # reopened where it is unpickled; offsets stay valid

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._lock.close()

    def offsets(self, keys: Sorted) -> np.ndarray:
        """Offsets of the vectors of n keys, int64 (n,) in the order of `keys.order`; -1: not stored, or a repeated key.

        Every shard with one of the keys is read whole and checked; a damaged one is logged and set aside.
        """
        offsets = np.full(len(keys.order), -1, dtype=np.int64)
        names = self._listed()
        self._seen, self._arrived = set(names), np.empty(0, dtype=np.uint64)
        for name in names:
            try:
                at = keys.find(self._keys(name))
                rows = np.flatnonzero(at >= 0)
                if not len(rows):
                    continue
                self._check(name)
            except FileNotFoundError:  # another process has just set it aside
                continue
            except _Damaged:
                self._set_aside(name)
                continue
            offsets[at[rows]] = (self._number(name) << ROW_BITS) | rows
        return offsets

    def read(self, offsets: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The vectors at `offsets`, int64 (n,), as float32 (n, dim), written into `out` where it is not None.

        At most one shard is in memory beside it. Files are read, not mapped: pages of a map would count as this
        process's memory.

        Raises:
            UserError: a shard was removed or damaged.
        """
        shards = offsets >> ROW_BITS
        order = np.argsort(shards, kind="stable")
        begins = np.flatnonzero(np.diff(shards[order], prepend=-1))
        for at in np.split(order, begins[1:]) if len(order) else []:
            path = self.folder / self.shards[shards[at[0]]]
            try:
                with open(path, "rb", buffering=0) as file:
                    stored = _Stored(file)
                    if out is None:
                        out = np.empty((len(offsets), stored.dim), dtype=np.float32)
                    _copy(stored, offsets[at] & ((1 << ROW_BITS) - 1), out, at)
            except (_Damaged, FileNotFoundError) as error:
                raise UserError(f"{path} was removed or damaged ({error}); run again") from error
        return np.empty((0, 0), dtype=np.float32) if out is None else out

    @contextlib.contextmanager
    def claim(self, keys: np.ndarray) -> Iterator[np.ndarray]:
        """Within the block, keep other processes from embedding the texts of `keys`, uint64 (n, 2).

        Yields bool (n,): the texts to embed here, which no living process has claimed and no process has stored since
        the last look-up.
        """
        folder, claim_file, path = self.folder / "claims", None, None
        try:
            with locked(self.folder / "claims.lock"):
                is_ours = ~self._claimed(keys, folder)  # claims before shards: a claim ends when its shard is there
                is_ours &= ~self._stored_since(keys)
                if is_ours.any():
                    path = folder / uuid.uuid4().hex
                    claim_file = acquire(path)
                    claim_file.write(np.ascontiguousarray(keys[is_ours]).tobytes())
            yield is_ours
        finally:
            if claim_file is not None:
                path.unlink(missing_ok=True)
                claim_file.close()

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Write one shard.

        Args:
            keys: uint64 (n, 2).
            vectors: (n, dim), stored in the store's dtype.

        Returns:
            int64 (n,), the vectors' offsets.

        Raises:
            UserError: a vector is not finite.
        """
        stored = np.ascontiguousarray(vectors, dtype=self.dtype)
        if not np.isfinite(stored).all():
            raise UserError(
                f"the embedder returned {plural(int((~np.isfinite(stored)).any(axis=1).sum()), 'vector')} with NaN "
                "or inf; try embedder.dtype=float32"
            )
        content = save({"keys": np.ascontiguousarray(keys), "vectors": stored})
        name = hashlib.sha256(content).hexdigest()[:32] + SUFFIX
        self._seen.add(name)
        with aside(self.folder / name) as temporary, open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return (self._number(name) << ROW_BITS) | np.arange(len(keys))

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self.shards)
            self.shards.append(name)
        return self._numbers[name]

    def _listed(self) -> list[str]:
        return sorted(e.name for e in os.scandir(self.folder) if e.name.endswith(SUFFIX) and e.name[0] != ".")

    def _opened(self, name: str):
        path = self.folder / name
        try:
            return safe_open(path, framework="numpy")
        except FileNotFoundError:
            raise
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise _Damaged(one_line(error)) from error

    def _keys(self, name: str) -> np.ndarray:
        with self._opened(name) as file:
            try:
                keys = file.get_tensor("keys")
            except SafetensorError as error:
                raise _Damaged(one_line(error)) from error
        if keys.dtype != np.uint64 or keys.ndim != 2 or keys.shape[1] != 2:
            raise _Damaged(f"its keys are {keys.dtype} {keys.shape}, not uint64 (n, 2)")
        return keys

    def _check(self, name: str) -> None:
        """Raise _Damaged unless the shard's bytes are those that were written."""
        self._keys(name)
        with open(self.folder / name, "rb") as file:
            state = hashlib.sha256()
            while block := file.read(1 << 20):
                state.update(block)
        if name != state.hexdigest()[:32] + SUFFIX:
            raise _Damaged("its bytes changed")

    def _set_aside(self, name: str) -> None:
        with locked(self.folder / "damaged.lock"):  # another process may have set it aside and written it again
            try:
                self._check(name)
            except FileNotFoundError:
                return
            except _Damaged as reason:
                (self.folder / "damaged").mkdir(exist_ok=True)
                os.replace(self.folder / name, self.folder / "damaged" / name)
                path = self.folder / name
                log.warning(f"{path} is damaged ({reason}): it is set aside, and its texts are embedded again")

    def _claimed(self, keys: np.ndarray, folder: Path) -> np.ndarray:
        """bool (n,): which keys living processes are embedding. Claims of dead processes are removed."""
        claimed = np.zeros(len(keys), dtype=bool)
        for path in sorted(folder.glob("*")) if folder.is_dir() else []:
            claim_file = acquire(path, wait=False)
            if claim_file is not None:
                path.unlink(missing_ok=True)
                claim_file.close()
                continue
            with contextlib.suppress(FileNotFoundError):
                content = path.read_bytes()
                whole = content[: len(content) // 16 * 16]  # a full disk may have cut the file
                claimed |= _among(keys, np.frombuffer(whole, dtype=np.uint64).reshape(-1, 2))
        return claimed

    def _stored_since(self, keys: np.ndarray) -> np.ndarray:
        """bool (n,): which keys are in shards that other processes wrote since the last look-up."""
        for name in self._listed():
            if name not in self._seen:
                self._seen.add(name)
                with contextlib.suppress(FileNotFoundError, _Damaged):
                    self._arrived = np.sort(np.concatenate([self._arrived, self._keys(name)[:, 0]]), kind="stable")
        if not len(self._arrived):
            return np.zeros(len(keys), dtype=bool)
        # by half of the key: a text wrongly taken for stored is missing at the next look-up
        at = np.minimum(np.searchsorted(self._arrived, keys[:, 0]), len(self._arrived) - 1)
        return self._arrived[at] == keys[:, 0]


def _reopened(arguments: tuple, shards: list[str]) -> Store:
    store = Store(*arguments)
    for name in shards:
        store._number(name)
    return store


def stored_rows(shard: Path) -> int:
    """Number of vectors in a shard, read from its header; 0 for a damaged one."""
    try:
        with safe_open(shard, framework="numpy") as file:
            return file.get_slice("keys").get_shape()[0]
    except (SafetensorError, OSError, json.JSONDecodeError):
        return 0


class _Damaged(Exception):
    pass


def _among(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool (n,): which of `keys`, uint64 (n, 2), are among `others`, uint64 (m, 2)."""
    pairs = np.dtype([("high", np.uint64), ("low", np.uint64)])
    return np.isin(np.ascontiguousarray(keys).view(pairs).ravel(), np.ascontiguousarray(others).view(pairs).ravel())


class _Stored:
    """The vectors of an open shard."""

    def __init__(self, file):
        self.file = file
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 1 << 20)))["vectors"]
            self.dtype: np.dtype = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}[header["dtype"]]
            self.rows, self.dim = header["shape"]
            self.begin = 8 + length + header["data_offsets"][0]
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise _Damaged(f"its header can't be read: {one_line(error)}") from error

    def read(self, start: int, out: np.ndarray) -> None:
        """Read vectors from `start` on into `out`, C-contiguous (n, dim)."""
        raw = out if out.dtype == self.dtype else np.empty(out.shape, dtype=self.dtype)
        self.file.seek(self.begin + start * self.dim * self.dtype.itemsize)
        try:
            read_whole(self.file, raw)
        except OSError as error:
            raise _Damaged(one_line(error)) from error
        if raw is not out:
            out[:] = raw


def _copy(stored: _Stored, rows: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
    """Read vectors `rows` into `out[at]`: run by run of adjacent rows, or all between in one read if that is less."""
    starts = np.flatnonzero((np.diff(rows, prepend=-2) != 1) | (np.diff(at, prepend=-2) != 1))
    if len(starts) * 8 > stored.rows:  # a read of one row takes as long as one of eight
        least = rows.min()
        between = np.empty((rows.max() + 1 - least, stored.dim), dtype=np.float32)
        stored.read(least, between)
        out[at] = between[rows - least]
        return
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        stored.read(rows[start], out[at[start] : at[stop - 1] + 1])

"""The store of embeddings: one vector for each (space, text), shared by all runs, processes and hosts.

A space (see Embedder) is a folder under <cache_dir>/embeddings. In it lie shards: safetensors files of `keys` (uint64
(n, 2), see near/common/keys.py) and `vectors` (float32 or float16 (n, dim)). A shard is written aside and renamed, so
that it is whole or not there, and never changes; its name is the SHA-256 of its bytes, so that damage shows. A claim is
a file of keys that one process is embedding just now, locked as long as that process lives.
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

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"
ROWS = 32  # bits of a place that are the row within a shard


class Store:
    """Vectors of one space. While it is open nobody can prune the space; `close` it, or use it as a context."""

    def __init__(self, cache_dir: str | Path, space: dict, dtype: str = "float32", model: str | None = None):
        """`model`: the name under which the model was asked for, for people to read."""
        self._made_of = (str(Path(cache_dir).expanduser().resolve()), space, dtype, model)
        self.folder = cache_folder(cache_dir, "embeddings", digest(space))
        self.dtype = np.dtype(dtype)
        self._lock = acquire(self.folder / "lock", shared=True)
        if not (self.folder / "space.json").exists():
            write_json(self.folder / "space.json", {**space, "model": model} if model else space)
        note_use(self.folder / "lock")  # its last use
        self.shards: list[str] = []  # a place names its shard by the position in this list
        self._numbers: dict[str, int] = {}
        self._seen: set[str] = set()  # at the last look-up, or since
        self._arrived = np.empty(0, dtype=np.uint64)  # first halves of the keys that others wrote since, sorted

    def __reduce__(self):
        return _reopened, (self._made_of, self.shards)  # opened anew where it arrives, where its places stay good

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._lock.close()

    def places(self, wanted: Sorted) -> np.ndarray:
        """int64 (n,): for each place in `wanted.order` that begins a run, where its vector is; -1: not stored.

        Every shard that holds one of them is read whole and checked; a damaged one is named and set aside.
        """
        found = np.full(len(wanted.order), -1, dtype=np.int64)
        names = self._listed()
        self._seen, self._arrived = set(names), np.empty(0, dtype=np.uint64)
        for name in names:
            try:
                at = wanted.find(self._keys(name))
                rows = np.flatnonzero(at >= 0)
                if not len(rows):
                    continue
                self._check(name)
            except FileNotFoundError:  # set aside by another process in this moment
                continue
            except _Damaged:
                self._set_aside(name)
                continue
            found[at[rows]] = (self._number(name) << ROWS) | rows
        return found

    def read(self, places: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """float32 (n, dim), the vectors at `places`, into `out` where given; no more than a shard is held beside it.

        Files are read, not mapped: a map's pages would count as this process's memory.
        """
        shards = places >> ROWS
        order = np.argsort(shards, kind="stable")
        begins = np.flatnonzero(np.diff(shards[order], prepend=-1))
        for at in np.split(order, begins[1:]) if len(order) else []:
            path = self.folder / self.shards[shards[at[0]]]
            try:
                with open(path, "rb", buffering=0) as file:
                    stored = _Stored(file)
                    if out is None:
                        out = np.empty((len(places), stored.dim), dtype=np.float32)
                    _copy(stored, places[at] & ((1 << ROWS) - 1), out, at)
            except (_Damaged, FileNotFoundError) as error:
                raise UserError(f"{path} was removed or damaged ({error}); run again") from error
        return np.empty((0, 0), dtype=np.float32) if out is None else out

    @contextlib.contextmanager
    def claim(self, keys: np.ndarray) -> Iterator[np.ndarray]:
        """For the time of the block, keep other processes from embedding these texts.

        keys: uint64 (n, 2). Yields bool (n,): those that are ours to embed, being neither claimed by a living process
        nor stored since the last look-up.
        """
        folder, held, path = self.folder / "claims", None, None
        try:
            with locked(self.folder / "claims.lock"):
                mine = ~self._claimed(keys, folder)  # claims before shards: a claim ends when its shard is there
                mine &= ~self._stored_since(keys)
                if mine.any():
                    path = folder / uuid.uuid4().hex
                    held = acquire(path)
                    held.write(np.ascontiguousarray(keys[mine]).tobytes())
            yield mine
        finally:
            if held is not None:
                path.unlink(missing_ok=True)
                held.close()

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Write one shard; return the places of its vectors. Raises UserError for vectors that are not finite."""
        stored = np.ascontiguousarray(vectors, dtype=self.dtype)
        if not np.isfinite(stored).all():
            raise UserError(
                f"the embedder gave {int((~np.isfinite(stored)).any(axis=1).sum())} vectors with NaN or inf"
            )
        content = save({"keys": np.ascontiguousarray(keys), "vectors": stored})
        name = hashlib.sha256(content).hexdigest()[:32] + SUFFIX
        self._seen.add(name)
        with aside(self.folder / name) as temporary, open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return (self._number(name) << ROWS) | np.arange(len(keys))

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
            raise _Damaged("its keys have another form")
        return keys

    def _check(self, name: str) -> None:
        """Raise _Damaged unless the shard's bytes are those that were written."""
        self._keys(name)
        with open(self.folder / name, "rb") as file:
            state = hashlib.sha256()
            while block := file.read(1 << 20):
                state.update(block)
        if name != state.hexdigest()[:32] + SUFFIX:
            raise _Damaged("its bytes are not those that were written")

    def _set_aside(self, name: str) -> None:
        with locked(self.folder / "damaged.lock"):  # another process may have set it aside, and written it anew
            try:
                self._check(name)
            except FileNotFoundError:
                return
            except _Damaged as reason:
                (self.folder / "damaged").mkdir(exist_ok=True)
                os.replace(self.folder / name, self.folder / "damaged" / name)
                path = self.folder / name
                log.warning(f"{path} is damaged ({reason}): set aside, its texts are embedded again")

    def _claimed(self, keys: np.ndarray, folder: Path) -> np.ndarray:
        """bool (n,): which keys a living process is embedding. Claims of dead ones are removed."""
        claimed = np.zeros(len(keys), dtype=bool)
        for path in sorted(folder.glob("*")) if folder.is_dir() else []:
            held = acquire(path, wait=False)
            if held is not None:
                path.unlink(missing_ok=True)
                held.close()
                continue
            with contextlib.suppress(FileNotFoundError):
                content = path.read_bytes()
                whole = content[: len(content) // 16 * 16]  # a full disk may have cut it
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
        # by their first half: what is wrongly taken for stored is found missing at the next look-up
        at = np.minimum(np.searchsorted(self._arrived, keys[:, 0]), len(self._arrived) - 1)
        return self._arrived[at] == keys[:, 0]


def _reopened(made_of: tuple, shards: list[str]) -> Store:
    store = Store(*made_of)
    for name in shards:
        store._number(name)
    return store


def stored_rows(shard: Path) -> int:
    """Vectors in a shard, read from its header; 0 for one that is damaged."""
    try:
        with safe_open(shard, framework="numpy") as file:
            return file.get_slice("keys").get_shape()[0]
    except (SafetensorError, OSError, json.JSONDecodeError):
        return 0


class _Damaged(Exception):
    pass


def _among(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
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
        """Vectors `start` and following into the C-contiguous `out`."""
        raw = out if out.dtype == self.dtype else np.empty(out.shape, dtype=self.dtype)
        self.file.seek(self.begin + start * self.dim * self.dtype.itemsize)
        try:
            read_whole(self.file, raw)
        except OSError as error:
            raise _Damaged(one_line(error)) from error
        if raw is not out:
            out[:] = raw


def _copy(stored: _Stored, rows: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
    """Vectors `rows` into `out[at]`: run by run where there are few runs, else through one read of all between."""
    starts = np.flatnonzero((np.diff(rows, prepend=-2) != 1) | (np.diff(at, prepend=-2) != 1))
    if len(starts) * 8 > stored.rows:  # reading a row by itself costs as much as reading some eight in one go
        least = rows.min()
        between = np.empty((rows.max() + 1 - least, stored.dim), dtype=np.float32)
        stored.read(least, between)
        out[at] = between[rows - least]
        return
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        stored.read(rows[start], out[at[start] : at[stop - 1] + 1])

"""The store of embeddings: one vector for each (space, text), shared by all runs.

A space (see Embedder) is a folder under <cache_dir>/embeddings. In it lie shards: safetensors files of `keys`
(uint8 (n, 16), a hash of each text) and `vectors` (float32 (n, dim)). A shard is written aside and renamed, so that it
is whole or not there, and is never changed. Several processes may add at once: names do not collide, and a text that
two of them embed has the same vector twice.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from near.errors import UserError
from near.files import aside, cache_folder, digest, write_json

CHUNK = 2048  # texts embedded before they are written: what a kill can lose
KEY = np.dtype("V16")


def text_key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def keys_of(texts: list[str]) -> np.ndarray:
    """(n,) of 16-byte keys."""
    return np.frombuffer(b"".join(map(text_key, texts)), dtype=KEY)


class Store:
    """Vectors of one space. Look-ups see the shards that were there when the store was opened or last added to."""

    def __init__(self, cache_dir: str | Path, space: dict):
        self.folder = cache_folder(cache_dir, "embeddings", digest(space))
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "space.json").exists():
            write_json(self.folder / "space.json", space)
        self.shards: list[Path] = []
        self.keys = np.empty(0, dtype=KEY)  # sorted
        self._where = np.empty((0, 2), dtype=np.int64)  # shard and row of each key
        self.refresh()

    def refresh(self) -> None:
        """Take in the shards that have appeared."""
        new = sorted(set(self.folder.glob("*.safetensors")) - set(self.shards))
        keys, where = [self.keys], [self._where]
        for shard in new:
            with _opened(shard) as file:
                found = np.ascontiguousarray(file.get_tensor("keys")).view(KEY).ravel()
            keys.append(found)
            where.append(np.stack([np.full(len(found), len(self.shards)), np.arange(len(found))], axis=1))
            self.shards.append(shard)
        if new:
            together = np.concatenate(keys)
            order = np.argsort(together, kind="stable")
            self.keys, self._where = together[order], np.concatenate(where)[order]

    def __len__(self) -> int:
        return len(self.keys)

    def has(self, keys: np.ndarray) -> np.ndarray:
        """(n,) bool: which keys have a vector."""
        at = np.searchsorted(self.keys, keys)
        at[at == len(self.keys)] = 0
        return self.keys[at] == keys if len(self.keys) else np.zeros(len(keys), dtype=bool)

    def get(self, keys: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """float32 (n, dim) in the order of `keys`, into `out` where given. KeyError if one is not stored."""
        if not self.has(keys).all():
            raise KeyError(f"{int((~self.has(keys)).sum())} texts are not in the store")
        where = self._where[np.searchsorted(self.keys, keys)]
        for shard in np.unique(where[:, 0]):
            rows = np.flatnonzero(where[:, 0] == shard)
            with _opened(self.shards[shard]) as file:
                vectors = file.get_tensor("vectors")
            if out is None:
                out = np.empty((len(keys), vectors.shape[1]), dtype=np.float32)
            out[rows] = vectors[where[rows, 1]]
        return out

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Write one shard. Raises UserError for vectors that are not finite."""
        if not np.isfinite(vectors).all():
            raise UserError(
                f"the embedder gave {int((~np.isfinite(vectors)).any(axis=1).sum())} vectors with NaN or inf"
            )
        raw = np.ascontiguousarray(keys).view(np.uint8).reshape(len(keys), 16)
        name = f"{os.getpid()}-{uuid.uuid4().hex[:12]}.safetensors"
        with aside(self.folder / name) as temporary:
            save_file({"keys": raw, "vectors": np.ascontiguousarray(vectors, dtype=np.float32)}, temporary)
        self.refresh()

    def fill(self, texts: Iterator[list[str]], embed: Callable[[list[str]], np.ndarray]) -> tuple[np.ndarray, int, int]:
        """Embed the texts that are not stored, chunk by chunk; the chunks come as lists of any length.

        Returns the key of every text, in order, how many distinct texts there are and how many were embedded now.
        """
        all_keys, pending, embedded = [], {}, 0
        for part in texts:
            keys = keys_of(part)
            all_keys.append(keys)
            for i in np.flatnonzero(~self.has(keys)):
                pending.setdefault(keys[i].tobytes(), part[i])
            while len(pending) >= CHUNK:
                embedded += self._embed(pending, embed)
        while pending:
            embedded += self._embed(pending, embed)
        keys = np.concatenate(all_keys) if all_keys else np.empty(0, dtype=KEY)
        return keys, len(np.unique(keys)), embedded

    def _embed(self, pending: dict[bytes, str], embed: Callable[[list[str]], np.ndarray]) -> int:
        chunk = [(key, pending.pop(key)) for key in list(pending)[:CHUNK]]
        vectors = embed([text for _, text in chunk])
        self.add(np.frombuffer(b"".join(key for key, _ in chunk), dtype=KEY), vectors)
        return len(chunk)


def _opened(shard: Path):
    try:
        return safe_open(shard, framework="numpy")
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise UserError(f"{shard} is damaged ({error}); delete it, its texts are then embedded again") from error

"""Approximate search, shared by `ivf` and `hnsw`: an index is built once for a pool and cached, queries that come back
with fewer than k rows are searched wider, and every search measures its recall against exact search."""

import contextlib
import hashlib
import logging
import os
import time
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from near.common.cached import Unusable, cached
from near.common.errors import UserError, one_line
from near.common.files import digest, file_digest, note_use, read_json, write_json, write_npy
from near.common.keys import Sorted
from near.common.progress import Progress
from near.searching.indexes.base import Index, Vectors
from near.searching.indexes.flat import Flat
from near.searching.indexes.ties import with_slack
from near.searching.indexes.topk import pack, whole

log = logging.getLogger(__name__)

VERSION = 1  # of the defaults that null stands for, and of the cached files
BLOCK = 8192  # rows read and added at a time; fixed, because the graph depends on it
BATCH = 256  # queries searched at a time
PROBED = 64  # rows whose digest shows whether a cached index is of this pool
SAME = 1e-6  # scores of unit vectors that differ by less differ by rounding: no miss
LOW = 0.9  # warn of a recall below this
# FAISS's format holds arrays and no code, unlike a pickle; a file is read only if its digest is the one written.
INDEX, NUMBERS, MANIFEST = "index.faiss", "vector_of.npy", "manifest.json"


class Distinct:
    """The `n` distinct vectors of a pool, numbered by the rows where they come first.

    Copies would cut a graph into islands that don't link to each other, and use up a search's width. Takes 32 bytes a
    row.
    """

    def __init__(self, pool: Vectors, vector_of: np.ndarray):
        """vector_of: int64 (pool.n,), the number of each row's distinct vector."""
        self.pool, self.dim, self.vector_of = pool, pool.dim, vector_of
        self.rows = np.argsort(vector_of, kind="stable")  # rows of vector 0, ascending, then rows of vector 1, ...
        self.begin = np.concatenate(
            [[0], np.cumsum(np.bincount(vector_of))]
        )  # (n + 1,): rows of vector i are rows[begin[i]:begin[i + 1]]
        self.first = self.rows[self.begin[:-1]]
        self.n = len(self.first)

    @classmethod
    def of(cls, pool: Vectors) -> "Distinct":
        """Read the pool; vectors with the same bytes, by BLAKE2b-128, are one."""
        keys = np.empty((pool.n, 2), dtype=np.uint64)
        for start, block in _blocks(pool):
            _check_products(block)
            digests = b"".join(hashlib.blake2b(vector, digest_size=16).digest() for vector in block)
            keys[start : start + len(block)] = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
        distinct = Sorted(keys[:, 0], keys[:, 1])
        first = distinct.order[distinct.begins]
        number = np.empty(len(first), dtype=np.int64)
        number[np.argsort(first)] = np.arange(len(first))
        vector_of = np.empty(pool.n, dtype=np.int64)
        vector_of[distinct.order] = number[np.cumsum(distinct.begins) - 1]
        return cls(pool, vector_of)

    def blocks(self, progress: Progress = lambda rows: None) -> Iterator[np.ndarray]:
        """All distinct vectors in order, float32 (up to BLOCK, dim), in a buffer that the next block overwrites."""
        for start, block in _blocks(self.pool):
            a, b = np.searchsorted(self.first, [start, start + len(block)])
            if a < b:
                yield block if b - a == len(block) else block[self.first[a:b] - start]
            progress(len(block))

    def sample(self, size: int) -> np.ndarray:
        """`size` vectors drawn at random, always the same ones, float32 (size, dim)."""
        drawn = np.random.default_rng(0).choice(self.n, size, replace=False, shuffle=False)
        out = np.empty((size, self.dim), dtype=np.float32)
        self.pool.read(np.sort(self.first[drawn]), out)
        return out

    def keys(self, scores: np.ndarray, numbers: np.ndarray, k: int) -> np.ndarray:
        """Keys (near/searching/indexes/topk.py) of one query's k best rows, from its best distinct vectors.

        Args:
            scores: float32 (m,), best first.
            numbers: int64 (m,), the vectors; -1 stands for none.
            k: rows to return.

        Returns:
            uint64 (k,), best first, 0 where there are fewer.
        """
        scores, numbers = scores[numbers >= 0], numbers[numbers >= 0]
        copies = np.minimum(self.begin[numbers + 1] - self.begin[numbers], k)
        enough = int(np.searchsorted(np.cumsum(copies), k))  # the vectors up to this one have k rows
        if enough < len(scores) - 1:
            needed = scores >= scores[enough]
            scores, numbers, copies = scores[needed], numbers[needed], copies[needed]
        ends = np.cumsum(copies)
        at = np.repeat(self.begin[numbers] - ends + copies, copies) + np.arange(copies.sum())
        keys = np.zeros(k, dtype=np.uint64)
        best = np.sort(pack(np.repeat(scores, copies), self.rows[at]))[::-1][:k]
        keys[: len(best)] = best
        return keys


@dataclass(frozen=True)
class Built:
    """A FAISS index of a pool's distinct vectors. `manifest`: its key parts and parameters; `cached`: it was read."""

    index: faiss.Index
    vectors: Distinct
    manifest: dict
    cached: bool = False


class Approximate(Index):
    """A FAISS index over the pool's distinct vectors: n * dim * 4 bytes in memory and in the folder `cache`.

    A subclass defines how it is built, how wide it searches, and the name of the option for that width.
    """

    name: str
    width_key: str

    def __init__(self, built: dict, width: int | None, recall_queries: int):
        """built: the structure's parameters as configured; width: how wide to search, None: chosen from n and k."""
        super().__init__()
        self.structure_key = {"index": self.name, "version": VERSION, **built}
        self.width_option, self.recall_queries = width, recall_queries

    @property
    def signature(self) -> dict:
        return {**self.structure_key, "exact": False, self.width_key: self.width_option}

    @abstractmethod
    def structure(self, n: int) -> dict:
        """The parameters for n distinct vectors. Raises UserError for parameters that n vectors do not allow."""

    @abstractmethod
    def build(self, vectors: Distinct, structure: dict, progress: Progress) -> faiss.Index:
        """Build the index; `progress` is called with pool.n rows in total."""

    @abstractmethod
    def width(self, n: int, k: int, structure: dict) -> int:
        """The first search's width for k of n vectors."""

    @abstractmethod
    def widest(self, n: int, structure: dict) -> int:
        """The largest useful width: beyond it, exact search costs less or finds the same."""

    @abstractmethod
    def find(self, index: faiss.Index, queries: np.ndarray, k: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores (n_queries, k) and vectors' numbers (n_queries, k), best first, -1 where fewer were reached."""

    def search(self, queries, pool, k, progress=lambda rows: None, cache=None):
        """See Index.search. `figures` are those of recall, building and widening."""
        _check_products(queries)
        built = self._cached(cache, pool, progress) if cache is not None else self._built(pool, progress)
        left = pool.n if built.cached else pool.n - pool.n // 2
        keys, widened = self._full(built, queries, k, _scaled(progress, len(queries), left))
        scores, rows = whole(keys)
        self._log(self._recall(queries, pool, scores), len(queries), k, built, widened, cache)
        return scores, rows

    def _built(self, pool: Vectors, progress: Progress) -> Built:
        started = time.perf_counter()
        vectors = Distinct.of(pool)
        structure = self.structure(vectors.n)
        log.info(f"index={self.name}: building from {vectors.n} distinct vectors ({_shown(structure)})")
        with self._faults("built"):
            index = self.build(vectors, structure, _scaled(progress, pool.n, pool.n // 2))
        seconds = round(time.perf_counter() - started, 3)
        return Built(index, vectors, {**self._key_parts(pool), "structure": structure, "build_seconds": seconds})

    def _key_parts(self, pool: Vectors) -> dict:
        """What a cached index must have been built from. Its folder's name says more, but folders may be copied."""
        drawn = np.sort(np.random.default_rng(0).choice(pool.n, min(PROBED, pool.n), replace=False, shuffle=False))
        rows = np.empty((len(drawn), pool.dim), dtype=np.float32)
        pool.read(drawn, rows)
        return {"built": self.structure_key, "n": pool.n, "dim": pool.dim, "probe": hashlib.sha256(rows).hexdigest()}

    def _cached(self, keep: Path, pool: Vectors, progress: Progress) -> Built:
        """The index in `keep`; built and saved there if it is missing, damaged or of another pool."""
        built = None

        def make(new: Path) -> None:
            nonlocal built
            built = self._built(pool, progress)
            _write_index(built.index, new / INDEX)
            write_npy(new / NUMBERS, built.vectors.vector_of)
            files = {name: file_digest(new / name) for name in (INDEX, NUMBERS)}
            manifest = {**built.manifest, "faiss": faiss.__version__, "sha256": files}
            write_json(new / MANIFEST, {**manifest, "digest": digest(manifest)})

        lock = keep.with_name(f"{keep.name}.lock")  # beside the folder, where `prune` looks for it
        return cached(keep, make, lambda folder: built or self._open(folder, pool), lock)

    def _open(self, keep: Path, pool: Vectors) -> Built:
        key_parts = self._key_parts(pool)
        try:
            manifest = read_json(keep / MANIFEST)
            files = {name: file_digest(keep / name) for name in (INDEX, NUMBERS)}
        except OSError as error:
            raise Unusable(f"{error.filename} can't be read ({error.strerror})") from error
        except UserError:
            raise Unusable(f"{keep / MANIFEST} is damaged") from None
        if manifest.pop("digest", None) != digest(manifest):
            raise Unusable(f"{keep / MANIFEST} is damaged")
        if {key: manifest.get(key) for key in key_parts} != key_parts:
            raise Unusable(f"{keep} is of another pool or of other parameters")
        for name, sha256 in files.items():
            if manifest["sha256"][name] != sha256:
                raise Unusable(f"{keep / name} is damaged")
        try:
            index = faiss.read_index(str(keep / INDEX))
            vectors = Distinct(pool, np.load(keep / NUMBERS, allow_pickle=False))
        except (RuntimeError, ValueError) as error:
            raise Unusable(f"{keep} can't be read ({_reason(error)})") from error
        form = (index.ntotal, index.d, index.metric_type, manifest["structure"])
        if form != (vectors.n, pool.dim, faiss.METRIC_INNER_PRODUCT, self.structure(vectors.n)):
            raise Unusable(f"{keep / INDEX} is of another form")
        note_use(keep / MANIFEST)  # its last use
        return Built(index, vectors, manifest, cached=True)

    def _full(self, built: Built, queries: np.ndarray, k: int, progress: Progress) -> tuple[np.ndarray, dict]:
        """Keys (see topk.py) of k rows of each query, uint64 (n_queries, k), and figures of widening."""
        n, structure = built.vectors.n, built.manifest["structure"]
        width, widest = self.width(n, min(k, n), structure), self.widest(n, structure)
        first, keys = width, np.zeros((len(queries), k), dtype=np.uint64)
        self._search_batches(built, queries, np.arange(len(queries)), width, keys, progress)
        short = np.flatnonzero(keys[:, -1] == 0)
        count = len(short)
        while len(short) and width < widest:
            width = min(2 * width, widest)
            self._search_batches(built, queries, short, width, keys)
            short = short[keys[short, -1] == 0]
        if len(short):  # the index can't reach k rows for these
            keys[short] = pack(*Flat().search(np.ascontiguousarray(queries[short]), built.vectors.pool, k))
        if count:
            wider = f", {self.width_key} up to {width}" if width > first else ""
            exact = f", {len(short)} of them exactly" if len(short) else ""
            log.info(
                f"index={self.name}: {count} of {len(queries)} queries came back short and were searched again{wider}"
                f"{exact}"
            )
        figures = {"widened": count, "widened_to": width, "searched_exactly": len(short)}
        return keys, {"index_parameters": {**structure, self.width_key: first}, **figures}

    def _search_batches(
        self, built, queries, query_ids, width, keys, progress: Progress = lambda queries: None
    ) -> None:
        """Search for queries `query_ids`, int64 (m,), at this width; write their rows of `keys` (n_queries, k)."""
        k = keys.shape[1]
        for start in range(0, len(query_ids), BATCH):
            batch = query_ids[start : start + BATCH]
            with self._faults("searched"):
                scores, numbers = self.find(built.index, queries[batch], with_slack(k, built.vectors.n), width)
            for q, *result in zip(batch, scores, numbers, strict=True):
                keys[q] = built.vectors.keys(*result, k)
            progress(len(batch))

    def _recall(self, queries: np.ndarray, pool: Vectors, scores: np.ndarray) -> dict:
        """Recall on a sample of the queries: the share of rows that score no less than exact search's k-th. A row
        that ties with the k-th is no miss."""
        started, k = time.perf_counter(), scores.shape[1]
        size = min(self.recall_queries, len(queries))
        sample = np.sort(np.random.default_rng(0).choice(len(queries), size, replace=False))
        least = Flat().search(np.ascontiguousarray(queries[sample]), pool, k)[0][:, -1:]
        recall = float((scores[sample] >= least - SAME * np.maximum(1, np.abs(least))).mean())
        seconds = round(time.perf_counter() - started, 3)
        return {"recall": round(recall, 6), "recall_queries": size, "recall_at": k, "recall_seconds": seconds}

    def _log(self, recall: dict, n_queries: int, k: int, built: Built, widened: dict, keep: Path | None) -> None:
        seconds = built.manifest["build_seconds"]
        where = "" if keep is None else f", {'read from' if built.cached else 'saved in'} {keep}"
        self.figures = {**recall, "build_seconds": seconds, "index_cached": built.cached, **widened}
        log.info(
            f"index={self.name}: recall {recall['recall']:.3f} at max_K={k} on {recall['recall_queries']} of "
            f"{n_queries} queries, compared with exact search ({_shown(widened['index_parameters'])}; "
            f"{seconds:.1f} s to build{where})"
        )
        if recall["recall"] < LOW:
            log.warning(
                f"index={self.name}: recall {recall['recall']:.3f} is low; raise index.{self.width_key} (it was "
                f"{widened['index_parameters'][self.width_key]}), or use index=flat"
            )

    @contextlib.contextmanager
    def _faults(self, done: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what FAISS raises
            raise UserError(f"index={self.name} can't be {done} ({_reason(error)}); use index=flat") from error


def _blocks(pool: Vectors) -> Iterator[tuple[int, np.ndarray]]:
    """First row and vectors of each block, float32 (up to BLOCK, dim), all in one buffer."""
    buffer = np.empty((min(BLOCK, pool.n), pool.dim), dtype=np.float32)
    for start in range(0, pool.n, BLOCK):
        block = buffer[: min(BLOCK, pool.n - start)]
        pool.read(slice(start, start + len(block)), block)
        yield start, block


def _check_products(vectors: np.ndarray) -> None:
    """UserError where inner products might overflow, on which FAISS's k-means would abort the process."""
    with np.errstate(over="ignore"):
        if not np.isfinite(np.einsum("ij,ij->i", vectors, vectors)).all():
            raise UserError("the vectors' inner products overflow float32; normalise them")


def _write_index(index: faiss.Index, path: Path) -> None:
    with open(path, "wb") as file:
        # through Python's file: FAISS's own writer does not notice a full disk
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
        file.flush()
        os.fsync(file.fileno())


def _scaled(progress: Progress, total: int, reported: int) -> Progress:
    """Progress that reports `reported` rows in total while it is called with `total`."""
    done = 0

    def report(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        progress(done * reported // total - before * reported // total)

    return report


def _shown(parameters: dict) -> str:
    return ", ".join(f"{key}={value}" for key, value in parameters.items())


def _reason(error: Exception) -> str:
    """FAISS's message without the names of its source files."""
    return one_line(str(error).rpartition("Error: ")[2])

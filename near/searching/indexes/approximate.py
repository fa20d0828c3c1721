"""Approximate search, what `ivf` and `hnsw` share: an index is built of a pool once and kept, a search that comes back
short is widened until it is full, and recall is measured against exact search each time."""

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

VERSION = 1  # of what null stands for, and of what is kept
BLOCK = 8192  # rows read and added at a time; always as many, because a graph depends on it
BATCH = 256  # queries searched at a time
PROBED = 64  # rows that show whether a kept index is of this pool
SAME = 1e-6  # a difference of scores, for vectors of unit length, that is rounding and no miss
LOW = 0.9  # recall below which there is a warning
# FAISS's own format holds arrays and no code, unlike a pickle; it is read only where its digest is the one written.
INDEX, NUMBERS, MANIFEST = "index.faiss", "vector_of.npy", "manifest.json"


class Distinct:
    """The vectors of a pool, each once, numbered in the order of the rows where they come first; `n` of them.

    Copies would cut a graph into islands that don't lead to each other, and fill a search's breadth. 32 bytes a row.
    """

    def __init__(self, pool: Vectors, vector_of: np.ndarray):
        """vector_of: int64 (pool.n,), the number of each row's vector."""
        self.pool, self.dim, self.vector_of = pool, pool.dim, vector_of
        self.rows = np.argsort(vector_of, kind="stable")  # those of vector 0, ascending, then those of vector 1, ...
        self.begin = np.concatenate([[0], np.cumsum(np.bincount(vector_of))])  # where those of each begin
        self.first = self.rows[self.begin[:-1]]
        self.n = len(self.first)

    @classmethod
    def of(cls, pool: Vectors) -> "Distinct":
        """Vectors are the same where their bytes are, by BLAKE2b-128."""
        keys = np.empty((pool.n, 2), dtype=np.uint64)
        for start, block in _blocks(pool):
            _check_products(block)
            digests = b"".join(hashlib.blake2b(vector, digest_size=16).digest() for vector in block)
            keys[start : start + len(block)] = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
        found = Sorted(keys[:, 0], keys[:, 1])
        first = found.order[found.begins]
        number = np.empty(len(first), dtype=np.int64)
        number[np.argsort(first)] = np.arange(len(first))
        vector_of = np.empty(pool.n, dtype=np.int64)
        vector_of[found.order] = number[np.cumsum(found.begins) - 1]
        return cls(pool, vector_of)

    def blocks(self, progress: Progress = lambda rows: None) -> Iterator[np.ndarray]:
        """All vectors in order, float32 (up to BLOCK, dim), in a buffer that the next ones overwrite."""
        for start, block in _blocks(self.pool):
            a, b = np.searchsorted(self.first, [start, start + len(block)])
            if a < b:
                yield block if b - a == len(block) else block[self.first[a:b] - start]
            progress(len(block))

    def sample(self, size: int) -> np.ndarray:
        """`size` vectors drawn at random, the same every time, float32 (size, dim)."""
        drawn = np.random.default_rng(0).choice(self.n, size, replace=False, shuffle=False)
        out = np.empty((size, self.dim), dtype=np.float32)
        self.pool.read(np.sort(self.first[drawn]), out)
        return out

    def keys(self, scores: np.ndarray, numbers: np.ndarray, k: int) -> np.ndarray:
        """Keys (near/searching/indexes/topk.py) of one query's k best rows, uint64 (k,), best first, 0 where there are
        fewer.

        scores, numbers: (m,), of its best vectors, best first; number -1 stands for none.
        """
        scores, numbers = scores[numbers >= 0], numbers[numbers >= 0]
        copies = np.minimum(self.begin[numbers + 1] - self.begin[numbers], k)
        enough = int(np.searchsorted(np.cumsum(copies), k))  # the vector at whose rows there are k
        if enough < len(scores) - 1:
            kept = scores >= scores[enough]
            scores, numbers, copies = scores[kept], numbers[kept], copies[kept]
        ends = np.cumsum(copies)
        at = np.repeat(self.begin[numbers] - ends + copies, copies) + np.arange(copies.sum())
        keys = np.zeros(k, dtype=np.uint64)
        best = np.sort(pack(np.repeat(scores, copies), self.rows[at]))[::-1][:k]
        keys[: len(best)] = best
        return keys


@dataclass(frozen=True)
class Built:
    """A FAISS index of a pool's distinct vectors. `manifest`: what it was made of and how; `found`: it was kept."""

    index: faiss.Index
    vectors: Distinct
    manifest: dict
    found: bool = False


class Approximate(Index):
    """An index of FAISS over the pool's distinct vectors, which it holds: n * D * 4 bytes, in memory and in `keep`.

    A subclass says how it is built, how wide it looks and what that width is called.
    """

    name: str
    width_key: str

    def __init__(self, built: dict, width: int | None, recall_queries: int):
        """built: the structure's parameters as configured; width: how wide to look, None: by pool and k."""
        super().__init__()
        self.built = {"index": self.name, "version": VERSION, **built}
        self.asked_width, self.recall_queries = width, recall_queries

    @property
    def signature(self) -> dict:
        return {**self.built, "exact": False, self.width_key: self.asked_width}

    @abstractmethod
    def structure(self, n: int) -> dict:
        """The parameters for n distinct vectors. Raises UserError for what can't be built of them."""

    @abstractmethod
    def build(self, vectors: Distinct, structure: dict, progress: Progress) -> faiss.Index:
        """The index; `progress` is told pool.n rows in all."""

    @abstractmethod
    def width(self, n: int, k: int, structure: dict) -> int:
        """How wide to look first for k of n vectors."""

    @abstractmethod
    def widest(self, n: int, structure: dict) -> int:
        """Where looking wider gains nothing, or is dearer than exact search."""

    @abstractmethod
    def find(self, index: faiss.Index, queries: np.ndarray, k: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores (Q, k) and numbers of vectors (Q, k), best first, -1 where short."""

    def search(self, queries, pool, k, progress=lambda rows: None, keep=None):
        """See Index.search. `told` says what was measured, built and widened."""
        _check_products(queries)
        built = self._kept(keep, pool, progress) if keep is not None else self._built(pool, progress)
        left = pool.n if built.found else pool.n - pool.n // 2
        keys, widened = self._full(built, queries, k, _scaled(progress, len(queries), left))
        scores, rows = whole(keys)
        self._tell(self._recall(queries, pool, scores), len(queries), k, built, widened, keep)
        return scores, rows

    def _built(self, pool: Vectors, progress: Progress) -> Built:
        begun = time.perf_counter()
        vectors = Distinct.of(pool)
        structure = self.structure(vectors.n)
        log.info(f"index={self.name}: building it of {vectors.n} distinct vectors ({_shown(structure)})")
        with self._faults("built"):
            index = self.build(vectors, structure, _scaled(progress, pool.n, pool.n // 2))
        seconds = round(time.perf_counter() - begun, 3)
        return Built(index, vectors, {**self._made_of(pool), "structure": structure, "build_seconds": seconds})

    def _made_of(self, pool: Vectors) -> dict:
        """What a kept index must be of; its folder's name says more, but a folder may have been copied."""
        drawn = np.sort(np.random.default_rng(0).choice(pool.n, min(PROBED, pool.n), replace=False, shuffle=False))
        rows = np.empty((len(drawn), pool.dim), dtype=np.float32)
        pool.read(drawn, rows)
        return {"built": self.built, "n": pool.n, "dim": pool.dim, "probe": hashlib.sha256(rows).hexdigest()}

    def _kept(self, keep: Path, pool: Vectors, progress: Progress) -> Built:
        """The index in `keep`; built and put there where there is none that is whole and of this pool."""
        built = None

        def make(new: Path) -> None:
            nonlocal built
            built = self._built(pool, progress)
            _write_index(built.index, new / INDEX)
            write_npy(new / NUMBERS, built.vectors.vector_of)
            files = {name: file_digest(new / name) for name in (INDEX, NUMBERS)}
            manifest = {**built.manifest, "faiss": faiss.__version__, "sha256": files}
            write_json(new / MANIFEST, {**manifest, "digest": digest(manifest)})

        lock = keep.with_name(f"{keep.name}.lock")  # beside it: whoever prunes looks there
        return cached(keep, make, lambda folder: built or self._opened(folder, pool), lock)

    def _opened(self, keep: Path, pool: Vectors) -> Built:
        made_of = self._made_of(pool)
        try:
            manifest = read_json(keep / MANIFEST)
            files = {name: file_digest(keep / name) for name in (INDEX, NUMBERS)}
        except OSError as error:
            raise Unusable(f"{error.filename} can't be read ({error.strerror})") from error
        except UserError:
            raise Unusable(f"{keep / MANIFEST} is damaged") from None
        if manifest.pop("digest", None) != digest(manifest):
            raise Unusable(f"{keep / MANIFEST} is damaged")
        if {key: manifest.get(key) for key in made_of} != made_of:
            raise Unusable(f"{keep} is of another pool or of other parameters")
        for name, found in files.items():
            if manifest["sha256"][name] != found:
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
        return Built(index, vectors, manifest, found=True)

    def _full(self, built: Built, queries: np.ndarray, k: int, progress: Progress) -> tuple[np.ndarray, dict]:
        """Keys (near/searching/indexes/topk.py) of k rows of each query, uint64 (Q, k), and what had to be widened."""
        n, structure = built.vectors.n, built.manifest["structure"]
        width, widest = self.width(n, min(k, n), structure), self.widest(n, structure)
        first, keys = width, np.zeros((len(queries), k), dtype=np.uint64)
        self._look(built, queries, np.arange(len(queries)), width, keys, progress)
        short = np.flatnonzero(keys[:, -1] == 0)
        count = len(short)
        while len(short) and width < widest:
            width = min(2 * width, widest)
            self._look(built, queries, short, width, keys)
            short = short[keys[short, -1] == 0]
        if len(short):  # whatever the index can't reach
            keys[short] = pack(*Flat().search(np.ascontiguousarray(queries[short]), built.vectors.pool, k))
        if count:
            wider = f", {self.width_key} up to {width}" if width > first else ""
            exact = f", {len(short)} of them exactly" if len(short) else ""
            log.info(
                f"index={self.name}: {count} of {len(queries)} queries came back short and were searched again{wider}"
                f"{exact}"
            )
        told = {"widened": count, "widened_to": width, "searched_exactly": len(short)}
        return keys, {"index_parameters": {**structure, self.width_key: first}, **told}

    def _look(self, built, queries, which, width, keys, progress: Progress = lambda queries: None) -> None:
        """Put into `keys` what is found for queries `which`, int64 (m,), at this width."""
        k = keys.shape[1]
        for start in range(0, len(which), BATCH):
            some = which[start : start + BATCH]
            with self._faults("searched"):
                scores, numbers = self.find(built.index, queries[some], with_slack(k, built.vectors.n), width)
            for q, *found in zip(some, scores, numbers, strict=True):
                keys[q] = built.vectors.keys(*found, k)
            progress(len(some))

    def _recall(self, queries: np.ndarray, pool: Vectors, scores: np.ndarray) -> dict:
        """On a sample of the queries: of the rows found, those that score no less than the k-th of exact search; so a
        row that ties with it is no miss, whichever is named."""
        begun, k = time.perf_counter(), scores.shape[1]
        size = min(self.recall_queries, len(queries))
        sample = np.sort(np.random.default_rng(0).choice(len(queries), size, replace=False))
        least = Flat().search(np.ascontiguousarray(queries[sample]), pool, k)[0][:, -1:]
        recall = float((scores[sample] >= least - SAME * np.maximum(1, np.abs(least))).mean())
        seconds = round(time.perf_counter() - begun, 3)
        return {"recall": round(recall, 6), "recall_queries": size, "recall_at": k, "recall_seconds": seconds}

    def _tell(self, recall: dict, asked: int, k: int, built: Built, widened: dict, keep: Path | None) -> None:
        seconds = built.manifest["build_seconds"]
        where = "" if keep is None else f", {'found' if built.found else 'kept'} in {keep}"
        self.told = {**recall, "build_seconds": seconds, "index_found": built.found, **widened}
        log.info(
            f"index={self.name}: recall {recall['recall']:.3f} at max_K={k} on {recall['recall_queries']} of {asked} "
            f"queries, compared with exact search ({_shown(widened['index_parameters'])}; {seconds:.1f} s to build"
            f"{where})"
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
    """The first row of each block and its vectors, float32 (up to BLOCK, dim), all in one buffer."""
    buffer = np.empty((min(BLOCK, pool.n), pool.dim), dtype=np.float32)
    for start in range(0, pool.n, BLOCK):
        block = buffer[: min(BLOCK, pool.n - start)]
        pool.read(slice(start, start + len(block)), block)
        yield start, block


def _check_products(vectors: np.ndarray) -> None:
    """UserError where inner products might overflow; FAISS's k-means would end the process."""
    with np.errstate(over="ignore"):
        if not np.isfinite(np.einsum("ij,ij->i", vectors, vectors)).all():
            raise UserError("the vectors' inner products overflow float32; normalise them")


def _write_index(index: faiss.Index, path: Path) -> None:
    with open(path, "wb") as file:
        # not by FAISS, which takes a file that was cut by a full disk for written
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
        file.flush()
        os.fsync(file.fileno())


def _scaled(progress: Progress, given: int, told: int) -> Progress:
    """Progress that passes on `told` rows in all while it is given `given`."""
    done = 0

    def passed(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        progress(done * told // given - before * told // given)

    return passed


def _shown(parameters: dict) -> str:
    return ", ".join(f"{key}={value}" for key, value in parameters.items())


def _reason(error: Exception) -> str:
    """The end of FAISS's message, which begins with names of its own sources."""
    return one_line(str(error).rpartition("Error: ")[2])

"""One exact search shared by several processes: the pool is cut into shards, and each shard's result is a file.

Ranks of torchrun, tasks on Ray and runs that were started twice each take shards that nobody else searches; a killed
process loses only its current shard. Scores do not depend on the cuts (near/searching/indexes/flat.py), so the result
is that of one process.
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from near.common.cluster import cluster_cpus, on_cluster
from near.common.errors import UserError
from near.common.files import aside
from near.common.outputs import remove_folder
from near.common.pieces import share
from near.common.processes import world_size
from near.common.progress import Progress
from near.searching.indexes.base import Index, Vectors
from near.searching.indexes.flat import TILE, Flat
from near.searching.indexes.ties import with_slack
from near.searching.indexes.topk import ROWS, merged

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shards:
    """The shards of one exact search, each a file in `folder`.

    Attributes:
        queries: float32 (n_queries, dim).
        pool: vectors that are searched.
        k: neighbours of each query that a shard holds.
        result: a file that exists once some process has merged the shards.
        cuts: ascending; shard i holds rows cuts[i] to cuts[i + 1].
    """

    index: Flat
    queries: np.ndarray
    pool: Vectors
    k: int
    folder: Path
    result: Path
    cuts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def path(self, number: int) -> Path:
        return self.folder / f"{self.cuts[number]}-{self.cuts[number + 1]}-best-{self.k}.bin"

    def search(self, number: int, progress: Progress = lambda rows: None) -> None:
        """Search one shard and write its keys."""
        start, stop = self.cuts[number], self.cuts[number + 1]
        keys = self.index.best(self.queries, self.pool, self.k, start, stop, progress)
        with aside(self.path(number)) as temporary:
            temporary.write_bytes(hashlib.sha256(keys).digest() + keys.tobytes())

    def done(self) -> bool:
        return self.result.is_file()

    def share(self, numbers: Iterable[int], progress: Progress = lambda rows: None, wait: bool = True) -> None:
        """Search these shards, each in one process; `wait`: also for shards of other processes, which may die."""
        share(
            numbers,
            lambda number: self.path(number).with_suffix(".lock"),
            lambda number: self.done() or self.path(number).exists(),
            lambda number: self.search(number, progress),
            wait,
        )

    def search_as_task(self, number: int) -> int:
        """Search one shard in a task of a cluster, unless another process has it; returns its number of rows."""
        self.share([number], wait=False)
        return self.cuts[number + 1] - self.cuts[number]

    def keys(self, number: int) -> np.ndarray:
        """A shard's keys, uint64 (n_queries, k); searched again if its file is missing or damaged."""
        if (keys := self._read(number)) is None:
            log.warning(f"{self.path(number)} is missing or damaged: searching this shard again")
            self.search(number)
            keys = self._read(number)
        return keys

    def _read(self, number: int) -> np.ndarray | None:
        with contextlib.suppress(FileNotFoundError):
            content = self.path(number).read_bytes()
            if content[:32] == hashlib.sha256(content[32:]).digest():
                return np.frombuffer(content, dtype=np.uint64, offset=32).reshape(len(self.queries), self.k)
        return None


def cuts(n: int, shards: int, shard_rows: int) -> tuple[int, ...]:
    """Where to cut a pool of n rows: into `shards` parts, or more so that none has more than about `shard_rows` rows.

    >>> cuts(5 * TILE, 2, 10**9) == (0, 2 * TILE, 5 * TILE)
    True
    """
    tiles = -(-n // TILE)
    shards_needed = min(max(shards, -(-n // shard_rows)), tiles)
    return (*(TILE * (tiles * i // shards_needed) for i in range(shards_needed)), n)


def shards_of(index: Index, queries: np.ndarray, pool: Vectors, k: int, folder: Path, result: Path) -> Shards | None:
    """The shards to search; None where one process searches all: for an approximate index or a small pool.

    Raises:
        UserError: the pool has more rows than a search can number.
    """
    if pool.n >= ROWS:
        raise UserError(f"{pool.n} candidates are more than a search can number ({ROWS - 1}); split the pool")
    if not isinstance(index, Flat):
        return None
    if index.launcher == "ray":
        count = index.workers or cluster_cpus()
    else:
        count = world_size()
    bounds = cuts(pool.n, count, index.shard_rows)
    if len(bounds) == 2:
        return None
    return Shards(index, queries, pool, with_slack(k, pool.n), folder, result, bounds)


def search_shards(shards: Shards, progress: Progress) -> None:
    """Return once all shards are searched, here or elsewhere, or some process has merged them."""
    if shards.index.launcher == "ray":
        on_cluster(len(shards), shards.search_as_task, progress)
    shards.share(range(len(shards)), progress)


def put_together(shards: Shards, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge the shards: scores and rows of the whole search for `k` neighbours, as Index.search returns them."""
    best = shards.keys(0)
    for number in range(1, len(shards)):
        best = merged([best, shards.keys(number)], shards.k)
    return shards.index.settled(shards.queries, shards.pool, best, k)


def clear(folder: Path) -> None:
    """Remove shards that are no longer needed."""
    with contextlib.suppress(UserError):  # a file of somebody else's is in it
        remove_folder(folder, ("*-best-*.bin", "*-best-*.lock"))

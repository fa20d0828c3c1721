"""One search by however many processes there are: an exact one is cut into shards, each a file until all are there.

Ranks of torchrun, tasks on Ray and runs that were started twice take shards that nobody has; a killed one loses the
shard it was at. Because scores do not depend on the cuts (near/searching/indexes/flat.py) the result is that of one
process.
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
from near.searching.indexes.ties import settle, with_slack
from near.searching.indexes.topk import ROWS, merged

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shards:
    """The shards of one exact search for `k` neighbours, each a file in `folder`; from `cuts` to `cuts` of rows.

    result: the file that is there when they were put together, by whichever process.
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
        """Search one shard and keep what was found."""
        start, stop = self.cuts[number], self.cuts[number + 1]
        keys = self.index.best(self.queries, self.pool, self.k, start, stop, progress)
        with aside(self.path(number)) as temporary:
            temporary.write_bytes(hashlib.sha256(keys).digest() + keys.tobytes())

    def done(self) -> bool:
        return self.result.is_file()

    def share(self, numbers: Iterable[int], progress: Progress = lambda rows: None, wait: bool = True) -> None:
        """Search these shards, each in one process; `wait` also for those of others, whose processes may die."""
        share(
            numbers,
            lambda number: self.path(number).with_suffix(".lock"),
            lambda number: self.done() or self.path(number).exists(),
            lambda number: self.search(number, progress),
            wait,
        )

    def search_there(self, number: int) -> int:
        """Search one shard in a task of a cluster, unless another process has it; returns its rows."""
        self.share([number], wait=False)
        return self.cuts[number + 1] - self.cuts[number]

    def found(self, number: int) -> np.ndarray:
        """A shard's keys, uint64 (Q, k); searched again where its file is damaged or not there."""
        if (keys := self._read(number)) is None:
            log.warning(f"{self.path(number)} is damaged or gone: this shard is searched again")
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
    """Where a pool of n rows is cut: into `shards`, or more where they would be larger than `shard_rows`."""
    tiles = -(-n // TILE)
    count = min(max(shards, -(-n // shard_rows)), tiles)
    return (*(TILE * (tiles * i // count) for i in range(count)), n)


def shards_of(index: Index, queries: np.ndarray, pool: Vectors, k: int, folder: Path, result: Path) -> Shards | None:
    """The shards to search, or None where one process does it all: an index of its own, or a pool that is small."""
    if pool.n >= ROWS:
        raise UserError(f"{pool.n} candidates are more than a search tells apart ({ROWS - 1}); split the pool")
    if not isinstance(index, Flat):
        return None
    if index.launcher == "ray":
        wanted = index.workers or cluster_cpus()
    else:
        wanted = world_size()
    plan = cuts(pool.n, wanted, index.shard_rows)
    if len(plan) == 2:
        return None
    return Shards(index, queries, pool, with_slack(k, pool.n), folder, result, plan)


def search_shards(shards: Shards, progress: Progress) -> None:
    """See that all shards are searched, here or elsewhere, or their result put together already."""
    if shards.index.launcher == "ray":
        on_cluster(len(shards), shards.search_there, progress)
    shards.share(range(len(shards)), progress)


def put_together(shards: Shards, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows of the whole search for `k` neighbours, as Index.search gives them."""
    best = shards.found(0)
    for number in range(1, len(shards)):
        best = merged([best, shards.found(number)], shards.k)
    index = shards.index
    return settle(
        index.again(shards.queries, shards.pool), index.most(best.shape[1]), shards.queries, shards.pool, best, k
    )


def clear(folder: Path) -> None:
    """Remove shards that are no longer needed."""
    with contextlib.suppress(UserError):  # somebody put a file of his there
        remove_folder(folder, ("*-best-*.bin", "*-best-*.lock"))

"""The cache of embeddings, indexes and scores, listed and pruned: python -m near cache [prune --unused-days 30]."""

import argparse
import contextlib
import os
import re
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from near.app.faults import fault_line
from near.common.errors import UserError
from near.common.files import TEMPORARY, cache_folder, discard, read_json
from near.common.locks import acquire
from near.common.outputs import removable_folder, remove_folder
from near.embedding.store import SUFFIX, stored_rows
from near.searching.shards import clear

DAY = 86400
NAME = re.compile(r"[0-9a-f]{32}(-\d+)?")  # of a folder of ours in the cache
SPACE = ("space.json", "lock", "claims.lock", "damaged.lock", "claims/*", f"*{SUFFIX}", f"damaged/*{SUFFIX}")

BUILT = ("index.faiss", "vector_of.npy", "manifest.json")  # see near/searching/indexes/approximate.py

CHUNKS = (f"*{SUFFIX}", "*.lock")
PARTS = ("assets", "benchmarks", "data", "dedup", "embeddings", "evaluations", "indexes", "maps", "neighbours")
PARTS += ("scores", "similarities", "tokens", "verdicts")

UNFINISHED = re.compile(r"\.[0-9a-f]{32}-\d+\.part")  # a search in shards, see near/searching/find.py


@dataclass(frozen=True)
class Space:
    """One folder of the store. `bytes` counts all its files; `used`: seconds since the epoch."""

    digest: str
    folder: Path
    told: dict
    vectors: int
    bytes: int
    used: float


def spaces(cache_dir: str | Path) -> list[Space]:
    """All spaces, the last used one first."""
    found = []
    for folder in _folders(cache_dir, "embeddings"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # pruned in this moment
            shards = [p for p in folder.glob(f"*{SUFFIX}") if p.name[0] != "."]
            size, used = sum(map(_size, folder.rglob("*"))), (folder / "lock").stat().st_mtime
            found.append(Space(folder.name, folder, _told(folder), sum(map(stored_rows, shards)), size, used))
    return sorted(found, key=lambda space: -space.used)


def _folders(cache_dir: str | Path, part: str) -> list[Path]:
    """Folders of ours in a part of the cache, by their names."""
    return [p for p in cache_folder(cache_dir, part).glob("*") if NAME.fullmatch(p.name) and not p.is_symlink()]


def _told(folder: Path) -> dict:
    """What a space says of itself; nothing where that is lost, which its vectors don't need."""
    try:
        return read_json(folder / "space.json")
    except (FileNotFoundError, UserError):
        return {}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:  # of a run that is writing
        return 0


def indexes(cache_dir: str | Path) -> list[tuple[Path, int, float]]:
    """Built indexes (near/searching/indexes/approximate.py): folder, bytes, when it was used last in seconds since the
    epoch."""
    found = []
    for folder in _folders(cache_dir, "indexes"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # a lock, or gone in this moment
            found.append((folder, sum(map(_size, folder.rglob("*"))), (folder / "manifest.json").stat().st_mtime))
    return found


def prune_index(folder: Path) -> bool:
    """Remove a built index; False where a run is opening or building it. One that is in memory needs no file."""
    held = acquire(folder.with_name(f"{folder.name}.lock"), wait=False)
    if held is None:
        return False
    try:
        remove_folder(folder, BUILT)
        return True
    finally:
        held.close()


def scores(cache_dir: str | Path) -> list[tuple[Path, int, float]]:
    """What models said of rows (near/selection/scoring/scoring.py): folder, bytes, when it was used last in seconds
    since the epoch."""
    found = []
    for folder in _folders(cache_dir, "scores"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found.append((folder, sum(map(_size, folder.rglob("*"))), folder.stat().st_mtime))
    return found


def sweep(cache_dir: str | Path) -> None:
    """Remove what killed processes left half-written, a day after."""
    for path in [p for part in PARTS for p in cache_folder(cache_dir, part).rglob(".*")]:
        with contextlib.suppress(FileNotFoundError):
            old = time.time() - path.lstat().st_mtime > DAY
            if old and TEMPORARY.fullmatch(path.name):
                discard(path)
            elif old and UNFINISHED.fullmatch(path.name):
                clear(path)


def prune(space: Space) -> bool:
    """Remove a space; False where a run is using it. Nobody ever sees a part of it."""
    held = acquire(space.folder / "lock", wait=False)
    if held is None:
        return False
    try:
        removable_folder(space.folder, SPACE)
        gone = space.folder.with_name(f".{space.folder.name}.{uuid.uuid4().hex[:8]}.old")
        os.rename(space.folder, gone)
        remove_folder(gone, SPACE)
        return True
    finally:
        held.close()


def _chosen(found: list[Space], signature: str | None, unused_days: float | None) -> list[Space]:
    if signature is None and unused_days is None:
        raise UserError("prune what? give --signature DIGEST (its first letters do), --unused-days N, or both")
    if signature is not None:
        found = [s for s in found if s.digest.startswith(signature)]
        if not found:
            raise UserError(f"--signature {signature}: no such space; `near cache` lists them")
        if len(found) > 1:
            raise UserError(f"--signature {signature} fits {len(found)} spaces; give more letters")
    if unused_days is not None:
        if not unused_days >= 0:
            raise UserError(f"--unused-days {unused_days:g} is no number of days; use 0 or more")
        found = [s for s in found if time.time() - s.used > unused_days * DAY]
    return found


def _shown(found: list[Space], cache_dir: str | Path) -> None:
    table = Table("signature", "embedder", "model", "vectors", "MB", "last use", box=None)
    for space in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(space.used))
        model = str(space.told.get("model", ""))
        size = f"{space.bytes / 1e6:.1f}"
        table.add_row(space.digest[:12], str(space.told.get("embedder", "?")), model, str(space.vectors), size, used)
    Console().print(table if found else "nothing is stored")
    if kept := indexes(cache_dir):
        Console().print(f"and {len(kept)} built indexes, {sum(size for _, size, _ in kept) / 1e6:.1f} MB")
    if kept := scores(cache_dir):
        Console().print(f"and losses and gradients of {len(kept)} scorings, {sum(s for _, s, _ in kept) / 1e6:.1f} MB")


def main(words: list[str] | None = None) -> None:
    """`list` (the default) shows signature, vectors, size and last use; `prune` removes by signature or age, built
    indexes and scores by age."""
    parser = argparse.ArgumentParser(prog="near cache", description=__doc__)
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--cache-dir", default=argparse.SUPPRESS, help="default: $NEAR_CACHE or .cache")
    parser.add_argument("--cache-dir", default=os.environ.get("NEAR_CACHE", ".cache"))
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("list", help="show what is stored (the default)", parents=[where])
    pruning = commands.add_parser("prune", help="remove embeddings by signature or age", parents=[where])
    pruning.add_argument("--signature", help="as `list` shows it; its first letters do")
    pruning.add_argument("--unused-days", type=float, help="those not used for so many days")
    asked = parser.parse_args(words)
    try:
        found = spaces(asked.cache_dir)
        if asked.command != "prune":
            return _shown(found, asked.cache_dir)
        for space in _chosen(found, asked.signature, asked.unused_days):
            told = f"{space.digest[:12]}: {space.vectors} vectors, {space.bytes / 1e6:.1f} MB"
            print(f"removed {told}" if prune(space) else f"in use, left alone: {told}")
        for folder, size, used in indexes(asked.cache_dir) if asked.unused_days is not None else []:
            if not asked.signature and time.time() - used > asked.unused_days * DAY:
                told = f"index {folder.name[:12]}, {size / 1e6:.1f} MB"
                print(f"removed {told}" if prune_index(folder) else f"in use, left alone: {told}")
        for folder, size, used in scores(asked.cache_dir) if asked.unused_days is not None else []:
            if not asked.signature and time.time() - used > asked.unused_days * DAY:
                remove_folder(folder, CHUNKS)  # what a run reads was used just now
                print(f"removed scores {folder.name[:12]}, {size / 1e6:.1f} MB")
        sweep(asked.cache_dir)
    except (UserError, OSError) as error:
        if (line := fault_line(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)

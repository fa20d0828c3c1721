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
from near.common.text import plural
from near.embedding.store import SUFFIX, stored_rows
from near.searching.shards import clear

DAY = 86400
NAME = re.compile(r"[0-9a-f]{32}(-\d+)?")  # of a folder in the cache
SPACE = ("space.json", "lock", "claims.lock", "damaged.lock", "claims/*", f"*{SUFFIX}", f"damaged/*{SUFFIX}")

BUILT = ("index.faiss", "vector_of.npy", "manifest.json")  # see near/searching/indexes/approximate.py

CHUNKS = (f"*{SUFFIX}", "*.lock")
PARTS = ("assets", "benchmarks", "budgets", "columns", "data", "dedup", "embeddings", "evaluations", "indexes", "maps")
PARTS += ("neighbours", "overlaps", "scores", "similarities", "tokens", "verdicts")

UNFINISHED = re.compile(r"\.[0-9a-f]{32}-\d+\.part")  # a search in shards, see near/searching/find.py


@dataclass(frozen=True)
class Space:
    """One folder of the store.

    Attributes:
        digest: its name.
        folder: its path.
        metadata: of the embedder.
        vectors: how many it has.
        bytes: of all its files.
        used: when it was used last, in seconds since the epoch.
    """

    digest: str
    folder: Path
    metadata: dict
    vectors: int
    bytes: int
    used: float


def spaces(cache_dir: str | Path) -> list[Space]:
    """All spaces, the most recently used first."""
    result = []
    for folder in _folders(cache_dir, "embeddings"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # pruned at this moment
            shards = [p for p in folder.glob(f"*{SUFFIX}") if p.name[0] != "."]
            size, used = sum(map(_size, folder.rglob("*"))), (folder / "lock").stat().st_mtime
            result.append(Space(folder.name, folder, _metadata(folder), sum(map(stored_rows, shards)), size, used))
    return sorted(result, key=lambda space: -space.used)


def _folders(cache_dir: str | Path, part: str) -> list[Path]:
    """The folders in a part of the cache whose names are those of near."""
    return [p for p in cache_folder(cache_dir, part).glob("*") if NAME.fullmatch(p.name) and not p.is_symlink()]


def _metadata(folder: Path) -> dict:
    """The metadata of a space; empty where its file is lost, which the vectors don't need."""
    try:
        return read_json(folder / "space.json")
    except (FileNotFoundError, UserError):
        return {}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:  # a run is writing it
        return 0


# built indexes (near/searching/indexes/approximate.py), and losses and gradients of rows
# (near/selection/scoring/scoring.py): the file in each folder whose time is that of its last use
TOUCHED = {"indexes": "manifest.json", "scores": "."}


def entries(cache_dir: str | Path, part: str) -> list[tuple[Path, int, float]]:
    """The folders of a part of the cache: path, bytes, last use in seconds since the epoch. `part`: of TOUCHED."""
    result = []
    for folder in _folders(cache_dir, part):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # a lock, or pruned at this moment
            result.append((folder, sum(map(_size, folder.rglob("*"))), (folder / TOUCHED[part]).stat().st_mtime))
    return result


def budgets(cache_dir: str | Path) -> list[Path]:
    """The files of budgets that were measured (near/common/budget.py)."""
    return [p for p in cache_folder(cache_dir, "budgets").glob("*.json") if NAME.fullmatch(p.stem)]


def prune_index(folder: Path) -> bool:
    """Remove a built index; False where a run is opening or building it. One that is in memory needs no file."""
    lock = acquire(folder.with_name(f"{folder.name}.lock"), wait=False)
    if lock is None:
        return False
    with contextlib.closing(lock):
        remove_folder(folder, BUILT)
    return True


def sweep(cache_dir: str | Path) -> None:
    """Remove half-written files of killed processes, once they are a day old."""
    for path in [p for part in PARTS for p in cache_folder(cache_dir, part).rglob(".*")]:
        with contextlib.suppress(FileNotFoundError):
            old = time.time() - path.lstat().st_mtime > DAY
            if old and TEMPORARY.fullmatch(path.name):
                discard(path)
            elif old and UNFINISHED.fullmatch(path.name):
                clear(path)


def prune(space: Space) -> bool:
    """Remove a space; False where a run is using it. No process ever sees a part of it."""
    lock = acquire(space.folder / "lock", wait=False)
    if lock is None:
        return False
    with contextlib.closing(lock):
        removable_folder(space.folder, SPACE)
        renamed = space.folder.with_name(f".{space.folder.name}.{uuid.uuid4().hex[:8]}.old")
        os.rename(space.folder, renamed)
        remove_folder(renamed, SPACE)
    return True


def _chosen(matches: list[Space], signature: str | None, unused_days: float | None) -> list[Space]:
    if signature is None and unused_days is None:
        raise UserError("prune what? give --signature DIGEST (its first letters are enough), --unused-days N, or both")
    if signature is not None:
        matches = [s for s in matches if s.digest.startswith(signature)]
        if not matches:
            raise UserError(f"--signature {signature}: no such space; `near cache` lists them")
        if len(matches) > 1:
            raise UserError(f"--signature {signature} matches {len(matches)} spaces; give more letters")
    if unused_days is not None:
        if not unused_days >= 0:
            raise UserError(f"--unused-days {unused_days:g} is not a number of days; use 0 or more")
        matches = [s for s in matches if time.time() - s.used > unused_days * DAY]
    return matches


def _prune_unused(cache_dir: str | Path, days: float) -> None:
    """Remove the built indexes and scores that were not used for so many days, and such budgets."""
    before = time.time() - days * DAY
    for folder, size, used in entries(cache_dir, "indexes"):
        if used < before:
            label = f"index {folder.name[:12]}, {size / 1e6:.1f} MB"
            print(f"removed {label}" if prune_index(folder) else f"in use, left alone: {label}")
    for folder, size, used in entries(cache_dir, "scores"):
        if used < before:  # a run that reads scores has used them just now
            remove_folder(folder, CHUNKS)
            print(f"removed scores {folder.name[:12]}, {size / 1e6:.1f} MB")
    for path in budgets(cache_dir):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                path.unlink()
                print(f"removed budget {path.stem[:12]}: it is measured again when it is needed")


def _shown(listed: list[Space], cache_dir: str | Path) -> None:
    table = Table("signature", "embedder", "model", "vectors", "MB", "last use", box=None)
    for space in listed:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(space.used))
        model = str(space.metadata.get("model", ""))
        size = f"{space.bytes / 1e6:.1f}"
        table.add_row(
            space.digest[:12], str(space.metadata.get("embedder", "?")), model, str(space.vectors), size, used
        )
    Console().print(table if listed else "nothing is stored")
    for part, name in (("indexes", "built indexes: {}"), ("scores", "losses and gradients of rows: {}")):
        if listed_part := entries(cache_dir, part):
            Console().print(f"{name.format(len(listed_part))}, {sum(size for _, size, _ in listed_part) / 1e6:.1f} MB")
    if measured := budgets(cache_dir):
        Console().print(f"budgets of tokens a batch, measured on accelerators: {len(measured)}")


def main(words: list[str] | None = None) -> None:
    """The command `near cache`: `list` (the default) shows signature, vectors, size and last use; `prune` removes
    embeddings by signature or age, and built indexes, scores and budgets by age."""
    parser = argparse.ArgumentParser(prog="near cache", description=__doc__)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--cache-dir", default=argparse.SUPPRESS, help="default: $NEAR_CACHE or .cache")
    parser.add_argument("--cache-dir", default=os.environ.get("NEAR_CACHE", ".cache"))
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("list", help="list the embeddings, indexes and scores (the default)", parents=[shared])
    pruning = commands.add_parser("prune", help="remove embeddings by signature or age", parents=[shared])
    pruning.add_argument("--signature", help="as `list` shows it; its first letters are enough")
    pruning.add_argument("--unused-days", type=float, help="remove those that were not used for N days")
    arguments = parser.parse_args(words)
    cache_dir = arguments.cache_dir
    try:
        listed = spaces(cache_dir)
        if arguments.command != "prune":
            return _shown(listed, cache_dir)
        days = arguments.unused_days
        for space in _chosen(listed, arguments.signature, days):
            label = f"{space.digest[:12]}: {plural(space.vectors, 'vector')}, {space.bytes / 1e6:.1f} MB"
            print(f"removed {label}" if prune(space) else f"in use, left alone: {label}")
        if days is not None and not arguments.signature:
            _prune_unused(cache_dir, days)
        sweep(cache_dir)
    except (UserError, OSError) as error:
        if (line := fault_line(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)

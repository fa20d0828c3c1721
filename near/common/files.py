"""Files that are complete or absent: written to a temporary name, then renamed."""

import contextlib
import errno
import fcntl
import fnmatch
import functools
import glob
import hashlib
import json
import math
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from near.common.code_commit import code_commit
from near.common.command_line import current
from near.common.errors import UserError, as_user_error, reading

if TYPE_CHECKING:
    import numpy as np

NO_SPACE = re.compile(r"No space left on device|\(os error 28\)")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
PACKAGES = (
    "near",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "sentence-transformers",
    "faiss-cpu",
    "numpy",
)

TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(part|old)", re.DOTALL)  # names that `aside` makes


@contextlib.contextmanager
def aside(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write a file to; it replaces `path` when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path, "part")
    try:
        with naming_full_disk(path.parent):
            yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_aside(
    path: str | Path, replace: bool = False, remove: Callable[[Path], None] | None = None
) -> Iterator[Path]:
    """Like `aside` for a folder. Temporary folders of killed processes are removed first.

    Args:
        path: the folder.
        replace: replace an existing folder; else it stays and the new one is dropped (another process was faster).
        remove: removes the replaced folder; None: `discard`.
    """
    path, remove = Path(path), remove or discard
    path.parent.mkdir(parents=True, exist_ok=True)
    discard_left(path, remove)
    temporary, lock = _locked_folder(path)
    old = temporary.with_suffix(".old")
    try:
        with naming_full_disk(path.parent):
            yield temporary
        if replace and path.exists():
            os.rename(path, old)
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.is_dir() or not any(path.iterdir()):
                raise
        if replace and old.exists():
            remove(old)
    finally:
        discard(temporary)
        os.close(lock)


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{kind}")


def _locked_folder(path: Path) -> tuple[Path, int]:
    """A new temporary folder beside `path`, and the descriptor of its lock (an unlocked one was left behind)."""
    while True:
        temporary = _beside(path, "part")
        temporary.mkdir()
        lock = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.suppress(
            OSError
        ):  # a file system without locks: no process can remove the folder as left behind
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if temporary.is_dir():
            return temporary, lock
        os.close(lock)  # another process removed it before it was locked


def link(source: str | Path, target: str | Path) -> None:
    """Make `target` the same file as `source`, or a copy where that is not possible."""
    try:
        os.link(source, target)
    except OSError:  # another device, or a file system without links
        shutil.copy2(source, target)


def discard_left(path: Path, remove: Callable[[Path], None]) -> None:
    """Remove temporary folders of `path` whose process has ended; replaced folders (`.old`) by `remove`."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        named = TEMPORARY.fullmatch(left.name)
        if named is None or named["name"] != path.name or left.is_symlink() or not left.is_dir():
            continue
        with contextlib.suppress(OSError, UserError):  # in use, or not removable
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                discard(left) if named[2] == "part" else remove(left)
            finally:
                os.close(lock)


def discard(temporary: Path) -> None:
    """Remove a temporary file or folder; links are not followed. Raises ValueError for any other name."""
    if TEMPORARY.fullmatch(temporary.name) is None:
        raise ValueError(f"{temporary} is not temporary")
    if temporary.is_symlink() or temporary.is_file():
        temporary.unlink()
    else:
        shutil.rmtree(temporary, ignore_errors=True)


SYSTEM = ("/proc", "/sys", "/dev")  # virtual file systems, except for memory disks in /dev
KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def special(path: str | os.PathLike) -> str | None:
    """The kind of `path` (links followed) if it is neither a file nor a folder; None if it is one, or is missing.

    It is not opened: reading a FIFO may wait forever, a device may be endless.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # missing, or not a path
        if isinstance(path, str | os.PathLike) and os.path.islink(path):
            return f"a link to {os.readlink(path)}, which is not there"
        return None
    if kind := KINDS.get(stat.S_IFMT(mode)):
        return kind
    real = os.path.realpath(path)
    system = next((s for s in SYSTEM if real == s or real.startswith(f"{s}/")), None)
    memory = real.startswith(("/dev/shm/", "/dev/mqueue/")) or real == "/dev/shm"
    return None if system is None or memory else f"a part of the system ({system})"


def expanded_user(path: str | os.PathLike, option: str) -> Path:
    """`path` with `~` expanded; UserError if that user has no home folder. `option`: the option of the path."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{option}={path}: no user of that name has a home folder here; give the full path") from error


def refuse_special(path: str | os.PathLike, option: str | None = None) -> None:
    """UserError for a path that is neither a file nor a folder. `option`: the option of the path."""
    if kind := special(path):
        named = f"{option}={path}" if option else str(path)
        raise UserError(f"{named} is {kind}, not a file or folder; save its content to a file and name that")


def refuse_special_in(folder: str | os.PathLike, option: str | None = None) -> None:
    """UserError for a folder that contains something other than files and folders. `option`: the option of the path."""
    refuse_special(folder, option)
    folders = [os.fspath(folder)]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:  # whoever opens it says what is wrong
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    continue  # what the listing says is enough: a large folder is listed in no time
                if kind := special(entry.path):
                    named = f"{option}={folder}" if option else str(folder)
                    inner = os.path.relpath(entry.path, folder)
                    raise UserError(f"{named} holds {inner}, {kind}, which can't be read; remove it")


def cache_folder(cache_dir: str | Path, *parts: str) -> Path:
    """The absolute path of `parts` in the cache; it is not created."""
    return Path(cache_dir).expanduser().resolve().joinpath(*parts)


def note_use(path: str | Path) -> None:
    """Set the time of a file's last use, by which the cache is pruned; no effect in a read-only cache."""
    try:
        os.utime(path)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise


def write_json(path: str | Path, value: object) -> None:
    """Write a JSON file. Non-finite numbers become null: JSON has none, and other programs refuse Python's NaN."""
    with aside(path) as temporary:
        temporary.write_bytes(_encoded(_dumped(value, indent=2) + "\n"))


def _dumped(value: object, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {_finite(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: str | Path) -> dict:
    """The object in a JSON file; UserError if it is damaged."""
    refuse_special(path)
    with as_user_error((ValueError, RecursionError), f"{path} is damaged", "delete it and run again"):
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (it is a {type(value).__name__}, not an object); delete it and run again")
    return value


def read_jsonl(path: str | Path, growing: bool = False) -> list[dict]:
    """The objects in a file with one JSON object per line; UserError if it is damaged.

    growing: lines are appended to it, so that an unfinished last line is left out.
    """
    refuse_special(path)
    with as_user_error((ValueError, RecursionError), f"{path} is damaged", "delete it and run again"):
        lines = Path(path).read_bytes().split(b"\n")  # a text's lines would end at U+2028, too
        rows = [json.loads(line) for line in (lines[:-1] if growing else lines) if line]
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} is damaged (not one object per line); delete it and run again")
    return rows


def read_yaml_list(path: str | Path) -> list:
    """The list in a YAML file, such as Hydra's overrides; [] if it is damaged or not a list."""
    with contextlib.suppress(UserError):
        value = read_yaml(path)
        return value if isinstance(value, list) else []
    return []


LARGEST_YAML = 1 << 22  # bytes
MOST_VALUES = 200_000  # of a YAML file, aliases expanded


def read_yaml(path: str | Path) -> object:
    """The plain value in a YAML file; UserError if it is damaged, too large, or its aliases expand to too much."""
    with reading(path, "it is damaged; move it away"):
        content = Path(path).read_bytes()
        if len(content) > LARGEST_YAML:
            raise UserError(f"{path} has {len(content)} bytes, more than a configuration has; move it away")
        value = yaml.load(content.decode("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
        todo, count = [value], 0
        while todo:
            count += 1
            if count > MOST_VALUES:
                raise UserError(f"{path} has more than {MOST_VALUES} values with its aliases expanded; move it away")
            inner = todo.pop()
            todo += inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else ()
    return value


def read_whole(file, out: "np.ndarray") -> None:
    """Fill the contiguous array `out` from an unbuffered file; OSError if the file is too short."""
    view, done = memoryview(out).cast("B"), 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise OSError(f"{file.name} ended {len(view) - done} bytes too early")
        done += count


def write_npy(path: str | Path, array: "np.ndarray") -> None:
    import numpy as np

    with aside(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)


def append_jsonl(path: str | Path, row: dict) -> None:
    """Append a line to a file of JSON lines; a process that is killed meanwhile leaves a part of it."""
    with naming_full_disk(Path(path).parent), open(path, "ab", buffering=0) as file:
        file.write(_encoded(_dumped(row) + "\n"))


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    with aside(path) as temporary, open(temporary, "wb") as file:
        file.writelines(_encoded(_dumped(row) + "\n") for row in rows)


def _encoded(text: str) -> bytes:
    """JSON as UTF-8. Lone surrogates (as in file names that are not UTF-8) become JSON escapes."""
    return text.encode("utf-8", "backslashreplace")


def digest(value: object) -> str:
    """32 hex digits of SHA-256 over `value` as canonical JSON: a cache key."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(_encoded(text)).hexdigest()[:32]


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    refuse_special(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: str | Path, ignored: Iterable[str] = ()) -> str:
    """32 hex digits of SHA-256 over names and contents of a folder's files, such as a model's.

    Hidden files and folders, and those that match a pattern of `ignored`, are left out.
    """
    folder = Path(folder)
    refuse_special_in(folder)
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    names = [n for n in names if not any(part.startswith(".") for part in n.parts)]
    counted = [str(n) for n in names if not any(fnmatch.fnmatch(str(n), pattern) for pattern in ignored)]
    states = [(folder / name).stat() for name in counted]
    versions = tuple((name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in zip(counted, states, strict=True))
    return _digest_of(folder.resolve(), versions)


@functools.lru_cache(maxsize=64)  # a run needs the digest of its base model several times
def _digest_of(folder: Path, versions: tuple[tuple, ...]) -> str:
    """`versions`: for each file its name, and the metadata that changes with its content."""
    return digest([(name, file_digest(folder / name)) for name, *_ in versions])


def provenance() -> dict:
    """Time, command and package versions, for manifests."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    *before, script = current().start
    command = " ".join([*before, os.path.basename(script), *sys.argv[1:]])
    described = {"created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": command, "versions": versions}
    return described if (commit := code_commit()) is None else {**described, "commit": commit}


@contextlib.contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Convert errors from a full disk into an OSError that names `folder`.

    Errors of many writers name neither the file nor the reason.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError):
            raise_if_full(folder, error)
        raise


def raise_if_full(folder: Path, error: Exception | None = None) -> None:
    """OSError that names `folder` if it has no space for another megabyte, or if `error` is about a full disk."""
    full = getattr(error, "errno", None) in FULL or bool(error and NO_SPACE.search(str(error)))
    try:
        if not full:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(1 << 20))
                file.flush()
                os.fsync(file.fileno())
    except OSError as reason:
        full = reason.errno in FULL
    if full:
        code = error.errno if getattr(error, "errno", None) in FULL else errno.ENOSPC
        raise OSError(code, os.strerror(code), str(folder)) from error

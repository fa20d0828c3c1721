"""Files that are either whole or not there: written aside, then renamed."""

import contextlib
import fnmatch
import hashlib
import json
import math
import os
import platform
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import yaml

from near.errors import UserError, one_line, reading

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "sentence-transformers", "faiss-cpu", "numpy")


@contextlib.contextmanager
def aside(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file to; it takes the place of `path` when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_aside(path: str | Path, replace: bool = False) -> Iterator[Path]:
    """Like `aside` for a folder. One that is there already goes (`replace`), or stays and ours is dropped: another
    process was quicker."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    old = temporary.with_suffix(".old")
    temporary.mkdir()
    try:
        yield temporary
        if replace and path.exists():
            os.rename(path, old)
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.is_dir() or not any(path.iterdir()):
                raise
    finally:
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


def cache_folder(cache_dir: str | Path, *parts: str) -> Path:
    """The folder of `parts` in the cache, absolute; not made."""
    return Path(cache_dir).expanduser().resolve().joinpath(*parts)


def write_json(path: str | Path, value: object) -> None:
    """Numbers that are not finite become null: JSON has none, and other programs refuse Python's NaN."""
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
    """The object in a JSON file of ours; UserError where it is damaged."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}); delete it and run again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (it holds a {type(value).__name__}); delete it and run again")
    return value


def read_jsonl(path: str | Path) -> list[dict]:
    """The objects in a file of one JSON object a line; UserError where it is damaged."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")  # splitlines would split at U+2028 in a text, too
        rows = [json.loads(line) for line in lines if line]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}); delete it and run again") from error
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} is damaged (not an object a line); delete it and run again")
    return rows


def read_list(path: str | Path) -> list:
    """The list in a YAML file, such as Hydra's overrides; nothing where it is damaged or holds something else."""
    with contextlib.suppress(UserError):
        value = read_yaml(path)
        return value if isinstance(value, list) else []
    return []


LARGEST_YAML = 1 << 22  # bytes
MOST_VALUES = 200_000  # of a YAML file whose aliases are written out


def read_yaml(path: str | Path) -> object:
    """The plain value in a YAML file; UserError where it is damaged, too large, or grows without end by aliases."""
    with reading(path, "it is damaged; move it away"):
        content = Path(path).read_bytes()
        if len(content) > LARGEST_YAML:
            raise UserError(f"{path} has {len(content)} bytes, more than a configuration has; move it away")
        value = yaml.load(content.decode("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
        todo, count = [value], 0
        while todo:
            count += 1
            if count > MOST_VALUES:
                raise UserError(f"{path} holds more than {MOST_VALUES} values, its aliases written out; move it away")
            inner = todo.pop()
            todo += inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else ()
    return value


def read_whole(file, out: np.ndarray) -> None:
    """Fill the contiguous `out` from an unbuffered file; a file that ends before is an OSError."""
    view, done = memoryview(out).cast("B"), 0
    while done < len(view):
        got = file.readinto(view[done:])
        if not got:
            raise OSError(f"{file.name} ended {len(view) - done} bytes too early")
        done += got


def write_npy(path: str | Path, array: np.ndarray) -> None:
    with aside(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    with aside(path) as temporary, open(temporary, "wb") as file:
        file.writelines(_encoded(_dumped(row) + "\n") for row in rows)


def _encoded(text: str) -> bytes:
    """JSON as UTF-8; half of a surrogate pair, as in a file name that is not UTF-8, as JSON's own escape."""
    return text.encode("utf-8", "backslashreplace")


def digest(value: object) -> str:
    """32 hex digits of SHA-256 over `value` as canonical JSON: the key of whatever depends on `value`."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(_encoded(text)).hexdigest()[:32]


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file) -> str:  # Python 3.10 has no hashlib.file_digest
    state = hashlib.sha256()
    while block := file.read(1 << 20):
        state.update(block)
    return state.hexdigest()


def folder_digest(folder: str | Path, ignored: Iterable[str] = ()) -> str:
    """32 hex digits over the names and contents of a folder's files: a model's revision. Hidden files and folders and
    those that fit a pattern of `ignored` are left out."""
    folder = Path(folder)
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    names = [n for n in names if not any(part.startswith(".") for part in n.parts)]
    kept = [str(n) for n in names if not any(fnmatch.fnmatch(str(n), pattern) for pattern in ignored)]
    return digest([(name, file_digest(folder / name)) for name in kept])


def provenance() -> dict:
    """Versions, time and command: what every manifest says about how its artifact came to be."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    command = " ".join(["python", os.path.basename(sys.argv[0]), *sys.argv[1:]])
    return {"created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": command, "versions": versions}


def raise_if_full(folder: Path) -> None:
    """OSError where `folder` has no room for another megabyte: for writers whose own errors don't say so."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())

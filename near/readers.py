"""Raw rows out of files and hub data sets, one at a time, each with the place it stands at."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import datasets
import pyarrow as pa
import pyarrow.parquet
from omegaconf import DictConfig

from near.assets import resolve
from near.errors import UserError, did_you_mean, one_line
from near.files import file_digest, folder_digest, read_json
from near.formats import Fault

BATCH = 1000  # rows read from a parquet file at a time
LONGEST_FIELD = 1 << 28  # characters of a CSV field (the standard library stops at 128 KiB), or of a row in a JSON list
BLOCK = 1 << 20  # characters of a JSON file read at a time
_SPACE = re.compile(r"[ \t\n\r]*")
Raw = tuple[str, object]  # where a row stands ("line 3"), and the row or the Fault of reading it


@dataclass(frozen=True)
class Opened:
    """One file or data set: what it is called, a key of its content, and its rows."""

    path: str
    label: str
    content: object
    rows: Callable[[], Iterator[Raw]]


def open_sources(source: DictConfig, where: str, cache_dir: str) -> list[Opened]:
    """What `source.path` names, in order: a path, a list of paths, or a mapping of labels to paths; globs too.

    Raises UserError for a path that is not there and a file of an unknown kind.
    """
    named = source.path
    if isinstance(named, str):
        named = [named]
    pairs = list(named.items()) if hasattr(named, "items") else [(None, path) for path in named]
    opened = []
    for label, path in pairs:
        if not isinstance(path, str) or not path:
            raise UserError(f"{where}.path: {path!r} is not a path; give a path, a list of paths or {{label: path}}")
        for found in _matches(path, where):
            opened.append(_open(found, str(label) if label else None, source, where, cache_dir))
    if not opened:
        raise UserError(f"{where}.path={source.path} names no file")
    return opened


def _matches(path: str, where: str) -> list[str]:
    """The files of a glob, sorted; `path` itself where it is none, or is a file's own name."""
    if not any(c in path for c in "*?[") or Path(path).expanduser().exists():
        return [path]
    pattern = Path(path).expanduser()
    found = sorted(str(p) for p in Path(pattern.anchor or ".").glob(str(pattern.relative_to(pattern.anchor))))
    if not found:
        raise UserError(f"{where}.path={path}: no file matches")
    return found


def _open(path: str, label: str | None, source: DictConfig, where: str, cache_dir: str) -> Opened:
    local = Path(resolve(path, cache_dir)).expanduser()
    label = label or local.name.split(".")[0]
    if local.is_file():
        suffix = next((s for s in sorted(READERS, key=len, reverse=True) if local.name.endswith(s)), None)
        if suffix is None:
            raise UserError(f"{where}.path={path}: files can be {', '.join(READERS)}")
        if source.split is not None or source.name is not None:
            raise UserError(f"{where}: a file has no name or split; leave {where}.name and {where}.split null")
        return Opened(path, label, [suffix, file_digest(local)], lambda: READERS[suffix](local))
    if local.is_dir():
        return Opened(path, label, *_folder(local, path, source.split, where))
    if local.suffix or path.startswith((".", "/", "~")) or path.count("/") != 1:
        siblings = [p.name for p in local.parent.iterdir()] if local.parent.is_dir() else []
        hint = did_you_mean(local.name, siblings) if siblings else f"; there is no folder {local.parent} either"
        raise UserError(f"{where}.path={path}: no such file{'' if local.parent == Path() else hint}")
    data = _hub(path, source, where)
    return Opened(path, label, data._fingerprint, lambda: _rows(data, path))


def _folder(local: Path, path: str, split: str | None, where: str) -> tuple[object, Callable[[], Iterator[Raw]]]:
    """A data set that `datasets` saved to disk, or the split of one that has several."""
    if (local / "dataset_dict.json").is_file():
        splits = read_json(local / "dataset_dict.json").get("splits", [])
        if split not in splits:
            raise UserError(f"{where}.split={split}: {path} has the splits {', '.join(splits)}; name one of them")
        local = local / split
    elif split is not None:
        raise UserError(f"{where}.split={split}: {path} has no splits; leave {where}.split null")
    if not (local / "state.json").is_file():
        raise UserError(
            f"{where}.path={path} is a folder without a saved data set; name a file in it ({', '.join(READERS)}), "
            f"or a glob such as {path.rstrip('/')}/*.jsonl"
        )
    try:
        data = datasets.load_from_disk(str(local))
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(f"{where}.path={path} is not a readable data set ({one_line(error)})") from error
    return folder_digest(local), lambda: _rows(data, path)


def _hub(path: str, source: DictConfig, where: str) -> datasets.Dataset:
    try:
        data = datasets.load_dataset(path, source.name, split=source.split, revision=source.revision)
    except (OSError, ValueError, KeyError) as error:
        line = one_line(error)[:200]
        if source.split is not None and "split" in line.lower():
            raise UserError(f"{where}.split={source.split}: {line}") from error
        raise UserError(
            f"{where}.path={path} is neither a file here nor a data set the hub gave ({line}); "
            "where no hub is in reach use data=demo, or data=files with files of yours"
        ) from error
    if isinstance(data, dict):
        if len(data) != 1:
            raise UserError(f"{where}.split is missing: set it to one of {', '.join(data)}")
        data = next(iter(data.values()))
    return data


def _rows(data: datasets.Dataset, path: str) -> Iterator[Raw]:
    try:
        for i, row in enumerate(data):
            yield f"row {i}", row
    except (OSError, UnicodeDecodeError, OverflowError, pa.ArrowException) as error:
        raise UserError(f"{path} is damaged ({one_line(error)})") from error


def _jsonl(path: Path) -> Iterator[Raw]:
    yield from _lines(open(path, "rb"))


def _jsonl_gz(path: Path) -> Iterator[Raw]:
    try:
        yield from _lines(gzip.open(path, "rb"))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is a damaged gzip file ({one_line(error)})") from error


def _jsonl_zst(path: Path) -> Iterator[Raw]:
    try:
        yield from _lines(io.BufferedReader(pa.input_stream(str(path), compression="zstd")))
    except OSError as error:
        raise UserError(f"{path} is a damaged zstd file ({one_line(error)})") from error


def _lines(opened: IO[bytes]) -> Iterator[Raw]:
    with opened as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield f"line {number}", json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                yield f"line {number}", Fault("line", f"is not UTF-8 ({error.reason})")
            except (ValueError, RecursionError) as error:  # JSONDecodeError, and numbers or nesting without end
                yield f"line {number}", Fault("line", f"is not JSON ({one_line(error)[:80]})")


def _json(path: Path) -> Iterator[Raw]:
    """The rows of a JSON list, read as a stream: no more than a block and a row are held."""
    row, decoder = 0, json.JSONDecoder()
    with open(path, encoding="utf-8-sig") as file:
        text, at, size = file.read(BLOCK), 0, BLOCK
        try:
            while not text.strip() and (more := file.read(BLOCK)):
                text = more
            if not text.lstrip().startswith("["):
                kind = type(json.loads(text + file.read())).__name__
                raise UserError(f"{path} holds a {kind}, not a list of rows")
            at, ended = text.index("[") + 1, False
            while not ended:
                at = _SPACE.match(text, at).end()
                if not row and text.startswith("]", at):
                    break
                try:
                    value, end = decoder.raw_decode(text, at)
                    end = _SPACE.match(text, end).end()
                    if text[end : end + 1] not in (",", "]"):  # none at all: what follows may belong to the value
                        raise json.JSONDecodeError("Expecting ',' delimiter", text, end)
                except json.JSONDecodeError:
                    more = file.read(size) if len(text) - at < LONGEST_FIELD else ""
                    if not more:
                        raise
                    text, at, size = text[at:] + more, 0, 2 * size  # twice as much, should the row be longer than that
                    continue
                yield f"row {row}", value
                row, at, ended, size = row + 1, end + 1, text[end] == "]", BLOCK
            if (text[at:].removeprefix("" if row else "]") + file.read()).strip():
                raise json.JSONDecodeError("Extra data", text, at)
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 near row {row} ({error.reason})") from error
        except (ValueError, RecursionError) as error:
            told = getattr(error, "msg", None) or one_line(error)
            raise UserError(
                f"{path} is not JSON near row {row} ({told}); one object a line belongs into a .jsonl file"
            ) from error


def _txt(path: Path) -> Iterator[Raw]:
    """Plain text, a row a line, whichever way its lines end."""
    number = 0
    with open(path, "rb") as file:
        for ended in file:
            for line in ended.rstrip(b"\r\n").split(b"\r"):
                number += 1
                if not line.strip():
                    continue
                try:
                    yield f"line {number}", {"text": line.decode("utf-8-sig" if number == 1 else "utf-8")}
                except UnicodeDecodeError as error:
                    yield f"line {number}", Fault("line", f"is not UTF-8 ({error.reason})")


def _csv(path: Path) -> Iterator[Raw]:
    csv.field_size_limit(LONGEST_FIELD)
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)  # a quote that is never closed would swallow the rest
        try:
            named = reader.fieldnames or []
            if repeated := sorted({name for name in named if named.count(name) > 1}):
                raise UserError(f"{path} has several columns named {', '.join(repeated)}; rename them")
            for row in reader:
                if None in row or None in row.values():
                    yield f"line {reader.line_num}", Fault("line", f"has not {len(reader.fieldnames)} columns")
                else:
                    yield f"line {reader.line_num}", row
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: not readable as CSV near line {reader.line_num + 1} ({one_line(error)})"
            ) from error


def _parquet(path: Path) -> Iterator[Raw]:
    try:
        row = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(BATCH):
            for raw in batch.to_pylist():
                yield f"row {row}", raw
                row += 1
    except (OSError, UnicodeDecodeError, OverflowError, pa.ArrowException) as error:
        raise UserError(f"{path} is not a readable parquet file ({one_line(error)})") from error


def _arrow(path: Path) -> Iterator[Raw]:
    """An Arrow stream, as `datasets` writes it, or an Arrow file (Feather)."""
    try:
        with pa.OSFile(str(path)) as file:
            kind = pa.ipc.open_file if file.read(6) == b"ARROW1" else pa.ipc.open_stream
            file.seek(0)
            opened, row = kind(file), 0
            batches = (
                (opened.get_batch(i) for i in range(opened.num_record_batches)) if kind is pa.ipc.open_file else opened
            )
            for batch in batches:
                for raw in batch.to_pylist():
                    yield f"row {row}", raw
                    row += 1
    except (OSError, UnicodeDecodeError, OverflowError, pa.ArrowException) as error:
        raise UserError(f"{path} is not a readable Arrow file ({one_line(error)})") from error


READERS = {
    ".jsonl": _jsonl,
    ".jsonl.gz": _jsonl_gz,
    ".jsonl.zst": _jsonl_zst,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".txt": _txt,
}

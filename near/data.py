"""Sources of examples: read once into a memory-mapped table of canonical rows, each keeping its id.

A row's id is its position in the source as loaded. A faulty row stays in its place with its `fault` told, so that ids
never shift; it is simply not eligible. The table lives in the cache under a key of the source's content.
"""

import csv
import gzip
import hashlib
import json
import logging
import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from omegaconf import DictConfig

from near.assets import resolve
from near.errors import UserError, did_you_mean, one_line
from near.files import cache_folder, digest, file_digest, folder_aside, read_json, write_json
from near.formats import Fault, Message, canonical, decide, shown_columns

log = logging.getLogger(__name__)

VERSION = 1  # of the canonical table; part of its key
SCHEMA = pa.schema(
    {
        "messages": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "source": pa.string(),  # null: the source's own label
        "fault": pa.string(),  # why the row can't be used at all
        "unanswered": pa.string(),  # why it holds no answer
    }
)
SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".csv", ".parquet")
BATCH = 1000  # rows of a batch on its way to disk
Raw = tuple[str, object]  # where a row stands ("line 3"), and the row or the Fault of reading it


@dataclass(frozen=True)
class Rows:
    """A loaded source: `table` columns messages, source, fault, unanswered; a row's id is its position.

    `answer`: rows that hold no answer are not eligible. `label`: the source of rows that name none.
    """

    name: str
    label: str
    table: datasets.Dataset
    fingerprint: str
    answer: bool

    def __len__(self) -> int:
        return len(self.table)

    def eligible(self) -> np.ndarray:
        """Ids of the rows without fault, int64, ascending."""
        usable = self._null("fault") & self._null("unanswered") if self.answer else self._null("fault")
        return np.flatnonzero(usable).astype(np.int64)

    def _null(self, column: str) -> np.ndarray:
        return self.table.data.column(column).is_null().to_numpy()

    def sources(self) -> np.ndarray:
        """The label of every row's source, (n,) of str."""
        return np.asarray(self.table.data.column("source").fill_null(self.label).to_pylist(), dtype=object)

    def messages(self, row: int) -> list[Message]:
        return self.table[int(row)]["messages"]

    def texts(self, ids: np.ndarray, embed: str) -> list[str]:
        """What is embedded of rows `ids`: "prompt" (user turns), "answer" (last assistant turn) or "both"."""
        return [embedded_text(m, embed) for m in self.table.select(ids)["messages"]] if len(ids) else []


def embedded_text(messages: list[Message], embed: str) -> str:
    """The text that stands for a chat. System messages are left out unless there is no user turn: repeated prompts make
    rows look alike."""
    turns = [m["content"] for m in messages if m["role"] == "user"]
    prompt = "\n".join(turns or [m["content"] for m in messages if m["role"] != "assistant"])
    answer = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
    return {"prompt": prompt, "answer": answer, "both": f"{prompt}\n{answer}"}[embed]


def given(cfg: DictConfig, part: str) -> bool:
    """Whether `data.<part>` names a path."""
    return cfg[part] is not None and cfg[part].path is not None


def load(cfg: DictConfig, part: str, cache_dir: str, answer: bool = True) -> Rows:
    """Load `data.<part>` (candidates, queries or eval). `answer`: rows must end with an answer.

    Raises UserError for a path, file, split or column that is not there, an empty source, and for the first faulty row
    unless `data.on_error=skip`.
    """
    where = f"data.{part}"
    if not given(cfg, part):
        raise UserError(f"{where}.path is missing: set {where}.path=FILE (or a hub id, or data=demo)")
    source = cfg[part]
    columns = {field: column for field, column in (source.columns or {}).items() if column is not None}
    content, opened = _open(source, where, cache_dir)
    key = digest([VERSION, content, source.format, columns, source.limit])
    folder = cache_folder(cache_dir, "data", key)
    if cfg.refresh or not (folder / "info.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        with folder_aside(folder) as new:
            write_json(new / "info.json", _write(new, opened(), source, columns, where, cfg.on_error))
    try:
        info = read_json(folder / "info.json")
        table = datasets.Dataset.from_file(str(folder / "rows.arrow"))
        rows = Rows(part, Path(str(source.path)).name.split(".")[0], table, info["fingerprint"], answer)
    except (OSError, ValueError, KeyError, pa.ArrowInvalid) as error:
        raise UserError(
            f"the cached rows in {folder} are damaged ({one_line(error)}); set data.refresh=true"
        ) from error
    _judge(rows, info, f"{where}: {source.path}", cfg.on_error)
    return rows


def _judge(rows: Rows, info: dict, where: str, on_error: str) -> None:
    """Stop for faulty rows, or say how many are left out."""
    faults = len(rows) - len(rows.eligible())
    if not len(rows):
        raise UserError(f"{where} holds no row; give it some")
    first = info["first_fault"]
    if rows.answer and (first is None or (info["first_unanswered"] or [len(rows)])[0] < first[0]):
        first = info["first_unanswered"]
    if rows.answer and faults == len(rows) and info["columns"] and first is info["first_unanswered"]:
        raise UserError(f"{where}: no row holds an answer ({first[1]}); {info['columns']}; set columns")
    if faults and on_error == "raise":
        raise UserError(f"{where}, {first[1]}; mend the row or set data.on_error=skip")
    if faults == len(rows):
        raise UserError(f"{where} holds no usable row ({first[1]})")
    if faults:
        log.info(f"{where}: {faults} of {len(rows)} rows left out as faulty, first: {first[1]}")


def _write(folder: Path, raws: Iterator[Raw], source: DictConfig, columns: dict, where: str, on_error: str) -> dict:
    """Write rows.arrow into `folder`, a batch at a time; return what info.json holds.

    Nothing of the source's name goes in: the same content has the same table and fingerprint under any name.
    """
    state, batch, count = hashlib.sha256(), [], 0
    format, shown, first_fault, first_unanswered = None, None, None, None
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for position, raw in raws:
            if source.limit is not None and count == source.limit:
                break
            messages, label, fault, unanswered = [], None, None, None
            try:
                if isinstance(raw, Fault):
                    raise raw
                if format is None and isinstance(raw, Mapping):
                    format = decide(source.format, columns, raw, f"{where}.path={source.path}")
                    shown = shown_columns(raw)
                messages, unanswered = canonical(raw, format, columns)
                if "source" in columns:
                    label = raw.get(columns["source"])
            except Fault as error:
                fault = str(error)
                if on_error == "raise":
                    told = f"{where}: {source.path}, row {count} ({position}): {error}"
                    raise UserError(f"{told}; mend the row or set data.on_error=skip") from error
                first_fault = first_fault or (count, f"row {count} ({position}): {fault}")
            if unanswered:
                first_unanswered = first_unanswered or (count, f"row {count} ({position}): {unanswered}")
            row = {"messages": messages, "fault": fault, "unanswered": unanswered}
            batch.append({**row, "source": None if label is None else str(label)})
            state.update(json.dumps([messages, fault is not None], ensure_ascii=False).encode() + b"\n")
            count += 1
            if len(batch) == BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=SCHEMA))
                batch = []
        if batch:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=SCHEMA))
    return {
        "schema_version": VERSION,
        "format": format,
        "columns": shown,
        "first_fault": first_fault,
        "first_unanswered": first_unanswered,
        "fingerprint": state.hexdigest()[:32],
    }


def _open(source: DictConfig, where: str, cache_dir: str):
    """The content's key and a function that yields its raw rows."""
    path = resolve(str(source.path), cache_dir)
    local = Path(path).expanduser()
    if local.is_file():
        suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if local.name.endswith(s)), None)
        if suffix is None:
            raise UserError(f"{where}.path={source.path}: files can be {', '.join(SUFFIXES)}")
        if source.split is not None or source.name is not None:
            raise UserError(f"{where}: a file has no name or split; leave {where}.name and {where}.split null")
        return file_digest(local), lambda: _READERS[suffix](local)
    if local.is_dir():
        raise UserError(f"{where}.path={source.path} is a folder; name a file in it ({', '.join(SUFFIXES)})")
    if local.suffix or path.startswith((".", "/", "~")) or path.count("/") != 1:
        siblings = [p.name for p in local.parent.iterdir()] if local.parent.is_dir() else []
        hint = did_you_mean(local.name, siblings) if siblings else f"; there is no folder {local.parent} either"
        raise UserError(f"{where}.path={source.path}: no such file{hint}")
    data = _hub(source, where)
    return data._fingerprint, lambda: ((f"row {i}", row) for i, row in enumerate(data))


def _hub(source: DictConfig, where: str) -> datasets.Dataset:
    try:
        data = datasets.load_dataset(source.path, source.name, split=source.split, revision=source.revision)
    except (OSError, ValueError, KeyError) as error:
        line = one_line(error)[:200]
        if source.split is not None and "split" in line.lower():
            raise UserError(f"{where}.split={source.split}: {line}") from error
        raise UserError(
            f"{where}.path={source.path} is neither a file here nor a data set the hub gave ({line}); "
            "where no hub is in reach use data=demo, or data=files with files of yours"
        ) from error
    if isinstance(data, dict):
        if len(data) != 1:
            raise UserError(f"{where}.split is missing: set it to one of {', '.join(data)}")
        data = next(iter(data.values()))
    return data


def _jsonl(path: Path) -> Iterator[Raw]:
    try:
        yield from _lines(gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb"))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is a damaged gzip file ({one_line(error)})") from error


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
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not JSON ({one_line(error)}); one object a line belongs into a .jsonl file"
        ) from error
    if not isinstance(rows, list):
        raise UserError(f"{path} holds a {type(rows).__name__}, not a list of rows")
    for i, row in enumerate(rows):
        yield f"row {i}", row


def _csv(path: Path) -> Iterator[Raw]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
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
        file = pyarrow.parquet.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a readable parquet file ({one_line(error)})") from error
    row = 0
    for batch in file.iter_batches(BATCH):
        for raw in batch.to_pylist():
            yield f"row {row}", raw
            row += 1


_READERS = {".jsonl": _jsonl, ".jsonl.gz": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}

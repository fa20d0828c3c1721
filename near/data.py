"""Sources of examples: read once into a memory-mapped table of canonical rows, each keeping its id.

A row's id is its position in the source as loaded. A faulty row stays in its place with its `fault` told, so that ids
never shift; it is simply not eligible. The table lives in the cache under a key of the source's content.
"""

import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from omegaconf import DictConfig, OmegaConf

from near.dataset_info import from_dataset_info
from near.errors import UserError, one_line
from near.files import cache_folder, digest, folder_aside, read_json, write_json
from near.formats import Fault, Message, canonical, decide, shown_columns
from near.readers import BATCH, Opened, open_sources

log = logging.getLogger(__name__)

VERSION = 2  # of the canonical table; part of its key
KEY = 16  # bytes of a row's hash
SCHEMA = pa.schema(
    {
        "messages": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "source": pa.string(),  # null: the source's own label
        "fault": pa.string(),  # why the row can't be used at all
        "unanswered": pa.string(),  # why it holds no answer
        "filtered": pa.bool_(),  # left out by the source's filter
        "key": pa.binary(KEY),  # of all messages
        "prompt_key": pa.binary(KEY),  # of what stands before the last answer
    }
)


@dataclass(frozen=True)
class Rows:
    """Loaded sources: `table` columns as in SCHEMA; a row's id is its position.

    `answer`: rows that hold no answer are not eligible. `labels`: the source of rows that name none, as pairs of label
    and number of rows. `excluded`: (n,) bool, rows left out for what other rows hold (near/pool.py).
    """

    name: str
    labels: tuple[tuple[str, int], ...]
    table: datasets.Dataset
    fingerprint: str
    answer: bool
    excluded: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.table)

    def eligible(self) -> np.ndarray:
        """Ids of the rows that may be selected and trained, int64, ascending."""
        usable = self.usable()
        return np.flatnonzero(usable if self.excluded is None else usable & ~self.excluded).astype(np.int64)

    def usable(self) -> np.ndarray:
        """(n,) bool: rows without fault that the filter lets through."""
        kept = self._null("fault") & ~self.table.data.column("filtered").to_numpy()
        return kept & self._null("unanswered") if self.answer else kept

    def _null(self, column: str) -> np.ndarray:
        return self.table.data.column(column).is_null().to_numpy()

    def keys(self, column: str) -> np.ndarray:
        """(n,) of 16-byte hashes: "key" of all messages, "prompt_key" of what stands before the last answer."""
        chunks = self.table.data.column(column).chunks
        found = [np.frombuffer(c.buffers()[1], dtype=f"V{KEY}")[c.offset : c.offset + len(c)] for c in chunks]
        return np.concatenate(found) if found else np.empty(0, dtype=f"V{KEY}")

    def without(self, excluded: np.ndarray) -> "Rows":
        """These rows with the (n,) bool mask `excluded` no longer eligible; ids stay."""
        return dataclasses.replace(self, excluded=excluded)

    def sources(self) -> np.ndarray:
        """The label of every row's source, (n,) of str."""
        own = np.asarray(self.table.data.column("source").to_pylist(), dtype=object)
        label = np.repeat([label for label, _ in self.labels], [count for _, count in self.labels]).astype(object)
        return np.where(np.equal(own, None), label, own)

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
    source = from_dataset_info(cfg[part], where)
    left, found = source.limit, []
    for opened in open_sources(source, where, cache_dir):
        if left == 0:
            break
        rows, info = _load_one(cfg, source, part, opened, left, cache_dir, answer)
        _judge(rows, info, f"{where}: {opened.path}", cfg.on_error)
        left = None if left is None else left - len(rows)
        found.append(rows)
    if len(found) == 1:
        rows = found[0]
    else:
        table = datasets.concatenate_datasets([rows.table for rows in found])
        labels = tuple(pair for rows in found for pair in rows.labels)
        rows = Rows(part, labels, table, digest([rows.fingerprint for rows in found]), answer)
    if filtered := int(rows.table.data.column("filtered").to_numpy().sum()):
        log.info(f"{where}: {filtered} of {len(rows)} rows left out by the filter")
    if not len(rows.eligible()):
        raise UserError(f"{where}: {where}.filter={source.filter} leaves no row; widen it")
    return rows


def _load_one(
    cfg: DictConfig, source: DictConfig, part: str, opened: Opened, limit: int | None, cache_dir: str, answer: bool
) -> tuple[Rows, dict]:
    """One source's rows, read into the cache when they are not there yet, and what its info.json says."""
    columns = {field: column for field, column in (source.columns or {}).items() if column is not None}
    filter = OmegaConf.to_container(source.filter) if source.filter else {}
    tags = OmegaConf.to_container(source.tags) if source.tags else {}
    key = digest([VERSION, opened.content, source.format, columns, tags, limit, filter])
    folder = cache_folder(cache_dir, "data", key)
    if cfg.refresh or not (folder / "info.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        with folder_aside(folder) as new:
            form = Form(source.format, columns, tags, filter, limit)
            write_json(new / "info.json", _write(new, opened, form, f"data.{part}", cfg.on_error))
    try:
        info = read_json(folder / "info.json")
        table = datasets.Dataset.from_file(str(folder / "rows.arrow"))
        return Rows(part, ((opened.label, len(table)),), table, info["fingerprint"], answer), info
    except (OSError, ValueError, KeyError, pa.ArrowInvalid) as error:
        raise UserError(
            f"the cached rows in {folder} are damaged ({one_line(error)}); set data.refresh=true"
        ) from error


def _judge(rows: Rows, info: dict, where: str, on_error: str) -> None:
    """Stop for faulty rows, or say how many are left out."""
    if not len(rows):
        raise UserError(f"{where} holds no row; give it some")
    kept = ~rows.table.data.column("filtered").to_numpy()
    faults = int((kept & ~rows.usable()).sum())
    first = info["first_fault"]
    if rows.answer and (first is None or (info["first_unanswered"] or [len(rows)])[0] < first[0]):
        first = info["first_unanswered"]
    if rows.answer and faults == kept.sum() > 0 and first is info["first_unanswered"]:
        raise UserError(f"{where}: no row holds an answer ({first[1]}); {info['columns']}; set columns")
    if faults and on_error == "raise":
        raise UserError(f"{where}, {first[1]}; mend the row or set data.on_error=skip")
    if faults == len(rows):
        raise UserError(f"{where} holds no usable row ({first[1]})")
    if faults:
        log.info(f"{where}: {faults} of {len(rows)} rows left out as faulty, first: {first[1]}")


@dataclass(frozen=True)
class Form:
    """How raw rows are read: see conf/data/source/default.yaml."""

    format: str
    columns: dict
    tags: dict
    filter: dict
    limit: int | None


def _write(folder: Path, opened: Opened, form: Form, where: str, on_error: str) -> dict:
    """Write rows.arrow into `folder`, a batch at a time; return what info.json holds.

    Nothing of the source's name goes in: the same content has the same table and fingerprint under any name.
    """
    state, batch, count = hashlib.sha256(), [], 0
    format, shown, first_fault, first_unanswered = None, None, None, None
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for position, raw in opened.rows():
            if count == form.limit:
                break
            row = dict.fromkeys(SCHEMA.names) | {"messages": [], "filtered": False}
            try:
                if isinstance(raw, Fault):
                    raise raw
                if shown is None and isinstance(raw, Mapping):
                    format = decide(form.format, form.columns, raw, f"{where}.path={opened.path}")
                    shown = shown_columns(raw)
                    _check_filter(form.filter, raw, where)
                row["filtered"] = isinstance(raw, Mapping) and not _passes(raw, form.filter)
                if not row["filtered"]:
                    row["messages"], row["unanswered"] = canonical(raw, format, form.columns, form.tags)
                if "source" in form.columns and raw.get(form.columns["source"]) is not None:
                    row["source"] = str(raw[form.columns["source"]])
            except Fault as error:
                row["fault"] = str(error)
                if on_error == "raise":
                    told = f"{where}: {opened.path}, row {count} ({position}): {error}"
                    raise UserError(f"{told}; mend the row or set data.on_error=skip") from error
                first_fault = first_fault or (count, f"row {count} ({position}): {error}")
            if row["unanswered"]:
                first_unanswered = first_unanswered or (count, f"row {count} ({position}): {row['unanswered']}")
            row["key"], row["prompt_key"] = _keys(row["messages"])
            batch.append(row)
            state.update(json.dumps([row["fault"] is not None, row["filtered"]]).encode() + row["key"])
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


def _keys(messages: list[Message]) -> tuple[bytes, bytes]:
    """Hashes of all messages, and of those before the last answer, by role and text."""
    prompt = messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages
    return tuple(
        hashlib.blake2b(
            json.dumps([[m["role"], m["content"]] for m in part], ensure_ascii=False).encode(), digest_size=KEY
        ).digest()
        for part in (messages, prompt)
    )


def _check_filter(filter: dict, first: Mapping, where: str) -> None:
    for column in filter:
        if column not in first:
            raise UserError(f"{where}.filter: no column '{column}'; {shown_columns(first)}")


def _passes(raw: Mapping, filter: dict) -> bool:
    """Whether a raw row has, in every column of `filter`, the value that is asked for or one of them."""
    return all(
        raw.get(c) in wanted if isinstance(wanted, list) else raw.get(c) == wanted for c, wanted in filter.items()
    )

"""Sources of examples: read once into a memory-mapped table of canonical rows, each keeping its id.

A row's id is its position in the source as loaded. A faulty row stays in its place with its `fault` told, so that ids
never shift; it is simply not eligible. The table lives in the cache under a key of the source's content.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from omegaconf import DictConfig, OmegaConf

from near.config import CONF
from near.dataset_info import from_dataset_info
from near.errors import UserError, one_line
from near.files import cache_folder, digest, folder_aside, read_json, write_json
from near.formats import (
    OPTIONAL,
    Fault,
    Message,
    canonical,
    check_text,
    decide,
    embedded_text,
    shown_columns,
    without_nulls,
)
from near.locks import lock_file, locked
from near.processes import is_main
from near.readers import Opened, open_sources
from near.table import FAULT, FILTERED, KEY, UNANSWERED, Table, TableWriter

log = logging.getLogger(__name__)

VERSION = 4  # of the canonical table; part of its key
BLOCK = 1 << 16  # rows whose hashes are read at a time


@dataclass(frozen=True)
class Rows:
    """Loaded sources, as pairs of label and table; a row's id is its position in all of them together.

    `answer`: rows that hold no answer are not eligible. `excluded`: (n,) bool, rows left out for what other rows hold
    (near/pool.py).
    """

    name: str
    parts: tuple[tuple[str, Table], ...]
    fingerprint: str
    answer: bool
    excluded: np.ndarray | None = None

    def __len__(self) -> int:
        return sum(len(table) for _, table in self.parts)

    def eligible(self) -> np.ndarray:
        """Ids of the rows that may be selected and trained, int64, ascending."""
        usable = self.usable()
        if self.excluded is not None:
            usable &= ~self.excluded
        return np.flatnonzero(usable)

    def usable(self) -> np.ndarray:
        """(n,) bool: rows without fault that the filter lets through."""
        return self.flagged(FAULT | FILTERED | (UNANSWERED if self.answer else 0), none=True)

    def flagged(self, flags: int, none: bool = False) -> np.ndarray:
        """(n,) bool: rows with any of `flags`, or with none of them."""
        return np.concatenate([(t.flags() & flags == 0) if none else (t.flags() & flags != 0) for _, t in self.parts])

    def keys(self, column: str) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks of hashes with the id that each begins at, uint64 (m, 2): "key" of all messages, "prompt_key" of what
        stands before the last answer."""
        offset = 0
        for _, table in self.parts:
            for start in range(0, len(table), BLOCK):
                yield offset + start, table.keys(column, start, min(start + BLOCK, len(table)))
            offset += len(table)

    def without(self, excluded: np.ndarray) -> "Rows":
        """These rows with the (n,) bool mask `excluded` no longer eligible; ids stay."""
        return dataclasses.replace(self, excluded=excluded)

    def followed_by(self, others: "Rows") -> "Rows":
        """These rows and, with the ids after theirs, `others`."""
        excluded = [np.zeros(len(r), dtype=bool) if r.excluded is None else r.excluded for r in (self, others)]
        fingerprint = digest([self.fingerprint, others.fingerprint])
        return Rows(self.name, self.parts + others.parts, fingerprint, self.answer, np.concatenate(excluded))

    def sources(self, ids: np.ndarray | None = None) -> np.ndarray:
        """The label of the source of every row, or of rows `ids`, (n,) of str."""
        found = np.empty(len(self) if ids is None else len(ids), dtype=object)
        for at, label, table, own in self._split(np.arange(len(self)) if ids is None else np.asarray(ids)):
            for start in range(0, len(own), BLOCK):
                values = table.column("source", own[start : start + BLOCK])
                found[at[start : start + BLOCK]] = [label if value is None else value for value in values]
        return found

    def messages(self, row: int) -> list[Message]:
        return self.chats(np.array([row]))[0]

    def chats(self, ids: np.ndarray) -> list[list[Message]]:
        """The messages of rows `ids`."""
        found = [None] * len(ids)
        for at, _, table, own in self._split(ids):
            for place, messages in zip(at, table.column("messages", own), strict=True):
                found[place] = without_nulls(messages)
        return found

    def texts(self, ids: np.ndarray, embed: str) -> list[str]:
        """What is embedded of rows `ids`: "prompt" (user turns), "answer" (last assistant turn) or "both"."""
        return [embedded_text(messages, embed) for messages in self.chats(ids)]

    def dataset(self) -> datasets.Dataset:
        """All rows as a memory-mapped data set with the columns of near/table.py."""
        return datasets.concatenate_datasets([table.dataset() for _, table in self.parts])

    def _split(self, ids: np.ndarray) -> Iterator[tuple[np.ndarray, str, Table, np.ndarray]]:
        """For each part that holds some of `ids`: where they stand in `ids`, its label, its table, their rows there."""
        offset = 0
        for label, table in self.parts:
            at = np.flatnonzero((ids >= offset) & (ids < offset + len(table)))
            if len(at):
                yield at, label, table, ids[at] - offset
            offset += len(table)


def given(cfg: DictConfig, part: str) -> bool:
    """Whether `data.<part>` names a path."""
    return cfg[part] is not None and cfg[part].path is not None


def more_sets(cfg: DictConfig) -> dict[str, str]:
    """The sets of `data.more_eval` by name, each as the part that `load` takes."""
    return {name: f"more_eval.{name}" for name in cfg.get("more_eval") or {}}


def _source(cfg: DictConfig, part: str) -> DictConfig:
    """What `data.<part>` says of its source. A further set names a path alone, or what differs from the defaults."""
    if not part.startswith("more_eval."):
        return cfg[part]
    told = cfg.more_eval[part.removeprefix("more_eval.")]
    told = told if isinstance(told, DictConfig) else {"path": told}
    return OmegaConf.merge(OmegaConf.load(CONF / "data" / "source" / "default.yaml"), told)


def load(cfg: DictConfig, part: str, cache_dir: str, answer: bool = True) -> Rows:
    """Load `data.<part>` (candidates, queries, eval or a set of more_eval). `answer`: rows must end with an answer.

    Raises UserError for a path, file, split or column that is not there, an empty source, and for the first faulty row
    unless `data.on_error=skip`.
    """
    where = f"data.{part}"
    if not part.startswith("more_eval.") and not given(cfg, part):
        raise UserError(f"{where}.path is missing: set {where}.path=FILE (or a hub id, or data=demo)")
    found = []
    for source in from_dataset_info(_source(cfg, part), where):
        left = source.limit
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
        parts = tuple(pair for rows in found for pair in rows.parts)
        rows = Rows(part, parts, digest([rows.fingerprint for rows in found]), answer)
    if filtered := int(rows.flagged(FILTERED).sum()):
        log.info(f"{where}: {filtered} of {len(rows)} rows left out by the filter")
    if not rows.usable().any():
        raise UserError(f"{where}: {where}.filter={source.filter} leaves no row; widen it")
    return rows


def raw_rows(cfg: DictConfig, rows: Rows, ids: np.ndarray, cache_dir: str) -> Iterator[tuple[int, Mapping]]:
    """Rows `ids` (distinct) of what `load` made of `cfg`, as they stand in their sources: (id, row) by ascending id,
    with the sources read once more as streams.

    Raises UserError where a source no longer holds what was loaded.
    """
    where = f"data.{rows.name}"
    told = _source(cfg, rows.name)
    sources = [(source, open_sources(source, where, cache_dir)) for source in from_dataset_info(told, where)]
    if sum(len(files) for _, files in sources) < len(rows.parts):
        raise UserError(f"{where}.path={told.path} names fewer files than when it was loaded; run again")
    wanted, offset, tables = np.sort(ids), 0, iter(rows.parts)
    for source, files in sources:
        left = source.limit
        for opened in files:
            if left == 0:  # a source beyond the limit has no table
                break
            changed = UserError(f"{where}: {opened.path} has changed since it was loaded; run again")
            _, table = next(tables, (None, None))
            if table is None or Form.of(source, left).key(opened) != table.folder.name:
                raise changed
            first, last = np.searchsorted(wanted, [offset, offset + len(table)])
            own = set((wanted[first:last] - offset).tolist())
            for place, (_, raw) in enumerate(opened.rows() if own else ()):
                if place in own and isinstance(raw, Mapping):
                    yield offset + place, raw
                    own.remove(place)
                    if not own:
                        break
            if own:
                raise changed
            offset += len(table)
            left = None if left is None else left - len(table)


def _load_one(
    cfg: DictConfig, source: DictConfig, part: str, opened: Opened, limit: int | None, cache_dir: str, answer: bool
) -> tuple[Rows, dict]:
    """One source's rows, read into the cache when they are not there yet, and what its info.json says."""
    form = Form.of(source, limit)
    key = form.key(opened)
    folder = cache_folder(cache_dir, "data", key)
    refresh = cfg.refresh and is_main()  # one process does; what it replaces is the same content
    if refresh or not (folder / "info.json").is_file():
        with locked(lock_file(cache_dir, key)):  # who waited finds it there
            if refresh or not (folder / "info.json").is_file():
                with folder_aside(folder, replace=True) as new:
                    write_json(new / "info.json", _write(new, opened, form, f"data.{part}", cfg.on_error))
    try:
        info = read_json(folder / "info.json")
        return Rows(part, ((opened.label, Table(folder)),), info["fingerprint"], answer), info
    except (OSError, ValueError, KeyError, pa.ArrowInvalid) as error:
        raise UserError(
            f"the cached rows in {folder} are damaged ({one_line(error)}); set data.refresh=true"
        ) from error


def _judge(rows: Rows, info: dict, where: str, on_error: str) -> None:
    """Stop for faulty rows, or say how many are left out."""
    if not len(rows):
        raise UserError(f"{where} holds no row; give it some")
    kept = ~rows.flagged(FILTERED)
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

    @classmethod
    def of(cls, source: DictConfig, limit: int | None) -> "Form":
        columns = {field: column for field, column in (source.columns or {}).items() if column is not None}
        tags = OmegaConf.to_container(source.tags) if source.tags else {}
        return cls(source.format, columns, tags, OmegaConf.to_container(source.filter) if source.filter else {}, limit)

    def key(self, opened: Opened) -> str:
        """The name of the table that `opened` becomes."""
        return digest([VERSION, opened.content, self.format, self.columns, self.tags, self.limit, self.filter])


def _write(folder: Path, opened: Opened, form: Form, where: str, on_error: str) -> dict:
    """Write the table into `folder`; return what info.json holds.

    Nothing of the source's name goes in: the same content has the same table and fingerprint under any name.
    """
    state = hashlib.sha256()
    format, shown, first_fault, first_unanswered = None, None, None, None
    with TableWriter(folder) as table:
        for position, raw in opened.rows():
            if table.rows == form.limit:
                break
            row: dict = {"messages": [], "source": None, "fault": None}
            unanswered, filtered = None, False
            try:
                if isinstance(raw, Fault):
                    raise raw
                if shown is None and isinstance(raw, Mapping):
                    format = decide(form.format, form.columns, raw, f"{where}.path={opened.path}")
                    shown = shown_columns(raw)
                    _check_filter(form.filter, raw, where)
                filtered = isinstance(raw, Mapping) and not _passes(raw, form.filter)
                if not filtered:
                    row["messages"], unanswered = canonical(raw, format, form.columns, form.tags)
                if "source" in form.columns and raw.get(form.columns["source"]) is not None:
                    row["source"] = str(raw[form.columns["source"]])
                    check_text(row["source"], form.columns["source"])
            except Fault as error:
                row["fault"] = str(error)
                told = f"row {table.rows} ({position}): {error}"
                if on_error == "raise":
                    line = f"{where}: {opened.path}, {told}; mend the row or set data.on_error=skip"
                    raise UserError(line) from error
                first_fault = first_fault or (table.rows, told)
            if unanswered:
                first_unanswered = first_unanswered or (table.rows, f"row {table.rows} ({position}): {unanswered}")
            key, prompt_key = _keys(row["messages"])
            state.update(bytes([row["fault"] is not None, filtered]) + key)
            flags = FAULT * (row["fault"] is not None) | UNANSWERED * bool(unanswered) | FILTERED * filtered
            table.add(row, flags, key, prompt_key)
    return {
        "schema_version": VERSION,
        "format": format,
        "columns": shown,
        "first_fault": first_fault,
        "first_unanswered": first_unanswered,
        "fingerprint": state.hexdigest()[:32],
    }


def _keys(messages: list[Message]) -> tuple[bytes, bytes]:
    """Hashes of all messages, and of those before the last answer (of plain text: of itself), of all their fields."""
    state, prompt = hashlib.blake2b(digest_size=KEY), None
    answered = len(messages) > 1 and messages[-1]["role"] == "assistant"
    for i, message in enumerate(messages):
        if answered and i == len(messages) - 1:
            prompt = state.digest()
        fields = {message["role"]: message["content"]}  # no role has the name of another field
        fields |= {name: str(message[name]) for name in OPTIONAL if name in message}
        for name, text in fields.items():
            content = text.encode()
            state.update(f"{name} {len(content)} ".encode() + content)
    key = state.digest()
    return key, key if prompt is None else prompt


def _check_filter(filter: dict, first: Mapping, where: str) -> None:
    for column in filter:
        if column not in first:
            raise UserError(f"{where}.filter: no column '{column}'; {shown_columns(first)}")


def _passes(raw: Mapping, filter: dict) -> bool:
    """Whether a raw row has, in every column of `filter`, the value that is asked for or one of them."""
    return all(
        raw.get(c) in wanted if isinstance(wanted, list) else raw.get(c) == wanted for c, wanted in filter.items()
    )

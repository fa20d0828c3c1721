"""Writes a source's raw rows into a table of canonical rows (near/data/table.py), with notes for the log."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from near.common.errors import UserError, printable
from near.common.files import digest
from near.common.text import plural
from near.data.filters import Filter
from near.data.formats.format_choice import decide, is_informative, is_informative_in_turn, read_columns, shown_columns
from near.data.formats.formats import FORMATS, Form, canonical, check_text, fields_of
from near.data.formats.turns import Fault
from near.data.options import NUMBERS
from near.data.row_keys import normalised_turns, prompt_key, row_key, text_key
from near.data.sources.sources import Opened
from near.data.table import FAULT, FILTERED, KEY, UNANSWERED, TableWriter

VERSION = 6  # of the canonical table; part of its key
EMPTY = {"messages": [], "source": None, "fault": None}


@dataclass(frozen=True)
class Reading:
    """How a source's rows are read: see conf/data/source/default.yaml."""

    format: str
    columns: dict
    tags: dict
    filter: dict
    limit: int | None
    entry: str | None = None  # see formats.Form
    chosen: np.ndarray | None = None  # int64, ascending: positions of the rows that are used; None: all

    @classmethod
    def of(cls, source: DictConfig, limit: int | None, chosen: np.ndarray | None = None) -> "Reading":
        named = (source.columns or {}).items()
        columns = {field: column or "" for field, column in named if column is not None and field not in NUMBERS}
        tags = OmegaConf.to_container(source.tags) if source.tags else {}
        filter = OmegaConf.to_container(source.filter) if source.filter else {}
        return cls(source.format, columns, tags, filter, limit, source.get("entry"), chosen)

    def key(self, opened: Opened) -> str:
        """The cache key of the table of `opened`."""
        chosen = None if self.chosen is None else hashlib.sha256(self.chosen.tobytes()).hexdigest()
        key_parts = [self.format, self.columns, self.tags, self.limit, self.filter, self.entry, chosen]
        return digest([VERSION, opened.content, *key_parts])

    def write(self, folder: Path, opened: Opened, where: str, on_error: str) -> dict:
        """Write the table into `folder`; return the content of info.json.

        The source's name is not part of it: the same content has the same table and fingerprint under any name.
        """
        return _Writing(self, opened, where, on_error).table(folder)


@dataclass
class _Writing:
    """The table of one source while it is written."""

    reading: Reading
    opened: Opened
    where: str
    on_error: str
    form: Form | None = None
    others: list[str] = field(default_factory=list)  # other formats that fit
    names: dict[str, None] = field(default_factory=dict)  # columns of the rows so far, in order
    nonempty: set[str] = field(default_factory=set)  # columns that have a value in at least one row
    notes: Counter = field(default_factory=Counter)
    unread: dict[str, None] = field(default_factory=dict)  # unread keys of turns, as messages[].key

    def table(self, folder: Path) -> dict:
        self.filter = Filter(self.reading.filter, f"{self.where}.filter")
        state, labels, first_fault, first_unanswered = hashlib.sha256(), hashlib.sha256(), None, None
        chosen = None if self.reading.chosen is None else set(self.reading.chosen.tolist())
        with TableWriter(folder) as table:
            for position, raw in self.opened.rows(self._choose):
                if table.rows == self.reading.limit:
                    break
                row, flags, unanswered = dict(EMPTY), 0, None
                at = f"row {table.rows} ({position})"
                if chosen is not None and table.rows not in chosen:
                    flags = FILTERED
                else:
                    try:
                        flags, unanswered = self._read(raw, row)
                    except Fault as error:
                        row |= {"messages": [], "fault": str(error)}
                        flags |= FAULT
                        if self.on_error == "raise":
                            fault = f"{self.opened.path}, {at}: {error}"
                            raise UserError(f"{self.where}: {fault}; fix the row or set data.on_error=skip") from error
                        first_fault = first_fault or (table.rows, f"{at}: {error}")
                if unanswered:
                    first_unanswered = first_unanswered or (table.rows, f"{at}: {unanswered}")
                key, turns = row_key(row["messages"]), normalised_turns(row["messages"])
                state.update(bytes([bool(flags & FAULT), bool(flags & FILTERED)]) + key)
                labels.update(text_key(row["source"]) if row["source"] is not None else bytes(KEY))
                turn_keys = [text_key(turn) for turn in turns] if len(turns) > 1 else []
                table.add(row, flags, key, prompt_key(turns), turn_keys)
        self._check_named()
        return {
            "schema_version": VERSION,
            "format": self.form and self.form.format,
            "other_formats": self.others,
            "columns": shown_columns(self.names),
            "unused": self._unused(),
            "notes": dict(self.notes),
            "filter_values": self.filter.values,
            "first_fault": first_fault,
            "first_unanswered": first_unanswered,
            "fingerprint": state.hexdigest()[:32],
            "labels": labels.hexdigest()[:32],
        }

    def _read(self, raw: Any, row: dict) -> tuple[int, str | None]:
        """Fill `row` from a raw one; return its flags and why it has no answer (None: it has one). Raises Fault."""
        if isinstance(raw, Fault):
            raise raw
        if isinstance(raw, Mapping):
            self._note_columns(raw)
            if not self.filter.passes(raw):
                return FILTERED, None
        read = canonical(raw, self.form or Form("messages", {}, {}))
        row["messages"] = read.messages
        label = self.reading.columns.get("source")
        if label is not None and raw.get(label) is not None:
            row["source"] = str(raw[label])
            check_text(row["source"], label)
        self.notes.update(set(read.notes))
        self.unread |= dict.fromkeys(read.unread)
        return UNANSWERED * bool(read.unanswered), read.unanswered

    def _note_columns(self, raw: Mapping) -> None:
        """Record a row's columns; the first row decides the format."""
        for name, value in raw.items():
            if name not in self.nonempty and value is not None and value != "" and value != [] and value != {}:
                self.nonempty.add(name)
        if not raw.keys() <= self.names.keys():
            self.names |= dict.fromkeys(raw)
        if self.form is None:
            reading = self.reading
            columns = {**self.names, **raw}
            if reading.entry:
                format = reading.format
                self._check_entry()
            else:
                format, self.others = decide(reading.format, reading.columns, columns, self.where, self.opened.path)
            self.form = Form(format, reading.columns, reading.tags, reading.entry)
            self.filter.check(list(self.names), f"{self.where}.filter")

    def _check_entry(self) -> None:
        """UserError if none of the prompt columns of a dataset_info.json entry exists."""
        prompt_columns = [self.reading.columns.get(name) for name in ("instruction", "input", "conversations")]
        if not any(column in self.names for column in prompt_columns if column):
            named = next(column for column in prompt_columns if column)
            raise UserError(
                f"{self.where}.path={self.opened.path}: no column '{named}', which its entry reads; "
                f"{shown_columns(self.names)}"
            )

    def _choose(self, names: list[str]) -> list[str]:
        """The columns of a table to read: those of any format that the rows may have."""
        self.names = dict.fromkeys(names)
        reading, auto = self.reading, self.reading.format == "auto"
        formats = FORMATS if auto else [f for f in (reading.format,) if f in FORMATS]
        forms = [Form(format, reading.columns, reading.tags, reading.entry) for format in formats]
        readable = {name for form in forms for name in read_columns(form, names)} | set(reading.filter)
        needed = [name for name in names if name in readable or name == reading.columns.get("source")]
        self.nonempty = set(names) - set(needed)  # columns that are not read count as informative
        return needed

    def _unused(self) -> list[str]:
        """Columns, and keys of turns, that have information and are not read."""
        if self.form is None:
            return []
        used = {*read_columns(self.form, self.names), *self.reading.filter, self.reading.columns.get("source")}
        unused = [str(n) for n in self.names if n not in used and n in self.nonempty and is_informative(n)]
        return unused + [name for name in self.unread if is_informative_in_turn(name.rpartition("[].")[2])]

    def _check_named(self) -> None:
        """UserError for a configured column that is in no row, unless it is optional."""
        if self.form is None:
            return
        for name, column in self.form.columns.items():
            may_lack = not column or name in FORMATS[self.form.format].required[1:] or name == column
            if column not in self.names and not may_lack and name in fields_of(self.form.format):
                raise UserError(
                    f"{self.where}.path={self.opened.path}: no column '{column}' (columns.{name}); "
                    f"{shown_columns(self.names)}; set {self.where}.columns.{name}, or data=files for files of your own"
                )


def log_lines(info: dict, where: str, path: str, graded: Collection[str] = ()) -> list[str]:
    """Log lines about a source, from its info.json. `graded`: columns that graders read."""
    lines, notes, prefix = [], info["notes"], f"{where}: {path}"
    if info["other_formats"]:
        others = " or ".join(info["other_formats"])
        lines.append(f"{prefix}: read as {info['format']}; its columns also fit {where}.format={others}")
    if notes.get("empty"):
        lines.append(
            f"{prefix}: {plural(notes['empty'], 'row')} with an empty answer in the middle, which is not trained on"
        )
    if notes.get("system"):
        lines.append(
            f"{prefix}: {plural(notes['system'], 'row')} with several system texts; a system turn takes "
            "precedence over a column"
        )
    if unused := [name for name in info["unused"] if name not in graded]:
        lines.append(f"{prefix}: not used: {printable(', '.join(unused), 300)}")
    return lines

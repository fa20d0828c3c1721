"""`Rows`: a loaded source, its rows known by their position in it."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import datasets
import numpy as np

from near.common.files import digest
from near.data.formats.formats import Message, embedded_text, without_nulls
from near.data.table import FAULT, FILTERED, UNANSWERED, Table

BLOCK = 1 << 16  # rows whose hashes are read at a time


@dataclass(frozen=True)
class Rows:
    """Loaded sources, as pairs of label and table; a row's id is its position in all of them together.

    `answer`: rows that hold no answer are not eligible. `excluded`: (n,) bool, rows left out for what other rows hold
    (near/data/pool.py). `fingerprint`: of the messages and of which rows are used; `labels`: of the sources' labels,
    row by row.
    """

    name: str
    parts: tuple[tuple[str, Table], ...]
    fingerprint: str
    answer: bool
    excluded: np.ndarray | None = None
    labels: str = ""

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
        is asked (near/data/row_keys.py)."""
        offset = 0
        for _, table in self.parts:
            for start in range(0, len(table), BLOCK):
                yield offset + start, table.keys(column, start, min(start + BLOCK, len(table)))
            offset += len(table)

    def turns(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Blocks of the turns of rows that ask in several: the rows' ids, int64 (m,), and hashes, uint64 (m, 2)."""
        offset = 0
        for _, table in self.parts:
            for rows, keys in table.turns():
                yield rows + offset, keys
            offset += len(table)

    def without(self, excluded: np.ndarray) -> "Rows":
        """These rows with the (n,) bool mask `excluded` no longer eligible; ids stay."""
        return dataclasses.replace(self, excluded=excluded)

    def followed_by(self, others: "Rows") -> "Rows":
        """These rows and, with the ids after theirs, `others`."""
        excluded = [np.zeros(len(r), dtype=bool) if r.excluded is None else r.excluded for r in (self, others)]
        fingerprint, labels = digest([self.fingerprint, others.fingerprint]), digest([self.labels, others.labels])
        parts = self.parts + others.parts
        return Rows(self.name, parts, fingerprint, self.answer, np.concatenate(excluded), labels)

    def sources(self, ids: np.ndarray | None = None) -> np.ndarray:
        """The label of the source of every row, or of rows `ids`, (n,) of str."""
        labels = np.empty(len(self) if ids is None else len(ids), dtype=object)
        for positions, label, table, rows in self._split(np.arange(len(self)) if ids is None else np.asarray(ids)):
            for start in range(0, len(rows), BLOCK):
                values = table.column("source", rows[start : start + BLOCK])
                labels[positions[start : start + BLOCK]] = [label if value is None else value for value in values]
        return labels

    def messages(self, row: int) -> list[Message]:
        return self.chats(np.array([row]))[0]

    def chats(self, ids: np.ndarray) -> list[list[Message]]:
        """The messages of rows `ids`."""
        chats = [None] * len(ids)
        for positions, _, table, rows in self._split(ids):
            for position, messages in zip(positions, table.column("messages", rows), strict=True):
                chats[position] = without_nulls(messages)
        return chats

    def texts(self, ids: np.ndarray, embed: str) -> list[str]:
        """What is embedded of rows `ids`: "prompt" (user turns), "answer" (last assistant turn) or "both"."""
        return [embedded_text(messages, embed) for messages in self.chats(ids)]

    def dataset(self) -> datasets.Dataset:
        """All rows as a memory-mapped data set with the columns of near/data/table.py."""
        return datasets.concatenate_datasets([table.dataset() for _, table in self.parts])

    def _split(self, ids: np.ndarray) -> Iterator[tuple[np.ndarray, str, Table, np.ndarray]]:
        """For each part that holds some of `ids`: where they stand in `ids`, its label, its table, their rows there."""
        offset = 0
        for label, table in self.parts:
            positions = np.flatnonzero((ids >= offset) & (ids < offset + len(table)))
            if len(positions):
                yield positions, label, table, ids[positions] - offset
            offset += len(table)

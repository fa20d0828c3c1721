"""`Rows`: loaded sources; a row's id is its position."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import datasets
import numpy as np

from near.common.files import digest
from near.common.records import Overlap
from near.data.formats.formats import Message, embedded_text, without_nulls
from near.data.table import FAULT, FILTERED, UNANSWERED, Table

BLOCK = 1 << 16  # rows whose hashes are read at a time


@dataclass(frozen=True)
class Rows:
    """Loaded sources; a row's id is its position in their concatenation."""

    name: str  # the part of `data` that was loaded
    parts: tuple[tuple[str, Table], ...]  # label and table of each source
    fingerprint: str  # digest of the messages and of which rows are used
    answer: bool  # whether rows without an answer are not eligible
    excluded: np.ndarray | None = None  # bool (n,): leaks and repeated rows (near/data/pool.py)
    labels: str = ""  # digest of the sources' labels, row by row
    overlaps: tuple[Overlap, ...] | None = None  # with held-out rows (near/data/contamination.py); None: not compared

    def __len__(self) -> int:
        return sum(len(table) for _, table in self.parts)

    def eligible(self) -> np.ndarray:
        """Ids of the rows that may be selected and trained, int64, ascending."""
        usable = self.usable()
        if self.excluded is not None:
            usable &= ~self.excluded
        return np.flatnonzero(usable)

    def usable(self) -> np.ndarray:
        """bool (n,): rows without a fault that pass the filter."""
        return self.flagged(FAULT | FILTERED | (UNANSWERED if self.answer else 0), none=True)

    def flagged(self, flags: int, none: bool = False) -> np.ndarray:
        """bool (n,): rows with any of `flags`; none=True: rows without any of them."""
        return np.concatenate([(t.flags() & flags == 0) if none else (t.flags() & flags != 0) for _, t in self.parts])

    def keys(self, column: str) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks of hashes: the first row's id, and uint64 (m, 2).

        `column`: "key" of all messages, "prompt_key" of the prompt (near/data/row_keys.py).
        """
        offset = 0
        for _, table in self.parts:
            for start in range(0, len(table), BLOCK):
                yield offset + start, table.keys(column, start, min(start + BLOCK, len(table)))
            offset += len(table)

    def content_keys(self) -> np.ndarray:
        """The hash of every row's messages, uint64 (n, 2): 16 bytes a row."""
        return np.concatenate([np.empty((0, 2), dtype=np.uint64), *(keys for _, keys in self.keys("key"))])

    def turns(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Blocks of the prompt turns of multi-turn rows: row ids int64 (m,), and hashes uint64 (m, 2)."""
        offset = 0
        for _, table in self.parts:
            for rows, keys in table.turns():
                yield rows + offset, keys
            offset += len(table)

    def without(self, excluded: np.ndarray) -> "Rows":
        """These rows with `excluded`, bool (n,), in place of the earlier mask; ids stay."""
        return dataclasses.replace(self, excluded=excluded)

    def followed_by(self, others: "Rows") -> "Rows":
        """These rows followed by `others`, whose ids continue after these."""
        excluded = [np.zeros(len(r), dtype=bool) if r.excluded is None else r.excluded for r in (self, others)]
        fingerprint, labels = digest([self.fingerprint, others.fingerprint]), digest([self.labels, others.labels])
        parts, overlaps = self.parts + others.parts, self.overlaps
        if others.overlaps is not None:
            moved = (dataclasses.replace(one, row=one.row + len(self)) for one in others.overlaps)
            overlaps = (*(self.overlaps or ()), *moved)
        return Rows(self.name, parts, fingerprint, self.answer, np.concatenate(excluded), labels, overlaps)

    def sources(self, ids: np.ndarray | None = None) -> np.ndarray:
        """The source's label of every row, or of rows `ids`: object (n,) of str."""
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
        """The texts to embed of rows `ids`. `embed`: see formats.embedded_text."""
        return [embedded_text(messages, embed) for messages in self.chats(ids)]

    def dataset(self) -> datasets.Dataset:
        """All rows as a memory-mapped data set with the columns of near/data/table.py."""
        return datasets.concatenate_datasets([table.dataset() for _, table in self.parts])

    def _split(self, ids: np.ndarray) -> Iterator[tuple[np.ndarray, str, Table, np.ndarray]]:
        """For each source with rows among `ids`: positions in `ids`, label, table, and row numbers in that table."""
        offset = 0
        for label, table in self.parts:
            positions = np.flatnonzero((ids >= offset) & (ids < offset + len(table)))
            if len(positions):
                yield positions, label, table, ids[positions] - offset
            offset += len(table)

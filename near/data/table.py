"""The table of canonical rows on disk: written in batches, read by row without loading or mapping the whole.

A folder of rows.arrow (an Arrow stream), offsets.npy (byte offsets of its batches, and the end of the last one) and,
with a fixed number of bytes per row, flags.bin, key.bin and prompt_key.bin; for the prompts of multi-turn rows, with a
fixed number of bytes per turn, turn_key.bin and turn_row.bin.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from near.common.errors import as_user_error
from near.common.files import write_npy

BATCH = 1000  # rows per batch; reading one row reads its batch
KEY = 16  # bytes of a hash
TURNS = 1 << 20  # turns read at a time
# flags: the row can't be used; it has no answer; the source's filter or sample leaves it out
FAULT, UNANSWERED, FILTERED = 1, 2, 4
SCHEMA = pa.schema(
    {
        "messages": pa.list_(
            pa.struct(
                {
                    "role": pa.string(),
                    "content": pa.string(),
                    "reasoning": pa.string(),  # this and the next two: null if absent, see formats/formats.py
                    "calls": pa.string(),
                    "train": pa.bool_(),
                }
            )
        ),
        "source": pa.string(),  # null: the source's own label
        "fault": pa.string(),  # why the row can't be used at all
    }
)


class TableWriter:
    """Writes a table into `folder`; leaving the `with` block finishes it."""

    def __init__(self, folder: Path):
        self.folder, self.rows = folder, 0
        self._sink = pa.OSFile(str(folder / "rows.arrow"), "wb")
        self._arrow = pa.ipc.new_stream(self._sink, SCHEMA)
        self._side = [open(folder / name, "wb") for name in ("flags.bin", "key.bin", "prompt_key.bin")]
        self._turns = [open(folder / name, "wb") for name in ("turn_key.bin", "turn_row.bin")]
        self._batch, self._offsets = [], []

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None and self._batch:
            self._flush()
        self._offsets.append(self._sink.tell())
        self._arrow.close()
        for file in (self._sink, *self._side, *self._turns):
            file.close()
        if kind is None:
            write_npy(self.folder / "offsets.npy", np.array(self._offsets, dtype=np.int64))

    def add(self, row: dict, flags: int, key: bytes, prompt_key: bytes, turn_keys: list[bytes]) -> None:
        """Append a row.

        Args:
            row: the columns of SCHEMA.
            flags: FAULT, UNANSWERED and FILTERED, or-ed.
            key: hash of all messages, KEY bytes.
            prompt_key: hash of the prompt, KEY bytes.
            turn_keys: hash of each prompt turn if there are several, else empty.
        """
        self._batch.append(row)
        for turn_key in turn_keys:
            self._turns[0].write(turn_key)
            self._turns[1].write(np.int64(self.rows).tobytes())
        for file, value in zip(self._side, (bytes([flags]), key, prompt_key), strict=True):
            file.write(value)
        self.rows += 1
        if len(self._batch) == BATCH:
            self._flush()

    def _flush(self) -> None:
        self._offsets.append(self._sink.tell())
        self._arrow.write_batch(pa.RecordBatch.from_pylist(self._batch, schema=SCHEMA))
        self._batch = []


class Table:
    """A finished table. Opening one reads 8 bytes per BATCH rows. Pickling stores the folder only.

    Raises ValueError or OSError if a file is missing or truncated.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.rows = os.path.getsize(self.folder / "flags.bin")
        self._offsets = np.load(self.folder / "offsets.npy", allow_pickle=False)
        if len(self._offsets) != -(-self.rows // BATCH) + 1:
            raise ValueError("offsets.npy is of another table")
        if os.path.getsize(self.folder / "rows.arrow") < self._offsets[-1]:
            raise ValueError("rows.arrow is cut short")
        for name in ("key", "prompt_key"):
            if os.path.getsize(self.folder / f"{name}.bin") != KEY * self.rows:
                raise ValueError(f"{name}.bin is cut short")
        if 2 * os.path.getsize(self.folder / "turn_row.bin") != os.path.getsize(self.folder / "turn_key.bin"):
            raise ValueError("turn_key.bin is cut short")
        self._cached: tuple[int, pa.RecordBatch] | None = None

    def __len__(self) -> int:
        return self.rows

    def __reduce__(self):
        return Table, (str(self.folder),)

    def flags(self) -> np.ndarray:
        """uint8 (n,)."""
        return np.fromfile(self.folder / "flags.bin", dtype=np.uint8)

    def keys(self, name: str, start: int, stop: int) -> np.ndarray:
        """Hashes of rows `start` to `stop`, uint64 (stop - start, 2). `name`: "key" or "prompt_key"."""
        path, count = self.folder / f"{name}.bin", 2 * (stop - start)
        return np.fromfile(path, dtype=np.uint64, count=count, offset=start * KEY).reshape(-1, 2)

    def turns(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Blocks of the prompt turns of multi-turn rows: row numbers int64 (m,), and hashes uint64 (m, 2)."""
        count = os.path.getsize(self.folder / "turn_row.bin") // 8
        for start in range(0, count, TURNS):
            rows = np.fromfile(self.folder / "turn_row.bin", np.int64, TURNS, offset=8 * start)
            keys = np.fromfile(self.folder / "turn_key.bin", np.uint64, 2 * TURNS, offset=KEY * start)
            yield rows, keys.reshape(-1, 2)

    def column(self, name: str, ids: np.ndarray) -> list:
        """Values of a column for rows `ids`, int64 (m,), in the same order."""
        batches, result = ids // BATCH, [None] * len(ids)
        for number in np.unique(batches):
            positions = np.flatnonzero(batches == number)
            values = self._read(int(number)).column(name).take(pa.array(ids[positions] % BATCH)).to_pylist()
            for position, value in zip(positions, values, strict=True):
                result[position] = value
        return result

    def dataset(self) -> datasets.Dataset:
        """The whole table as a memory-mapped data set."""
        return datasets.Dataset.from_file(str(self.folder / "rows.arrow"))

    def _read(self, number: int) -> pa.RecordBatch:
        if self._cached is None or self._cached[0] != number:
            if not self.folder.is_dir():  # a refresh is replacing it by the same table
                time.sleep(0.2)
            errors, what = (OSError, EOFError, pa.ArrowInvalid), f"the cached rows in {self.folder} are damaged"
            with (
                as_user_error(errors, what, "set data.refresh=true"),
                pa.OSFile(str(self.folder / "rows.arrow")) as file,
            ):
                file.seek(int(self._offsets[number]))
                message = pa.ipc.read_message(file)
                if message.type == "schema":  # the stream opens with it
                    message = pa.ipc.read_message(file)
                self._cached = number, pa.ipc.read_record_batch(message, SCHEMA)
        return self._cached[1]

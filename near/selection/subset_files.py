"""A subset as jsonl or parquet, each row with its rank, score, nearest query and source."""

import base64
import contextlib
import datetime
import decimal
import math
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from omegaconf import DictConfig

from near.common.errors import UserError, one_line
from near.common.files import write_jsonl
from near.data.loading import raw_rows
from near.data.rows import Rows
from near.data.sources.readers import Unconverted

if TYPE_CHECKING:
    from near.searching.neighbours import Neighbours

ROW_GROUP = 1000  # rows of a parquet file that can be read at a time
DEEPEST = 32  # levels of lists and objects in a parquet column; pyarrow reads back 49 of lists, crashes at 10,000
COLUMNS = {
    "row": pa.int64(),
    "rank": pa.int64(),
    "score": pa.float32(),
    "nearest_query": pa.int64(),
    "source": pa.string(),
}


def rows_of(data: DictConfig, pool: Rows, ids: np.ndarray, cache_dir: str) -> list[dict]:
    """The columns of rows `ids`, int64 (m,), as their sources have them, in that order."""
    positions = {row: position for position, row in enumerate(ids.tolist())}
    rows: list[dict] = [{}] * len(ids)
    for row, raw in raw_rows(data, pool, ids, cache_dir):
        rows[positions[row]] = dict(raw)
    return rows


def our_names(rows: list[dict]) -> list[str]:
    """The names of COLUMNS beside the columns of `rows`: with near_ before them if one of theirs has such a name."""
    prefix, used = "", {name for row in rows for name in row}
    while any(prefix + name in used for name in COLUMNS):
        prefix += "near_"
    return [prefix + name for name in COLUMNS]


def nearest(
    ids: np.ndarray, queries: Rows | None, neighbours: "Neighbours | None"
) -> list[tuple[float | None, int | None]]:
    """For each of `ids` its highest similarity to a query in the matrix, and that query's id (the lowest of several);
    (None, None) if it is not in the matrix."""
    if neighbours is None:
        return [(None, None)] * len(ids)
    order = np.argsort(ids)
    best, query = np.full(len(ids), -np.inf, dtype=np.float32), np.full(len(ids), -1)
    for number, (rows, scores) in enumerate(zip(neighbours.ids, neighbours.similarities, strict=True)):
        at = order[np.minimum(np.searchsorted(ids, rows, sorter=order), len(ids) - 1)]  # (max_K,) positions in ids
        nearer = (ids[at] == rows) & (scores > best[at])  # a query has a row once
        best[at[nearer]], query[at[nearer]] = scores[nearer], number
    query_ids = queries.eligible()
    return [(float(s), int(query_ids[q])) if q >= 0 else (None, None) for s, q in zip(best, query, strict=True)]


def _jsonl(path: Path, rows: list[dict], known: dict[str, pa.DataType]) -> None:
    """Write one row a line, each with its own columns."""

    def lines() -> Iterator[dict]:
        for position, row in enumerate(rows):
            line = {}
            for name, value in row.items():
                try:
                    line[name] = as_json(value)
                except (TypeError, RecursionError) as error:
                    raise UserError(
                        f"export=jsonl: column '{name}' of the subset's row {position + 1} has a value that JSON can't "
                        f"hold ({one_line(error)}); leave it out of the source"
                    ) from error
            yield line

    write_jsonl(path, lines())


def as_json(value: object) -> object:
    """Convert a value for JSON: dates and times to ISO format, a duration to seconds, bytes to base64, a decimal or
    UUID to text, NaN and infinities to null, an array to a list. Raises TypeError for anything else."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, decimal.Decimal | uuid.UUID | np.datetime64 | Unconverted):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return as_json(value.tolist())
    raise TypeError(f"it is of type {type(value).__name__}")


def _parquet(path: Path, rows: list[dict], known: dict[str, pa.DataType]) -> None:
    """Write one table with the columns of all rows, null if a row lacks one. A column's type is that in its source, if
    known, else inferred from all its values."""
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        values = [value.scalar if isinstance(value, Unconverted) else value for value in values]
        with _of_one_type(f"column '{name}' does"):
            if any(_deeper(value, DEEPEST) for value in values):
                raise ValueError(f"nested deeper than {DEEPEST} levels")
            columns[name] = pa.array(values, known.get(name) or pa.infer_type(values))
    with _of_one_type("the names of the columns do"):
        table = pa.table(columns)
    with _of_one_type("the rows do"):
        pyarrow.parquet.write_table(table, path, row_group_size=ROW_GROUP)


def _deeper(value: object, levels: int) -> bool:
    """Whether lists and objects are nested in `value` deeper than `levels`."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else None
    return inner is not None and (not levels or any(_deeper(item, levels - 1) for item in inner))


@contextlib.contextmanager
def _of_one_type(subject: str) -> Iterator[None]:
    """Convert pyarrow's errors for values that fit no type into a UserError."""
    try:
        yield
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        reason = one_line(error)[:100]
        raise UserError(f"export=parquet: {subject} not fit one type ({reason}); use export=jsonl") from error


WRITERS = {"jsonl": _jsonl, "parquet": _parquet}

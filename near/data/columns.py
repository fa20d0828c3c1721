"""Further columns of loaded rows: labels such as skill or language, and numbers such as a reward model's score.

The canonical table has none of them. They are read from the sources in one pass and cached, so tables of before stay
valid.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig

from near.common.cached import cached
from near.common.errors import UserError, did_you_mean
from near.common.files import cache_folder, digest
from near.data.filters import number_of
from near.data.loading import raw_rows
from near.data.rows import Rows
from near.data.table import FAULT

VERSION = 1  # of the cached columns; part of their key
BATCH = 20_000  # rows written at a time
SHOWN = 100  # names of columns remembered for a message


def columns_of(data: DictConfig, rows: Rows, names: Sequence[str], cache_dir: str) -> dict[str, list]:
    """The values of columns of the sources, by name: a list (n,) each, None for a row without the column.

    Args:
        data: the node `data` of the configuration that `rows` was loaded with.
        rows: what `load` returned.
        names: columns; `a.b` is the key b of a column a that holds objects, unless there is a column `a.b`.
        cache_dir: where the values are cached.

    Raises:
        UserError: no row has a column of that name, or a source has changed since it was loaded.
    """
    names = sorted(set(names))
    if not names:
        return {}
    tables = [table.folder.name for _, table in rows.parts]

    def make(path: Path) -> None:
        schema, missing = pa.schema({name: pa.string() for name in names}), set(names)  # as JSON; null: no value
        known: dict[str, None] = {}
        with pq.ParquetWriter(path, schema) as file:
            batch: list[dict[str, str | None]] = []
            for raw in _in_order(data, rows, cache_dir):
                if len(known) < SHOWN:
                    known.update(dict.fromkeys(map(str, raw)))
                values = {name: _value(raw, name) for name in names}
                missing -= {name for name, value in values.items() if value is not None}
                batch.append({n: None if v is None else json.dumps(v, default=str) for n, v in values.items()})
                if len(batch) == BATCH:
                    file.write_table(pa.Table.from_pylist(batch, schema=schema))
                    batch = []
            file.write_table(pa.Table.from_pylist(batch, schema=schema))
        for name in sorted(missing):
            raise UserError(f"data.{rows.name}: no row has a column '{name}'{did_you_mean(name, known)}")

    def read(path: Path) -> dict[str, list]:
        table = pq.read_table(path)
        if table.num_rows != len(rows):
            raise ValueError(f"it has {table.num_rows} rows, not {len(rows)}")
        return {n: [None if v is None else json.loads(v) for v in table.column(n).to_pylist()] for n in names}

    return cached(cache_folder(cache_dir, "columns", digest([VERSION, names, tables]) + ".parquet"), make, read)


def numbers_of(values: Sequence[object]) -> np.ndarray:
    """Values of a column as numbers, float64 (n,). Numbers written as text count, as in CSV files; true, false and
    everything else is NaN; infinity beyond float64."""
    return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: object) -> float:
    number = None if isinstance(value, bool) else number_of(value)
    try:
        return math.nan if number is None else float(number)
    except OverflowError:
        return math.inf


def _in_order(data: DictConfig, rows: Rows, cache_dir: str) -> Iterator[Mapping]:
    """The raw row of each id from 0; an empty one for a faulty row, which may be no object at all."""
    whole, following = np.flatnonzero(rows.flagged(FAULT, none=True)), 0
    for row, raw in raw_rows(data, rows, whole, cache_dir):
        yield from [{}] * (row - following)
        yield raw
        following = row + 1
    yield from [{}] * (len(rows) - following)


def _value(raw: Mapping, name: str) -> Any:
    """A column's value, or that of a key inside it; None if there is none."""
    if name in raw:
        return raw[name]
    head, _, rest = name.partition(".")
    inner = raw.get(head)
    return _value(inner, rest) if rest and isinstance(inner, Mapping) else None

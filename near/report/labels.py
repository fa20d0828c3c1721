"""Labels of rows: the columns of `data.labels`, the source, and a band of lengths.

A column with many distinct numbers is shown in bands that each hold about a fifth of the pool.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from omegaconf import DictConfig

from near.common.errors import UserError
from near.data.columns import columns_of
from near.data.rows import Rows
from near.selection.selectors.oracle import SOURCE

NUMBERS = 12  # distinct numbers of a column; with more it is shown in bands
BANDS = 5
NONE, EMPTY = "(none)", "(empty)"  # a row without a value, and an empty text


@dataclass(frozen=True)
class Label:
    """A column of labels.

    Attributes:
        name: of the column.
        values: its distinct values: numbers and bands in ascending order, others by how many rows of the pool have
            them.
        codes: int64 (n_pool,), for each row of the pool the position of its value in `values`.
        pool: int64 (n_values,), how many eligible rows of the pool have each value.
        target: int64 (n_values,), how many rows of the target do.
        ordered: whether the values are numbers or bands.
    """

    name: str
    values: list[str]
    codes: np.ndarray
    pool: np.ndarray
    target: np.ndarray
    ordered: bool = False

    @property
    def own(self) -> int | None:
        """The value that most rows of the target have; None if no row of the pool has it, or no row of the target has
        any."""
        if not self.target.any():
            return None
        most = int(np.argmax(self.target))
        return most if self.pool[most] else None


def labels_of(data: DictConfig, pool: Rows, target: Rows | None, cache_dir: str) -> list[Label]:
    """The labels of the pool and of the target: `data.labels`, then `source` and `length`.

    The source is left out where all rows of the pool have the same, or where it equals one of `data.labels`, unless it
    is named there.

    Args:
        data: the node `data` of the configuration that the rows were loaded with.
        pool: the candidates.
        target: rows of the target, whose labels may be missing.
        cache_dir: where columns are cached.

    Raises:
        UserError: no row of the pool has one of the columns, or a source has changed since it was loaded.
    """
    eligible = pool.eligible()
    target_ids = np.empty(0, dtype=np.int64) if target is None else target.eligible()
    names = list(dict.fromkeys(data.get("labels") or ()))
    columns = columns_of(data, pool, [name for name in names if name != SOURCE], cache_dir)
    labels = [
        label(name, columns[name], eligible, _target_values(data, target, target_ids, name, cache_dir))
        for name in names
        if name != SOURCE
    ]
    source = label(SOURCE, pool.sources(), eligible, [] if target is None else target.sources(target_ids))
    is_new = np.count_nonzero(source.pool) > 1 and not any(np.array_equal(source.codes, one.codes) for one in labels)
    if SOURCE in names or is_new:
        labels.append(source)
    if not any(one.name == "length" for one in labels):
        lengths = [] if target is None else characters(target)[target_ids].tolist()
        labels.append(label("length", characters(pool).tolist(), eligible, lengths))
    return labels


def _target_values(data: DictConfig, target: Rows | None, ids: np.ndarray, name: str, cache_dir: str) -> list:
    try:
        values = [] if target is None else columns_of(data, target, [name], cache_dir)[name]
    except UserError:  # the target's rows have no such column
        return []
    return [values[i] for i in ids]


def label(name: str, pool: Sequence, eligible: np.ndarray, target: Sequence) -> Label:
    """A label of raw values.

    Args:
        name: of the column.
        pool: the value of every row of the pool, None for a row without one.
        eligible: int64, the rows of the pool that may be selected.
        target: the values of the target's rows.
    """
    texts, ascending = _texts(pool, eligible, target)
    known: dict[str, int] = {}
    codes = np.array([known.setdefault(text, len(known)) for text in texts], dtype=np.int64)
    has_value = np.array([value is not None for value in target], dtype=bool)
    counts = [
        np.bincount(c, minlength=len(known)) for c in (codes[: len(pool)][eligible], codes[len(pool) :][has_value])
    ]
    values = list(known)
    places = {text: place for place, text in enumerate(ascending)}
    order = sorted(range(len(values)), key=lambda i: (places.get(values[i], len(places)), -counts[0][i], values[i]))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    pool_counts, target_counts = (of[order] for of in counts)
    return Label(
        name, [values[i] for i in order], rank[codes[: len(pool)]], pool_counts, target_counts, bool(ascending)
    )


def _texts(pool: Sequence, eligible: np.ndarray, target: Sequence) -> tuple[list[str], list[str]]:
    """The text of each value of pool and target, of many distinct numbers their bands; and of numbers all texts in
    ascending order."""
    everything = [*pool, *target]
    if not all(v is None or _is_number(v) for v in everything):
        return [_text(value) for value in everything], []
    values = np.array([math.nan if v is None else float(v) for v in everything])
    numbers = np.unique(values[np.isfinite(values)])
    if len(numbers) <= NUMBERS:
        return [_text(value) for value in everything], [_text(float(number)) for number in numbers]
    of_pool = values[eligible][np.isfinite(values[eligible])]
    reference = of_pool if len(of_pool) else numbers
    ends = np.unique(np.quantile(reference, np.arange(1, BANDS) / BANDS, method="lower"))
    names = _bands(ends)
    at = np.searchsorted(ends, values)  # a value equal to an end belongs to the band below it
    return [names[i] if math.isfinite(v) else NONE for i, v in zip(at, values, strict=True)], names


def _is_number(value: object) -> bool:
    """Whether it is one that float() takes."""
    return isinstance(value, float) or isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e300


def _bands(ends: np.ndarray) -> list[str]:
    """The names of the bands that `ends`, float64 ascending, part.

    >>> _bands(np.array([10.0, 25.0]))
    ['up to 10', '10 to 25', 'over 25']
    """
    texts = [_text(float(end)) for end in ends]
    inner = [f"{low} to {high}" for low, high in zip(texts, texts[1:], strict=False)]
    return [f"up to {texts[0]}", *inner, f"over {texts[-1]}"]


def _text(value: object) -> str:
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return NONE
    if isinstance(value, str):
        return " ".join(value.split()) or EMPTY
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)


def characters(rows: Rows) -> np.ndarray:
    """The characters of every row's messages together, int64 (n,). Texts are read batch by batch, not loaded."""
    lengths = [np.empty(0, dtype=np.int64)]
    for chunk in rows.dataset().data.column("messages").chunks:
        contents = pc.struct_field(chunk.values, "content")
        each = pc.fill_null(pc.utf8_length(contents), 0).to_numpy(zero_copy_only=False)  # (n_messages,)
        until = np.concatenate([[0], np.cumsum(each, dtype=np.int64)])
        offsets = chunk.offsets.to_numpy()  # (n_rows + 1,)
        lengths.append(until[offsets[1:]] - until[offsets[:-1]])
    return np.concatenate(lengths)

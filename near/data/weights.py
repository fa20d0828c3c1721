"""Rows' own loss weights: the column that data.*.columns.weight names."""

import logging
from collections.abc import Sequence

import numpy as np
from omegaconf import DictConfig

from near.common.errors import UserError, printable
from near.common.text import plural
from near.data.columns import columns_of, numbers_of
from near.data.rows import Rows

log = logging.getLogger(__name__)


def weight_column(data: DictConfig, part: str) -> str | None:
    """The column of the weights of `data.<part>`; None: all weights are 1."""
    columns = data[part].columns if data.get(part) is not None else None
    return (columns or {}).get("weight") or None


def weights_of(data: DictConfig, rows: Rows, cache_dir: str) -> np.ndarray | None:
    """The loss weight of each row, float32 (n,): the number in its column, 1 without a value; None: no column is named.

    Args:
        data: the node `data` of the configuration that `rows` was loaded with.
        rows: what `load` returned for candidates or queries.
        cache_dir: where the values are cached.

    Raises:
        UserError: a usable row's value is not a finite number >= 0; with data.on_error=skip its weight is 0 instead.
    """
    column = weight_column(data, rows.name)
    if column is None:
        return None
    values = columns_of(data, rows, [column], cache_dir)[column]
    weights = numbers_of([1.0 if value is None else value for value in values])
    usable, missing = rows.usable(), sum(value is None for value in values)
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)) & usable)
    option = f"data.{rows.name}.columns.weight={column}"
    if len(wrong) and data.on_error != "skip":
        value = printable(str(values[wrong[0]]), 40)
        raise UserError(
            f"{option}: row {wrong[0]} has {value}, not a finite number >= 0; fix the row, leave it out with "
            f"data.{rows.name}.filter, or set data.on_error=skip"
        )
    if len(wrong):
        log.info(f"{option}: {plural(len(wrong), 'row')} left out, as their weight is not a finite number >= 0")
    if missing:
        log.info(f"{option}: {plural(missing, 'row')} of {len(rows)} without a value have weight 1")
    weights[~(np.isfinite(weights) & (weights >= 0))] = 0
    return weights.astype(np.float32)


def joined(parts: Sequence[tuple[np.ndarray | None, int]]) -> np.ndarray | None:
    """The weights of rows of several parts, one behind the other; None where all are 1.

    Args:
        parts: of each its weights, float32 (n,), None where they are 1; and n.
    """
    if all(weights is None for weights, _ in parts):
        return None
    return np.concatenate([np.ones(n, dtype=np.float32) if weights is None else weights for weights, n in parts])

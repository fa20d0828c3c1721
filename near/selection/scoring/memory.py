"""What the model has computed for the stages of a round, so that it is computed once."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


class Memory:
    """Losses and gradients of rows, by what they depend on beside the rows."""

    def __init__(self) -> None:
        self._numbers: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # ids, ascending, and the number of each
        self._features: list[tuple[str, np.ndarray, Any]] = []

    def numbers(self, key: str, ids: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The numbers of distinct rows `ids`, int64 (n,): float32 (n,). `compute`: those of rows that are not known."""
        empty = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        known, values = self._numbers.get(key, empty)
        unknown = ids[~np.isin(ids, known)]
        if len(unknown):
            known, values = np.concatenate([known, unknown]), np.concatenate([values, compute(unknown)])
            order = np.argsort(known)
            known, values = known[order], values[order]
            self._numbers[key] = known, values
        return values[np.searchsorted(known, ids)]

    def features(self, key: str, ids: np.ndarray, compute: Callable[[], Any]) -> Any:
        """The gradients of rows `ids`, int64 (n,), of one kind: part of those of more rows, if there are such."""
        for other, rows, whole in self._features:
            if other == key and np.isin(ids, rows).all():
                order = np.argsort(rows)
                return (
                    whole
                    if len(ids) == len(rows) and (ids == rows).all()
                    else SomeFeatures(whole, order[np.searchsorted(rows, ids, sorter=order)])
                )
        whole = compute()
        self._features.append((key, ids, whole))
        return whole


class SomeFeatures:
    """Some rows of computed gradients, at `positions` int64 (n,), with the methods of Features."""

    def __init__(self, whole: Any, positions: np.ndarray):
        self.whole, self.positions, self.rows = whole, positions, len(positions)

    @property
    def norms(self) -> np.ndarray:
        return self.whole.norms[self.positions]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        here = np.full(self.whole.rows, -1)
        here[self.positions] = np.arange(self.rows)
        for part, vectors in self.whole:
            if (mine := here[part] >= 0).any():
                yield here[part][mine], vectors[mine]

    def matrix(self) -> np.ndarray:
        return self.whole.matrix()[self.positions]

"""The best k rows of each query while scores arrive tile by tile; the best so far set the floor for later scores.

A score and its row are one unsigned integer, the key: the score's bits in an order that integers share, then the
row's complement. A larger key is a better neighbour: the higher score, and of equal scores the lower row. So the
k largest keys are the neighbours, in one sort, whatever order they came in. Key 0 stands for no row.
"""

import numpy as np

from near.common.errors import UserError

ROWS = 1 << 32  # rows that a key can number
_LOW, _HALF, _SIGN = np.uint64(ROWS - 1), np.uint64(32), np.uint32(1 << 31)


def pack(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """uint64 keys of float32 `scores` (finite or infinite) and integer `rows` (0 to 2**32 - 1) of the same shape."""
    bits = (scores + np.float32(0)).view(np.uint32)  # -0 becomes 0
    bits ^= (bits.view(np.int32) >> 31).view(np.uint32) | _SIGN  # negative: flip all bits; else flip the sign bit
    keys = bits.astype(np.uint64)
    keys <<= _HALF
    keys |= _LOW - rows.astype(np.uint64)
    return keys


def unpack(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores, float32, and rows, int64, of keys: the inverse of pack."""
    ordered = (keys >> _HALF).astype(np.uint32)
    bits = np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered)
    return bits.view(np.float32), rows_of(keys)


def rows_of(keys: np.ndarray) -> np.ndarray:
    """The rows of keys, int64."""
    return (_LOW - (keys & _LOW)).view(np.int64)


def merged(parts: list[np.ndarray], k: int) -> np.ndarray:
    """The k best keys of each query among those in `parts`. Parts and result: uint64 (n_queries, k), best first."""
    best = parts[0]
    for part in parts[1:]:
        best = _best_first(np.concatenate([best, part], axis=1), k)
    return best


def _best_first(keys: np.ndarray, k: int) -> np.ndarray:
    """The k largest of each query's keys, descending."""
    best = np.partition(keys, keys.shape[1] - k, axis=1)[:, keys.shape[1] - k :]
    best.sort(axis=1)
    return np.ascontiguousarray(best[:, ::-1])


def whole(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 (n_queries, k) and rows int64 (n_queries, k) of sorted keys.

    Raises:
        UserError: a score is infinite, or NaN (which leaves a key 0).
    """
    scores, rows = unpack(keys)
    if not (keys.all() and np.isfinite(scores).all()):
        raise UserError("the vectors' inner products overflow float32; normalise them")
    return scores, rows


def positions(flags: np.ndarray) -> np.ndarray:
    """np.flatnonzero of contiguous bool (8 m,), in half its time where few are set: first over words of eight flags,
    then over the words that are not 0."""
    words = flags.view(np.uint64)
    at = np.flatnonzero(words != 0)
    inside = np.flatnonzero(words[at].view(bool))
    at <<= 3
    positions = at[inside >> 3]
    positions |= inside & 7
    return positions


class Best:
    """The best k rows of each query so far, as uint64 (n_queries, 2k + tile) keys.

    `floor`, float32 (n_queries,): only scores above it are taken. It rises as soon as k better ones are known. An
    initial floor may be too high; then fewer than k keys are there at the end, and the rest of `keys` is 0.
    """

    def __init__(self, k: int, tile: int, floor: np.ndarray):
        self.k, self.floor = k, floor.copy()
        self._keys = np.zeros((len(floor), 2 * k + tile), dtype=np.uint64)
        self._count = np.zeros(len(floor), dtype=np.int64)

    def offer(self, scores: np.ndarray, first: int, above: np.ndarray) -> None:
        """Take a tile's scores that are above the floor.

        Args:
            scores: float32 (n_queries, tile), contiguous; -inf where there is no row; tile a power of two, at least 8.
            first: the row of the first column.
            above: bool (n_queries, tile), a buffer to work in.
        """
        shift = scores.shape[1].bit_length() - 1
        np.greater(scores, self.floor[:, None], out=above)
        at = positions(above.reshape(-1))
        if not len(at):
            return
        query, column = at >> shift, at & ((1 << shift) - 1)
        counts = np.bincount(query, minlength=len(scores))
        begin = np.arange(len(scores)) * self._keys.shape[1] + self._count - (np.cumsum(counts) - counts)
        self._keys.reshape(-1)[begin[query] + np.arange(len(at))] = pack(scores.reshape(-1)[at], column + first)
        self._count += counts
        full = np.flatnonzero(self._count > 2 * self.k)
        if len(full):
            self._drop(full)

    def _drop(self, full: np.ndarray) -> None:
        """Keep the k best keys of queries `full`, int64 (m,), and raise their floors to the k-th score."""
        width = int(self._count[full].max())
        best = np.partition(self._keys[full, :width], width - self.k, axis=1)[:, -self.k :]
        self._keys[full, : self.k], self._keys[full, self.k : width] = best, 0
        self._count[full] = self.k
        self.floor[full] = np.maximum(self.floor[full], unpack(np.ascontiguousarray(best[:, 0]))[0])

    def keys(self) -> np.ndarray:
        """uint64 (n_queries, k), best first; 0 where fewer than k scores were above the floor. Call it last: it
        sorts in place and returns a view."""
        width = max(int(self._count.max()), self.k)
        self._keys[:, :width].partition(width - self.k, axis=1)
        best = self._keys[:, width - self.k : width]
        best.sort(axis=1)
        return best[:, ::-1]

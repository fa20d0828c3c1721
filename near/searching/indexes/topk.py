"""The best k rows of each query while scores arrive tile by tile; what was found so far decides what is looked at next.

A score and its row are one unsigned integer, the key: the score's bits in an order that integers share, then the
row's complement. A larger key is a better neighbour: the higher score, and of equal scores the lower row. So the
k largest keys are the neighbours, in one sort, whatever order they came in. Key 0 stands for no row.
"""

import numpy as np

from near.common.errors import UserError

ROWS = 1 << 32  # that a key can tell apart
_LOW, _HALF, _SIGN = np.uint64(ROWS - 1), np.uint64(32), np.uint32(1 << 31)


def pack(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """uint64 keys of float32 `scores` (finite or infinite) and integer `rows` (0 to 2**32 - 1) of the same shape."""
    bits = (scores + np.float32(0)).view(np.uint32)  # -0 becomes 0
    bits ^= (bits.view(np.int32) >> 31).view(np.uint32) | _SIGN  # negative: all bits turned, else the sign alone
    keys = bits.astype(np.uint64)
    keys <<= _HALF
    keys |= _LOW - rows.astype(np.uint64)
    return keys


def unpack(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores, float32, and rows, int64, of keys; what pack was given."""
    ordered = (keys >> _HALF).astype(np.uint32)
    bits = np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered)
    return bits.view(np.float32), rows_of(keys)


def rows_of(keys: np.ndarray) -> np.ndarray:
    """The rows of keys, int64."""
    return (_LOW - (keys & _LOW)).view(np.int64)


def merged(parts: list[np.ndarray], k: int) -> np.ndarray:
    """The k best keys of each query out of those in `parts`, each uint64 (Q, k) and best first, as is the result."""
    best = parts[0]
    for part in parts[1:]:
        best = _best_first(np.concatenate([best, part], axis=1), k)
    return best


def _best_first(keys: np.ndarray, k: int) -> np.ndarray:
    """The k largest of each query's keys, descending."""
    kept = np.partition(keys, keys.shape[1] - k, axis=1)[:, keys.shape[1] - k :]
    kept.sort(axis=1)
    return np.ascontiguousarray(kept[:, ::-1])


def whole(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 (Q, k) and rows int64 (Q, k) of sorted keys; UserError where a score is NaN, which leaves a key 0,
    or infinite."""
    scores, rows = unpack(keys)
    if not (keys.all() and np.isfinite(scores).all()):
        raise UserError("the vectors' inner products overflow float32; normalise them")
    return scores, rows


def _positions(flags: np.ndarray) -> np.ndarray:
    """Where a contiguous bool (8 m,) is set, int64, ascending: np.flatnonzero, which takes twice as long over a few
    set ones among many, on words of eight flags and then on the words that hold any."""
    words = flags.view(np.uint64)
    at = np.flatnonzero(words != 0)
    inside = np.flatnonzero(words[at].view(bool))
    at <<= 3
    found = at[inside >> 3]
    found |= inside & 7
    return found


class Best:
    """The best k of each of Q queries so far, held in (Q, 2k + tile) integers.

    `floor` float32 (Q,): only scores above it are taken. It rises as soon as k better ones are known; one that is
    given at the beginning may be too high, which shows as a 0 among `keys`.
    """

    def __init__(self, k: int, tile: int, floor: np.ndarray):
        self.k, self.floor = k, floor.copy()
        self._held = np.zeros((len(floor), 2 * k + tile), dtype=np.uint64)
        self._count = np.zeros(len(floor), dtype=np.int64)

    def offer(self, scores: np.ndarray, first: int, above: np.ndarray) -> None:
        """Take of a tile's `scores` (float32 (Q, tile), contiguous; -inf where there is no row) those that count; the
        tile's width is a power of two from 8.

        first: the row of its first column; above: bool (Q, tile) to work in.
        """
        shift = scores.shape[1].bit_length() - 1
        np.greater(scores, self.floor[:, None], out=above)
        at = _positions(above.reshape(-1))
        if not len(at):
            return
        query, column = at >> shift, at & ((1 << shift) - 1)
        counts = np.bincount(query, minlength=len(scores))
        begin = np.arange(len(scores)) * self._held.shape[1] + self._count - (np.cumsum(counts) - counts)
        self._held.reshape(-1)[begin[query] + np.arange(len(at))] = pack(scores.reshape(-1)[at], column + first)
        self._count += counts
        full = np.flatnonzero(self._count > 2 * self.k)
        if len(full):
            self._drop(full)

    def _drop(self, full: np.ndarray) -> None:
        """Keep the k best of queries `full`, which have more; they now take only what is better than the last one."""
        width = int(self._count[full].max())
        best = np.partition(self._held[full, :width], width - self.k, axis=1)[:, -self.k :]
        self._held[full, : self.k], self._held[full, self.k : width] = best, 0
        self._count[full] = self.k
        self.floor[full] = np.maximum(self.floor[full], unpack(np.ascontiguousarray(best[:, 0]))[0])

    def keys(self) -> np.ndarray:
        """uint64 (Q, k), best first; 0 where fewer than k scores were above the floor. The end: what is held is sorted
        in place and the result is a view of it."""
        width = max(int(self._count.max()), self.k)
        self._held[:, :width].partition(width - self.k, axis=1)
        best = self._held[:, width - self.k : width]
        best.sort(axis=1)
        return best[:, ::-1]

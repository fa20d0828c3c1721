"""16-byte keys of texts, and memory-efficient look-ups among millions of keys."""

import hashlib

import numpy as np


def hashed(texts: list[str]) -> np.ndarray:
    """uint64 (n, 2): BLAKE2b-128 of each text's UTF-8."""
    digests = [hashlib.blake2b(t.encode("utf-8", "surrogatepass"), digest_size=16).digest() for t in texts]
    return np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)


class Sorted:
    """Sorted keys; equal keys form a run, in their original order.

    `order` int64 (n,): positions sorted by key; `begins` bool (n,): True where a run starts in `order`. Memory per key,
    beside the two columns: 36 bytes during construction, afterwards 17 and the second column.
    """

    def __init__(self, high: np.ndarray, low: np.ndarray):
        """high, low: uint64 (n,), the columns of `hashed`."""
        self.order = np.lexsort((low, high))
        self._high, self._low = high[self.order], low
        self.begins = np.ones(len(high), dtype=bool)
        for start in range(1, len(high), BLOCK):  # blockwise: no column is copied a second time
            stop = min(start + BLOCK, len(high))
            changed = self._high[start:stop] != self._high[start - 1 : stop - 1]
            lows = low[self.order[start - 1 : stop]]
            self.begins[start:stop] = changed | (lows[1:] != lows[:-1])

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Look up `keys`, uint64 (m, 2): for each the index in `order` where its run starts, int64 (m,); -1: absent."""
        high, low = keys[:, 0], keys[:, 1]
        place = np.searchsorted(self._high, high)
        positions = np.full(len(keys), -1, dtype=np.int64)
        open_ = np.flatnonzero(place < len(self._high))
        while len(open_):  # more than one iteration only if different keys share the first 8 bytes
            at = place[open_]
            alike = self._high[at] == high[open_]
            equal = alike & (self._low[self.order[at]] == low[open_])
            positions[open_[equal]] = at[equal]
            open_ = open_[alike & ~equal]
            place[open_] += 1
            open_ = open_[place[open_] < len(self._high)]
        return positions


BLOCK = 1 << 16

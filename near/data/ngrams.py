"""n-grams of a few texts in a table of hashes, and the rows of a large pool that have them.

The memory is that of the few texts: the pool passes by once, block by block, and of an n-gram that many rows have only
the first rows are remembered.
"""

from collections.abc import Iterable

import numpy as np

from near.data.words import masked

COMMON = 10  # rows of the pool; an n-gram that more of them and several texts have is a template (see Ngrams)
MOST = 1000  # rows of the pool; an n-gram that more of them have is a template in any case
BITS = 22  # of a hash, by which most n-grams are known not to be in the table
SHIFT = np.uint64(64 - BITS)
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplication by it loses nothing modulo 2^64


class Vocabulary(dict):
    """Numbers of words, from 1; 0 is no word, and separates texts. A word that is not in it looks up as 0, or if its
    masked form is in it as minus that form's number."""

    def __init__(self, texts: Iterable[list[str]]):
        super().__init__()
        for text in texts:
            for word in text:
                self.setdefault(word, len(self) + 1)
        for word in list(self):
            self.setdefault(masked(word), len(self) + 1)
        self.masks = np.zeros(len(self) + 1, dtype=np.int64)  # (n_words + 1,): each word's masked form
        self.numbers = np.zeros(len(self) + 1, dtype=bool)  # (n_words + 1,): whether it has a digit
        for word, number in self.items():
            self.masks[number], self.numbers[number] = self[masked(word)], any(map(str.isdigit, word))

    def __missing__(self, word: str) -> int:
        return -self.get(masked(word), 0)

    def encoded(self, words: list[str]) -> np.ndarray:
        """int64 (n,)."""
        return np.fromiter(map(self.__getitem__, words), np.int64, len(words))


class Ngrams:
    """The n-grams of `texts`, and which rows of a pool have them.

    An n-gram is a template if more than COMMON rows of the pool have it and more than one different text, or more than
    MOST rows: instructions that all rows of a task share tell nothing about one text. GPT-3 left out n-grams of more
    than 10 documents (Brown et al. 2020, appendix C); that alone would lose a text that the pool repeats 11 times.
    """

    def __init__(self, n: int, texts: list[np.ndarray], vocabulary: Vocabulary, numbers: bool):
        """texts: encoded words, int64 (n_words,) each; numbers: whether they are masked: others are equal."""
        self.n, self.numbers, self._vocabulary = n, numbers, vocabulary
        self._codes = np.random.default_rng(0).integers(0, 2**64, len(vocabulary.masks), dtype=np.uint64)
        parts = [np.unique(self._windows(text)[1]) for text in texts]
        hashes = np.concatenate([np.empty(0, np.uint64), *parts])
        self._keys, places = np.unique(hashes, return_inverse=True)
        self._bits = np.zeros(1 << BITS, dtype=bool)
        self._bits[self._keys >> SHIFT] = True
        order = np.argsort(places, kind="stable")
        self._texts = np.repeat(np.arange(len(texts)), list(map(len, parts)))[order]  # texts of every key, key by key
        self._ends = np.cumsum(np.bincount(places, minlength=len(self._keys)))
        different = {text.tobytes(): number for number, text in enumerate(texts)}
        same = np.array([different[text.tobytes()] for text in texts], dtype=np.int64)
        pairs = np.unique(places[order] << 32 | same[self._texts])  # key and different text
        shared = np.bincount(pairs >> 32, minlength=len(self._keys)) > 1
        self._limits = np.where(shared, COMMON, MOST)
        self._counts = np.zeros(len(self._keys), dtype=np.int64)
        self._found: list[np.ndarray] = []  # int64 (m,) each: key << 32 | row

    def _windows(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Starts of the n-grams, int64 (m,), and their hashes, uint64 (m,); none with a word that is not known."""
        if len(words) < self.n:
            return np.empty(0, np.int64), np.empty(0, np.uint64)
        plain = np.maximum(words, 0)
        usable, hashes = _sums(plain == 0, self.n) == 0, self._hashes(plain)
        if self.numbers:
            masks = np.where(words < 0, -words, self._vocabulary.masks[plain])
            # lists of numbers would all be equal: only n-grams of which at most half are numbers are masked
            few = _sums(self._vocabulary.numbers[masks], self.n) <= self.n // 2
            usable = np.where(few, _sums(masks == 0, self.n) == 0, usable)
            hashes = np.where(few, self._hashes(masks), hashes)
        starts = np.flatnonzero(usable)
        return starts, hashes[starts]

    def _hashes(self, words: np.ndarray) -> np.ndarray:
        """The hash of every window, uint64 (len - n + 1,): a polynomial of the words' codes modulo 2^64."""
        codes, count = self._codes[words], len(words) - self.n + 1
        hashes = codes[:count].copy()
        for offset in range(1, self.n):
            hashes *= FACTOR
            hashes += codes[offset : offset + count]
        return hashes

    def scan(self, words: np.ndarray, rows: np.ndarray) -> None:
        """Note which rows have the n-grams.

        Args:
            words: of a block of rows, encoded, int64 (n,); 0 between two texts.
            rows: of each word its row, int64 (n,), ascending; no row is in two blocks.
        """
        starts, hashes = self._windows(words)
        if not len(self._keys) or not len(starts):
            return
        likely = self._bits[hashes >> SHIFT]  # few others are left for the search among the keys
        starts, hashes = starts[likely], hashes[likely]
        if not len(starts):
            return
        places = np.minimum(np.searchsorted(self._keys, hashes), len(self._keys) - 1)
        hit = self._keys[places] == hashes
        pairs = np.unique(places[hit] << 32 | rows[starts[hit]])  # by key
        keys = pairs >> 32
        rank = self._counts[keys] + np.arange(len(keys)) - np.searchsorted(keys, keys)
        self._found.append(pairs[rank < self._limits[keys]])
        self._counts += np.bincount(keys, minlength=len(self._keys))

    def covered(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows with n-grams of a text that are no template: row and text, int64 (m,) each, and which share of the
        text's n-grams the row has, float64 (m,)."""
        usable = self._counts <= self._limits
        sizes = np.diff(self._ends, prepend=0)
        totals = np.bincount(self._texts[np.repeat(usable, sizes)])  # n-grams of each text
        found = np.concatenate([np.empty(0, np.int64), *self._found])
        found = found[usable[found >> 32]]
        keys, rows = found >> 32, found & 0xFFFFFFFF
        many = sizes[keys]  # texts of each key
        within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        texts = self._texts[np.repeat(self._ends[keys] - many, many) + within]
        pairs, counts = np.unique(np.repeat(rows, many) << 32 | texts, return_counts=True)
        rows, texts = pairs >> 32, pairs & 0xFFFFFFFF
        return rows, texts, counts / totals[texts]


def _sums(flags: np.ndarray, n: int) -> np.ndarray:
    """Sums over windows of n, int64 (len - n + 1,)."""
    sums = np.concatenate([[0], np.cumsum(flags)])
    return sums[n:] - sums[:-n]

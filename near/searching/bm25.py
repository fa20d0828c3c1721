"""BM25: every query's nearest rows by the words that they share. No embedder is loaded."""

import logging
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from near.common.bounds import Share, between
from near.common.progress import Progress
from near.data.rows import Rows
from near.data.words import VERSION, pieces
from near.searching.indexes.topk import pack, unpack

BLOCK = 4096  # rows read at a time
OTHER = ""  # stands for every word without postings of its own


@dataclass(frozen=True)
class Postings:
    """What each word adds to the score of every row that has it, word by word (CSC).

    Attributes:
        numbers: of words, from 0.
        weights: float64 (n_postings,), idf times the share of its frequency.
        rows: of each weight, int32 (n_postings,).
        starts: of each word's postings, int64 (n_words + 1,).
        count: rows that were indexed.
    """

    numbers: dict[str, int]
    weights: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    count: int

    def add(self, word: str, times: float, scores: np.ndarray) -> None:
        """Add what `word` gives every row, `times` times, to `scores`, float64 (count,)."""
        if (number := self.numbers.get(word)) is not None:
            part = slice(self.starts[number], self.starts[number + 1])
            scores[self.rows[part]] += times * self.weights[part]  # a row has one posting of a word

    def idf(self, word: str) -> float:
        """The most that `word` can add to a row's score: Lucene's idf."""
        number = self.numbers.get(word)
        n = 0 if number is None else int(self.starts[number + 1] - self.starts[number])
        return float(np.log(1 + (self.count - n + 0.5) / (n + 0.5)))

    def most(self, words: Counter) -> float:
        """The score that no row can reach for a query of `words`."""
        return sum(times * self.idf(word) for word, times in words.items())


class Bm25:
    """`similarity=bm25` (Robertson and Zaragoza 2009, doi 10.1561/1500000019) with Lucene's idf, which is never
    negative (Kamphuis et al. 2020, doi 10.1007/978-3-030-45442-5_4). The score of query q and row d, of |d| words, is

        the sum over the words t of q, a repeated word each time, of  idf(t) f / (f + k1 (1 - b + b |d| / mean |d|)),
        idf(t) = ln(1 + (N - n + 0.5) / (n + 0.5)),

    f being how often d has t, and n how many of the N eligible rows have it. bm25s (Lù 2024, arXiv 2407.03618) computes
    the parts of the sum, in float64.

    Args:
        embed: the part of a row whose words count: prompt, answer or both (near/data/formats/formats.py).
        k1: how much further occurrences of a word add; 0: nothing.
        b: how much a row's length counts against it; 0: nothing.
    """

    requires: str | None = None

    def __init__(
        self,
        embed: Literal["prompt", "answer", "both"] = "prompt",
        k1: Annotated[float, between(0, 1000)] = 1.5,
        b: Share = 0.75,
    ):
        self.embed, self.k1, self.b = embed, k1, b

    @property
    def signature(self) -> dict:
        """All that decides the scores beside the rows."""
        options = {"embed": self.embed, "k1": self.k1, "b": self.b}
        return {"similarity": "bm25", "method": "lucene", "words": VERSION, **options}

    def apply(self, round: Any, max_K: int | None) -> Any:
        """`round` with neighbours and similarity; here it has them already."""
        del max_K
        return round

    def texts(self, rows: Rows, ids: np.ndarray) -> Iterator[list[str]]:
        """The words of each of rows `ids`, int64 (n,)."""
        for start in range(0, len(ids), BLOCK):
            yield from map(pieces, rows.texts(ids[start : start + BLOCK], self.embed))

    def counts(self, queries: Rows) -> list[Counter]:
        """How often every eligible query has each of its words."""
        return list(map(Counter, self.texts(queries, queries.eligible())))

    def postings(
        self, rows: Rows, ids: np.ndarray, vocabulary: list[str] | None = None, progress: Progress = lambda n: None
    ) -> Postings:
        """The postings of rows `ids`, int64 (n,), numbered by their positions.

        vocabulary: index these words alone, which takes less memory; others count for the length of a row only. None:
            all words of the rows.
        """
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets DEBUG
        numbers = {word: number for number, word in enumerate([OTHER, *(vocabulary or [])])}
        kind = "H" if vocabulary is not None and len(numbers) < 1 << 16 else "i"  # bytes of a word: 2, else 4
        texts = []
        for row in self.texts(rows, ids):
            if vocabulary is None:
                texts.append(array(kind, [numbers.setdefault(word, len(numbers)) for word in row]))
            else:
                texts.append(array(kind, [numbers.get(word, 0) for word in row]))
            progress(1)
        if not any(texts):  # bm25s divides by the mean length
            none = np.empty(0)
            return Postings(numbers, none, none.astype(np.int32), np.zeros(len(numbers) + 1, np.int64), len(texts))
        index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene", dtype="float64", backend="numpy")
        index.index((texts, numbers), show_progress=False)
        weights, positions, starts = (index.scores[name] for name in ("data", "indices", "indptr"))
        return Postings(numbers, weights, positions, starts, len(texts))

    def search(
        self, rows: Rows, ids: np.ndarray, queries: Rows, k: int, progress: Progress = lambda n: None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The k of rows `ids`, int64 (n,), with the highest scores for every eligible query. Rows without any of its
        words have score 0.

        Returns:
            scores float32 (n_queries, k), descending; positions in `ids` int64 (n_queries, k), ties by lower position;
            the score that no row can reach, float32 (n_queries,).
        """
        counts = self.counts(queries)
        postings = self.postings(rows, ids, sorted(set().union(*counts)), progress)
        scores, positions = np.empty((len(counts), k), np.float32), np.empty((len(counts), k), np.int64)
        everyone = np.arange(len(ids))
        for query, times in enumerate(counts):
            sums = np.zeros(len(ids))
            for word, count in times.items():
                postings.add(word, count, sums)
            keys = pack(sums.astype(np.float32), everyone)
            best = np.sort(np.partition(keys, len(ids) - k)[len(ids) - k :])[::-1]
            scores[query], positions[query] = unpack(best)
        return scores, positions, np.array([postings.most(times) for times in counts], dtype=np.float32)

"""Similarity by gradients of the model as it is at each round, so that any selector over neighbours works on them."""

import numpy as np

from near.searching.find import AS_NEEDED
from near.searching.indexes.flat import Flat
from near.searching.neighbours import Neighbours
from near.selection.round import Round
from near.selection.scoring.scoring import Asked, Features
from near.selection.selectors.asking import Shortlist, ShortlistOptions
from near.selection.similarity import VectorSimilarity


class FromGradients:
    """`similarity=gradients`: cosines of LESS's features (Xia et al. 2024, arXiv 2402.04333) in place of embeddings'.
    shortlist: {selector, size}: of the rows that a cheap selector, by embeddings, ranks first, and of no others."""

    asks_model = "gradients"

    def __init__(self, shortlist: ShortlistOptions | None = None):
        self.shortlist = Shortlist.of(shortlist, "similarity")

    @property
    def needs_neighbours(self) -> bool:
        return self.shortlist is not None and self.shortlist.cheap.needs_neighbours

    def of(self, round: Round, max_K: int | None) -> VectorSimilarity:
        """The similarity of the round's queries and rows."""
        ids = round.eligible if self.shortlist is None else self.shortlist.rows(round)
        vectors = FeatureVectors(list(round.scorer.gradients(round.model, round.optimizer, ids)))
        queries = vectors.queries()
        if max_K is None:  # as needed: with so many columns every single query holds rows enough for this round
            max_K = max(AS_NEEDED, round.size + sum(map(len, round.previous)))
        scores, rows = Flat(device="cpu").search(queries, vectors, min(max_K, len(ids)))
        return VectorSimilarity(vectors, queries, ids, len(round.trained), Neighbours(ids[rows], scores, {}))


class FeatureVectors:
    """Features of rows under several weights side by side, each times the root of its share: their inner products are
    the weighted sums of cosines. See near.searching.indexes.base.Vectors."""

    largest = 1.01  # units rounded to float16

    def __init__(self, asked: list[Asked]):
        self.asked, self.n = asked, asked[0].pool.rows
        self._width = asked[0].queries.matrix().shape[1]
        self.dim = len(asked) * self._width

    def queries(self) -> np.ndarray:
        """float32 (Q, dim)."""
        return np.concatenate([a.queries.matrix() * np.float32(a.weight**0.5) for a in self.asked], axis=1)

    def read(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        rows = np.arange(self.n)[rows] if isinstance(rows, slice) else rows
        for number, asked in enumerate(self.asked):
            part = out[:, number * self._width : (number + 1) * self._width]
            self._read(asked.pool, rows, part)
            part *= np.float32(asked.weight**0.5)

    def _read(self, features: Features, rows: np.ndarray, out: np.ndarray) -> None:
        """Chunks hold rows in their order, so that ascending rows meet each chunk once."""
        for number, positions in enumerate(features.chunks.parts):
            first, last = np.searchsorted(rows, [positions[0], positions[-1] + 1])
            if first < last:
                chunk = features.chunks.read(number, "gradients")
                out[first:last] = chunk[rows[first:last] - positions[0]]

"""Similarity by gradients of the current model in each round, so that any selector over neighbours works on them."""

import dataclasses

import numpy as np

from near.searching.find import AS_NEEDED
from near.searching.indexes.flat import Flat
from near.searching.neighbours import Neighbours
from near.selection.round import Round
from near.selection.scoring.scoring import Features, Gradients
from near.selection.selectors.model import Shortlist, ShortlistOptions
from near.selection.similarity import VectorSimilarity


class FromGradients:
    """`similarity=gradients`: cosines of LESS's features (Xia et al. 2024, arXiv 2402.04333) instead of embeddings.

    shortlist: {selector, size}: only for the rows that a cheap selector ranks first by embeddings.
    """

    requires = "gradients"

    def __init__(self, shortlist: ShortlistOptions | None = None):
        self.shortlist = Shortlist(shortlist, "similarity")

    @property
    def needs_neighbours(self) -> bool:
        return self.shortlist.needs_neighbours

    @property
    def needs_vectors(self) -> bool:
        return self.shortlist.needs_vectors

    def apply(self, round: Round, max_K: int | None) -> Round:
        """`round` with neighbours and similarity by gradients."""
        similarity = self.of(round, max_K)
        query_ids = round.scorer.queries.eligible
        return dataclasses.replace(round, neighbours=similarity.neighbours, similarity=similarity, query_ids=query_ids)

    def of(self, round: Round, max_K: int | None) -> VectorSimilarity:
        """The similarity of the round's queries and rows; max_K=None: as many neighbours as this round can need."""
        ids = self.shortlist.rows(round)
        vectors = FeatureVectors(list(round.scorer.gradients(round.model, round.optimizer, ids)))
        queries = vectors.queries()
        if max_K is None:  # with so many columns, each query alone has enough rows for this round
            max_K = max(AS_NEEDED, round.size + sum(map(len, round.previous)))
        scores, rows = Flat(device="cpu").search(queries, vectors, min(max_K, len(ids)))
        return VectorSimilarity(vectors, queries, ids, len(round.trained), Neighbours(ids[rows], scores, {}))


class FeatureVectors:
    """Features of rows under several sets of weights side by side, each times the root of its share: inner products are
    the weighted sums of cosines. See near.searching.indexes.base.Vectors."""

    largest = 1.01  # units rounded to float16

    def __init__(self, gradients: list[Gradients]):
        self.gradients, self.n = gradients, gradients[0].pool.rows
        self._width = gradients[0].queries.matrix().shape[1]
        self.dim = len(gradients) * self._width

    def queries(self) -> np.ndarray:
        """float32 (Q, dim)."""
        return np.concatenate([g.targets() * np.float32(g.weight**0.5) for g in self.gradients], axis=1)

    def read(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        rows = np.arange(self.n)[rows] if isinstance(rows, slice) else rows
        for number, gradients in enumerate(self.gradients):
            part = out[:, number * self._width : (number + 1) * self._width]
            self._read(gradients.pool, rows, part)
            part *= np.float32(gradients.weight**0.5)

    def _read(self, features: Features, rows: np.ndarray, out: np.ndarray) -> None:
        """Chunks have ascending rows, as `rows` are, so that each chunk is read once."""
        for number, positions in enumerate(features.chunks.parts):
            first, last = np.searchsorted(rows, [positions[0], positions[-1] + 1])
            if first < last:
                chunk = features.chunks.read(number, "gradients")
                out[first:last] = chunk[rows[first:last] - positions[0]]

"""Approximate search in a graph: every vector is linked to some that are near it, and a search follows the links."""

import math
from typing import Annotated

import faiss

from near.common.bounds import between
from near.searching.indexes.approximate import Approximate


class Hnsw(Approximate):
    """FAISS's IndexHNSWFlat with inner products (Malkov and Yashunin 2016): about `2 * M` links a vector, found among
    `ef_construction` near ones; a search keeps the `ef_search` best it has seen. Slow to build, quick to search. Holds
    n * (D * 4 + M * 8) bytes. The same graph for any number of threads.

    null: M is 2 * log2(n), between 8 and 64; ef_construction is 4 * M; ef_search is 4 * k, at least 256.
    """

    name, width_key = "hnsw", "ef_search"

    def __init__(
        self,
        M: Annotated[int, between(2, 512)] | None = None,
        ef_construction: Annotated[int, between(1, 1_000_000)] | None = None,
        ef_search: Annotated[int, between(1, 2**31 - 1)] | None = None,
        recall_queries: int = 64,
    ):
        super().__init__({"M": M, "ef_construction": ef_construction}, ef_search, recall_queries)
        self.M, self.ef_construction = M, ef_construction

    def structure(self, n):
        links = self.M or min(max(2 * math.ceil(math.log2(n)), 8), 64)
        return {"M": links, "ef_construction": self.ef_construction or 4 * links}

    def build(self, vectors, structure, progress):
        index = faiss.IndexHNSWFlat(vectors.dim, structure["M"], faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = structure["ef_construction"]
        codes = faiss.downcast_index(index.storage).codes
        codes.resize(vectors.n * vectors.dim * 4)  # room for all: an array that grows by doubling is copied each time
        codes.resize(0)
        for block in vectors.blocks(progress):
            index.add(block)
        return index

    def width(self, n, k, structure):
        return min(self.asked_width or max(4 * k, 256), n)

    def widest(self, n, structure):
        return n // 8  # looking so wide took four times as long as exact search (300 queries, 16,000 rows)

    def find(self, index, queries, k, width):
        return index.search(queries, k, params=faiss.SearchParametersHNSW(efSearch=width))

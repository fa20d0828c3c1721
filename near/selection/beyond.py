"""The similarities beyond a neighbour matrix that fit it."""

from typing import TYPE_CHECKING

from near.data.rows import Rows
from near.searching.settings import SearchSettings
from near.selection.cached_similarity import CachedSimilarity
from near.selection.embedding_similarity import EmbeddingSimilarity
from near.selection.word_similarity import WordSimilarity

if TYPE_CHECKING:
    from near.searching.neighbours import Neighbours


def similarity_of(
    search: SearchSettings, candidates: Rows, queries: Rows | None, neighbours: "Neighbours | None"
) -> CachedSimilarity:
    """By embeddings, or by words with similarity=bm25.

    neighbours: the matrix that `search` gave for these rows; None: of the candidates alone, by embeddings.
    """
    if neighbours is None:
        return EmbeddingSimilarity(search.embedder, search.cache_dir, candidates, None, None)
    rows = (search.cache_dir, candidates, queries, neighbours)
    return EmbeddingSimilarity(search.embedder, *rows) if search.words is None else WordSimilarity(search.words, *rows)

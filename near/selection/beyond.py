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
    search: SearchSettings, candidates: Rows, queries: Rows, neighbours: "Neighbours"
) -> CachedSimilarity:
    """By embeddings, or by words with similarity=bm25. neighbours: the matrix that `search` gave for these rows."""
    rows = (search.cache_dir, candidates, queries, neighbours)
    return EmbeddingSimilarity(search.embedder, *rows) if search.words is None else WordSimilarity(search.words, *rows)

"""The contract of an embedder."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np


class Embedder(ABC):
    """Texts to vectors.

    `space` says what makes two vectors of equal text equal (model, revision, pooling, length, dimensions, dtype,
    backend); the store keeps one folder for each. `signature` adds what of a row is embedded and the query prompt:
    what makes two vectors comparable in one search.
    """

    embed_field: str  # prompt, answer or both: what of a row is embedded
    query_prompt: str | None  # put before every query's text
    tokens = padding = truncated = 0  # so far: tokens embedded, tokens of padding beside them, texts cut

    @property
    @abstractmethod
    def space(self) -> dict:
        """Plain values; cheap: known without loading a model."""

    @property
    def signature(self) -> dict:
        return {**self.space, "embed": self.embed_field, "query_prompt": self.query_prompt}

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of a vector."""

    @abstractmethod
    def embed(self, texts: list[str], progress: Callable[[int], object] = lambda n: None) -> np.ndarray:
        """float32 (len(texts), dim), rows L2-normalised; `progress(n)` is called as n more texts are done."""

    def as_query(self, text: str) -> str:
        """The string that is embedded for a query's text."""
        return f"{self.query_prompt}{text}" if self.query_prompt else text


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32; a zero row stays zero."""
    vectors = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny))

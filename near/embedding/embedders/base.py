"""The contract of an embedder."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np

from near.common.bounds import between
from near.data.formats.formats import Message, embedded_text

Embed = Literal["prompt", "answer", "both", "chat"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
StoreDtype = Literal["float32", "float16"]
Launcher = Literal["ray"]

Workers = Annotated[int, between(1, 100_000)]

Tokens = Annotated[int, between(1, 10_000_000)]  # of a text

BatchTokens = Annotated[int, between(1, 2**31 - 1)]


class Embedder(ABC):
    """Texts to vectors.

    `space` says what makes two vectors of equal text equal (model, revision, pooling, length, dimensions, dtype,
    backend); the store keeps one folder for each. `signature` adds what of a row is embedded and the prompts: what
    makes two vectors comparable in one search.
    """

    model: str | None = None  # as it was asked for, for people to read
    embed_field: str  # prompt, answer or both: what of a row is embedded
    query_prompt: str | None = None  # put before every query's text
    document_prompt: str | None = None  # put before every candidate's text
    chunk = 2048  # texts embedded before they are stored: what a kill can lose; batches are formed inside a chunk
    store_dtype = "float32"  # of the stored vectors; float16 halves the disk
    launcher: str | None = None  # who embeds: null, this process (and others like it); ray, a Ray cluster
    workers: int | None = None  # of the launcher; null: as many as the cluster has GPUs, without any its CPUs
    tokens = padding = truncated = 0  # so far: tokens embedded, tokens of padding beside them, texts cut

    @property
    @abstractmethod
    def space(self) -> dict:
        """Plain values; cheap: known without loading a model."""

    @property
    def signature(self) -> dict:
        prompts = {"query_prompt": self.query_prompt, "document_prompt": self.document_prompt}
        return {**self.space, "embed": self.embed_field, **prompts}

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of a vector."""

    @abstractmethod
    def embed(self, texts: list[str], progress: Callable[[int], object] = lambda n: None) -> np.ndarray:
        """float32 (len(texts), dim), rows L2-normalised; `progress(n)` is called as n more texts are done."""

    def close(self) -> None:  # noqa: B027 most have nothing to end
        """End what the embedder has started outside this process."""

    def lengths(self, texts: list[str]) -> np.ndarray:
        """Tokens of each text as they are embedded, int64 (n,); zeros where the embedder has no tokens."""
        return np.zeros(len(texts), dtype=np.int64)

    def query(self, messages: list[Message]) -> str:
        """The string that is embedded for a query."""
        return (self.query_prompt or "") + self.text(messages)

    def document(self, messages: list[Message]) -> str:
        """The string that is embedded for a candidate."""
        return (self.document_prompt or "") + self.text(messages)

    def text(self, messages: list[Message]) -> str:
        return embedded_text(messages, self.embed_field)


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32; a zero row stays zero."""
    vectors = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny))

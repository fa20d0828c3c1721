"""The contract of an embedder."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np

from near.common.bounds import between
from near.data.formats.formats import Message, embedded_text

Embed = Literal["prompt", "answer", "both", "chat"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
StoreDtype = Literal["float32", "float16"]
Launcher = Literal["ray"]

Workers = Annotated[int, between(1, 100_000)]

Tokens = Annotated[int, between(1, 10_000_000)]  # of a text

BatchSize = Literal["auto"] | Annotated[int, between(1, 1_000_000_000)]


class Embedder(ABC):
    """Texts to vectors.

    Two vectors of the same text are equal if their `space` is (model, revision, pooling, length, dimensions, dtype,
    backend); the store has one folder for each space. `signature` adds the embedded part of a row and the prompts: two
    vectors are comparable in one search if it is the same.
    """

    model: str | None = None  # its configured name, for people
    embed_field: str  # the part of a row that is embedded
    query_prompt: str | None = None  # prepended to every query's text
    document_prompt: str | None = None  # prepended to every candidate's text
    chunk = 2048  # texts embedded before they are stored, which a kill can lose; batches are formed within
    store_dtype = "float32"  # of the stored vectors; float16 halves the disk
    launcher: str | None = None  # None: embed in this process; ray: on a Ray cluster
    workers: int | None = None  # of the launcher; None: one for each GPU of the cluster, or CPU where it has no GPU
    tokens = padding = truncated = 0  # so far: tokens embedded, padding tokens, texts cut

    @property
    @abstractmethod
    def space(self) -> dict:
        """Plain values, known without loading a model."""

    @property
    def signature(self) -> dict:
        prompts = {"query_prompt": self.query_prompt, "document_prompt": self.document_prompt}
        return {**self.space, "embed": self.embed_field, **prompts}

    @property
    @abstractmethod
    def dim(self) -> int:
        """Numbers in a vector."""

    @abstractmethod
    def embed(self, texts: list[str], progress: Callable[[int], object] = lambda n: None) -> np.ndarray:
        """float32 (len(texts), dim), rows L2-normalised; `progress` is called with the number of texts done."""

    def prepare(self, texts: list[str]) -> Any:
        """What `embed_prepared` needs of the texts, such as their token ids. Called in a thread, while the model embeds
        other texts."""
        return texts

    def embed_prepared(self, prepared: Any, progress: Callable[[int], object] = lambda n: None) -> np.ndarray:
        """As `embed`, for what `prepare` returned."""
        return self.embed(prepared, progress)

    @property
    def tokens_per_batch(self) -> int | None:
        """The tokens of a batch that were chosen; None for an embedder without such batches."""
        return None

    def close(self) -> None:  # noqa: B027 most have nothing to close
        """End processes and engines that the embedder started."""

    def lengths(self, texts: list[str]) -> np.ndarray:
        """Tokens of each text as embedded, int64 (n,); zeros for an embedder without tokens."""
        return np.zeros(len(texts), dtype=np.int64)

    def query(self, messages: list[Message]) -> str:
        """The text to embed for a query."""
        return (self.query_prompt or "") + self.text(messages)

    def document(self, messages: list[Message]) -> str:
        """The text to embed for a candidate."""
        return (self.document_prompt or "") + self.text(messages)

    def text(self, messages: list[Message]) -> str:
        """The embedded part of a row, without a prompt."""
        return embedded_text(messages, self.embed_field)


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32 (n, dim); zero rows stay zero."""
    vectors = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny))

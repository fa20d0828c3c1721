"""An embedder without a model: words hashed into signed buckets. For tests and a first look at data."""

import re
import zlib
from collections.abc import Callable

import numpy as np

from near.embedders.base import Embedder, normalised


class HashingEmbedder(Embedder):
    """Feature hashing (Weinberger et al. 2009, arXiv 0902.2206) of lower-cased words into `dim` buckets."""

    query_prompt = None

    def __init__(self, embed: str = "prompt", dim: int = 1024, *, cache_dir: str | None = None):
        self.embed_field, self._dim = embed, dim

    @property
    def space(self) -> dict:
        return {"embedder": "hashing", "version": 1, "dim": self._dim}

    @property
    def dim(self) -> int:
        return self._dim

    def embed(self, texts: list[str], progress: Callable[[int], object] = lambda n: None) -> np.ndarray:
        vectors = np.zeros((len(texts), self._dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+|[^\w\s]", text.lower()):
                code = zlib.crc32(word.encode())
                vectors[row, (code >> 1) % self._dim] += 1 - 2 * (code & 1)
        progress(len(texts))
        return normalised(vectors)

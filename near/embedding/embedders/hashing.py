"""An embedder without a model: words hashed into signed buckets. For tests and a first look at data."""

import re
import zlib
from collections.abc import Callable
from typing import Annotated

import numpy as np

from near.common.bounds import between
from near.embedding.embedders.base import Embed, Embedder, Launcher, StoreDtype, Workers, normalised


class HashingEmbedder(Embedder):
    """Feature hashing (Weinberger et al. 2009, arXiv 0902.2206) of lower-cased words into `dim` buckets."""

    def __init__(
        self,
        embed: Embed = "prompt",
        dim: Annotated[int, between(1, 1_000_000)] = 1024,
        chunk: int = Embedder.chunk,
        store_dtype: StoreDtype = "float32",
        launcher: Launcher | None = None,
        workers: Workers | None = None,
        *,
        cache_dir: str | None = None,
    ):
        self.embed_field, self._dim, self.chunk, self.store_dtype = embed, dim, chunk, store_dtype
        self.launcher, self.workers = launcher, workers

    @property
    def space(self) -> dict:
        return {"embedder": "hashing", "version": 1, "dim": self._dim, "store_dtype": self.store_dtype}

    @property
    def dim(self) -> int:
        return self._dim

    def embed(self, texts: list[str], progress: Callable[[int], object] = lambda n: None) -> np.ndarray:
        vectors = np.zeros((len(texts), self._dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.finditer(r"\w+|[^\w\s]", text.lower()):
                code = zlib.crc32(word[0].encode())
                vectors[row, (code >> 1) % self._dim] += 1 - 2 * (code & 1)
        progress(len(texts))
        return normalised(vectors)

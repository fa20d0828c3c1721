"""Embedding with any sentence-transformers model, on the CPU, one GPU or several."""

import functools
from collections.abc import Callable

import numpy as np

from near.common.batches import batches
from near.common.errors import as_user_error
from near.embedding.embedders.model import ModelEmbedder

ALIKE = 0.9  # of a batch's longest text: 3 to 4% padding on the demo's rows instead of 10% (bench/embed.py)


class SentenceTransformerEmbedder(ModelEmbedder):
    """Several devices share the work through the library's pool of processes."""

    backend = "sentence-transformers"

    @functools.cached_property
    def _model(self):
        import torch
        from sentence_transformers import SentenceTransformer

        errors = (OSError, ValueError, KeyError, RuntimeError, AssertionError)
        with as_user_error(
            errors, f"embedder.model={self.model} could not be loaded", "check the name, or use a folder"
        ):
            model = SentenceTransformer(
                self.folder,
                device=self.devices[0] if len(self.devices) == 1 else "cpu",  # the pool's processes move their copies
                trust_remote_code=self.trust_remote_code,
                model_kwargs={"dtype": getattr(torch, self.dtype)},
            )
        if self.max_length is not None:
            limit = model.max_seq_length
            model.max_seq_length = min(self.max_length, limit) if limit else self.max_length
        return model

    @functools.cached_property
    def _pool(self):
        return self._model.start_multi_process_pool(self.devices) if len(self.devices) > 1 else None

    @property
    def tokenizer(self):
        return self._model.tokenizer

    @property
    def limit(self) -> int | None:
        return self._model.max_seq_length

    @property
    def full_dim(self) -> int:
        return self._model.get_embedding_dimension()

    def vectors(self, texts: list[str], progress: Callable[[int], object]) -> np.ndarray:
        texts = self.shortened(texts)
        vectors = np.empty((len(texts), self.full_dim), dtype=np.float32)
        lengths = self.lengths(texts, count=True)
        parts = batches(lengths, self.batch_size, self.batch_tokens, ALIKE)
        for part in parts:
            self.tokens += int(lengths[part].sum())
            self.padding += int(lengths[part].max() * len(part) - lengths[part].sum())
        for group in [[part] for part in parts] if self._pool is None else _of_equal_size(parts):
            positions = np.concatenate(group)
            vectors[positions] = self._model.encode(
                [texts[i] for i in positions],
                prompt="",  # prompts are part of the texts already
                batch_size=len(group[0]),
                chunk_size=len(group[0]),
                pool=self._pool,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            progress(len(positions))
        return vectors

    def close(self) -> None:
        """End the pool's processes."""
        if self.__dict__.get("_pool") is not None:
            self._model.stop_multi_process_pool(self._pool)
            del self.__dict__["_pool"]


def _of_equal_size(parts: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Groups of batches of equal size: the pool cuts one call into batches of one size."""
    groups: dict[int, list[np.ndarray]] = {}
    for part in parts:
        groups.setdefault(len(part), []).append(part)
    return list(groups.values())

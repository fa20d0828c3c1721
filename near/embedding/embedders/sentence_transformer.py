"""Embedding with any sentence-transformers model, on the CPU, one GPU or several."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from near.common.batches import batches
from near.common.budget import Budget
from near.common.errors import as_user_error
from near.embedding.embedders.model import ModelEmbedder
from near.embedding.embedders.token_inputs import Coded, TokenInputs

log = logging.getLogger(__name__)

ALIKE = 0.9  # of a batch's longest text: 3 to 4% padding on the demo's rows instead of 10% (bench/embed.py)


class SentenceTransformerEmbedder(ModelEmbedder):
    """Texts are tokenised once, and the model's modules get their ids, as in the library's `encode`.

    Several devices share the work through the library's pool of processes, which calls `encode`.
    """

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
        return model.eval()

    @functools.cached_property
    def _pool(self):
        return self._model.start_multi_process_pool(self.devices) if len(self.devices) > 1 else None

    @functools.cached_property
    def _inputs(self) -> TokenInputs | None:
        """Makes the model's inputs from token ids; None where only `encode` does."""
        if len(self.devices) > 1:
            return None
        inputs = TokenInputs.of(self._model)
        if inputs is None:
            log.info(f"embedder.model={self.model}: sentence-transformers' encode tokenises again what was counted")
        return inputs

    @functools.cached_property
    def budget(self) -> Budget:
        return self._budget(self._model)

    @property
    def tokenizer(self):
        return self._model.tokenizer

    @property
    def limit(self) -> int | None:
        return self._model.max_seq_length

    @property
    def full_dim(self) -> int:
        return self._model.get_embedding_dimension()

    def prepare(self, texts: list[str]) -> Coded | list[str]:
        """Token ids of the texts, or the texts where `encode` needs them."""
        if self._inputs is None:
            return texts
        coded = self._inputs.coded(self.shortened(texts))
        self.tokens += int(coded.lengths.sum())
        self.truncated += coded.cut
        return coded

    def vectors(self, prepared: Coded | list[str], progress: Callable[[int], object]) -> np.ndarray:
        if self._inputs is None:
            return self._encoded(prepared, progress)
        launched = self.budget.run(
            prepared.lengths, lambda part: self._launched(prepared, part), self._rows(self.budget), ALIKE
        )
        vectors, before = np.empty((len(prepared.lengths), self.full_dim), dtype=np.float32), None
        for part, fetch in launched:
            self._count_padding(prepared.lengths[part])
            if before is not None:
                self._fetch(vectors, *before, progress)  # while the device computes the next batch
            before = part, fetch
        if before is not None:
            self._fetch(vectors, *before, progress)
        return vectors

    def _launched(self, coded: Coded, part: np.ndarray) -> Callable[[], np.ndarray]:
        """Start a batch as `encode` does after its tokenisation; the result waits for its vectors, float32."""
        import torch
        from sentence_transformers.util import truncate_embeddings

        with torch.inference_mode():
            outputs = self._model(self._inputs.features(coded, part, self._model.device))
            vectors = outputs["sentence_embedding"]  # (n_batch, dim)
            if self._model.truncate_dim is not None:
                vectors = truncate_embeddings(vectors, self._model.truncate_dim)
            vectors = vectors.float()
            if vectors.device.type != "cuda":
                return vectors.cpu().numpy
            host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True).copy_(vectors, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(torch.cuda.current_stream(vectors.device))

        def fetch() -> np.ndarray:
            copied.synchronize()
            return host.numpy()

        return fetch

    @staticmethod
    def _fetch(vectors: np.ndarray, part: np.ndarray, fetch: Callable[[], np.ndarray], progress) -> None:
        vectors[part] = fetch()
        progress(len(part))

    def _count_padding(self, lengths: np.ndarray) -> None:
        self.padding += int(lengths.max() * len(lengths) - lengths.sum())

    def _encoded(self, texts: list[str], progress: Callable[[int], object]) -> np.ndarray:
        """Vectors by the library's `encode`, batch by batch, or shared by the pool."""
        texts = self.shortened(texts)
        vectors = np.empty((len(texts), self.full_dim), dtype=np.float32)
        lengths = self.lengths(texts, count=True)
        self.tokens += int(lengths.sum())

        def work(positions: np.ndarray, size: int | None = None) -> Any:
            size = size or len(positions)
            return self._model.encode(
                [texts[i] for i in positions],
                prompt="",  # prompts are part of the texts already
                batch_size=size,
                chunk_size=size,
                pool=self._pool,
                show_progress_bar=False,
                convert_to_numpy=True,
            )

        rows = self._rows(self.budget)
        if self._pool is None:
            done = self.budget.run(lengths, work, rows, ALIKE)
        else:
            parts = batches(lengths, rows, self.budget.tokens, ALIKE)
            for part in parts:
                self._count_padding(lengths[part])
            groups = _of_equal_size(parts)
            done = ((np.concatenate(group), work(np.concatenate(group), len(group[0]))) for group in groups)
        for positions, values in done:
            if self._pool is None:
                self._count_padding(lengths[positions])
            vectors[positions] = values
            progress(len(positions))
        return vectors

    def close(self) -> None:
        """End the pool's processes."""
        if self.__dict__.get("_pool") is not None:
            self._model.stop_multi_process_pool(self._pool)
            del self.__dict__["_pool"]


def _of_equal_size(parts: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Groups of batches of equal size: the pool cuts one call into batches of one size."""
    groups: dict[int, list[np.ndarray]] = {}
    for part in parts:
        groups.setdefault(len(part), []).append(part)
    return list(groups.values())

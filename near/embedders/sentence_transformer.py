"""Embedding with any sentence-transformers model."""

import functools
from collections.abc import Callable

import numpy as np

from near.batches import batches
from near.embedders.base import Embedder, normalised
from near.errors import UserError, one_line
from near.files import folder_digest
from near.hub import model_folder, wanted_dtype

ALIKE = 0.9  # of a batch's longest text: 3 to 4% padding on the demo's rows instead of 10% (bench/embed.py)


class SentenceTransformerEmbedder(Embedder):
    """`model` is a hub id, a folder or a built-in; it is loaded when the first text has to be embedded."""

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        backend: str = "auto",
        embed: str = "prompt",
        query_prompt: str | None = None,
        max_length: int | None = None,
        batch_size: int = 32,
        batch_tokens: int = 4096,
        dtype: str = "auto",
        device: str | None = None,
        trust_remote_code: bool = False,
        *,
        cache_dir: str,
    ):
        self.model, self.revision, self.cache_dir = model, revision, cache_dir
        self.embed_field, self.query_prompt = embed, query_prompt
        self.max_length, self.device = max_length, device
        self.batch_size, self.batch_tokens = batch_size, batch_tokens
        self.trust_remote_code = trust_remote_code
        self.backend = "sentence-transformers" if backend == "auto" else backend
        self._dtype = dtype

    @functools.cached_property
    def folder(self) -> str:
        """Where the model's files are; a hub model is fetched by its commit, and one line says when that fails."""
        return model_folder("embedder.model", self.model, self.revision, self.cache_dir, "embedder=minilm")

    @functools.cached_property
    def dtype(self) -> str:
        return wanted_dtype(self._dtype)

    @functools.cached_property
    def space(self) -> dict:
        return {
            "embedder": self.backend,
            "model": self.model,
            "files": folder_digest(self.folder),
            "max_length": self.max_length,
            "dtype": self.dtype,
        }

    @functools.cached_property
    def _model(self):
        import torch
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(
                self.folder,
                device=self.device,
                trust_remote_code=self.trust_remote_code,
                model_kwargs={"dtype": getattr(torch, self.dtype)},
            )
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"embedder.model={self.model} could not be loaded ({one_line(error)[:200]})") from error
        if self.max_length is not None:
            limit = model.max_seq_length
            model.max_seq_length = min(self.max_length, limit) if limit else self.max_length
        return model

    @property
    def dim(self) -> int:
        return self._model.get_embedding_dimension()

    def _lengths(self, texts: list[str]) -> np.ndarray:
        """Tokens of each text as the model sees it, int64 (n,); counts those that are cut."""
        whole = self._model.tokenizer(texts, add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
        lengths, limit = np.array([len(ids) for ids in whole], dtype=np.int64), self._model.max_seq_length
        if not limit:
            return lengths
        self.truncated += int((lengths > limit).sum())
        return np.minimum(lengths, limit)

    def embed(self, texts: list[str], progress: Callable[[int], object] = lambda n: None) -> np.ndarray:
        vectors, lengths = np.empty((len(texts), self.dim), dtype=np.float32), self._lengths(texts)
        for part in batches(lengths, self.batch_size, self.batch_tokens, ALIKE):
            self.tokens += int(lengths[part].sum())
            self.padding += int(lengths[part].max() * len(part) - lengths[part].sum())
            vectors[part] = self._model.encode(
                [texts[i] for i in part],
                prompt="",  # a query's prompt is part of its text already
                batch_size=len(part),
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            progress(len(part))
        return normalised(vectors)

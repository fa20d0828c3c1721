"""Shared by the embedders that pool the hidden states of a causal language model."""

import functools
from abc import abstractmethod
from collections.abc import Callable

import numpy as np

from near.common.bounds import BatchTokens
from near.common.budget import Budget
from near.common.errors import UserError, as_user_error, reading
from near.data.formats.formats import Message, embedded_text
from near.data.templates.named import set_template
from near.embedding.embedders.base import BatchSize, Dtype, Embed, Launcher, StoreDtype, Tokens, Workers
from near.embedding.embedders.model import ModelEmbedder
from near.embedding.embedders.sentence_transformer import ALIKE
from near.models.encoding import Encoder
from near.models.options import Template
from near.models.start import adapter_digest, adapter_folder


class CausalEmbedder(ModelEmbedder):
    """A model with the tokens and the chat template that it is trained with.

    `embed`: "chat" is the whole row in the model's chat template; prompt, answer and both are bare.
    `adapter`: merged into the model, by whichever model.adapter_mode.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        template: Template | None = None,
        adapter: str | None = None,
        embed: Embed = "chat",
        max_length: Tokens | None = None,
        batch_size: BatchSize = "auto",
        batch_tokens: BatchTokens = "auto",
        chunk: int = ModelEmbedder.chunk,
        dtype: Dtype = "auto",
        store_dtype: StoreDtype = "float32",
        device: str | None = None,
        trust_remote_code: bool = False,
        launcher: Launcher | None = None,
        workers: Workers | None = None,
        *,
        cache_dir: str,
    ):
        if device is not None and not isinstance(device, str):
            raise UserError(
                f"embedder.device={device}: embedder={self.backend} runs on one device; start it with torchrun for more"
            )
        options = {k: v for k, v in locals().items() if k not in ("self", "template", "adapter", "__class__")}
        super().__init__(**options, query_prompt=None, document_prompt=None)
        self.adapter, self.template = adapter, template
        self.special = embed != "chat"  # a chat template writes the special tokens itself

    @functools.cached_property
    def space(self) -> dict:
        adapter = {} if self.adapter is None else {"adapter": adapter_digest(adapter_folder(self.adapter))}
        return {**super().space, **adapter}

    @property
    def signature(self) -> dict:
        return {**super().signature, "template": self.template}

    @functools.cached_property
    def tokenizer(self):
        tokenizer = super().tokenizer
        if self.template is not None:
            set_template(tokenizer, self.template)
        if self.embed_field == "chat" and tokenizer.chat_template is None:
            raise UserError(
                f"embedder.model={self.model} has no chat template; set model.template, or embedder.embed=both"
            )
        return tokenizer

    def text(self, messages: list[Message]) -> str:
        if self.embed_field != "chat":
            return embedded_text(messages, self.embed_field)
        return self._encoder.joined(messages)

    @functools.cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.tokenizer, {"cutoff_len": self.max_length or 1 << 30})

    def _coded(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text; a chat gets the ids it is trained with, its pieces encoded separately."""
        if self.embed_field != "chat":
            return super()._coded(texts)
        return [self._encoder.joined_ids(text) for text in texts]

    @functools.cached_property
    def _model(self):
        import torch
        from transformers import AutoModel, AutoModelForCausalLM

        from near.models.loading import with_merged

        kind, dtype = (AutoModel, self.dtype) if self.adapter is None else (AutoModelForCausalLM, "float32")
        with reading(f"embedder.model={self.model}"):
            model = kind.from_pretrained(
                self.folder, dtype=getattr(torch, dtype), trust_remote_code=self.trust_remote_code
            )
        if self.adapter is not None:
            model = with_merged(model, adapter_folder(self.adapter), getattr(torch, self.dtype)).base_model
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        what, fix = f"embedder.device={self.device} can't be used", "use embedder.device=cpu"
        with as_user_error((RuntimeError, AssertionError), what, fix):
            return model.to(self.devices[0] or accelerator).eval()

    @property
    def limit(self) -> int | None:
        model_limit = getattr(self._model.config, "max_position_embeddings", None)
        return min(self.max_length, model_limit) if self.max_length and model_limit else self.max_length or model_limit

    @property
    def full_dim(self) -> int:
        return self._model.config.hidden_size

    @functools.cached_property
    def budget(self) -> Budget:
        return self._budget(self._model)

    def vectors(self, prepared: list, progress: Callable[[int], object]) -> np.ndarray:
        vectors = np.zeros((len(prepared), self.full_dim), dtype=np.float32)
        lengths = np.array([len(ids) for ids in prepared], dtype=np.int64)

        def work(part: np.ndarray) -> np.ndarray:
            return self._pooled([prepared[i] for i in part])

        for part, values in self.budget.run(lengths, work, self._rows(self.budget), ALIKE):
            self.padding += int(max(1, lengths[part].max()) * len(part) - lengths[part].sum())
            vectors[part] = values
            progress(len(part))
        return vectors

    def padded(self, rows: list[list[int]]):
        """A batch's token ids and its attention mask, int64 tensors (n_batch, n_tokens) on the model's device."""
        import torch

        tokens = torch.zeros((len(rows), max(1, *map(len, rows))), dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = torch.as_tensor(ids, dtype=torch.long)
            mask[row, : len(ids)] = 1
        return tokens.to(self._model.device), mask.to(self._model.device)

    @abstractmethod
    def _pooled(self, rows: list) -> np.ndarray:
        """The vectors of a batch, float32 (n_batch, full_dim). `rows`: of each text what `prepare` returned."""

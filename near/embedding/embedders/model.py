"""Shared by the embedders that run an embedding model: its files, prompts, lengths and dimensions."""

import functools
import logging
import os
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from near.common.bounds import BatchTokens
from near.common.budget import Budget
from near.common.errors import UserError, reading
from near.common.files import folder_digest, read_json
from near.embedding.embedders.base import BatchSize, Dtype, Embed, Embedder, Launcher, StoreDtype, normalised
from near.models.cutting import without_middle
from near.models.hub import SKIPPED, model_folder, resolve_dtype

log = logging.getLogger(__name__)

ROWS, TOKENS = 64, 4096  # of a batch at most, for batch_size=auto and batch_tokens=auto on a CPU

# Names of prompts that sentence-transformers' encode_query and encode_document use.
PROMPTS = {"query_prompt": ("query",), "document_prompt": ("document", "passage", "corpus")}


class ModelEmbedder(Embedder):
    """`model` is a hub id, a folder or a built-in; it is loaded when the first text has to be embedded.

    A prompt of "auto" is the model's own, from its config_sentence_transformers.json. `truncate_dim` keeps the first
    dimensions (Matryoshka, Kusupati et al. 2022, arXiv 2205.13147) and normalises again.
    """

    backend: str
    special = True  # whether the tokenizer adds its special tokens

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        embed: Embed = "prompt",
        query_prompt: str | None = "auto",
        document_prompt: str | None = "auto",
        max_length: int | None = None,
        truncate_dim: int | None = None,
        batch_size: BatchSize = "auto",
        batch_tokens: BatchTokens = "auto",
        chunk: int = Embedder.chunk,
        dtype: Dtype = "auto",
        store_dtype: StoreDtype = "float32",
        device: str | list[str] | None = None,
        trust_remote_code: bool = False,
        launcher: Launcher | None = None,
        workers: int | None = None,
        *,
        cache_dir: str,
    ):
        self.model, self.revision, self.cache_dir = model, revision, cache_dir
        self.embed_field, self._prompts = embed, {"query_prompt": query_prompt, "document_prompt": document_prompt}
        self.max_length, self.truncate_dim, self.device = max_length, truncate_dim, device
        self.batch_size, self.batch_tokens, self.chunk = batch_size, batch_tokens, chunk
        self._dtype, self.store_dtype = dtype, store_dtype
        self.trust_remote_code = trust_remote_code
        self.launcher, self.workers = launcher, workers

    def __getstate__(self) -> dict:
        """Pickle options only: models and processes are loaded where it is unpickled."""
        loaded = ("_model", "_llm", "_pool", "_encoder", "tokenizer", "limit", "full_dim", "budget", "_inputs")
        return {name: value for name, value in self.__dict__.items() if name not in loaded}

    @functools.cached_property
    def folder(self) -> str:
        """The folder of the model's files; a hub model is downloaded first. UserError where that fails."""
        return model_folder("embedder.model", self.model, self.revision, self.cache_dir, "embedder=minilm")

    @functools.cached_property
    def dtype(self) -> str:
        return resolve_dtype(self._dtype)

    @functools.cached_property
    def space(self) -> dict:
        return {
            "embedder": self.backend,
            "files": folder_digest(self.folder, SKIPPED),
            "max_length": self.max_length,
            "truncate_dim": self.truncate_dim,
            "dtype": self.dtype,
            "store_dtype": self.store_dtype,
        }

    @functools.cached_property
    def query_prompt(self) -> str | None:  # type: ignore[override]
        return self._prompt("query_prompt")

    @functools.cached_property
    def document_prompt(self) -> str | None:  # type: ignore[override]
        return self._prompt("document_prompt")

    def _prompt(self, key: str) -> str | None:
        if self._prompts[key] != "auto":
            return self._prompts[key]
        path = Path(self.folder) / "config_sentence_transformers.json"
        config = read_json(path) if path.is_file() else {}
        prompts = config.get("prompts") or {}
        names = (*PROMPTS[key], config.get("default_prompt_name"))
        prompt = next((prompts[name] for name in names if prompts.get(name)), None)
        if prompt is not None:
            log.info(f"embedder.{key}=auto: the model's own {prompt!r}")
        return prompt

    @functools.cached_property
    def tokenizer(self):
        from transformers import AutoTokenizer

        with reading(f"embedder.model={self.model}: its tokenizer"):
            return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=self.trust_remote_code)

    @functools.cached_property
    def devices(self) -> list[str | None]:
        """The devices: as configured, else all GPUs (under torchrun the rank's), else [None], the library's choice."""
        import torch

        if self.device is not None:
            return [self.device] if isinstance(self.device, str) else list(self.device)
        if not torch.cuda.is_available():
            return [None]
        if "LOCAL_RANK" in os.environ:
            return [f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"]
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]

    @property
    @abstractmethod
    def limit(self) -> int | None:
        """Tokens of a text that the model reads at most; None: all."""

    @property
    @abstractmethod
    def full_dim(self) -> int:
        """Length of the model's own vectors."""

    @abstractmethod
    def vectors(self, prepared: Any, progress: Callable[[int], object]) -> np.ndarray:
        """float32 (n_texts, full_dim), not normalised, of what `prepare` returned; `progress` is called with the number
        of texts done."""

    @property
    def dim(self) -> int:
        special = self.tokenizer.num_special_tokens_to_add() if self.special else 0
        if self.max_length is not None and self.max_length <= special:
            raise UserError(
                f"embedder.max_length={self.max_length} leaves no room for text beside the model's {special} "
                f"special tokens; use embedder.max_length>{special}"
            )
        if self.truncate_dim is None:
            return self.full_dim
        if self.truncate_dim > self.full_dim:
            raise UserError(
                f"embedder.truncate_dim={self.truncate_dim} is more than the {self.full_dim} dimensions of "
                f"{self.model}; use embedder.truncate_dim<={self.full_dim}"
            )
        return self.truncate_dim

    def embed(self, texts: list[str], progress: Callable[[int], object] = lambda n: None) -> np.ndarray:
        return self.embed_prepared(self.prepare(texts), progress)

    def prepare(self, texts: list[str]) -> Any:
        """The token ids of each text."""
        return self.token_ids(texts)

    def embed_prepared(self, prepared: Any, progress: Callable[[int], object] = lambda n: None) -> np.ndarray:
        dim = self.dim
        return normalised(self.vectors(prepared, progress)[:, :dim])

    @property
    def tokens_per_batch(self) -> int | None:
        budget = self.__dict__.get("budget")
        return budget and budget.tokens

    def _budget(self, model) -> Budget:
        """The tokens of a batch of `model`, which is on its device."""
        from near.models.budget import budget_for

        fix = "use a smaller embedder.max_length, or another embedder.device"
        name = "embedder.batch_tokens"
        return budget_for(model, self.batch_tokens, TOKENS, name, f"embedding by {self.backend}", self.cache_dir, fix)

    def _rows(self, budget: Budget) -> int:
        return budget.rows(ROWS) if self.batch_size == "auto" else self.batch_size

    def lengths(self, texts: list[str], count: bool = False) -> np.ndarray:
        """As in Embedder; `count`: add the texts that are cut to `truncated`."""
        coded = self._coded(self.shortened(texts))
        whole = np.array([len(ids) for ids in coded], dtype=np.int64)
        lengths = np.minimum(whole, self.limit or np.iinfo(np.int64).max)
        self.truncated += int((lengths < whole).sum()) if count else 0
        return lengths

    def shortened(self, texts: list[str]) -> list[str]:
        """The texts; long ones without a middle that is beyond the limit anyway, so that they are tokenised quickly."""
        return [without_middle(text, self.limit, lambda part: len(self._coded([part])[0])) for text in texts]

    def _coded(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=self.special, truncation=False, verbose=False)["input_ids"]

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, cut to `limit`. Counts tokens and texts that are cut."""
        texts = self.shortened(texts)
        coded = self._coded(texts)
        over = [i for i, ids in enumerate(coded) if self.limit and len(ids) > self.limit]
        if not self.special:
            coded = [ids[: self.limit] for ids in coded]
        elif over:
            options = {"add_special_tokens": self.special, "truncation": True, "max_length": self.limit}
            cut = self.tokenizer([texts[i] for i in over], **options)["input_ids"]
            for i, ids in zip(over, cut, strict=True):
                coded[i] = ids
        nothing = [i for i, ids in enumerate(coded) if not ids]  # engines refuse empty texts: use one end token
        for i in nothing:
            coded[i] = [self.tokenizer.eos_token_id or self.tokenizer.pad_token_id or 0]
        self.truncated += len(over)
        self.tokens += sum(map(len, coded))
        return coded

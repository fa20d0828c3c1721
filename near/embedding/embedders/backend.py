"""Which engine runs an embedding model; decided once, before any work."""

import functools
import importlib.util
import logging
from typing import Any, Literal

from omegaconf import OmegaConf

from near.common.bounds import BatchTokens, Text
from near.common.errors import UserError
from near.common.extras import install
from near.embedding.embedders.base import BatchSize, Dtype, Embed, Launcher, StoreDtype, Tokens, Workers
from near.embedding.embedders.model import ModelEmbedder
from near.models.server import ServerOptions

log = logging.getLogger(__name__)


def model_embedder(
    model: str,
    revision: str | None = None,
    backend: Literal["auto", "sentence-transformers", "vllm", "vllm_server"] = "auto",
    embed: Embed = "prompt",
    query_prompt: Text | None = "auto",
    document_prompt: Text | None = "auto",
    max_length: Tokens | None = None,
    truncate_dim: int | None = None,
    batch_size: BatchSize = "auto",
    batch_tokens: BatchTokens = "auto",
    chunk: int = ModelEmbedder.chunk,
    dtype: Dtype = "auto",
    store_dtype: StoreDtype = "float32",
    device: str | list[str] | None = None,
    trust_remote_code: bool = False,
    engine: dict | None = None,
    server: ServerOptions | None = None,
    launcher: Launcher | None = None,
    workers: Workers | None = None,
    *,
    cache_dir: str,
) -> ModelEmbedder:
    """The embedder of `model` under `backend`: sentence-transformers, vllm, vllm_server or auto.

    auto is vLLM if it is installed and a GPU is usable, else sentence-transformers; the choice is logged and part of
    the signature.

    Raises:
        UserError: backend is vllm, and vLLM is not installed.
    """
    options = {k: v for k, v in locals().items() if k not in ("backend", "engine", "server")}
    engine, server = _plain(engine), _plain(server)
    if backend == "auto":
        log_automatic_backend()
        backend, _ = automatic_backend()
    if backend == "sentence-transformers":
        from near.embedding.embedders.sentence_transformer import SentenceTransformerEmbedder

        return SentenceTransformerEmbedder(**options)
    if backend == "vllm_server":
        from near.embedding.embedders.vllm_server import VllmServerEmbedder

        return VllmServerEmbedder(**options, server=server)
    if importlib.util.find_spec("vllm") is None:
        raise UserError(f"embedder.backend=vllm: vLLM is not installed; {install('vllm')}, or use auto")
    from near.embedding.embedders.vllm import VllmEmbedder

    return VllmEmbedder(**options, engine=engine)


def _plain(options: Any) -> Any:
    return OmegaConf.to_container(options, resolve=True) if OmegaConf.is_config(options) else dict(options or {})


@functools.cache
def automatic_backend() -> tuple[str, str]:
    """The backend that `auto` means on this machine, and the reason."""
    backend, reason = "sentence-transformers", "vLLM is not installed"
    if importlib.util.find_spec("vllm") is not None:
        import torch

        usable = torch.cuda.is_available()
        reason = f"vLLM is installed, and {'a' if usable else 'no'} GPU is usable"
        backend = "vllm" if usable else backend
    return backend, reason


@functools.cache
def log_automatic_backend() -> None:
    """Log the backend and the reason, once."""
    backend, reason = automatic_backend()
    log.info(f"embedder.backend=auto: {backend} ({reason})")

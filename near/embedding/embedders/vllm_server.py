"""Embedding by a server with OpenAI's /v1/embeddings, such as vLLM's."""

import base64
import functools
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import numpy as np

from near.common.errors import UserError, one_line
from near.common.text import plural
from near.embedding.embedders.model import ROWS, ModelEmbedder
from near.models.server import Server


class VllmServerEmbedder(ModelEmbedder):
    """Sends texts as token ids, made and cut here with the model's tokenizer, `batch_size` in a request.

    `server`: url (up to /v1), model (its name there; null: the same), api_key_env (the environment variable with the
    key), concurrency (parallel requests), retries, timeout (seconds).
    """

    backend = "vllm_server"

    def __init__(self, *, server: dict, **options):
        super().__init__(**options)
        self.server = Server(server, "embedder.server")
        self.url, self.served = self.server.url, server.get("model") or self.model

    @functools.cached_property
    def space(self) -> dict:
        # the configured dtype, because the server computes in its own
        space = {**super().space, "dtype": self._dtype, "served": self.served}
        return space if self.max_length else {**space, "max_length": self.limit}

    @functools.cached_property
    def limit(self) -> int | None:
        """The server's limit, if it reports one, or ours. Also checks that the server serves this model."""
        try:
            cards = {str(card["id"]): card for card in self.server.json("GET", "/models")["data"]}
            longest = cards.get(self.served, {}).get("max_model_len")
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"embedder.server.url={self.url}/models did not return a list of models; is it an OpenAI-compatible "
                "server?"
            ) from error
        if self.served not in cards:
            raise UserError(
                f"embedder.server.url={self.url} serves {', '.join(cards) or 'nothing'}, not {self.served}; "
                "set embedder.server.model to its name there, or start the server with this model"
            )
        if (
            longest and self.max_length and self.max_length > longest
        ):  # else vectors of cut texts would count as ones of longer texts
            raise UserError(
                f"embedder.max_length={self.max_length} is more than the {longest} tokens that {self.url} takes; "
                f"use embedder.max_length={longest}"
            )
        return self.max_length or longest

    @functools.cached_property
    def full_dim(self) -> int:
        self.limit  # noqa: B018 check the served model before the first request
        return self._request([self.tokenizer(["a"])["input_ids"][0]]).shape[1]

    def vectors(self, prepared: list[list[int]], progress: Callable[[int], object]) -> np.ndarray:
        vectors = np.empty((len(prepared), self.full_dim), dtype=np.float32)
        order = np.argsort([-len(i) for i in prepared], kind="stable")  # texts of similar length share a request
        size = ROWS if self.batch_size == "auto" else self.batch_size
        parts = [order[start : start + size] for start in range(0, len(order), size)]

        def work(part: np.ndarray) -> None:
            vectors[part] = self._request([prepared[i] for i in part])
            progress(len(part))

        with ThreadPoolExecutor(self.server.concurrency) as pool:
            running = [pool.submit(work, part) for part in parts]
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
            if any(job.exception() for job in done):
                pool.shutdown(cancel_futures=True)
        for job in running:
            job.result()
        return vectors

    def _request(self, ids: list[list[int]]) -> np.ndarray:
        body = {"model": self.served, "input": ids, "encoding_format": "base64"}
        try:
            data = {
                entry["index"]: _vector(entry["embedding"])
                for entry in self.server.json("POST", "/embeddings", body)["data"]
            }
            vectors = np.stack([data[i] for i in range(len(ids))])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise UserError(
                f"embedder.server.url={self.url}/embeddings did not return a vector for each of "
                f"{plural(len(ids), 'text')} ({reason[:120]}); is its model an embedding model?"
            ) from error
        if vectors.ndim != 2 or vectors.shape[1] != self.__dict__.get("full_dim", vectors.shape[1]):
            raise UserError(
                f"embedder.server.url={self.url} returned vectors of changing length ({vectors.shape}); use a "
                "server of one model"
            )
        return vectors


def _vector(embedding: str | list[float]) -> np.ndarray:
    """float32 (dim,), from base64 of little-endian float32 or from a list."""
    return (
        np.frombuffer(base64.b64decode(embedding), dtype="<f4")
        if isinstance(embedding, str)
        else np.array(embedding, np.float32)
    )

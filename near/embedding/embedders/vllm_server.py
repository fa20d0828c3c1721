"""Embedding by a server that speaks OpenAI's /v1/embeddings, such as vLLM's."""

import base64
import functools
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import numpy as np

from near.common.errors import UserError, one_line
from near.embedding.embedders.model import ModelEmbedder
from near.models.server import Server


class VllmServerEmbedder(ModelEmbedder):
    """Texts go as token ids, made and cut by us with the model's tokenizer, `batch_size` in a request.

    `server`: url (up to /v1), model (its name there; null: the same), api_key_env (the variable that holds the key),
    concurrency (requests under way at once), retries, timeout (seconds).
    """

    backend = "vllm_server"

    def __init__(self, *, server: dict, **options):
        super().__init__(**options)
        self.server = Server(server, "embedder.server")
        self.url, self.served = self.server.url, server.get("model") or self.model

    @functools.cached_property
    def space(self) -> dict:
        own = {
            **super().space,
            "dtype": self._dtype,
            "served": self.served,
        }  # in what it computes is the server's affair
        return own if self.max_length else {**own, "max_length": self.limit}

    @functools.cached_property
    def limit(self) -> int | None:
        """The server's own limit, if it tells one, and ours; also the check that it serves the model that was asked."""
        try:
            cards = {str(card["id"]): card for card in self.server.json("GET", "/models")["data"]}
            longest = cards.get(self.served, {}).get("max_model_len")
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"embedder.server.url={self.url}/models answers something else than models") from error
        if self.served not in cards:
            raise UserError(
                f"embedder.server.url={self.url} serves {', '.join(cards) or 'nothing'}, not {self.served}; "
                "set embedder.server.model to its name there, or start the server with this model"
            )
        if longest and self.max_length and self.max_length > longest:  # its vectors would pass for longer ones
            raise UserError(
                f"embedder.max_length={self.max_length} is more than the {longest} tokens that {self.url} takes; "
                f"use embedder.max_length={longest}"
            )
        return self.max_length or longest

    @functools.cached_property
    def full_dim(self) -> int:
        self.limit  # noqa: B018 the served model is checked before the first request
        return self._request([self.tokenizer(["a"])["input_ids"][0]]).shape[1]

    def vectors(self, texts: list[str], progress: Callable[[int], object]) -> np.ndarray:
        found, ids = np.empty((len(texts), self.full_dim), dtype=np.float32), self.token_ids(texts)
        order = np.argsort([-len(i) for i in ids], kind="stable")  # texts alike in length share a request
        parts = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

        def work(part: np.ndarray) -> None:
            found[part] = self._request([ids[i] for i in part])
            progress(len(part))

        with ThreadPoolExecutor(self.server.concurrency) as pool:
            running = [pool.submit(work, part) for part in parts]
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
            if any(job.exception() for job in done):
                pool.shutdown(cancel_futures=True)
        for job in running:
            job.result()
        return found

    def _request(self, ids: list[list[int]]) -> np.ndarray:
        body = {"model": self.served, "input": ids, "encoding_format": "base64"}
        try:
            data = {
                entry["index"]: _vector(entry["embedding"])
                for entry in self.server.json("POST", "/embeddings", body)["data"]
            }
            found = np.stack([data[i] for i in range(len(ids))])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            told = f"{type(error).__name__}: {one_line(error)}"
            raise UserError(
                f"embedder.server.url={self.url}/embeddings answers something else than a vector for each of "
                f"{len(ids)} texts ({told[:120]})"
            ) from error
        if found.ndim != 2 or found.shape[1] != self.__dict__.get("full_dim", found.shape[1]):
            raise UserError(f"embedder.server.url={self.url} gave vectors of changing length ({found.shape})")
        return found


def _vector(told: str | list[float]) -> np.ndarray:
    """float32 (dim,), from base64 of little-endian float32 or from a list."""
    return np.frombuffer(base64.b64decode(told), dtype="<f4") if isinstance(told, str) else np.array(told, np.float32)

"""Embedding by a server that speaks OpenAI's /v1/embeddings, such as vLLM's."""

import base64
import functools
import os
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import httpx
import numpy as np
import tenacity

from near.embedders.model import ModelEmbedder
from near.errors import UserError, one_line

WAIT = tenacity.wait_random_exponential(multiplier=0.5, max=30)  # seconds between tries
BUSY = {408, 409, 425, 429, 500, 502, 503, 504}  # answers worth another try


class VllmServerEmbedder(ModelEmbedder):
    """Texts go as token ids, made and cut by us with the model's tokenizer, `batch_size` in a request.

    `server`: url (up to /v1), model (its name there; null: the same), api_key_env (the variable that holds the key),
    concurrency (requests under way at once), retries, timeout (seconds).
    """

    backend = "vllm_server"

    def __init__(self, *, server: dict, **options):
        super().__init__(**options)
        self.server = server
        if not self.server.get("url"):
            raise UserError("embedder.server.url is missing: set it, for example to http://127.0.0.1:8000/v1")
        self.url = str(self.server["url"]).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"embedder.server.url={self.url} is not a URL; write it like http://127.0.0.1:8000/v1")
        self.served = self.server.get("model") or self.model

    @functools.cached_property
    def space(self) -> dict:
        own = {
            **super().space,
            "dtype": self._dtype,
            "served": self.served,
        }  # in what it computes is the server's affair
        return own if self.max_length else {**own, "max_length": self.limit}

    @functools.cached_property
    def _client(self) -> httpx.Client:
        name = self.server.get("api_key_env") or ""
        key = os.environ.get(name, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"the environment variable {name} holds something that is no key; set it anew")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=self.server["concurrency"])
        return httpx.Client(headers=headers, timeout=self.server["timeout"], limits=limits)

    @functools.cached_property
    def limit(self) -> int | None:
        """The server's own limit, if it tells one, and ours; also the check that it serves the model that was asked."""
        try:
            cards = {str(card["id"]): card for card in self._json("GET", "/models")["data"]}
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

        with ThreadPoolExecutor(self.server["concurrency"]) as pool:
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
                entry["index"]: _vector(entry["embedding"]) for entry in self._json("POST", "/embeddings", body)["data"]
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

    def _json(self, method: str, path: str, body: dict | None = None) -> dict:
        """The JSON that the server answers; tried again, each time after a longer pause, while it is busy or away."""

        def once() -> dict:
            answer = self._client.request(method, self.url + path, json=body)
            if answer.status_code in BUSY:
                raise _Busy(f"status {answer.status_code}")
            if answer.status_code in (401, 403):
                name = self.server.get("api_key_env")
                raise UserError(
                    f"embedder.server.url={self.url} refuses the key (status {answer.status_code}); "
                    f"put it into the environment variable {name} (embedder.server.api_key_env)"
                )
            if answer.is_error:
                raise UserError(
                    f"embedder.server.url={self.url}{path} answers {answer.status_code}: {one_line(answer.text)[:200]}"
                )
            try:
                return answer.json()
            except ValueError as error:
                raise UserError(f"embedder.server.url={self.url}{path} answers something that is not JSON") from error

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((_Busy, httpx.TransportError)),
            stop=tenacity.stop_after_attempt(self.server["retries"] + 1),
            wait=WAIT,
            reraise=True,
        )
        try:
            return retrying(once)
        except (_Busy, httpx.TransportError) as error:
            raise UserError(
                f"embedder.server.url={self.url} did not answer in {self.server['retries'] + 1} tries "
                f"({one_line(error) or type(error).__name__}); start it and run again: what is stored stays"
            ) from error
        except httpx.InvalidURL as error:
            raise UserError(f"embedder.server.url={self.url} is not a URL ({one_line(error)})") from error


class _Busy(Exception):
    pass


def _vector(told: str | list[float]) -> np.ndarray:
    """float32 (dim,), from base64 of little-endian float32 or from a list."""
    return np.frombuffer(base64.b64decode(told), dtype="<f4") if isinstance(told, str) else np.array(told, np.float32)

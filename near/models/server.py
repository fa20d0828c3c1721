"""Client of a server with OpenAI's HTTP API: retries while the server is busy, reports errors in one line."""

import functools
import os
from typing import Annotated, TypedDict

import httpx
import tenacity

from near.common.bounds import between
from near.common.errors import UserError, one_line

WAIT = tenacity.wait_random_exponential(multiplier=0.5, max=30)  # seconds between tries
BUSY = {408, 409, 425, 429, 500, 502, 503, 504}  # status codes that are retried


class ServerOptions(TypedDict):
    url: str | None
    model: str | None
    api_key_env: str | None
    concurrency: Annotated[int, between(1, 1000)]
    retries: Annotated[int, between(0, 1000)]
    timeout: Annotated[float, between(0.001, 86_400)]


class Server:
    """A connection to a server.

    Args:
        options: url (up to /v1), api_key_env (the environment variable with the key), concurrency (simultaneous
            requests), retries, timeout (seconds).
        where: the configuration's key of these options, for error messages.
    """

    def __init__(self, options: dict, where: str):
        self.options, self.where = options, where
        if not options.get("url"):
            raise UserError(f"{where}.url is missing: set it, for example to http://127.0.0.1:8000/v1")
        self.url = str(options["url"]).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"{where}.url={self.url} is not a URL; write it like http://127.0.0.1:8000/v1")
        self.concurrency = options["concurrency"]

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_client"}

    @functools.cached_property
    def _client(self) -> httpx.Client:
        name = self.options.get("api_key_env") or ""
        key = os.environ.get(name, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"the environment variable {name} is not a valid key (not printable ASCII); set it again")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=self.concurrency)
        return httpx.Client(headers=headers, timeout=self.options["timeout"], limits=limits)

    def json(self, method: str, path: str, body: dict | None = None) -> dict:
        """Send a request and return the JSON of the response; retried with growing pauses while the server is busy.

        Raises:
            UserError: the server refuses, returns an error or no JSON, or does not answer.
        """

        def once() -> dict:
            answer = self._client.request(method, self.url + path, json=body)
            if answer.status_code in BUSY:
                raise _Busy(f"status {answer.status_code}")
            if answer.status_code in (401, 403):
                name, key = self.options.get("api_key_env"), f"{self.where}.api_key_env"
                fix = f"put it into the environment variable {name} ({key})" if name else f"set {key} to its variable"
                raise UserError(f"{self.where}.url={self.url} refuses the key (status {answer.status_code}); {fix}")
            if answer.is_error:
                raise UserError(
                    f"{self.where}.url={self.url}{path} answers {answer.status_code}: {one_line(answer.text)[:200]}; "
                    "check the URL, the model and the key"
                )
            try:
                return answer.json()
            except ValueError as error:
                raise UserError(
                    f"{self.where}.url={self.url}{path} did not return JSON; is it an OpenAI-compatible server?"
                ) from error

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((_Busy, httpx.TransportError)),
            stop=tenacity.stop_after_attempt(self.options["retries"] + 1),
            wait=WAIT,
            reraise=True,
        )
        try:
            return retrying(once)
        except (_Busy, httpx.TransportError) as error:
            raise UserError(
                f"{self.where}.url={self.url} did not answer in {self.options['retries'] + 1} tries "
                f"({one_line(error) or type(error).__name__}); start it and run again; stored results are reused"
            ) from error
        except httpx.InvalidURL as error:
            raise UserError(
                f"{self.where}.url={self.url} is not a URL ({one_line(error)}); write it like http://127.0.0.1:8000/v1"
            ) from error


class _Busy(Exception):
    pass

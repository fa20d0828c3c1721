"""A judge model behind an OpenAI-compatible endpoint: compares an answer with its reference."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict

from near.common.bounds import Text
from near.common.errors import UserError
from near.models.server import Server, ServerOptions

PROMPT = (
    "Question:\n{question}\n\nReference answer:\n{reference}\n\nAnswer to judge:\n{answer}\n\n"
    "Does the answer say the same as the reference? Reply with yes or no."
)


class JudgeOptions(TypedDict):
    prompt: Text | None
    server: ServerOptions


class Judge:
    """Requests verdicts from a server's `/chat/completions`, at temperature 0.

    Args:
        server: options of near.models.server.Server, and `model`, the judge's name there.
        prompt: a text with {question}, {reference} and {answer}.
        where: the configuration's key, for error messages.
    """

    def __init__(self, server: dict, prompt: str = PROMPT, where: str = "judge"):
        self.server, self.prompt, self.where = Server(server, f"{where}.server"), prompt, where
        self.model = server.get("model")
        if not self.model:
            raise UserError(f"{where}.server.model is missing: set it to the judge's name at the server")

    def verdicts(self, cases: list[tuple[str, str, str]]) -> list[bool]:
        """Whether each answer is right. `cases`: triples of question, reference and answer.

        Raises UserError for a reply that is neither yes nor no.
        """
        with ThreadPoolExecutor(self.server.concurrency) as workers:
            return [right for right, _ in workers.map(self.verdict, cases)]

    def verdict(self, one: tuple[str, str, str]) -> tuple[bool, str]:
        """Whether one answer is right, and the judge's reply. `one`: question, reference, answer."""
        question, reference, answer = one
        parts = {"{question}": question, "{reference}": reference, "{answer}": answer}
        text = re.sub("|".join(map(re.escape, parts)), lambda match: parts[match.group()], self.prompt)
        messages = [{"role": "user", "content": text}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 8}
        response = self.server.json("POST", "/chat/completions", body)
        try:
            reply = str(response["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"{self.where}.server.url={self.server.url} did not return a chat completion; is it an "
                "OpenAI-compatible server?"
            ) from error
        word = re.search(r"\b(yes|no)\b", reply.casefold())
        if word is None:
            raise UserError(
                f"{self.where}: {self.model} replies {reply[:60]!r}, neither yes nor no; change {self.where}.prompt"
            )
        return word.group() == "yes", reply

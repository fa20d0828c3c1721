"""Hashes of rows: of all messages, and of the normalised prompt that near/data/leakage.py compares."""

import hashlib
import unicodedata

import numpy as np

from near.data.formats.formats import is_plain, prompt_turns
from near.data.formats.turns import OPTIONAL, Message
from near.data.table import KEY


def row_key(messages: list[Message]) -> bytes:
    """BLAKE2b-128 over all fields of all messages, 16 bytes."""
    state = hashlib.blake2b(digest_size=KEY)
    for message in messages:
        fields = [(message["role"], message["content"])]  # no role has the name of another field
        if len(message) > 2:
            fields += [(name, str(message[name])) for name in OPTIONAL if name in message]
        for name, text in fields:
            content = text.encode()
            state.update(f"{name} {len(content)} ".encode() + content)
    return state.digest()


def normalised(text: str) -> str:
    """`text` for comparison: Unicode NFKC, case folded, white space collapsed and stripped, without invisible
    characters (category Cf: soft hyphens, zero-width spaces, direction marks)."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
        text = unicodedata.normalize("NFKC", text.casefold())
    return " ".join(text.casefold().split())


def normalised_turns(messages: list[Message]) -> list[str]:
    """A row's prompt turns (formats.prompt_turns), normalised; of plain text the text itself."""
    if not messages:
        return []
    turns = [messages[0]["content"]] if is_plain(messages) else prompt_turns(messages)
    return [normalised(turn) for turn in turns]


def text_key(text: str) -> bytes:
    """BLAKE2b-128 of a text, 16 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=KEY).digest()


def content_digest(keys: np.ndarray, ids: np.ndarray) -> str:
    """32 hex digits of SHA-256 over the content of rows `ids`, int64 (m,), in their order, wherever in a pool they are.
    keys: of the pool's rows, uint64 (n, 2) (Rows.content_keys)."""
    return hashlib.sha256(np.ascontiguousarray(keys[ids])).hexdigest()[:32]


def prompt_key(turns: list[str]) -> bytes:
    """Hash of all turns of `normalised_turns` joined, KEY bytes: how they are split makes no difference."""
    return text_key(" ".join(filter(None, turns)))

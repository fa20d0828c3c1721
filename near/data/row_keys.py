"""Hashes of rows: of all that a row says, and of what it asks as near/data/leakage.py compares it."""

import hashlib
import unicodedata

from near.data.formats.formats import is_plain, prompt_turns
from near.data.formats.turns import OPTIONAL, Message
from near.data.table import KEY


def row_key(messages: list[Message]) -> bytes:
    """Of all fields of all messages."""
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
    """`text` as it is compared: in Unicode's compatibility form, case folded, its white space squeezed to single spaces
    and nothing at its ends, without characters that are not seen (soft hyphens, zero-width spaces, marks of order)."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
        text = unicodedata.normalize("NFKC", text.casefold())
    return " ".join(text.casefold().split())


def normalised_turns(messages: list[Message]) -> list[str]:
    """What a row asks, turn by turn, normalised: its user turns (see formats.prompt_turns); plain text asks itself."""
    if not messages:
        return []
    turns = [messages[0]["content"]] if is_plain(messages) else prompt_turns(messages)
    return [normalised(turn) for turn in turns]


def text_key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=KEY).digest()


def prompt_key(turns: list[str]) -> bytes:
    """Of all turns of `asked_turns` together: how they are split makes no difference."""
    return text_key(" ".join(filter(None, turns)))

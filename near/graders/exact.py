"""Normalised exact match."""

import unicodedata

from near.graders.base import Compares


def normalise(text: str) -> str:
    """Unicode NFKC, case folded, white space collapsed, closing punctuation dropped."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.rstrip(".!。 ")


class Exact(Compares):
    """The whole text, normalised."""

    def taken(self, text: str) -> object:
        return normalise(text)

"""Words of messages, and texts as they are compared."""

import unicodedata


def plural(count: int, one: str, many: str | None = None) -> str:
    """`count` with the noun, and the verb if there is one, that goes with it.

    >>> plural(1, "row"), plural(2, "row"), plural(1, "query has", "queries have")
    ('1 row', '2 rows', '1 query has')
    """
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def normalise(text: str) -> str:
    """Unicode NFKC, case folded, white space collapsed, closing punctuation dropped."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.rstrip(".!。 ")


def shortened(text: str, most: int = 48) -> str:
    """`text` without its middle, if it has more than `most` characters: names differ at their ends.

    >>> shortened("base + /a/long/path/adapter", 16)
    'base …th/adapter'
    """
    if len(text) <= most:
        return text
    first = most // 3
    return f"{text[:first]}…{text[len(text) - (most - first - 1) :]}"

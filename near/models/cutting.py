"""Removes the middle of long texts before tokenisation: a tokenizer needs hundreds of bytes per character."""

import re
from collections.abc import Callable

LEAST = 1 << 14  # characters at either end that are never removed
PER_TOKEN = 16  # characters tried first, per token needed at an end
MARGIN = 64  # tokens beside the cut that may differ from those of the whole text
MOST = 1 << 20  # maximum of characters at either end, however few tokens they are
ALIGNED = 4096  # characters searched for white space, where a cut does not change tokens


def without_middle(text: str, tokens: int | None, count: Callable[[str], int]) -> str:
    """`text`, or the beginning and the end of a long one, with the same first and last `tokens` ids.

    Args:
        text: any text.
        tokens: the cutoff that is applied after tokenisation; None: no cutoff, `text` is returned.
        count: returns the number of ids of a text.

    Returns:
        A text of more than `tokens` ids, unless MOST characters have fewer.
    """
    if tokens is None:
        return text
    size = max(LEAST, PER_TOKEN * tokens)
    most = max(MOST, size)
    while size < most and 2 * size + ALIGNED < len(text):
        ends = text[:size], _end(text, size)
        if min(map(count, ends)) > tokens + MARGIN:
            return "".join(ends)
        size = min(4 * size, most)
    return text if len(text) <= 2 * most + ALIGNED else text[:most] + _end(text, most)


def _end(text: str, size: int) -> str:
    """The last `size` characters, extended by at most ALIGNED to start at white space if there is any."""
    start = len(text) - size
    spaces = [match.start() for match in re.finditer(r"(?<=\S)\s", text[start - ALIGNED : start])]
    return text[start - ALIGNED + spaces[-1] :] if spaces else text[start:]

"""Long texts without their middle, before they are tokenised: a tokenizer takes some hundred bytes a character."""

import re
from collections.abc import Callable

LEAST = 1 << 14  # characters at either end that are never taken out
PER_TOKEN = 16  # characters to begin with, for each token that is wanted of an end
MARGIN = 64  # tokens beside the cut that may be others than in the whole text
MOST = 1 << 20  # characters at either end, however few tokens they are
ALIGNED = 4096  # characters in which white space is looked for, where tokenizers begin anew


def without_middle(text: str, tokens: int | None, count: Callable[[str], int]) -> str:
    """`text`, or of a long one its beginning and its end, whose first and last `tokens` ids are the whole text's.

    tokens: that are kept of the text at most (None: all); count: the ids of a text. What is left has more ids than
    that, but for text of which a million characters are fewer.
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
    """The last `size` characters, or some more, from white space on where there is some."""
    start = len(text) - size
    spaces = [match.start() for match in re.finditer(r"(?<=\S)\s", text[start - ALIGNED : start])]
    return text[start - ALIGNED + spaces[-1] :] if spaces else text[start:]

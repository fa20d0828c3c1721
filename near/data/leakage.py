"""Leakage: rows of a pool whose prompt is that of a query or an eval row, compared after normalisation.

Only user turns count, as near/data/row_keys.py normalises them; system text and answers do not. A row is a leak of a
query

    whose joined user turns equal the row's joined user turns, however they are split,
    whose user turns all occur in the row consecutively, or
    whose last user turn is the row's whole prompt.

A row of several turns that shares only the last of a query's several turns ("Go on.") is no leak. The number of such
rows is logged.
"""

import numpy as np

from near.common.keys import Sorted
from near.data.row_keys import normalised_turns, prompt_key, text_key
from near.data.rows import Rows


def leaks(pool: Rows, held_out: Rows) -> tuple[np.ndarray, int]:
    """Rows of `pool` that leak a usable row of `held_out`.

    Returns:
        leaked bool (n_pool,); and how many other rows share only the last turn of a held-out row.
    """
    queries = [normalised_turns(chat) for chat in held_out.chats(np.flatnonzero(held_out.usable()))]
    leaked = np.zeros(len(pool), dtype=bool)
    whole = _sorted([prompt_key(turns) for turns in queries] + [text_key(turns[-1]) for turns in queries])
    for start, keys in pool.keys("prompt_key"):
        leaked[start : start + len(keys)] = whole.find(keys) >= 0
    by_last: dict[str, set[tuple[str, ...]]] = {}
    for turns in queries:
        by_last.setdefault(turns[-1], set()).add(tuple(turns))
    last, shared = _sorted([text_key(turn) for turn in by_last]), 0
    for rows, keys in pool.turns():
        near = np.unique(rows[last.find(keys) >= 0])
        near = near[~leaked[near]]
        for row, chat in zip(near, pool.chats(near), strict=True):
            leaked[row] = _follows(normalised_turns(chat), by_last)
        shared += int((~leaked[near]).sum())
    return leaked, shared


def _follows(turns: list[str], by_last: dict[str, set[tuple[str, ...]]]) -> bool:
    """Whether all turns of a query occur in `turns` consecutively."""
    for end, turn in enumerate(turns, start=1):
        if any(turns[max(0, end - len(query)) : end] == list(query) for query in by_last.get(turn, ())):
            return True
    return False


def _sorted(keys: list[bytes]) -> Sorted:
    high, low = np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(-1, 2).T
    return Sorted(np.ascontiguousarray(high), np.ascontiguousarray(low))
